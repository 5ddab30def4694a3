"""A program for the kernel that lets through what may leave the stack, and none of its inner traffic.

It spares us the packets between the containers, which are many. It may let through too much, never too little: what
comes is read and judged again. Of TCP only the first packet of a connection comes; what has been open before is read
elsewhere (`egress.containers`).

Sources: packet(7), SO_ATTACH_FILTER; Linux, Documentation/networking/filter.rst and include/uapi/linux/filter.h. A
socket of the kind SOCK_DGRAM sees a packet from its IP header on.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from installer.egress import packets, questions

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Codes of the instructions: load a word, half a word or a byte, the same behind a header's length; jump, return.
LOAD_WORD, LOAD_HALF, LOAD_BYTE = 0x20, 0x28, 0x30
LOAD_HALF_BEHIND, LOAD_BYTE_BEHIND = 0x48, 0x50
LOAD_LENGTH_OF_HEADER = 0xB1
AND, JUMP, IF_EQUAL, IF_ANY_BIT, RETURN = 0x54, 0x05, 0x15, 0x45, 0x06
# Where the kernel tells what is beside the packet.
ETHERTYPE = 0xFFFFF000
IPV4, IPV6 = 0x0800, 0x86DD

# So much of a packet comes: a message of the name system has 512 bytes, and mostly no more than 1232.
SNAP_BYTES = 2048

# To where nothing of a container can leave: itself, its link, groups.
NOWHERE: tuple[Network, ...] = tuple(
    ipaddress.ip_network(each)
    for each in ("0.0.0.0/32", "127.0.0.0/8", "224.0.0.0/4", "255.255.255.255/32", "::/127", "fe80::/10", "ff00::/8")
)


@dataclass(frozen=True, slots=True)
class Instruction:
    """An instruction; the jumps count the instructions that are left out, or name where to go on."""

    code: int
    value: int = 0
    if_true: int = 0
    if_false: int = 0
    to: str = ""  # of JUMP: a label
    label: str = ""  # a place to jump to, and no instruction


def program(inside: Iterable[Network], sources: Iterable[Network] | None = None) -> bytes:
    """Return the program that lets through what goes elsewhere than `inside`, and what belongs to the name system.

    With `sources` only what comes from these networks, or goes there.
    """
    everywhere = [*NOWHERE, *inside]
    return _assembled([*_program(everywhere, None if sources is None else list(sources))])


def _program(inside: Sequence[Network], sources: Sequence[Network] | None) -> Iterator[Instruction]:
    yield Instruction(LOAD_WORD, ETHERTYPE)
    yield from _go("four", IF_EQUAL, IPV4)
    yield from _go("six", IF_EQUAL, IPV6)
    yield Instruction(JUMP, to="drop")
    for name, version, source, target in (("four", 4, 12, 16), ("six", 6, 8, 24)):
        yield Instruction(0, label=name)
        if sources is not None:
            yield from _go_if_in(f"{name} is ours", [each for each in sources if each.version == version], source)
            yield Instruction(JUMP, to="drop")
            yield Instruction(0, label=f"{name} is ours")
        yield from _go_if_in(f"{name} inside", [each for each in inside if each.version == version], target)
        yield from _outside(version)
        yield Instruction(0, label=f"{name} inside")
        yield from _question(version)
    yield Instruction(0, label="drop")
    yield Instruction(RETURN, 0)
    yield Instruction(0, label="take")
    yield Instruction(RETURN, SNAP_BYTES)


def _outside(version: int) -> Iterator[Instruction]:
    """Take all but the packets of TCP that begin no connection and belong not to the name system."""
    yield Instruction(LOAD_BYTE, 9 if version == 4 else 6)
    yield Instruction(IF_EQUAL, packets.TCP, 1, 0)
    yield Instruction(JUMP, to="take")
    yield from _behind_header(version)
    yield Instruction(LOAD_BYTE_BEHIND, 13)
    yield Instruction(AND, packets.SYN | packets.ACK)
    yield from _go("take", IF_EQUAL, packets.SYN)
    # A later part of one that was cut in parts has no flags.
    if version == 4:
        yield Instruction(LOAD_HALF, 6)
        yield from _go("take", IF_ANY_BIT, 0x1FFF)


def _question(version: int) -> Iterator[Instruction]:
    """Take what goes to or comes from the port of the name system, or docker's resolver; drop all else."""
    if version == 4:
        for at in (12, 16):
            yield Instruction(LOAD_WORD, at)
            yield from _go("take", IF_EQUAL, int(questions.DOCKERS_RESOLVER))
    yield Instruction(LOAD_BYTE, 9 if version == 4 else 6)
    if version == 6:
        # A header of IPv6 that stands before that of the protocol is not read here.
        for each in packets.BEFORE_PROTOCOL:
            yield from _go("take", IF_EQUAL, each)
    yield Instruction(IF_EQUAL, packets.UDP, 2, 0)
    yield Instruction(IF_EQUAL, packets.TCP, 1, 0)
    yield Instruction(JUMP, to="drop")
    yield from _behind_header(version)
    for at in (0, 2):
        yield Instruction(LOAD_HALF_BEHIND, at)
        yield from _go("take", IF_EQUAL, questions.PORT)
    yield Instruction(JUMP, to="drop")


def _behind_header(version: int) -> Iterator[Instruction]:
    """Let what follows be read behind the IP header: of IPv4 it tells its length, of IPv6 it has 40 bytes."""
    if version == 4:
        yield Instruction(LOAD_LENGTH_OF_HEADER, 0)
    else:
        yield Instruction(0x01, 40)  # the register that LOAD_…_BEHIND adds


def _go_if_in(label: str, networks: Iterable[Network], at: int) -> Iterator[Instruction]:
    """Go to a label if the address at this place is in one of the networks."""
    for number, network in enumerate(networks):
        last = f"{label} {number}"
        words = network.network_address.packed
        masks = network.netmask.packed
        for offset in range(0, len(words), 4):
            mask = int.from_bytes(masks[offset : offset + 4], "big")
            if mask:
                yield Instruction(LOAD_WORD, at + offset)
                yield Instruction(AND, mask)
                yield Instruction(IF_EQUAL, int.from_bytes(words[offset : offset + 4], "big"), 1, 0)
                yield Instruction(JUMP, to=last)
        yield Instruction(JUMP, to=label)
        yield Instruction(0, label=last)


def _go(label: str, test: int, value: int) -> Iterator[Instruction]:
    """Go to a label if the test is true; labels may be further away than a conditional jump reaches."""
    yield Instruction(test, value, 0, 1)
    yield Instruction(JUMP, to=label)


def _assembled(instructions: Sequence[Instruction]) -> bytes:
    places: dict[str, int] = {}
    real: list[Instruction] = []
    for each in instructions:
        if each.label:
            places[each.label] = len(real)
        else:
            real.append(each)
    return b"".join(
        struct.pack(
            "=HBBI", each.code, each.if_true, each.if_false, places[each.to] - at - 1 if each.to else each.value
        )
        for at, each in enumerate(real)
    )
