"""Asks this host's name servers whether they are there: containers ask them for every name that is not the stack's."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from installer.host import parse

CONF = Path("/etc/resolv.conf")
# systemd-resolved answers at a loopback address, and names here whom it asks itself.
BEHIND_RESOLVED = Path("/run/systemd/resolve/resolv.conf")
PORT = 53
TRIES, TRY_SECONDS = 2, 1.0
# The name of 127.0.0.1: each name server answers it by itself and asks nobody (RFC 6303, section 4.2), so that no name
# leaves this network, and one that is there answers at once.
QUESTION = b"\x01\x00\x00\x01" + bytes(6) + b"\x011\x010\x010\x03127\x07in-addr\x04arpa\x00\x00\x0c\x00\x01"


def list_resolvers() -> tuple[str, ...]:
    """Return the addresses of the name servers that this host asks; none where it has none."""
    found = parse.parse_resolvers(_read(CONF))
    if found and all(ipaddress.ip_address(each).is_loopback for each in found):
        return parse.parse_resolvers(_read(BEHIND_RESOLVED)) or found
    return found


def find_answering(addresses: Iterable[str]) -> tuple[str, ...]:
    """Return those that answer, whatever it is; all are asked at the same time, for two seconds at most."""
    unique = list(dict.fromkeys(addresses))
    if not unique:
        return ()
    with ThreadPoolExecutor(len(unique)) as pool:
        return tuple(address for address, answers in zip(unique, pool.map(_answers, unique), strict=True) if answers)


def _answers(address: str) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    number = os.urandom(2)
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as asking:
        # Only who was asked may answer, and a host that has no such service is heard saying so.
        asking.connect((address, PORT))
        asking.settimeout(TRY_SECONDS)
        for _ in range(TRIES):
            asking.send(number + QUESTION)
            with contextlib.suppress(TimeoutError):
                return asking.recv(512)[:2] == number
    return False


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", errors="replace")
    except OSError:
        return ""
