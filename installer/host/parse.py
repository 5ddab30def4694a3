"""Text of the kernel and of the host's programs in, facts out."""

from __future__ import annotations

import contextlib
import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


def parse_os_release(text: str) -> dict[str, str]:
    """Return the assignments of os-release(5)."""
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return {key.strip(): value.strip().strip("\"'") for key, _, value in pairs}


def parse_memory(text: str) -> int | None:
    """Return MemTotal of /proc/meminfo in bytes."""
    found = re.search(r"^MemTotal:\s+(\d+) kB", text, re.MULTILINE)
    return int(found.group(1)) * 1024 if found else None


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that listens on a port."""

    name: str
    process: int

    def __str__(self) -> str:
        return f"{self.name} (process {self.process})"


def parse_listeners(text: str) -> dict[int, Holder | None]:
    """Return port -> process of `ss -Hltnp`; None where we may not see it."""
    found: dict[int, Holder | None] = {}
    for line in text.splitlines():
        columns = line.split(maxsplit=5)
        if len(columns) < 4 or not (port := columns[3].rpartition(":")[2]).isdecimal():
            continue
        process = re.search(r'\(\("([^"]+)",pid=(\d+)', columns[5] if len(columns) > 5 else "")
        found[int(port)] = Holder(process.group(1), int(process.group(2))) if process else found.get(int(port))
    return found


def has_ranges(text: str, user: str, uid: int) -> bool:
    """Tell whether subuid(5) or subgid(5) give a user at least 65536 IDs."""
    total = 0
    for line in text.splitlines():
        owner, _, rest = line.strip().partition(":")
        _, _, count = rest.partition(":")
        if owner in (user, str(uid)) and count.isdecimal():
            total += int(count)
    return total >= 65536


def selinux_mode(enforce: str) -> Literal["enforcing", "permissive", "disabled"]:
    """Return the mode from /sys/fs/selinux/enforce, which is not there when SELinux is off."""
    return {"1": "enforcing", "0": "permissive"}.get(enforce.strip(), "disabled")  # type: ignore[return-value]


def mount_of(path: Path, mountinfo: str) -> tuple[str, tuple[str, ...]]:
    """Return file system type and mount options of what holds `path` (proc_pid_mountinfo(5))."""
    best = -1
    answer: tuple[str, tuple[str, ...]] = ("", ())
    for line in mountinfo.splitlines():
        left, separator, right = line.partition(" - ")
        columns = left.split()
        if not separator or len(columns) < 6:
            continue
        point = _unescaped(columns[4])
        if path.is_relative_to(point) and len(point) >= best:
            best, answer = len(point), (right.split()[0], tuple(columns[5].split(",")))
    return answer


def mount_points(mountinfo: str) -> list[str]:
    """Return where something is mounted (proc_pid_mountinfo(5))."""
    return [_unescaped(line.split()[4]) for line in mountinfo.splitlines() if len(line.split()) > 5]


def _unescaped(point: str) -> str:
    """Return a mount point as it is: the kernel writes blank, tab, newline and backslash as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found.group(1), 8)), point)


def parse_resolvers(text: str) -> tuple[str, ...]:
    """Return the name servers of resolv.conf(5), a zone as in fe80::1%eth0 included; what is no address is left out."""
    found = []
    for words in map(str.split, text.splitlines()):
        if len(words) > 1 and words[0] == "nameserver":
            with contextlib.suppress(ValueError):
                found.append(str(ipaddress.ip_address(words[1])))
    return tuple(found)


def parse_search(text: str) -> tuple[str, ...]:
    """Return the domains of resolv.conf(5) in which names are tried; the last line of that kind counts."""
    found: tuple[str, ...] = ()
    for words in map(str.split, text.splitlines()):
        if words[:1] in (["search"], ["domain"]):
            found = tuple(word.lower().strip(".") for word in words[1:])
    return found
