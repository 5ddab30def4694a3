"""What HTTP nodes, tools and code may reach in the intranet: the squid of the stack, through which they all go.

Upstream's squid.conf.template includes `conf.d/*.conf` before its last `http_access deny all`. Our file is the first
one there, and has the last word for all that comes so far. It is written as the container starts, since it holds the
networks of the container: they are the stack's own, whatever the engine and however often it has made them anew.

Sources: Dify 1.11.3, docker/ssrf_proxy; squid's documents, "acl", "http_access", "always_direct"; what squid does was
seen with 5.7 and 6.13 and upstream's template (docs/decisions/016).
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass

from installer.core import errors

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Words for ranges: the networks that nobody routes in the internet (RFC 1918, RFC 4193), and none at all.
PRIVATE = "private"
NONE = "none"
PRIVATE_RANGES = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")

# Never reached, whatever is allowed: the container itself, link-local addresses (a cloud's metadata), groups.
NEVER = ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3", "::/127", "fe80::/10")

# The ports that plain http may have for upstream, its relics of other protocols left out. https gets the high ones as
# well: upstream has 443 alone. A lower port has to be named, and is open for what it is named with.
USUAL_PORTS = (80, 443)
FIRST_HIGH_PORT = 1025

VARIABLE = "INTRANET_RULES"
FILE = "/etc/squid/conf.d/00-dify-installer.conf"

# Prints the networks of the container, as sources and as destinations: routes without a gateway, whose numbers are
# hexadecimal and, on all that Dify runs on, backwards (proc(5), /proc/net/route); addresses of IPv6 that are global.
OWN_NETWORKS = r"""
awk '
function digit(hex, at) { return index("0123456789ABCDEF", substr(hex, at, 1)) - 1 }
function byte(hex, at) { return 16 * digit(hex, at) + digit(hex, at + 1) }
function quad(hex) { return byte(hex, 7) "." byte(hex, 5) "." byte(hex, 3) "." byte(hex, 1) }
function bits(hex, at, sum) { for (at = 1; at <= 8; at++) sum += index("08CEF", substr(hex, at, 1)) - 1; return sum }
function tell(network) { print "acl stack dst " network; print "acl stack_clients src " network }
FILENAME ~ /route/ && FNR > 1 && $3 == "00000000" && bits($8) { tell(quad($2) "/" bits($8)) }
FILENAME ~ /inet6/ && $4 == "00" { gsub(/..../, "&:", $1); sub(/:$/, "", $1); tell($1 "/" byte(toupper($3), 1)) }
' /proc/net/route $(ls /proc/net/if_inet6 2>/dev/null)
"""

RULES = """\
# Written by dify-installer as the container starts. What may be reached: dify-installer --allow-intranet.
acl SSL_ports port {https_ports}
{safe_ports}# An address has no name to be asked for: a resolver that is not there would be waited for, 30 s.
acl allowed_domains dstdomain -n .marketplace.dify.ai
# The sandbox is behind its own port of this proxy and no other: squid would send it plain requests of any kind.
always_direct deny sandbox_port
always_direct allow all
http_access allow stack_clients sandbox_port
http_access deny !stack_clients
http_access deny stack
acl never dst {never}
http_access deny never
# A name that nobody knows is in no network: who asks is to know that it is the name.
acl known dst 0.0.0.0/1 128.0.0.0/1 2000::/3 fc00::/7
http_access deny !known
deny_info 503:ERR_DNS_FAIL known
{rules}http_access deny all
"""


@dataclass(frozen=True, slots=True)
class Range:
    """Addresses that may be reached, at one port or, with None, at all that squid lets through."""

    network: Network
    port: int | None = None

    def __str__(self) -> str:
        if self.port is None:
            return str(self.network)
        return f"[{self.network}]:{self.port}" if self.network.version == 6 else f"{self.network}:{self.port}"


_RANGE = re.compile(r"(?:\[(?P<six>[^\[\]]+)\]|(?P<four>[^:\[\]]+))(?::(?P<port>[0-9]{1,5}))?|(?P<plain>[^\[\]]+)")


def checked(text: str) -> str:
    """Return one value of --allow-intranet in its usual form. Raises UsageError."""
    return text if text in (PRIVATE, NONE) else str(_parse(text))


def _parse(text: str) -> Range:
    found = _RANGE.fullmatch(text)
    if found is None:
        raise _unreadable(text, "")
    address, port = found["six"] or found["four"] or found["plain"], found["port"]
    if port and not 1 <= int(port) <= 65535:
        raise errors.UsageError(f"{text!r} has a port that does not exist", "give one from 1 to 65535")
    try:
        network = ipaddress.ip_network(address)
    except ValueError:
        raise _unreadable(text, address) from None
    if any(_is_within(network, never) for never in NEVER):
        raise errors.UsageError(
            f"{text} is never reached through the proxy: it is a machine itself, link-local or a group",
            "name the addresses that servers in your network have",
        )
    return Range(network, int(port) if port else None)


def _is_within(network: Network, other: str) -> bool:
    outer = ipaddress.ip_network(other)
    return network[0] in outer and network[-1] in outer


def _unreadable(text: str, address: str) -> errors.UsageError:
    """Return the error for what is no range, with the network that may be meant."""
    remedy = f"write it as 10.0.0.0/8, 10.0.0.9:8443, [fd00::/8]:8443, {PRIVATE} or {NONE}"
    with contextlib.suppress(ValueError):
        remedy = f"is {ipaddress.ip_network(address, strict=False)} meant? {remedy}"
    return errors.UsageError(f"{text!r} is not CIDR or CIDR:PORT", remedy)


def joined(values: Iterable[str]) -> str:
    """Return checked values as they stand in `.env`. Raises UsageError when nothing and something are asked for."""
    unique = list(dict.fromkeys(values))
    if NONE in unique and len(unique) > 1:
        raise errors.UsageError(f"{NONE} means that nothing may be reached", "give it alone, or leave it out")
    return ",".join(unique)


def read(text: str | None) -> list[Range]:
    """Return what a value of `.env` allows; an empty one is the private ranges. Raises UsageError."""
    ranges: list[Range] = []
    for value in joined(part.strip() for part in (text or PRIVATE).split(",")).split(","):
        if value == PRIVATE:
            ranges += map(_parse, PRIVATE_RANGES)
        elif value != NONE:
            ranges.append(_parse(value))
    return ranges


def in_words(ranges: Iterable[Range]) -> str:
    """Return the ranges for people."""
    return ", ".join(map(str, ranges)) or "nothing"


def write_rules(ranges: Iterable[Range], more: str = "") -> str:
    """Return squid's rules for these ranges, without the networks of the stack, which only its container knows.

    `more` are lines of its configuration that are not about ranges.
    """
    by_port: dict[int | None, list[Network]] = {}
    for each in ranges:
        by_port.setdefault(each.port, []).append(each.network)
    everywhere = by_port.pop(None, [])
    rules = []
    named = sorted(port for port in by_port if port is not None)
    for port in named:
        is_usual = port in USUAL_PORTS or port >= FIRST_HIGH_PORT
        networks = [*(everywhere if is_usual else ()), *by_port[port]]
        rules += [f"acl port_{port} port {port}", *_admit(f"at_{port}", networks, f"port_{port} ")]
        rules += [] if is_usual else [f"http_access deny port_{port}"]
    rules += _admit("allowed", everywhere, "")
    ports = " ".join(map(str, named))
    return more + RULES.format(
        https_ports=f"{FIRST_HIGH_PORT}-65535 {ports}".strip(),
        safe_ports=f"acl Safe_ports port {ports}\n" if ports else "",
        never=" ".join(NEVER),
        rules="".join(f"{rule}\n" for rule in rules),
    )


def _admit(name: str, networks: list[Network], condition: str) -> list[str]:
    """Return the rules that let requests through to these networks.

    `dst` is true when one address of a name is in it. So what has an address of IPv4 beyond is denied first: squid
    might choose that one. Of IPv6 not: the stack's networks have none, and a name may have both.
    """
    if not networks:
        return []
    rules = []
    if beyond := _beyond([each for each in networks if isinstance(each, ipaddress.IPv4Network)]):
        rules += [f"acl not_{name} dst {' '.join(map(str, beyond))}", f"http_access deny {condition}not_{name}"]
    # squid ignores one of two networks when one is within the other.
    within = [str(network) for kind in (4, 6) for network in _collapsed(networks, kind)]
    return [*rules, f"acl {name} dst {' '.join(within)}", f"http_access allow {condition}{name}"]


def _collapsed(networks: Iterable[Network], version: int) -> list[Network]:
    return list(ipaddress.collapse_addresses(each for each in networks if each.version == version))  # type: ignore[type-var]


def _beyond(networks: Iterable[ipaddress.IPv4Network]) -> list[ipaddress.IPv4Network]:
    """Return all of IPv4 but these networks."""
    rest = [ipaddress.IPv4Network("0.0.0.0/0")]
    for network in networks:
        rest = [
            part
            for each in rest
            if not each.subnet_of(network)
            for part in (each.address_exclude(network) if network.subnet_of(each) else [each])
        ]
    return sorted(ipaddress.collapse_addresses(rest))


def wrapped(command: str) -> str:
    """Return a shell command of a compose file that writes our file first, then does `command`.

    What is missing in it makes squid refuse to start.
    """
    port = "acl sandbox_port localport ${REVERSE_PROXY_PORT:-8194}"
    lines = f'{OWN_NETWORKS.strip()}\necho "{port}"\necho "${VARIABLE}"'
    script = f"mkdir -p {FILE.rpartition('/')[0]}\n{{ {lines}\n}} > {FILE}\n"
    return script.replace("$", "$$") + command
