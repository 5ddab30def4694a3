"""Checks the finished installation as a user would meet it: the checklist of the report."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from installer.core import layout
from installer.engine.engine import Container, Engine
from installer.release import compose, dify
from installer.stack import stack

if TYPE_CHECKING:
    import requests
    from requests.adapters import HTTPAdapter

HTTP_SECONDS = 15.0
EXEC_SECONDS = 60.0

Level = Literal["ok", "warning", "error", "info"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One line of the checklist: what was looked at, how it is, what was seen and what to do about it."""

    name: str
    level: Level
    seen: str
    remedy: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class FrontDoor:
    """Where browsers come in: the address that was given, the version behind it, the certificate to trust.

    `logs` says where to look when it does not answer.
    """

    url: str
    version: str
    certificate: Path | None
    logs: str


def front_door(place: layout.Installation, url: str, version: str, engine: Engine) -> FrontDoor:
    """Return the front door of an installation; with https, exactly its own certificate is trusted."""
    return FrontDoor(
        url=url,
        version=version,
        certificate=place.certificate if url.startswith("https:") else None,
        logs=engine.logs(engine.container(service) for service in (dify.PROXY, dify.API)),
    )


def run_checks(
    document: compose.Document, found: list[Container], front: FrontDoor, probe: Path, engine: Engine
) -> list[Check]:
    """Return the checklist: containers, front door, inner services."""
    return [
        check_containers(document, found, time.time()),
        *check_console(front),
        *check_inner_services(document, found, probe, engine),
    ]


def check_console(front: FrontDoor) -> list[Check]:
    """Check Dify through its front door: the api, the database behind it, the version, the web page.

    /health is reported and not judged: nginx of Dify 1.11.3 has no such page, so it is answered by the web app.
    """
    import requests

    with requests.Session() as session:
        # The proxies of the environment lead out of this network, where we do not ask.
        session.trust_env = False
        if front.certificate is not None:
            session.verify = str(front.certificate)
        url = _reachable(front.url, session)
        return [
            _asked(session, name, url + page, judge, front.logs)
            for name, page, judge in (
                ("console reachable", "/console/api/setup", _setup),
                ("version", "/console/api/ping", lambda answer: _ping(answer, front.version)),
                ("web page", "/install", _page),
                ("marketplace off", "/console/api/system-features", _marketplace),
                ("/health", "/health", _health),
            )
        ]


def _reachable(url: str, session: requests.Session) -> str:
    """Return `url`, or, when this host does not know the name in it, the way through the loopback."""
    parts = urlsplit(url)
    try:
        socket.getaddrinfo(parts.hostname, parts.port or parts.scheme)
    except OSError:
        session.headers["Host"] = parts.netloc
        session.mount("https://127.0.0.1", _adapter(parts.hostname or ""))
        return parts._replace(netloc=f"127.0.0.1:{parts.port}" if parts.port else "127.0.0.1").geturl()
    return url


def _adapter(name: str) -> HTTPAdapter:
    """Return what connects requests with a server that must prove to be `name`, whatever the URL says."""
    from requests.adapters import HTTPAdapter

    class Named(HTTPAdapter):
        def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
            super().init_poolmanager(*arguments, server_hostname=name, assert_hostname=name, **options)

    return Named()


def _asked(
    session: requests.Session, name: str, url: str, judge: Callable[[Any], tuple[Level, str]], logs: str
) -> Check:
    import requests

    try:
        answer = session.get(url, timeout=HTTP_SECONDS)
        level, seen = judge(answer)
    except requests.RequestException as error:
        level, seen = "error", f"no answer: {_cause(error)}"
    except (ValueError, KeyError, TypeError):
        level, seen = "error", f"status {answer.status_code}, but not Dify's answer: is another service on this port?"
    remedy = "" if level != "error" else f"look at `dify-installer status` and {logs}"
    return Check(name=name, level=level, seen=f"GET {url}: {seen}", remedy=remedy)


def _cause(error: Exception) -> str:
    """Return the innermost cause of a request that failed, without Python's object addresses."""
    inner: BaseException = error
    while (deeper := inner.__cause__ or inner.__context__) is not None:
        inner = deeper
    return getattr(inner, "strerror", None) or str(inner)


