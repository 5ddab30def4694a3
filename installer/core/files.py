"""Writes files so that an interruption leaves the old one or the new one, never half of one."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from installer.core import errors

REMOVE_SECONDS = 5.0


@contextlib.contextmanager
def replacing(path: Path, *, mode: int = 0o644, sync: bool = True) -> Iterator[IO[bytes]]:
    """Open a temporary file beside `path`; when the block ends well it takes `path`'s place.

    The mode is set whatever the umask is: a hardened host has 077, and containers must read
    what we write. Without `sync` the disk has the content some time later, which a power failure can come
    before. Raises CommandFailed when the disk refuses; nothing is left behind then.
    """
    with _told(path):
        number, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with _told(path), os.fdopen(number, "wb") as file:
            yield file
            file.flush()
            os.fchmod(file.fileno(), mode)
            if sync:
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write(path: Path, content: str | bytes, *, mode: int = 0o644) -> None:
    """Write a whole file at once. Raises CommandFailed when the disk refuses."""
    with replacing(path, mode=mode) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def sync(path: Path) -> None:
    """Wait until the disk has all of a file. Raises CommandFailed when the disk refuses."""
    with _told(path), path.open("rb") as file:
        os.fsync(file.fileno())


def folder(path: Path, mode: int = 0o755) -> None:
    """Make a folder and its parents if need be; a new one gets `mode` whatever the umask is.

    Raises CommandFailed when that is refused.
    """
    with _told(path):
        for missing in reversed([each for each in (path, *path.parents) if not each.exists()]):
            missing.mkdir(exist_ok=True)
            missing.chmod(mode)


def remove(path: Path) -> None:
    """Remove a folder with all below it, if it is there; wait a little for who may still be writing in it.

    A program that was ended may leave a child behind for a moment. What cannot be removed stays.
    """
    deadline = time.monotonic() + REMOVE_SECONDS
    while path.exists():
        shutil.rmtree(path, ignore_errors=True)
        if not path.exists() or time.monotonic() > deadline:
            return
        time.sleep(0.05)


def holds_anything(path: Path) -> bool:
    """Tell whether a folder exists and is not empty; one that we may not read counts as full."""
    try:
        return any(path.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return False
    except PermissionError:
        return True


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise errors.CommandFailed(
            f"{path} cannot be written: {error.strerror}",
            "make room, or give a folder of yours with --dir; then run the same command again",
        ) from error
