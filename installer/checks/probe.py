"""Asks a web service and tells what is wrong: name, connection, TLS, status or model; resolves names; counts objects.

Runs in two places, so that both answers compare: here, and inside a container, whose Python gets
this file's text on its standard input. Hence the standard library alone, nothing newer than
Python 3.8, and no import of ours.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# The kinds of answer, in the order in which they can go wrong.
NAME, CONNECTION, TLS, STATUS, MODEL, OK = "name", "connection", "tls", "status", "model", "ok"

# What a model is for; one that only makes vectors is no partner for a talk.
CHAT, EMBEDDING, RERANK = "chat", "embedding", "rerank"

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
    wanted: Sequence[str] = (),
    models: str = "",
    authorities: str = "",
    timeout: float = TIMEOUT_SECONDS,
    describe: bool = False,
) -> dict[str, Any]:
    """Ask `url` and return {"kind", "detail", "models", "described", "code"}; `code` is that of a STATUS, else 0.

    `key` is sent as a bearer token. `models` says how the answer lists models: "ollama"
    (`/api/tags`), "openai" (`/v1/models`) or "" for no list; those `wanted` must be in it.
    With `describe`, `described` says what the wanted ones, else all, are and can do, as far as the
    server tells: {name: {"kind": CHAT, EMBEDDING or RERANK, "context": int, "tools": bool, "vision": bool}}.
    `authorities` is a PEM file to trust; without it, Python's default, which SSL_CERT_FILE decides.
    Proxies of the environment are not used: what is asked lies in the same closed network.
    """
    headers = {"Authorization": "Bearer " + key} if key else {}
    request = urllib.request.Request(url, headers=headers)
    try:
        secure = urllib.request.HTTPSHandler(context=make_context(authorities))
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect, secure)
        with opener.open(request, timeout=timeout) as response:
            body = response.read(LARGEST_ANSWER)
    except urllib.error.HTTPError as error:
        return _answer(STATUS, f"it answers with status {error.code}{_redirected(error)}", code=error.code)
    except (urllib.error.URLError, OSError, ValueError) as error:
        return _failure(getattr(error, "reason", error))
    if not models:
        return _answer(OK, "it answers")
    answer = _listed(body, models, wanted)
    if describe and answer["kind"] == OK:
        asking = _Asking(opener, headers, timeout)
        answer["described"] = _described(asking, url, json.loads(body), models, wanted)
    return answer


class _Asking:
    """Posts JSON to the server that has just answered."""

    def __init__(self, opener: Any, headers: dict[str, str], timeout: float) -> None:
        self._opener = opener
        self._headers = {**headers, "Content-Type": "application/json"}
        self._timeout = timeout

    def post(self, url: str, body: Any) -> tuple[int, Any]:
        """Return the status, 0 when there is no answer, and the JSON, an empty object when it is none."""
        request = urllib.request.Request(url, json.dumps(body).encode(), self._headers)
        try:
            with self._opener.open(request, timeout=self._timeout) as response:
                return int(response.status), json.loads(response.read(LARGEST_ANSWER))
        except urllib.error.HTTPError as error:
            return error.code, {}
        except (urllib.error.URLError, OSError, ValueError):
            return 0, {}


def _described(asking: _Asking, url: str, listed: Any, form: str, wanted: Sequence[str]) -> dict[str, Any]:
    describe: Callable[..., dict[str, Any]] = _of_ollama if form == "ollama" else _of_openai
    described = {}
    for entry in _entries(listed, form):
        name = str(entry["name" if form == "ollama" else "id"])
        if not wanted or any(_has([name], each, form) for each in wanted):
            described[name] = describe(asking, url, entry, name)
    return described


def _of_ollama(asking: _Asking, url: str, _entry: Any, name: str) -> dict[str, Any]:
    """Ask Ollama what a model is (its docs/api.md, "Show Model Information"; `capabilities` since 0.6.4)."""
    _, shown = asking.post(url[: -len("tags")] + "show", {"model": name})
    facts = shown.get("model_info") or {}
    # A Modelfile may give less than the model could have, as memory is short.
    given = [line.split()[1] for line in (shown.get("parameters") or "").splitlines() if line.startswith("num_ctx ")]
    able = [value for key, value in facts.items() if key.endswith(".context_length")]
    families = (shown.get("details") or {}).get("families") or []
    can = shown.get("capabilities")
    if can is None:
        vectors = any("bert" in str(each) for each in families) or "embed" in name
        can = ["embedding"] if vectors else ["completion"]
        can += ["tools"] if ".Tools" in (shown.get("template") or "") else []
        can += ["vision"] if "clip" in families or shown.get("projector_info") else []
    described = {"kind": EMBEDDING if "completion" not in can and "embedding" in can else CHAT}
    return _with_facts(described, (given or able or [None])[0], "tools" in can, "vision" in can)


def _of_openai(asking: _Asking, url: str, entry: Any, name: str) -> dict[str, Any]:
    """Try what a model of an OpenAI-compatible server can do.

    Source: vLLM's documents, "OpenAI-Compatible Server": a chat model answers 400 or 404 to the other questions, one
    for vectors also ranks, and `auto` tools need --enable-auto-tool-choice.
    """
    base = url[: -len("models")]
    talk = {"model": name, "max_tokens": 1, "messages": [{"role": "user", "content": "ping"}]}
    kind = CHAT
    if asking.post(base + "embeddings", {"model": name, "input": ["ping"]})[0] == 200:
        # Some servers make vectors of every model.
        kind = CHAT if asking.post(base + "chat/completions", talk)[0] == 200 else EMBEDDING
    elif asking.post(base + "rerank", {"model": name, "query": "ping", "documents": ["ping", "pong"]})[0] == 200:
        kind = RERANK
    tool = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}
    asked = {**talk, "tools": [tool], "tool_choice": "auto"}
    tools = kind == CHAT and asking.post(base + "chat/completions", asked)[0] == 200
    return _with_facts({"kind": kind}, entry.get("max_model_len"), tools, False)


def _with_facts(described: dict[str, Any], context: Any, tools: bool, vision: bool) -> dict[str, Any]:
    try:
        described["context"] = int(context)
    except (TypeError, ValueError):
        described["context"] = 0
    described.update(tools=tools, vision=vision)
    return described


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


def _listed(body: bytes, form: str, wanted: Sequence[str]) -> dict[str, Any]:
    try:
        answer = json.loads(body)
        names = [str(entry["name"] if form == "ollama" else entry["id"]) for entry in _entries(answer, form)]
    except (ValueError, KeyError, TypeError):
        return _answer(STATUS, "it answers, but not with a list of models: is this another service?")
    missing = [each for each in wanted if not _has(names, each, form)]
    if missing:
        return _answer(MODEL, f"it does not have the model {', '.join(missing)}", names)
    return _answer(OK, f"it has {len(names)} models", names)


def _entries(answer: Any, form: str) -> list[Any]:
    return list(answer["models" if form == "ollama" else "data"])


def _has(names: list[str], model: str, form: str) -> bool:
    """Ollama's names end in `:latest` where a person leaves the tag out."""
    return model in names or (form == "ollama" and ":" not in model and model + ":latest" in names)


