"""Asks a web service and tells what is wrong: the name, the connection, TLS, the status or the model.

Runs in two places, so that both answers compare: here, and inside a container, whose Python gets
this file's text on its standard input. Hence the standard library alone, nothing newer than
Python 3.8, and no import of ours.
"""

from __future__ import annotations

import json
import socket
import ssl
import urllib.error
import urllib.request
from typing import Any

# The kinds of answer, in the order in which they can go wrong.
NAME, CONNECTION, TLS, STATUS, MODEL, OK = "name", "connection", "tls", "status", "model", "ok"

TIMEOUT_SECONDS = 10.0
LARGEST_ANSWER = 4 * 1024 * 1024


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: urllib would take the key along, to whatever server is named there."""

    def redirect_request(self, *_arguments: Any, **_options: Any) -> None:
        return None


def make_context(authorities: str = "") -> ssl.SSLContext:
    """Return the one TLS policy of this program: names and chains are checked against `authorities`, a PEM file.

    Without one, Python's default is trusted. A certificate in the file is enough, its own issuer need not be there. The
    checks of RFC 5280 that only Python 3.13 asks for (VERIFY_X509_STRICT) are off: browsers and Dify's own Python
    accept a company's authority without keyUsage, as a plain `openssl req -x509` makes it. Raises OSError.
    """
    context = ssl.create_default_context(cafile=authorities or None)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    # ssl.VERIFY_X509_PARTIAL_CHAIN, which Python knows from 3.10 on.
    context.verify_flags |= 0x80000
    return context


def probe(
    url: str,
    key: str = "",
    model: str = "",
    models: str = "",
    authorities: str = "",
    timeout: float = TIMEOUT_SECONDS,
) -> dict[str, Any]:
    """Ask `url` and return {"kind", "detail", "models"}.

    `key` is sent as a bearer token. `models` says how the answer lists models: "ollama"
    (`/api/tags`), "openai" (`/v1/models`) or "" for no list; `model` must be in it if given.
    `authorities` is a PEM file to trust; without it, Python's default, which SSL_CERT_FILE decides.
    Proxies of the environment are not used: what is asked lies in the same closed network.
    """
    request = urllib.request.Request(url, headers={"Authorization": "Bearer " + key} if key else {})
    try:
        secure = urllib.request.HTTPSHandler(context=make_context(authorities))
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect, secure)
        with opener.open(request, timeout=timeout) as response:
            body = response.read(LARGEST_ANSWER)
    except urllib.error.HTTPError as error:
        return _answer(STATUS, f"it answers with status {error.code}{_redirected(error)}")
    except (urllib.error.URLError, OSError, ValueError) as error:
        return _failure(getattr(error, "reason", error))
    if not models:
        return _answer(OK, "it answers")
    return _listed(body, models, model)


def _redirected(error: urllib.error.HTTPError) -> str:
    target = error.headers.get("Location") if 300 <= error.code < 400 else None
    return f", a redirect to {target}: give that address" if target else ""


def _failure(reason: Any) -> dict[str, Any]:
    if isinstance(reason, socket.gaierror):
        return _answer(NAME, f"its name cannot be resolved: {reason.strerror}")
    if isinstance(reason, ssl.SSLError):
        return _answer(TLS, f"TLS fails: {getattr(reason, 'verify_message', '') or reason.reason or reason}")
    if isinstance(reason, TimeoutError) or "timed out" in str(reason):
        return _answer(CONNECTION, "no answer in time")
    return _answer(CONNECTION, getattr(reason, "strerror", None) or str(reason))


def _listed(body: bytes, form: str, model: str) -> dict[str, Any]:
    try:
        answer = json.loads(body)
        names = [str(entry["name"] if form == "ollama" else entry["id"]) for entry in _entries(answer, form)]
    except (ValueError, KeyError, TypeError):
        return _answer(STATUS, "it answers, but not with a list of models: is this another service?")
    if model and not _has(names, model, form):
        return _answer(MODEL, f"it does not have the model {model}", names)
    return _answer(OK, f"it has {len(names)} models", names)


def _entries(answer: Any, form: str) -> list[Any]:
    return list(answer["models" if form == "ollama" else "data"])


def _has(names: list[str], model: str, form: str) -> bool:
    """Ollama's names end in `:latest` where a person leaves the tag out."""
    return model in names or (form == "ollama" and ":" not in model and model + ":latest" in names)


def _answer(kind: str, detail: str, models: list[str] | None = None) -> dict[str, Any]:
    return {"kind": kind, "detail": detail, "models": models or []}
