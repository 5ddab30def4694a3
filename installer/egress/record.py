"""Keeps what containers have asked for: each name and each address once, with the time and how often."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from installer.egress import packets, questions
from installer.egress.packets import Address, Packet

# Who asks for so many different things is not told of each one.
MOST = 5000
UNREADABLE = "(a question that cannot be read)"


@dataclass(frozen=True, slots=True)
class Target:
    """An address that something was sent to; the port is 0 where the protocol has none."""

    address: Address
    protocol: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.address}]" if self.address.version == 6 and self.port else str(self.address)
        return f"{host}:{self.port}/{self.protocol}" if self.port else f"{host} ({self.protocol})"


@dataclass(slots=True)
class Times:
    """When something was first seen, in seconds since the epoch, and how often."""

    first: float
    count: int = 0


Who = str | Address  # a container by its name, or an address that none is known to have
Asked = tuple[Who, str | Target]


@dataclass(slots=True)
class Record:
    """What was asked for; names lead to the addresses of their answers."""

    clock: Callable[[], float]
    asked: dict[Asked, Times] = field(default_factory=dict)
    answers: dict[str, set[Address]] = field(default_factory=dict)
    left_out: int = 0

    def add(self, who: Who, packet: Packet, direction: Literal["out", "in"]) -> None:
        """Keep what a packet asks for; one that comes in tells at most where a name leads."""
        message = questions.read(packet)
        if message is not None and message.is_answer:
            if message.name in self.answers or len(self.answers) < MOST:
                self.answers.setdefault(message.name, set()).update(message.addresses)
            return
        if direction == "in":
            return
        if message is not None:
            self._count(who, message.name)
        elif packet.protocol == packets.UDP and packet.target_port == questions.PORT:
            self._count(who, UNREADABLE)
        # Of a connection its first packet counts: what follows, and what answers another's, is no question.
        if packet.protocol != packets.TCP or packet.begins_connection or packet.is_later_part:
            self.add_target(who, Target(packet.target, packet.protocol_name, packet.target_port))

    def add_target(self, who: Who, target: Target) -> None:
        """Keep that something was sent to an address."""
        self._count(who, target)

    def _count(self, who: Who, what: str | Target) -> None:
        if (who, what) not in self.asked and len(self.asked) >= MOST:
            self.left_out += 1
            return
        self.asked.setdefault((who, what), Times(self.clock())).count += 1
