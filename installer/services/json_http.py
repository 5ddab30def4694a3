"""Asks a server of others over HTTP, with JSON, one connection for each question."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# An answer of ours is small; what is larger is another program's.
LARGEST_ANSWER = 1024 * 1024


class NotJsonError(Exception):
    """What answers does not speak HTTP, or not JSON where it has to."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a server has answered: its status, and the JSON, or else the text, of the body."""

    status: int
    body: Any

    @property
    def ok(self) -> bool:
        """Whether it was done."""
        return 200 <= self.status < 300


@dataclass(frozen=True, kw_only=True, slots=True)
class Client:
    """A server, and the headers that say who asks; `context` is None for http. Nothing is kept open."""

    host: str
    port: int
    seconds: float
    context: ssl.SSLContext | None
    headers: Mapping[str, str]

    def ask(self, method: str, path: str, content: Any = None, *, lines: Sequence[Any] = ()) -> Answer:
        """Ask once; `content` is sent as JSON, `lines` as JSON of a line each. Raises NotJsonError, OSError."""
        kind = "application/x-ndjson" if lines else "application/json"
        body = "".join(f"{json.dumps(each)}\n" for each in lines) if lines else None
        body = json.dumps(content) if content is not None else body
        connection = self._connection()
        try:
            connection.request(method, path, body=body, headers={**self.headers, "Content-Type": kind})
            got = connection.getresponse()
            raw = got.read(LARGEST_ANSWER)
        except http.client.RemoteDisconnected:
            raise
        except http.client.BadStatusLine as error:
            raise NotJsonError("what it says is not HTTP") from error
        except http.client.HTTPException as error:
            raise NotJsonError(str(error) or type(error).__name__) from error
        finally:
            connection.close()
        try:
            return Answer(status=got.status, body=json.loads(raw))
        except ValueError:
            return Answer(status=got.status, body=raw.decode("utf-8", "replace").strip())

    def _connection(self) -> http.client.HTTPConnection:
        if self.context is None:
            return http.client.HTTPConnection(self.host, self.port, timeout=self.seconds)
        return http.client.HTTPSConnection(self.host, self.port, timeout=self.seconds, context=self.context)


def basic(user: str, password: str) -> dict[str, str]:
    """Return the header of a login with user and password (RFC 7617)."""
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}