def _answer(kind: str, detail: str, models: list[str] | None = None, code: int = 0) -> dict[str, Any]:
    return {"kind": kind, "detail": detail, "models": models or [], "described": {}, "code": code}


def connect(host: str, port: int, timeout: float = TIMEOUT_SECONDS) -> dict[str, Any]:
    """Connect to a port and say no word; return {"kind", "detail", …} as `probe` does."""
    try:
        socket.create_connection((host, port), timeout).close()
    except OSError as error:
        return _failure(error)
    return _answer(OK, "it lets us connect")


def resolve(names: Sequence[str]) -> dict[str, Any]:
    """Resolve names, all at the same time, and return {"kind": OK, "detail", "names": {name: {"seconds", "fault"}}}.

    `fault` says why a name has no address, and is empty for one that has.
    """
    with ThreadPoolExecutor(max(1, len(names))) as pool:
        return {"kind": OK, "detail": "", "names": dict(zip(names, pool.map(_resolved, names)))}  # noqa: B905 - 3.10


def _resolved(name: str) -> dict[str, Any]:
    begun, fault = time.monotonic(), ""
    try:
        socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError as error:
        fault = error.strerror or str(error)
    except UnicodeError:
        fault = "it is no name"
    return {"seconds": time.monotonic() - begun, "fault": fault}


def count_objects(timeout: float = TIMEOUT_SECONDS) -> dict[str, Any]:
    """Count the objects of each class of Weaviate, and return {"kind", "detail", "classes": {name: number}}.

    Address and key are those of the container's own environment, as Dify uses them. The schema and the aggregation
    were tried against a stand-in alone; a store that answers otherwise counts as one that does not tell.
    """
    address = os.environ.get("WEAVIATE_ENDPOINT", "").rstrip("/")
    headers = {"Authorization": "Bearer " + os.environ.get("WEAVIATE_API_KEY", ""), "Content-Type": "application/json"}
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)

    def ask(path: str, query: str = "") -> Any:
        data = json.dumps({"query": query}).encode() if query else None
        with opener.open(urllib.request.Request(address + path, data, headers), timeout=timeout) as response:
            return json.load(response)

    try:
        names = [str(each["class"]) for each in ask("/v1/schema")["classes"]]
        counts = {}
        for name in names:
            found = ask("/v1/graphql", "{Aggregate{" + name + "{meta{count}}}}")
            counts[name] = int(found["data"]["Aggregate"][name][0]["meta"]["count"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        return {"kind": CONNECTION, "detail": f"{type(error).__name__}: {error}", "classes": {}}
    return {"kind": OK, "detail": "", "classes": counts}
