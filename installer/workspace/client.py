"""A session of Dify's console, as a browser holds it: cookies, the token against forgery, a new one when it is old.

Source: Dify 1.11.3, libs/token.py, libs/external_api.py and web/service/base.ts.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from installer.checks import front_door
from installer.core import errors

if TYPE_CHECKING:
    import requests

API = "/console/api"
CSRF_COOKIE = "csrf_token"
CSRF_HEADER = "X-CSRF-Token"
# With https the cookies' names begin so (libs/token.py, `_real_cookie_name`).
HOST_PREFIX = "__Host-"

CONNECT_SECONDS = 15.0
# A credential is saved after the model has answered once; a large one is loaded into memory for that.
ANSWER_SECONDS = 600.0
LONGEST_WORDS = 600


class ConsoleError(errors.WorkspaceFailed):
    """The console did not do what it was asked for.

    `status` is that of HTTP, 0 when there was no answer; `code` is Dify's own word for the fault, or empty, and `words`
    its own sentence.
    """

    def __init__(self, message: str, remedy: str = "", *, status: int = 0, code: str = "", words: str = "") -> None:
        super().__init__(message, remedy)
        self.status = status
        self.code = code
        self.words = words


class Client:
    """Calls the console; paths begin behind `/console/api`. Every call raises ConsoleError where it fails."""

    def __init__(self, session: requests.Session, url: str, remedy: str) -> None:
        self.url = url
        self._session = session
        self._remedy = remedy

    def get(self, path: str, **query: str | int) -> Any:
        """Return the JSON of an answer."""
        return self._call("GET", path, params=query)

    def post(self, path: str, body: Any = None) -> Any:
        """Send JSON, and return that of the answer."""
        return self._call("POST", path, json=body)

    def put(self, path: str, body: Any) -> Any:
        """Send JSON that replaces what is there, and return that of the answer."""
        return self._call("PUT", path, json=body)

    def delete(self, path: str, body: Any = None) -> None:
        """Remove something; where `body` says what."""
        self._call("DELETE", path, json=body)

    def upload(self, path: str, field: str, name: str, content: bytes, **more: str) -> Any:
        """Send a file as a form's field, with `more` fields beside it, and return the JSON of the answer."""
        return self._call("POST", path, files={field: (name, content)}, data=more)

    def events(self, path: str, body: Any, key: str, seconds: float) -> Iterator[dict[str, Any]]:
        """Send JSON to Dify's service API (`path` from the root, `key` an app's) and give what its stream tells.

        `seconds` is the longest time without a sign of life; Dify sends one every 10 s.
        """
        headers = {"Authorization": f"Bearer {key}"}
        answer = self._send("POST", path, seconds, json=body, headers=headers, stream=True)
        with contextlib.closing(answer):
            if answer.status_code >= 400:
                raise self._failure(answer)
            yield from _events(answer)

    def _call(self, method: str, path: str, **options: Any) -> Any:
        answer = self._send(method, API + path, ANSWER_SECONDS, **options)
        if answer.status_code == 401 and self._cookie("refresh_token") and _code(answer) == "unauthorized":
            # The access token lasts an hour.
            self._send("POST", f"{API}/refresh-token", ANSWER_SECONDS)
            answer = self._send(method, API + path, ANSWER_SECONDS, **options)
        if answer.status_code >= 300:
            raise self._failure(answer)
        try:
            return answer.json() if answer.content else None
        except ValueError as error:
            raise self._failure(answer) from error

    def _send(self, method: str, path: str, seconds: float, **options: Any) -> requests.Response:
        import requests

        headers = dict(options.pop("headers", {}))
        if path.startswith(API) and (token := self._cookie(CSRF_COOKIE)):
            headers[CSRF_HEADER] = token
        try:
            return self._session.request(
                method,
                self.url + path,
                headers=headers,
                timeout=(CONNECT_SECONDS, seconds),
                # A redirect would take cookies or a key to whatever is named there.
                allow_redirects=False,
                **options,
            )
        except requests.RequestException as error:
            raise self._silence(path, error) from error

    def _cookie(self, name: str) -> str:
        names = (name, HOST_PREFIX + name)
        return next((each.value or "" for each in self._session.cookies if each.name in names), "")

    def _silence(self, path: str, error: Exception) -> ConsoleError:
        return ConsoleError(f"{self.url}{path} does not answer: {front_door.innermost(error)}", self._remedy)

    def _failure(self, answer: requests.Response) -> ConsoleError:
        fields = _fields(answer)
        words = str(fields.get("message") or fields.get("error") or "").strip()[:LONGEST_WORDS]
        code = str(fields.get("code") or "")
        path = answer.request.path_url.partition("?")[0]
        told = f"{words} ({code or answer.status_code})" if words else f"status {answer.status_code}"
        return ConsoleError(
            f"Dify refuses {answer.request.method} {path}: {told}",
            self._remedy,
            status=answer.status_code,
            code=code,
            words=words,
        )


@contextlib.contextmanager
def open_client(front: front_door.FrontDoor) -> Iterator[Client]:
    """Give a client that nobody has signed in with yet."""
    with front_door.open_session(front) as (session, url):
        yield Client(session, url, front.remedy)


def _fields(answer: requests.Response) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        fields = answer.json()
        if isinstance(fields, dict):
            return fields
    return {}


def _code(answer: requests.Response) -> str:
    return str(_fields(answer).get("code") or "")


def _events(answer: requests.Response) -> Iterator[dict[str, Any]]:
    """Give the events of a stream (`text/event-stream`): Dify has `data:` lines, and `event: ping` to stay alive."""
    import requests

    try:
        for line in answer.iter_lines():
            kind, colon, data = line.decode("utf-8", errors="replace").partition(":")
            if colon and kind == "data":
                with contextlib.suppress(ValueError):
                    event = json.loads(data)
                    if isinstance(event, dict):
                        yield event
            elif colon and kind == "event":
                yield {"event": data.strip()}
    except (requests.RequestException, OSError) as error:
        raise ConsoleError(
            f"the stream of {answer.request.path_url} broke off: {front_door.innermost(error)}"
        ) from error
