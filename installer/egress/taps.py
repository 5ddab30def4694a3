"""Sockets that see every packet in a network namespace, whoever's it is.

Needs root: a namespace is entered only while its socket is made, and the socket stays there. Sources: packet(7),
setns(2), network_namespaces(7).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from installer.core import errors
from installer.egress import kernel_filter, packets
from installer.egress.kernel_filter import Network
from installer.egress.packets import Packet

EVERY_PROTOCOL = 3  # ETH_P_ALL
NEW_NETWORK = 0x40000000  # CLONE_NEWNET
SOL_PACKET, PACKET_STATISTICS = 263, 6
SO_ATTACH_FILTER, SO_RCVBUFFORCE = 26, 33
OUTGOING = 4  # PACKET_OUTGOING
BUFFER_BYTES = 4 * 1024 * 1024
AT_ONCE = 1000


@dataclass(slots=True)
class Tap:
    """A socket in a namespace; `missed` counts the packets for which it had no room."""

    socket: socket.socket
    missed: int = 0
    _program: bytes = field(default=b"", repr=False)

    def fileno(self) -> int:
        """Return the descriptor, to wait for packets."""
        return self.socket.fileno()

    def restrict(self, inside: Iterable[Network], sources: Iterable[Network] | None = None) -> None:
        """Have the kernel leave out what goes to these networks, and what comes from others than `sources`."""
        program = kernel_filter.program(inside, sources)
        if program == self._program:
            return
        buffer = ctypes.create_string_buffer(program, len(program))
        # struct sock_fprog: the number of instructions and where they are.
        described = struct.pack("HP", len(program) // 8, ctypes.addressof(buffer))
        self.socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, described)
        self._program = program

    def read(self) -> Iterator[tuple[Packet, Literal["out", "in"], str]]:
        """Give the packets that are there, which way they go, and the interface."""
        for _ in range(AT_ONCE):
            try:
                data, (interface, _, kind, *_) = self.socket.recvfrom(kernel_filter.SNAP_BYTES)
            except BlockingIOError:
                return
            except OSError:
                # The namespace, or an interface in it, has gone: what is left is still read the next time.
                return
            packet = packets.read(data)
            if packet is not None:
                yield packet, "out" if kind == OUTGOING else "in", interface

    def count_missed(self) -> int:
        """Return how many packets have been missed so far."""
        with contextlib.suppress(OSError):
            told = self.socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)
            # The kernel begins anew with each question.
            self.missed += struct.unpack("II", told)[1]
        return self.missed

    def close(self) -> None:
        """Give the socket back."""
        self.socket.close()


def open_tap(process: int) -> Tap | None:
    """Return a tap in the network namespace of a process, None when that is gone. Raises CommandFailed."""
    try:
        with _inside(process):
            made = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(EVERY_PROTOCOL))
    except (FileNotFoundError, ProcessLookupError):
        return None
    except OSError as error:
        raise errors.CommandFailed(
            f"the network of the process {process} cannot be watched: {error.strerror}",
            "run it as root, on the host itself and not in a container",
        ) from error
    made.setblocking(False)
    with contextlib.suppress(OSError):
        made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
    return Tap(made)


@contextlib.contextmanager
def _inside(process: int) -> Iterator[None]:
    """Be in the network namespace of a process for a moment; this thread alone is. Raises OSError."""
    with _opened(Path("/proc/thread-self/ns/net")) as own, _opened(Path(f"/proc/{process}/ns/net")) as other:
        _enter(other)
        try:
            yield
        finally:
            _enter(own)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _enter(descriptor: int) -> None:
    # os.setns is there from Python 3.12 on.
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, NEW_NETWORK) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
