"""Asks a registry over HTTP: basic and token authentication, the company's authority, limits of time, tries again.

Source: OCI Distribution Specification 1.1; CNCF Distribution's "Token Authentication Specification".
"""

from __future__ import annotations

import re
import ssl
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from installer.checks.front_door import innermost
from installer.checks.probe import make_context
from installer.core import errors
from installer.core.console import Console
from installer.core.logfile import log
from installer.registry import failure
from installer.registry.credentials import Login
from installer.registry.reference import EXPECTED, Registry

if TYPE_CHECKING:
    import requests
    from requests.adapters import HTTPAdapter

CONNECT_SECONDS = 15.0
# A registry that writes a piece to a slow disk, or hashes a large blob when it is committed, answers late.
ANSWER_SECONDS = 300.0
# Waits between tries, seconds.
WAITS = (1.0, 2.0, 4.0, 8.0, 16.0)
# What is waited at most where the registry says how long.
LONGEST_WAIT = 300

# Where distributions keep the authorities that they trust; the executable's own OpenSSL may look elsewhere.
SYSTEM_AUTHORITIES = (
    Path("/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem"),
    Path("/etc/pki/tls/certs/ca-bundle.crt"),
    Path("/etc/ssl/certs/ca-certificates.crt"),
)
# Where podman and docker look for those of one registry: containers-certs.d(5), and docker's documentation.
OF_REGISTRIES = (Path("/etc/containers/certs.d"), Path("/etc/docker/certs.d"))


