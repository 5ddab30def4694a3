"""All that is not a target machine: the other end of its only way out, where whatever it sends arrives.

The machine gets an address of its own there, a default route, and a name server that knows every name. So nothing that
asks for anything outside stays unseen, or gives up early. It is a network namespace; no packet goes any further. What
comes is read by the few lines here, none of the product's.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import subprocess
import threading
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from tests.target.machine import Machine
from tests.target.network import enter

NUMBERS = itertools.count()
# Addresses for documents (RFC 5737): the ends of the way, and where each name leads.
HERE, THERE, EVERYWHERE = "198.51.100.1", "198.51.100.2", "192.0.2.80"
EVERY_PROTOCOL, OUTGOING = 3, 4


class Sent(NamedTuple):
    """Something that a machine has sent: a question for a name, or the first packet to an address."""

    what: str
    source: str


class Outside:
    """The outside of a machine; as a context manager it is there. `sent` is what has come from the machine."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.sent: list[Sent] = []
        self._name = f"dify-outside-{os.getpid()}-{next(NUMBERS)}"
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    @property
    def network(self) -> Path:
        """The namespace."""
        return Path("/run/netns", self._name)

    def __enter__(self) -> Outside:
        inside = ["nsenter", "-t", str(self.machine.init()), "-n"]
        link = f"ip -n {self._name} link"
        for command in (
            f"ip netns add {self._name}",
            f"{link} add out0 type veth peer name wan0 netns {self.machine.init()}",
            f"ip -n {self._name} address add {HERE}/24 dev out0",
            *(f"{link} set {name} up" for name in ("lo", "out0")),
            f"ip -n {self._name} route add local 192.0.2.0/24 dev lo",
            f"ip -n {self._name} route add 10.0.0.0/24 via {THERE}",
        ):
            subprocess.run(command.split(), check=True)
        for command in (
            f"ip address add {THERE}/24 dev wan0",
            "ip link set wan0 up",
            f"ip route add default via {HERE}",
        ):
            subprocess.run([*inside, *command.split()], check=True)
        ready = threading.Barrier(3, timeout=30)
        for work in (self._watch, self._answer):
            self._threads.append(threading.Thread(target=work, args=(ready,), daemon=True))
            self._threads[-1].start()
        ready.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        subprocess.run(["ip", "netns", "delete", self._name], check=False)
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command out there."""
        return subprocess.run(["ip", "netns", "exec", self._name, *command], capture_output=True, text=True)

    def _watch(self, ready: threading.Barrier) -> None:
        enter(self.network)
        watching = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(EVERY_PROTOCOL))
        watching.bind(("out0", EVERY_PROTOCOL))
        self._sockets.append(watching)
        ready.wait()
        with contextlib.suppress(OSError):
            while True:
                data, (_, protocol, kind, *_) = watching.recvfrom(65536)
                if kind != OUTGOING and (sent := told(protocol, data)):
                    self.sent.append(sent)

    def _answer(self, ready: threading.Barrier) -> None:
        """Answer each question for the address of a name, and say that there is nothing else."""
        enter(self.network)
        listening = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        listening.bind((HERE, 53))
        self._sockets.append(listening)
        ready.wait()
        with contextlib.suppress(OSError):
            # A socket that is shut down gives nothing.
            while (received := listening.recvfrom(4096))[0]:
                asked, sender = received
                end = asked.index(b"\0", 12) + 5
                is_address = asked[end - 4 : end - 2] == b"\0\1"
                record = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + socket.inet_aton(EVERYWHERE) if is_address else b""
                head = asked[:2] + b"\x81\x80\0\1" + (b"\0\1" if record else b"\0\0") + b"\0\0\0\0"
                listening.sendto(head + asked[12:end] + record, sender)


def told(protocol: int, data: bytes) -> Sent | None:
    """Return what a packet tells, None for one that goes on with a connection."""
    if protocol == 0x0806:
        return Sent(f"who has {socket.inet_ntoa(data[24:28])}", socket.inet_ntoa(data[14:18]))
    if protocol == 0x86DD:
        target, kind, body = socket.inet_ntop(socket.AF_INET6, data[24:40]), data[6], data[40:]
        source = socket.inet_ntop(socket.AF_INET6, data[8:24])
    elif protocol == 0x0800:
        target, kind, body = socket.inet_ntoa(data[16:20]), data[9], data[(data[0] & 15) * 4 :]
        source = socket.inet_ntoa(data[12:16])
    else:
        return Sent(f"protocol {protocol:04x}", "")
    port = int.from_bytes(body[2:4], "big")
    if kind == socket.IPPROTO_TCP:
        # Of a connection the first packet, with SYN and without ACK.
        return Sent(f"tcp {target}:{port}", source) if body[13] & 0x12 == 0x02 else None
    if kind == socket.IPPROTO_UDP:
        return Sent(f"name {name_in(body[20:])}" if port == 53 else f"udp {target}:{port}", source)
    return Sent(f"protocol {kind} {target}", source)


def name_in(data: bytes) -> str:
    """Return the name that a question begins with."""
    labels = []
    while data and data[0]:
        labels.append(data[1 : data[0] + 1].decode("ascii", "replace"))
        data = data[data[0] + 1 :]
    return ".".join(labels)
