"""Asks Dify through its front door, as a browser would."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from installer.checks.probe import make_context
from installer.core import layout
from installer.core.finding import Finding, Level
from installer.engine.base import Engine
from installer.release import dify

if TYPE_CHECKING:
    from http.cookiejar import Cookie

    import requests
    from requests.adapters import HTTPAdapter
    from requests.cookies import RequestsCookieJar

HTTP_SECONDS = 15.0


@dataclass(frozen=True, kw_only=True, slots=True)
class FrontDoor:
    """Where browsers come in: the address that was given, the version behind it, the certificate to trust.

    `logs` says where to look when it does not answer, `status` with which command. Through a way of our own, as a
    forwarded port, `url` is where that begins, and `public` the address that browsers open.
    """

    url: str
    version: str
    certificate: Path | None
    logs: str
    status: str = "dify-installer status"
    public: str = ""

    @property
    def remedy(self) -> str:
        """What to do when it does not answer."""
        return f"look at `{self.status}` and {self.logs}"


def front_door(place: layout.Installation, url: str, version: str, engine: Engine) -> FrontDoor:
    """Return the front door of an installation; with https, exactly its own certificate is trusted."""
    return FrontDoor(
        url=url,
        version=version,
        certificate=place.certificate if url.startswith("https:") else None,
        logs=engine.log_commands(engine.container_name(service) for service in (dify.PROXY, dify.API)),
    )


def check_console(front: FrontDoor) -> list[Finding]:
    """Check Dify through its front door: the api, the database behind it, the version, the web page.

    /health is reported and not judged: nginx of Dify 1.11.3 has no such page, so it is answered by the web app.
    """
    with open_session(front) as (session, url):
        return [
            _asked(session, name, url + page, judge, front.remedy)
            for name, page, judge in (
                ("console reachable", "/console/api/setup", _setup),
                ("version", "/console/api/ping", lambda answer: _ping(answer, front.version)),
                ("web page", "/install", _page),
                ("marketplace off", "/console/api/system-features", _marketplace),
                ("/health", "/health", _health),
            )
        ]


@contextlib.contextmanager
def open_session(front: FrontDoor) -> Iterator[tuple[requests.Session, str]]:
    """Give a session that trusts the front door alone, and the address at which this host reaches it."""
    import requests

    with requests.Session() as session:
        # The proxies of the environment lead out of this network, where we do not ask.
        session.trust_env = False
        if front.public:
            session.headers["Host"] = urlsplit(front.public).netloc
            session.cookies = _cookies_of_any_scheme()
        if front.certificate is not None:
            session.verify = str(front.certificate)
            session.mount("https://", _adapter(urlsplit(front.url).hostname or "", front.certificate))
        yield session, _reachable(front.url, session)


def _cookies_of_any_scheme() -> RequestsCookieJar:
    """Return a jar for a way of our own without TLS: Dify marks its cookies as those of https where browsers come so.

    A policy of the jar would not do: requests copies the cookies of each request into a jar with its own.
    """
    from requests.cookies import RequestsCookieJar

    class AnyScheme(RequestsCookieJar):
        def set_cookie(self, cookie: Cookie, *arguments: Any, **options: Any) -> None:
            cookie.secure = False
            super().set_cookie(cookie, *arguments, **options)

    return AnyScheme()


def _reachable(url: str, session: requests.Session) -> str:
    """Return `url`, or, when this host does not know the name in it, the way through the loopback."""
    parts = urlsplit(url)
    try:
        socket.getaddrinfo(parts.hostname, parts.port or parts.scheme)
    except OSError:
        session.headers["Host"] = parts.netloc
        return parts._replace(netloc=f"127.0.0.1:{parts.port}" if parts.port else "127.0.0.1").geturl()
    return url


def _adapter(name: str, certificate: Path) -> HTTPAdapter:
    """Return what connects requests, by our TLS policy, with a server that must be `name`, whatever the URL says."""
    from requests.adapters import HTTPAdapter

    class Named(HTTPAdapter):
        def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
            context = make_context(str(certificate))
            options |= {"ssl_context": context, "server_hostname": name, "assert_hostname": name}
            super().init_poolmanager(*arguments, **options)

    return Named()


def _asked(
    session: requests.Session, name: str, url: str, judge: Callable[[Any], tuple[Level, str]], otherwise: str
) -> Finding:
    import requests

    try:
        answer = session.get(url, timeout=HTTP_SECONDS)
        level, seen = judge(answer)
    except requests.RequestException as error:
        level, seen = "error", f"no answer: {innermost(error)}"
    except (ValueError, KeyError, TypeError):
        level, seen = "error", f"status {answer.status_code}, but not Dify's answer: is another service on this port?"
    remedy = "" if level != "error" else otherwise
    return Finding(check=name, level=level, seen=f"GET {url}: {seen}", remedy=remedy)


def innermost(error: Exception) -> str:
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