class Broken(Exception):
    """The connection broke before there was an answer; `error` is what requests says of it."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def trusting(registry: Registry, given: Path | None) -> ssl.SSLContext:
    """Return our TLS policy with the host's authorities, those for this registry, and the one given.

    Raises UsageError when that cannot be read.
    """
    context = make_context()
    beside = [path for folder in OF_REGISTRIES for path in sorted((folder / registry.host).glob("*.crt"))]
    for path in (*SYSTEM_AUTHORITIES, *beside):
        try:
            context.load_verify_locations(path)
        except OSError as error:
            log.info("authorities not read: %s: %s", path, error)
    if given is not None:
        try:
            context.load_verify_locations(given)
        except OSError as error:
            raise errors.UsageError(
                f"{given} is no file with authorities: {error.strerror or error}", "name a PEM file with --registry-ca"
            ) from error
    return context


class Stopped(errors.RegistryFailed):
    """Another thread has found that it makes no sense to go on."""

    def __init__(self) -> None:
        super().__init__("the push was stopped", failure.AGAIN)


class Client:
    """Calls a registry; used by several threads. Every call raises RegistryFailed where it fails for good."""

    def __init__(
        self,
        registry: Registry,
        login: Login | None,
        console: Console,
        *,
        context: ssl.SSLContext | None,
        waits: Sequence[float],
    ) -> None:
        """`context` is how to trust the registry; None for plain http."""
        self.registry = registry
        self.url = f"{'http' if context is None else 'https'}://{registry.host}"
        self.stopped = threading.Event()
        self.waits = waits
        self._login = login
        self._console = console
        self._context = context
        self._local = threading.local()
        self._lock = threading.Lock()
        self._challenge: tuple[str, dict[str, str]] | None = None
        self._tokens: dict[tuple[str, ...], str] = {}
        # Who has never answered is more likely named wrongly than ill.
        self._has_answered = False

    @property
    def signed_in(self) -> bool:
        """Whether there is a login that is used."""
        return self._login is not None

    def sign_in(self) -> None:
        """Find out how the registry wants to be signed in to, and do that, before anything is sent."""
        answer = self.ask("GET", "/v2/", "", "answer", expected=(200, 401))
        if answer.status_code == 401 and self._challenge is None:
            raise failure.refused(answer, "", "let anybody in", signed_in=self.signed_in)
        if answer.status_code == 401:
            # With a token for nothing in particular some registries still say 401: the right to push tells then.
            scheme, _ = self._challenge or ("", {})
            if scheme == "basic":
                raise failure.refused(answer, "", "let us in", signed_in=self.signed_in)

    def require_push(self, repository: str) -> None:
        """Prove the right to push into a repository: begin an upload, and take it back."""
        answer = self.ask("POST", f"/v2/{repository}/blobs/uploads/", repository, "begin an upload", expected=(202,))
        self.cancel(self.location(answer), repository)

    def cancel(self, location: str, repository: str) -> None:
        """Take an upload back, as far as the registry can; what it keeps of it, it removes by itself later."""
        try:
            self.send("DELETE", location, repository)
        except (Broken, errors.RegistryFailed):
            log.info("an upload could not be taken back in %s", repository)

    def ask(
        self,
        method: str,
        path: str,
        repository: str,
        what: str,
        *,
        expected: tuple[int, ...] = (200,),
        headers: Mapping[str, str] | None = None,
        data: bytes | None = None,
        also: str = "",
    ) -> requests.Response:
        """Send a request that may be sent again, until there is an answer that is expected; `what` is for messages."""
        tries = 0
        while True:
            try:
                answer = self.send(method, path, repository, headers=headers, data=data, also=also)
            except Broken as broken:
                self.pause(tries, None, broken)
            else:
                if answer.status_code in expected:
                    return answer
                if answer.status_code not in failure.PASSING and answer.status_code != 429:
                    raise self.refused(answer, repository, what)
                self.pause(tries, answer, None, repository, what)
            tries += 1

    def refused(self, answer: requests.Response, repository: str, what: str) -> errors.RegistryFailed:
        """Return the failure that an answer means."""
        if answer.status_code == 404 and not repository:
            return errors.RegistryFailed(
                f"{self.url}/v2/ is no registry (404)",
                f"name the port on which it answers docker and podman; {EXPECTED}",
            )
        return failure.refused(answer, repository, what, signed_in=self.signed_in)

    def pause(
        self,
        tries: int,
        answer: requests.Response | None,
        broken: Broken | None,
        repository: str = "",
        what: str = "answer",
    ) -> None:
        """Wait before the next try, as long as the registry says; raise what went wrong after the last one."""
        seconds = self.waits[min(tries, len(self.waits) - 1)]
        asked = answer.headers.get("Retry-After", "") if answer is not None else ""
        if asked.isdigit():
            seconds = float(asked)
        if tries >= len(self.waits) or seconds > LONGEST_WAIT or (broken and tries and not self._has_answered):
            if answer is not None:
                raise self.refused(answer, repository, what)
            assert broken is not None
            # Who does not answer to one thread does not to the others.
            self.stopped.set()
            raise failure.silent(self.registry.host, broken.error, plain=self._context is None) from broken
        if broken is not None and _is_final(broken.error):
            raise failure.silent(self.registry.host, broken.error, plain=self._context is None) from broken
        why = f"status {answer.status_code}" if answer is not None else "the connection broke"
        if seconds >= 2:
            self._console.line(f"  {self.registry.host}: {why}; next try in {seconds:.0f} s")
        if self.stopped.wait(seconds):
            raise Stopped

    def send(
        self,
        method: str,
        path: str,
        repository: str,
        *,
        headers: Mapping[str, str] | None = None,
        data: bytes | Iterator[bytes] | None = None,
        also: str = "",
    ) -> requests.Response:
        """Send one request, with a new token where the old one is refused. Raises Broken without an answer.

        `also` is a repository that is read from at the same time, for a mount.
        """
        url = urljoin(self.url, path)
        scope = tuple(filter(None, (repository, also if also != repository else "")))
        answer = self._send(method, url, headers, data, scope)
        # A stream cannot be sent again. Taking an upload back is a right of its own, which a new token would not bring.
        renews = method != "DELETE" and not isinstance(data, Iterator)
        if answer.status_code == 401 and renews and self._may_renew(answer, url):
            self._renew(scope)
            answer = self._send(method, url, headers, data, scope)
        return answer

    def location(self, answer: requests.Response) -> str:
        """Return where an upload goes on. With our own host it stays with our scheme and port.

        A registry behind a proxy that does not tell it of https names itself with http: no password may follow that.
        """
        named = answer.headers.get("Location", "")
        if not named:
            raise errors.RegistryFailed(
                f"{self.registry.host} begins an upload without saying where (no header Location)",
                "look at the proxy before it: it must pass that header on",
            )
        parts = urlsplit(urljoin(answer.url, named))
        if parts.hostname == urlsplit(self.url).hostname:
            return parts._replace(scheme="", netloc="").geturl()
        return parts.geturl()

    def _send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None,
        data: bytes | Iterator[bytes] | None,
        scope: tuple[str, ...],
    ) -> requests.Response:
        import requests

        # A location on another host carries its own right in the address: ours is not for it.
        own = self._authorization(scope) if urlsplit(url).netloc == urlsplit(self.url).netloc else {}
        started = time.monotonic()
        try:
            answer = self._session.request(
                method,
                url,
                headers={**(headers or {}), **own},
                data=data,
                timeout=(CONNECT_SECONDS, ANSWER_SECONDS),
                allow_redirects=method in ("GET", "HEAD"),
            )
        except (requests.RequestException, OSError) as error:
            log.info("%s %s: %s", method, urlsplit(url).path, innermost(error))
            raise Broken(error) from error
        self._has_answered = True
        log.info("%s %s: %d in %.2f s", method, urlsplit(url).path, answer.status_code, time.monotonic() - started)
        return answer

    @property
    def _session(self) -> requests.Session:
        """The session of this thread: requests does not promise that one serves several."""
        import requests

        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = requests.Session()
            # Not .netrc, which would take the place of our own header; proxies of the environment are meant.
            session.trust_env = False
            session.proxies.update(requests.utils.get_environ_proxies(self.url))
            if self._context is not None:
                session.mount("https://", _adapter(self._context))
            self._local.session = session
        return session

    def _authorization(self, scope: tuple[str, ...]) -> dict[str, str]:
        scheme, _ = self._challenge or ("", {})
        if scheme == "basic" and self._login is not None:
            return {"Authorization": _basic(self._login)}
        if scheme == "bearer":
            with self._lock:
                token = self._tokens.get(scope) or self._tokens.setdefault(scope, self._fetch_token(scope))
            return {"Authorization": f"Bearer {token}"}
        return {}

    def _may_renew(self, answer: requests.Response, url: str) -> bool:
        """Take note of how the registry wants to be signed in to; tell whether another try makes sense."""
        if urlsplit(url).netloc != urlsplit(self.url).netloc:
            return False
        challenge = _parsed(answer.headers.get("WWW-Authenticate", ""))
        known = self._challenge
        if challenge is not None:
            self._challenge = challenge
        scheme, _ = self._challenge or ("", {})
        if scheme == "basic":
            return known is None and self._login is not None
        return scheme == "bearer"

    def _renew(self, scope: tuple[str, ...]) -> None:
        with self._lock:
            self._tokens.pop(scope, None)

    def _fetch_token(self, scope: tuple[str, ...]) -> str:
        """Ask for a token that lets us pull and push `scope`'s first repository, and pull the others."""
        import requests

        _, fields = self._challenge or ("", {})
        realm = fields.get("realm", "")
        if urlsplit(realm).scheme != "https" and self._context is not None:
            raise errors.RegistryFailed(
                f"{self.registry.host} names {realm!r} for signing in, which is not https: no password is sent there",
                "set the registry's external URL to https (Harbor: external_url or hostname in harbor.yml)",
            )
        wanted = [f"repository:{name}:{'pull,push' if number == 0 else 'pull'}" for number, name in enumerate(scope)]
        query = {"service": fields.get("service", ""), "scope": wanted}
        tries = 0
        while True:
            try:
                answer = self._session.get(
                    realm,
                    params={name: value for name, value in query.items() if value},
                    headers={"Authorization": _basic(self._login)} if self._login else {},
                    timeout=(CONNECT_SECONDS, ANSWER_SECONDS),
                    allow_redirects=False,
                )
            except (requests.RequestException, OSError) as error:
                self.pause(tries, None, Broken(error))
            else:
                if answer.status_code == 200:
                    return _token(answer, realm)
                if answer.status_code not in failure.PASSING and answer.status_code != 429:
                    raise self.refused(answer, scope[0] if scope else "", "give a token")
                self.pause(tries, answer, None, scope[0] if scope else "", "give a token")
            tries += 1


