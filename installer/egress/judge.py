"""Judges what was asked for: inside of the stack, expected outside of it, or unexpected. Pure functions."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from installer.egress.kernel_filter import NOWHERE, Network
from installer.egress.packets import Address
from installer.egress.questions import PORT
from installer.egress.record import Record, Target
from installer.release.intranet import Range

# Names that never leave a host: podman answers its own domain itself, "not there" included (aardvark-dns, coredns.rs).
OWN_DOMAINS = ("dns.podman",)
OWN_NAMES = ("localhost",)
HOST_NAMES = ("host.containers.internal", "host.docker.internal", "gateway.docker.internal")
REVERSE = {".in-addr.arpa": 4, ".ip6.arpa": 6}

INSIDE = "inside"


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """What an installation is known to ask for; all names are in lower case."""

    networks: Collection[Network] = ()  # the stack's own
    services: Collection[str] = ()  # names of services and containers
    search: Collection[str] = ()  # domains in which those are tried
    host: Collection[Address] = ()  # the addresses of this host
    own_name: str = ""  # that under which browsers find Dify
    resolvers: Collection[Address] = ()
    servers: Collection[tuple[str, int]] = ()  # model servers: name or address, and port
    yours: Collection[tuple[str, int]] = ()  # a database and a Redis that are not the stack's, likewise
    allowed: Collection[Range] = ()  # by --allow-intranet
    addresses: Mapping[Address, str] = field(default_factory=dict)  # of containers, with their names


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """Something outside of the stack that a container has asked for, and why that is expected or not."""

    container: str
    kind: Literal["name", "address"]
    what: str
    times: int
    first: float  # seconds since the epoch
    expected: bool
    why: str


def judge(record: Record, known: Known) -> list[Row]:
    """Return what was asked for outside of the stack: first what is not expected, each in its order of time."""
    rows = []
    for (who, what), times in record.asked.items():
        verdict = _judge_target(what, record, known) if isinstance(what, Target) else _judge_name(what, record, known)
        if verdict.why != INSIDE:
            rows.append(
                Row(
                    container=_name_of(who, known),
                    kind="address" if isinstance(what, Target) else "name",
                    what=str(what),
                    times=times.count,
                    first=times.first,
                    expected=verdict.expected,
                    why=verdict.why,
                )
            )
    return sorted(rows, key=lambda row: (row.expected, row.first))


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether something is expected, and why; INSIDE for what stays in the stack."""

    expected: bool
    why: str


STAYS = Verdict(True, INSIDE)


def _judge_target(target: Target, record: Record, known: Known) -> Verdict:
    reason = _reason(target.address, target.port, record, known)
    if reason:
        return Verdict(True, reason)
    names = sorted(name for name, addresses in record.answers.items() if target.address in addresses)
    return Verdict(False, f"nothing names it; it is {', '.join(names)}" if names else "nothing names it")


def _judge_name(name: str, record: Record, known: Known) -> Verdict:
    if _is_of_stack(name, known):
        return STAYS
    if name in HOST_NAMES:
        return Verdict(True, "this host")
    if name == known.own_name:
        return Verdict(True, "this installation's own name")
    if why := next((why for host, _, why in _named(known) if name == host), ""):
        return Verdict(True, why)
    if (reversed_one := _reversed(name)) is not None:
        reason = _reason(reversed_one, None, record, known)
        return Verdict(bool(reason), reason or f"the name of {reversed_one}, which nothing names")
    return _judge_answers(record.answers.get(name, set()), record, known)


def _judge_answers(addresses: Iterable[Address], record: Record, known: Known) -> Verdict:
    """Judge a name by where it leads: it is expected if each of its addresses is."""
    reasons = {address: _reason(address, None, record, known) for address in addresses}
    if not reasons:
        return Verdict(False, "nothing names it, and it leads nowhere")
    if all(reason == INSIDE for reason in reasons.values()):
        return STAYS
    told = ", ".join(f"{address} ({reason or 'nothing names it'})" for address, reason in sorted(_told(reasons)))
    return Verdict(all(reasons.values()), f"it leads to {told}")


def _told(reasons: Mapping[Address, str]) -> Iterable[tuple[str, str]]:
    return ((str(address), reason) for address, reason in reasons.items())


def _reason(address: Address, port: int | None, record: Record, known: Known) -> str:
    """Return why an address may be asked for, at a port or at all; empty if nothing says so."""
    if _is_in(address, (*NOWHERE, *known.networks)):
        return INSIDE
    if address in known.host:
        return "this host"
    if address in known.resolvers and port in (PORT, None):
        return "the resolver"
    for host, its_port, why in _named(known):
        leads_there = str(address) == host or address in record.answers.get(host, ())
        if leads_there and port in (its_port, None):
            return why
    for each in known.allowed:
        if _is_in(address, [each.network]) and (each.port is None or port in (each.port, None)):
            return f"--allow-intranet {each}"
    return ""


def _named(known: Known) -> Iterator[tuple[str, int, str]]:
    """Give the servers that the installation was told of: name or address, port, and what each is."""
    for host, port in known.servers:
        yield host, port, "a model server"
    for host, port in known.yours:
        yield host, port, "a database or Redis of yours"


def _is_of_stack(name: str, known: Known) -> bool:
    """Tell whether a name is one of the stack, bare or in a domain in which names are tried; or never leaves a host."""
    if any(name == domain or name.endswith(f".{domain}") for domain in OWN_DOMAINS):
        return True
    bare = {name, *(name.removesuffix(f".{domain}") for domain in known.search)}
    return bool(bare & {*known.services, *OWN_NAMES})


def _reversed(name: str) -> Address | None:
    """Return the address whose name is asked for, None when it is another name, or that of a whole network."""
    for suffix, version in REVERSE.items():
        if name.endswith(suffix):
            parts = name.removesuffix(suffix).split(".")[::-1]
            text = ".".join(parts) if version == 4 else ":".join("".join(parts[at : at + 4]) for at in range(0, 32, 4))
            try:
                return ipaddress.ip_address(text)
            except ValueError:
                return None
    return None


def _name_of(who: str | Address, known: Known) -> str:
    if isinstance(who, str):
        return who
    return known.addresses.get(who) or f"a container that was not known, {who}"


def _is_in(address: Address, networks: Iterable[Network]) -> bool:
    return any(address.version == network.version and address in network for network in networks)
