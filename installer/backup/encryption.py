"""Encrypts a backup for whoever has a key, in age's format: `age -d -i KEY FILE` opens it as well.

age is specified at age-encryption.org/v1. A recipient is a public key, an identity the private one: age's own, or one
of `ssh-keygen`, which every server has. The server that makes backups knows the public key alone.
"""

from __future__ import annotations

import contextlib
import io
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar

import pyrage

from installer.core import errors

SUFFIX = ".age"
BEGINNING = b"age-encryption.org/v1"
LARGEST_KEY_FILE = 1024 * 1024
OWN, SSH = "age1", "ssh-"
PRIVATE = "AGE-SECRET-KEY-"
PIPE_BYTES = 1024 * 1024
Given = TypeVar("Given")


def read_recipients(text: str) -> tuple[str, ...]:
    """Return the public keys that a text is or, one a line, a file of this name has. Raises UsageError."""
    content = text if text.startswith((OWN, SSH)) else _read(Path(text), "the public key")
    if PRIVATE in content.upper() or "PRIVATE KEY" in content:
        raise errors.UsageError(f"{text} is a private key", "name the public one: of `ssh-keygen`, the file with .pub")
    lines = map(str.strip, content.splitlines())
    # Without the comment that ssh-keygen adds.
    found = tuple(" ".join(line.split()[:2]) for line in lines if line and not line.startswith("#"))
    if not found:
        raise errors.UsageError(f"{text} has no public key", "take a file as `ssh-keygen -t ed25519` writes it, .pub")
    for each in found:
        _recipient(each)
    return found


def _recipient(text: str) -> Any:
    try:
        kind = pyrage.ssh if text.startswith(SSH) else pyrage.x25519
        return kind.Recipient.from_str(text)
    except pyrage.RecipientError as error:
        raise errors.UsageError(
            f"{text[:40]} is no public key: {error}",
            "name one of age (age1…), or of `ssh-keygen -t ed25519` (the .pub)",
        ) from error


def _identities(path: Path) -> list[Any]:
    """Return the private keys that a file has. Raises UsageError."""
    text = _read(path, "the private key")
    try:
        if "PRIVATE KEY" in text:
            return [pyrage.ssh.Identity.from_buffer(text.encode())]
        lines = map(str.strip, text.splitlines())
        found = [pyrage.x25519.Identity.from_str(line) for line in lines if line.upper().startswith(PRIVATE)]
    except pyrage.IdentityError as error:
        raise errors.UsageError(
            f"{path} is no private key that can be used: {error}",
            "one with a passphrase first becomes one without: `ssh-keygen -p -f COPY`, on a copy of it in /dev/shm",
        ) from error
    if not found:
        raise errors.UsageError(f"{path} has no private key", "name the file that the public key was made with")
    return found


def _read(path: Path, what: str) -> str:
    try:
        if path.stat().st_size > LARGEST_KEY_FILE:
            raise errors.UsageError(f"{path} is too large for {what}", "check the path")
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise errors.UsageError(f"{path}, {what}, cannot be read: {why}", "check the path") from error


@contextlib.contextmanager
def encrypting(target: IO[bytes], recipients: Sequence[str]) -> Iterator[IO[bytes]]:
    """Give a stream whose content comes into `target` encrypted. Raises UsageError, and what `target` does."""
    keys = [_recipient(each) for each in recipients]
    watched = _Watched(target)
    taken, given = os.pipe()
    worker = _Worker(lambda: _encrypt(taken, watched, keys))
    try:
        with worker, os.fdopen(given, "wb", PIPE_BYTES) as stream:
            yield stream
    except BrokenPipeError as error:
        raise watched.failure or worker.failure or error from None
    if worker.failure is not None:
        raise watched.failure or worker.failure


def _encrypt(taken: int, target: _Watched, keys: Sequence[Any]) -> None:
    with os.fdopen(taken, "rb", PIPE_BYTES) as source:
        pyrage.encrypt_io(source, target, keys)


def is_encrypted(path: Path) -> bool:
    """Tell whether a file is in age's format. Raises OSError."""
    with path.open("rb") as file:
        return file.read(len(BEGINNING)) == BEGINNING


@contextlib.contextmanager
def decrypting(source: IO[bytes], path: Path, identity: Path | None) -> Iterator[IO[bytes]]:
    """Give what a stream has encrypted; `path` is its name for errors. Raises BackupRefused, and what `source` does.

    Raises UsageError where the file of the private key cannot be used.
    """
    if identity is None:
        raise errors.BackupRefused(f"{path} is encrypted", "name the file of the private key: --identity FILE")
    keys = _identities(identity)
    watched = _Watched(source)
    taken, given = os.pipe()
    worker = _Worker(lambda: _decrypt(watched, given, keys))
    with worker, os.fdopen(taken, "rb", PIPE_BYTES) as stream:
        # typeshed has no common type of files
        yield _Decrypted(stream, lambda: _raise(worker, watched, path, identity))  # type: ignore[misc]


def _decrypt(source: _Watched, given: int, keys: Sequence[Any]) -> None:
    # Who has read enough has closed the other end.
    with contextlib.suppress(BrokenPipeError), os.fdopen(given, "wb", PIPE_BYTES) as target:
        pyrage.decrypt_io(source, target, keys)


def _raise(worker: _Worker, source: _Watched, path: Path, identity: Path) -> None:
    """Raise what has ended a decryption before its end, if something has."""
    worker.join()
    if source.failure is not None:
        raise source.failure
    if isinstance(worker.failure, pyrage.DecryptError) and "key" in str(worker.failure):
        raise errors.BackupRefused(f"{identity} is not the key that {path} was made for", "name that one: --identity")
    if worker.failure is not None:
        raise errors.BackupRefused(
            f"{path} is not as it was written: {worker.failure}", "take another copy of it, or an older backup"
        )


class _Watched:
    """A stream whose failure is kept: what calls it from another language loses it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.failure: Exception | None = None

    def read(self, size: int = -1) -> bytes:
        return self._kept(lambda: self._stream.read(size))

    def write(self, content: bytes) -> int:
        return self._kept(lambda: self._stream.write(content))

    def flush(self) -> None:
        self._kept(self._stream.flush)

    def _kept(self, act: Callable[[], Given]) -> Given:
        try:
            return act()
        except Exception as error:
            self.failure = error
            raise


class _Worker(threading.Thread):
    """Runs a function beside the block, and keeps what it raised."""

    def __init__(self, act: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self._act = act
        self.failure: Exception | None = None

    def run(self) -> None:
        try:
            self._act()
        except Exception as error:  # noqa: BLE001 - whoever waits for it raises it
            self.failure = error

    def __enter__(self) -> None:
        self.start()

    def __exit__(self, *_: object) -> None:
        self.join()


class _Decrypted(io.RawIOBase):
    """Reads what a worker gives, and at its end, whether it has come to its own."""

    def __init__(self, stream: IO[bytes], at_end: Callable[[], None]) -> None:
        self._stream, self._at_end = stream, at_end

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        data = self._stream.read(len(buffer))
        if not data:
            self._at_end()
        buffer[: len(data)] = data
        return len(data)