def _adapter(context: ssl.SSLContext) -> HTTPAdapter:
    """Return what connects requests by our TLS policy, also through a proxy."""
    from requests.adapters import HTTPAdapter

    class Trusting(HTTPAdapter):
        def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
            super().init_poolmanager(*arguments, **options, ssl_context=context)

        def proxy_manager_for(self, *arguments: Any, **options: Any) -> Any:
            return super().proxy_manager_for(*arguments, **options, ssl_context=context)

    return Trusting()


def _is_final(error: Exception) -> bool:
    """Tell whether it will not be another way in a minute: a certificate does not change, nor does a name."""
    import requests

    return isinstance(error, requests.exceptions.SSLError) and "EOF" not in str(error)


def _basic(login: Login) -> str:
    import base64

    return "Basic " + base64.b64encode(f"{login.user}:{login.password}".encode()).decode()


def _parsed(header: str) -> tuple[str, dict[str, str]] | None:
    """Return the scheme of a challenge, small, and its parameters; of several, a token's is taken."""
    for scheme in ("bearer", "basic"):
        if found := re.search(rf"(?i)(?:^|[\s,]){scheme}\s+(.*)", header):
            return scheme, {name.lower(): value for name, value in re.findall(r'(\w+)="([^"]*)"', found[1])}
    return None


def _token(answer: requests.Response, realm: str) -> str:
    try:
        fields = answer.json()
        return str(fields.get("token") or fields["access_token"])
    except (ValueError, KeyError, AttributeError) as error:
        raise errors.RegistryFailed(f"{realm} gives no token", "look at the registry's log") from error
