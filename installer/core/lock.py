"""One run at a time for each install folder."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

from installer.core import errors


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Hold the lock of an install folder for the length of the block.

    It is a socket in Linux's abstract namespace (unix(7)): no file is written, so nothing is left
    behind, and it ends with the process however that ends. Raises AlreadyRunning, with the
    other's process ID.
    """
    name = f"\0dify-installer:{os.path.realpath(folder)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as lock:
        try:
            lock.bind(name)
        except OSError as error:
            raise errors.AlreadyRunning(
                f"another run is active for {folder}{_holder(name)}", "wait for it to end, then run the command again"
            ) from error
        lock.listen(1)
        yield


def _holder(name: str) -> str:
    """Return who listens on the lock, as text, where the kernel tells (SO_PEERCRED)."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        other.settimeout(1)
        other.connect(name)
        credentials = other.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return f" (process {struct.unpack('3i', credentials)[0]})"
    return ""
