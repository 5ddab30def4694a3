"""Looks into the network of a process, from outside: its addresses, its networks, its open connections.

All of it is read from /proc, whoever owns the process. Sources: proc(5); Linux, net/ipv4/fib_trie.c, net/ipv4/route.c,
net/ipv4/tcp_ipv4.c, net/ipv6/addrconf.c: addresses stand there as words of the machine, in hexadecimal.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from installer.egress.kernel_filter import Network
from installer.egress.packets import Address

PROC = Path("/proc")
ESTABLISHED, SYN_SENT, LISTENING = "01", "02", "0A"
LOCAL = re.compile(r"\|-- ([0-9.]+)\n\s+/32 host LOCAL")


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """The network of a process: its number, and what the process has there."""

    number: int  # of the namespace
    addresses: frozenset[Address]
    networks: dict[Network, str]  # those that it reaches without a gateway, each with its interface


@dataclass(frozen=True, slots=True)
class Connection:
    """A connection of TCP that a process has opened, or holds open: where it leads."""

    target: Address
    port: int


def number_of(process: int) -> int | None:
    """Return the number of a process's network namespace, None when the process is gone."""
    with contextlib.suppress(OSError):
        return (PROC / str(process) / "ns/net").stat().st_ino
    return None


def look(process: int) -> View | None:
    """Return what a process has of networks, None when it is gone."""
    number, folder = number_of(process), PROC / str(process) / "net"
    if number is None:
        return None
    addresses: set[Address] = set(map(ipaddress.IPv4Address, LOCAL.findall(_read(folder / "fib_trie"))))
    networks: dict[Network, str] = {}
    for line in _read(folder / "route").splitlines()[1:]:
        interface, destination, gateway, *_ = fields = line.split()
        if int(gateway, 16) == 0 and int(fields[7], 16):
            networks[_network(destination, fields[7])] = interface
    for line in _read(folder / "if_inet6").splitlines():
        address, _, length, _, _, interface = line.split()
        six = ipaddress.IPv6Interface(f"{ipaddress.IPv6Address(bytes.fromhex(address))}/{int(length, 16)}")
        if not (six.is_loopback or six.is_link_local):
            addresses.add(six.ip)
            networks[six.network] = interface
    return View(number=number, addresses=frozenset(addresses), networks=networks)


def list_connections(process: int) -> list[Connection]:
    """Return the connections that are open and were not made to a port that the process listens on."""
    found = [each for name in ("tcp", "tcp6") for each in _sockets(_read(PROC / str(process) / "net" / name))]
    listening = {port for state, port, _ in found if state == LISTENING}
    return [each for state, port, each in found if state in (ESTABLISHED, SYN_SENT) and port not in listening]


def read_resolv_conf(process: int) -> str:
    """Return the text of the resolv.conf that a process sees, empty when there is none."""
    return _read(PROC / str(process) / "root/etc/resolv.conf")


def _sockets(text: str) -> Iterator[tuple[str, int, Connection]]:
    """Give state, own port and the other side of each socket of a table."""
    for line in text.splitlines()[1:]:
        _, own, other, state, *_ = line.split()
        address, port = other.split(":")
        yield state, int(own.split(":")[1], 16), Connection(_address(address), int(port, 16))


def _address(text: str) -> Address:
    words = [int(text[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(text), 8)]
    if len(words) == 1:
        return ipaddress.IPv4Address(words[0])
    six = ipaddress.IPv6Address(b"".join(words))
    return six.ipv4_mapped or six


def _network(destination: str, mask: str) -> Network:
    return ipaddress.ip_network(f"{_address(destination)}/{_address(mask)}")


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", errors="replace")
    except OSError:
        return ""
