"""Reads packets of IPv4 and IPv6 as they leave a container: from where, where to, by which protocol.

Whatever arrives is read as far as it goes; nothing here raises.

Sources: RFC 791 (IPv4), RFC 8200 (IPv6 and its extension headers), RFC 9293 (TCP), RFC 768 (UDP).
"""

from __future__ import annotations

import dataclasses
import ipaddress
from dataclasses import dataclass

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

TCP, UDP = 6, 17
PROTOCOLS = {1: "icmp", TCP: "tcp", UDP: "udp", 58: "icmpv6", 132: "sctp"}
SYN, ACK = 0x02, 0x10

# Headers of IPv6 that stand between its own and that of the protocol; a fragment's has a fixed length.
BEFORE_PROTOCOL = HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, OPTIONS = 0, 43, 44, 51, 60


@dataclass(frozen=True, kw_only=True, slots=True)
class Packet:
    """A packet. Ports are 0 where it has none, as in the second part of one that was cut in parts."""

    source: Address
    target: Address
    protocol: int
    source_port: int = 0
    target_port: int = 0
    flags: int = 0  # of TCP
    is_later_part: bool = False
    payload: bytes = b""

    @property
    def protocol_name(self) -> str:
        """Return tcp, udp, icmp, …, or the protocol's number in words."""
        return PROTOCOLS.get(self.protocol, f"protocol {self.protocol}")

    @property
    def begins_connection(self) -> bool:
        """Whether it is the first one of a connection of TCP."""
        return self.protocol == TCP and self.flags & (SYN | ACK) == SYN


def read(data: bytes) -> Packet | None:
    """Return the packet that begins with these bytes, the first of its IP header; None when that is not whole."""
    version = data[0] >> 4 if data else 0
    if version == 4:
        return _read_four(data)
    if version == 6:
        return _read_six(data)
    return None


def _read_four(data: bytes) -> Packet | None:
    length = (data[0] & 15) * 4
    if length < 20 or len(data) < length:
        return None
    source, target = ipaddress.IPv4Address(data[12:16]), ipaddress.IPv4Address(data[16:20])
    is_later_part = _number(data, 6) & 0x1FFF != 0
    if is_later_part:
        return Packet(source=source, target=target, protocol=data[9], is_later_part=True)
    return _packet(source, target, data[9], data[length:])


def _read_six(data: bytes) -> Packet | None:
    if len(data) < 40:
        return None
    source, target = ipaddress.IPv6Address(data[8:24]), ipaddress.IPv6Address(data[24:40])
    protocol, rest = data[6], data[40:]
    while protocol in BEFORE_PROTOCOL and len(rest) >= 8:
        length = {FRAGMENT: 8, AUTHENTICATION: (rest[1] + 2) * 4}.get(protocol, (rest[1] + 1) * 8)
        is_later_part = protocol == FRAGMENT and _number(rest, 2) & 0xFFF8 != 0
        protocol, rest = rest[0], rest[length:]
        if is_later_part:
            return Packet(source=source, target=target, protocol=protocol, is_later_part=True)
    return _packet(source, target, protocol, rest)


def _packet(source: Address, target: Address, protocol: int, data: bytes) -> Packet:
    plain = Packet(source=source, target=target, protocol=protocol)
    if protocol == UDP and len(data) >= 8:
        return dataclasses.replace(plain, source_port=_number(data, 0), target_port=_number(data, 2), payload=data[8:])
    if protocol == TCP and len(data) >= 20:
        return dataclasses.replace(
            plain,
            source_port=_number(data, 0),
            target_port=_number(data, 2),
            flags=data[13],
            payload=data[(data[12] >> 4) * 4 :],
        )
    return plain


def _number(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 2], "big")
