"""Speaks RESP2 as far as a few questions need it (Redis's documents, "Redis serialization protocol specification").

The usual library is 1 MB of the executable, and hides why TLS failed (docs/decisions/028).
"""

from __future__ import annotations

import socket
import ssl
from typing import Self

Reply = str | int | None | list["Reply"]


class RefusedError(Exception):
    """The server has answered with an error; its first word says which."""

    @property
    def kind(self) -> str:
        """Return that word, as in NOPERM."""
        return str(self).partition(" ")[0]


class NotRedisError(Exception):
    """What answers does not speak RESP."""


class Connection:
    """A connection; closes at the end of a `with` block."""

    def __init__(self, host: str, port: int, seconds: float, context: ssl.SSLContext | None) -> None:
        """Connect, with TLS if there is a context. Raises OSError; ssl.SSLError for a server without TLS as well."""
        self._socket = socket.create_connection((host, port), seconds)
        if context is not None:
            try:
                self._socket = context.wrap_socket(self._socket, server_hostname=host)
            except TimeoutError as error:
                # One without TLS waits for the end of what it takes for a command.
                raise ssl.SSLError("it does not answer as a server of TLS does") from error
        self._file = self._socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._socket.close()

    def ask(self, *words: str) -> Reply:
        """Send a command, and return the answer. Raises RefusedError, NotRedisError, OSError."""
        encoded = [word.encode() for word in words]
        sent = [f"*{len(encoded)}\r\n".encode()]
        sent += [f"${len(each)}\r\n".encode() + each + b"\r\n" for each in encoded]
        self._socket.sendall(b"".join(sent))
        return self._read()

    def _read(self) -> Reply:
        line = self._file.readline()
        kind, rest = line[:1], line[1:].removesuffix(b"\r\n").decode("utf-8", "replace")
        if not line.endswith(b"\r\n") or kind not in (b"+", b"-", b":", b"$", b"*"):
            raise NotRedisError
        if kind == b"+":
            return rest
        if kind == b"-":
            raise RefusedError(rest)
        number = _number(rest)
        if kind == b":":
            return number
        if number < 0:
            return None
        if kind == b"$":
            return self._file.read(number + 2).removesuffix(b"\r\n").decode("utf-8", "replace")
        return [self._read() for _ in range(number)]


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise NotRedisError from None
