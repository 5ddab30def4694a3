"""Reads messages of the name system: which names are asked for, and to which addresses they lead.

Whatever arrives is read as far as it goes; nothing here raises.

Source: RFC 1035, section 4; RFC 3596 (AAAA).
"""

from __future__ import annotations

import contextlib
import ipaddress
from dataclasses import dataclass

from installer.egress.packets import TCP, Address, Packet

PORT = 53
# docker answers containers at this address, at a port of its choice (libnetwork, sandbox_dns_unix.go).
DOCKERS_RESOLVER = ipaddress.IPv4Address("127.0.0.11")

ANSWER = 0x8000
# The bits of a message for a question that is asked in the usual way: kind of message, and what is reserved.
KIND = 0x7840
A, AAAA, INTERNET = 1, 28, 1
# A name has at most 255 bytes, and each jump in it leads back.
MOST_LABELS = 128
MOST_RECORDS = 100


@dataclass(frozen=True, slots=True)
class Message:
    """A question for a name, in lower case without its last dot; or an answer, with the addresses in it."""

    name: str
    is_answer: bool
    addresses: tuple[Address, ...] = ()


class _Cut(Exception):
    """A message ends before it says what it should."""


def read(packet: Packet) -> Message | None:
    """Return the question or the answer that a packet holds; None when it holds none."""
    if PORT not in (packet.source_port, packet.target_port) and DOCKERS_RESOLVER not in (packet.source, packet.target):
        return None
    # Over TCP a message has its length before it.
    data = packet.payload[2:] if packet.protocol == TCP else packet.payload
    with contextlib.suppress(_Cut):
        return _read_message(data)
    return None


def _read_message(data: bytes) -> Message | None:
    if len(data) < 12:
        return None
    bits, questions, answers = (int.from_bytes(data[at : at + 2], "big") for at in (2, 4, 6))
    if questions != 1 or bits & KIND:
        return None
    name, at = _read_name(data, 12)
    _bytes(data, at, 4)
    found: list[Address] = []
    if bits & ANSWER:
        # What was cut off has been read so far.
        with contextlib.suppress(_Cut):
            _read_addresses(data, at + 4, min(answers, MOST_RECORDS), found)
    return Message(name, bool(bits & ANSWER), tuple(found))


def _read_addresses(data: bytes, at: int, count: int, found: list[Address]) -> None:
    for _ in range(count):
        _, at = _read_name(data, at)
        kind, kind_of_net, length = (int.from_bytes(_bytes(data, at + offset, 2), "big") for offset in (0, 2, 8))
        value = _bytes(data, at + 10, length)
        at += 10 + length
        if kind_of_net == INTERNET and kind == A and length == 4:
            found.append(ipaddress.IPv4Address(value))
        if kind_of_net == INTERNET and kind == AAAA and length == 16:
            found.append(ipaddress.IPv6Address(value))


def _read_name(data: bytes, at: int) -> tuple[str, int]:
    """Return a name and where it ends; in it may stand where the rest of it is."""
    labels: list[str] = []
    end = 0
    for _ in range(MOST_LABELS):
        length = _bytes(data, at, 1)[0]
        if length >= 0xC0:
            end = end or at + 2
            at = int.from_bytes(_bytes(data, at, 2), "big") & 0x3FFF
        elif length > 63:
            break
        elif length == 0:
            return ".".join(labels) or ".", end or at + 1
        else:
            labels.append(_in_words(_bytes(data, at + 1, length)))
            at += 1 + length
    raise _Cut


def _in_words(label: bytes) -> str:
    """Return a label in lower case; what is no plain character as its number, as zone files have it."""
    plain = b"abcdefghijklmnopqrstuvwxyz0123456789-_*"
    return "".join(chr(each) if each in plain else f"\\{each:03}" for each in label.lower())


def _bytes(data: bytes, at: int, count: int) -> bytes:
    found = data[at : at + count]
    if len(found) < count:
        raise _Cut
    return found