def _setup(answer: requests.Response) -> tuple[Level, str]:
    if answer.status_code != 200:
        return "error", f"status {answer.status_code}"
    step = answer.json()["step"]
    if step not in ("not_started", "finished"):
        return "error", f"unknown step {step!r}"
    return "ok", "ready for its first account" if step == "not_started" else "set up"


def _ping(answer: requests.Response, version: str) -> tuple[Level, str]:
    found = answer.headers.get("X-Version", "nothing")
    if answer.status_code != 200 or answer.json()["result"] != "pong":
        return "error", f"status {answer.status_code}"
    return ("ok", found) if found == version else ("error", f"X-Version is {found}, not {version}")


def _page(answer: requests.Response) -> tuple[Level, str]:
    return ("ok" if answer.status_code == 200 else "error"), f"status {answer.status_code}"


def _marketplace(answer: requests.Response) -> tuple[Level, str]:
    if answer.status_code != 200:
        return "error", f"status {answer.status_code}"
    enabled = answer.json()["enable_marketplace"]
    return ("ok", "MARKETPLACE_ENABLED=false is in effect") if enabled is False else ("warning", "it is switched on")


def _health(answer: requests.Response) -> tuple[Level, str]:
    return "info", f"status {answer.status_code} (Dify has no such page: it proves nothing, and is not judged)"


def check_containers(document: compose.Document, found: list[Container], now: float) -> Check:
    """Check that every service is up, as compose's `ps` would show it."""
    waiting = stack.find_unready(document, found, now)
    if waiting:
        seen = ", ".join(f"{name}: {reason}" for name, reason in waiting.items())
        return Check(name="containers up", level="error", seen=seen, remedy="run the same command again: it repairs")
    return Check(name="containers up", level="ok", seen=f"{len(document['services'])} services as they should be")


def check_inner_services(
    document: compose.Document, found: list[Container], probe: Path, engine: Engine
) -> list[Check]:
    """Ask the inner services from where the api asks them: out of its container."""
    wanted = [check for check in dify.INNER_CHECKS if check.service in document["services"]]
    api = find_container(dify.API, found)
    if api is None or not wanted:
        return []
    answers = ask_inside(api, [{"url": check.url} for check in wanted], probe, engine)
    return [
        Check(
            name=f"api reaches {check.service}",
            level="ok" if answer["kind"] == "ok" else "error",
            seen=f"{check.url}: {answer['detail']}",
            remedy=""
            if answer["kind"] == "ok"
            else _inner_remedy(answer["kind"], engine.logs([engine.container(check.service)])),
        )
        for check, answer in zip(wanted, answers, strict=True)
    ]


def _inner_remedy(kind: str, logs: str) -> str:
    if kind in ("name", "connection"):
        return (
            f"look at {logs}; if that service is well, a firewall stands between them: "
            "as root, run the same command without --no-firewall, or trust the subnets of `podman network inspect`"
        )
    return f"look at {logs}"


def find_container(service: str, found: list[Container]) -> str | None:
    """Return the name of a service's running container."""
    return next((each.name for each in found if each.service == service and each.state == "running"), None)


def ask_inside(
    container: str, questions: list[Mapping[str, object]], probe: Path, engine: Engine
) -> list[dict[str, Any]]:
    """Run the probe in a container, its text and the questions on standard input: keys stay out of process lists.

    Returns an answer for each question, of kind "unknown" where the container cannot run it.
    """
    call = f"print(json.dumps([probe(**question) for question in json.loads({json.dumps(questions)!r})]))"
    program = f"{probe.read_text('utf-8')}\n\n{call}\n"
    command = ["exec", "--interactive", container, "python3", "-"]
    result = engine.run(command, timeout=EXEC_SECONDS, input=program, check=False)
    try:
        answers: list[dict[str, Any]] = json.loads(result.stdout)
    except ValueError:
        words = engine.runner.masked(
            result.last_words.splitlines()[-1] if result.last_words else f"status {result.status}"
        )
        return [{"kind": "unknown", "detail": f"cannot be asked from {container}: {words}", "models": []}] * len(
            questions
        )
    return answers
