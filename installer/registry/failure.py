"""What a registry says when it refuses, in words that help: the status, its own sentence, what stands before it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from installer.checks.front_door import innermost
from installer.core import errors
from installer.registry.reference import EXPECTED

if TYPE_CHECKING:
    import requests

LONGEST_WORDS = 300
# What shows that a disk, or a quota, is full. `"Err":28` is ENOSPC, as distribution's file system driver tells it;
# the last is Harbor's sentence (src/pkg/quota/util.go).
FULL = ("no space left", '"Err":28', "quota", "exceed the configured upper limit")
# Answers that may be others after a while.
PASSING = frozenset({408, 425, 500, 502, 503, 504})
AGAIN = "then run the same command again: what the registry has is not sent twice"


def refused(answer: requests.Response, repository: str, what: str, *, signed_in: bool) -> errors.RegistryFailed:
    """Return the failure that an answer of a registry means; `what` is what was asked of it, as in "take a blob"."""
    status, words = answer.status_code, said(answer)
    where = repository or "the registry"
    told = f": {words}" if words else ""
    if is_full(answer):
        message = f"the registry has no room for {where} (status {status}){told}"
        remedy = f"make room on its disk, or raise the quota of the project; {AGAIN}"
    elif status == 401:
        wrong = "does not take this user and password" if signed_in else "wants a login"
        message = f"the registry {wrong} for {where} (401){told}"
        remedy = (
            "give --registry-user with DIFY_INSTALLER_REGISTRY_PASSWORD or --registry-password-file, or sign in with "
            f"`podman login`; where that is right, the repository may not exist: {EXPECTED}"
        )
    elif status == 403:
        message = f"this user may not push to {where} (403){told}"
        remedy = f"have the right to push given to this user there; {EXPECTED}; a tag may also be immutable"
    elif status == 404:
        message = f"the registry knows no repository {where} (404){told}"
        remedy = f"make it first, or choose another prefix: {EXPECTED}"
    elif status == 413:
        message = f"{_proxy(answer)} refuses a piece of {where} as too large (413), although it is small already{told}"
        remedy = (
            "raise its limit: client_max_body_size of nginx, the annotation nginx.ingress.kubernetes.io/proxy-body-size"
            f" of its Ingress, LimitRequestBody of Apache; {AGAIN}"
        )
    elif status == 429:
        message = f"the registry takes no more for now (429): {_wait(answer)}{told}"
        remedy = f"wait so long, or have its limit raised; {AGAIN}"
    else:
        message = f"the registry does not {what} for {where}: status {status}{told}"
        remedy = f"look at the registry's log, and at that of a proxy before it; {AGAIN}"
    return errors.RegistryFailed(message, remedy)


def is_full(answer: requests.Response) -> bool:
    """Tell whether a registry refuses since its disk, or a quota, is full."""
    # Of requests there are quotas as well.
    return answer.status_code == 507 or (answer.status_code != 429 and any(mark in said(answer) for mark in FULL))


def silent(host: str, error: Exception, *, plain: bool) -> errors.RegistryFailed:
    """Return the failure when there was no answer at all."""
    import requests

    cause = innermost(error)
    if isinstance(error, requests.exceptions.SSLError):
        if "WRONG_VERSION_NUMBER" in cause or "RECORD_LAYER" in cause.upper().replace(" ", "_"):
            return errors.RegistryFailed(
                f"{host} does not speak https: {cause}", "give its port of https, or --plain-http if that is meant"
            )
        return errors.RegistryFailed(
            f"the certificate of {host} is not trusted: {cause}",
            "name the file of your company's authority with --registry-ca FILE (PEM)",
        )
    if isinstance(error, requests.exceptions.ProxyError):
        return errors.RegistryFailed(
            f"the proxy on the way to {host} does not answer: {cause}", "set NO_PROXY or HTTPS_PROXY as they should be"
        )
    hint = "" if plain else "; a registry that speaks plain http needs --plain-http"
    return errors.RegistryFailed(f"{host} does not answer: {cause}", f"look whether it runs, and at its port{hint}")


def said(answer: requests.Response) -> str:
    """Return the registry's own words: those of its JSON errors, or the beginning of what it sent."""
    with contextlib.suppress(ValueError, AttributeError, TypeError):
        parts = []
        for each in answer.json()["errors"]:
            detail = each.get("detail")
            told = str(each.get("message") or each.get("code") or "")
            parts.append(f"{told} ({_one_line(detail)})" if detail else told)
        return _one_line("; ".join(parts))
    if "html" in answer.headers.get("Content-Type", ""):
        return ""
    return _one_line(answer.text)


def _one_line(text: object) -> str:
    import json

    whole = text if isinstance(text, str) else json.dumps(text, separators=(",", ":"))
    return " ".join(whole.split())[:LONGEST_WORDS]


def _proxy(answer: requests.Response) -> str:
    """Name what has answered by the headers that tell it."""
    names = [f"{name}: {answer.headers[name]}" for name in ("Server", "Via") if name in answer.headers]
    return f"what answers as {', '.join(repr(each) for each in names)}" if names else "a proxy before the registry"


def _wait(answer: requests.Response) -> str:
    seconds = answer.headers.get("Retry-After")
    return f"it asks to wait {seconds} s" if seconds and seconds.isdigit() else "it does not say how long to wait"
