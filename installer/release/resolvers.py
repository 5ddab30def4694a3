"""Whom the containers ask for names that are not the stack's: this host's name servers, those that are named, nobody.

Both engines answer the stack's own names themselves, and hand every other one on. podman's aardvark-dns answers
nothing when nobody has answered it, so that who asks waits; docker asks Google where a host has no name server. What
each really does was measured (docs/decisions/018).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Any

from installer.core import errors

# Words for whom to ask: as the engine does it by itself, and nobody.
HOST = "host"
NONE = "none"
# As many as resolv.conf(5) has room for.
MOST = 3

# An address where nobody answers, and from where no packet leaves: docker's own resolver, which asks from within the
# container, is refused there at once. aardvark-dns asks from the host, whose 127.0.0.1 may be somebody.
NOBODY = "127.255.255.254"
# The shortest patience that a container's C library has, for aardvark-dns: it counts in seconds (resolv.conf(5)).
IMPATIENT = ("timeout:1", "attempts:1")
# The same for squid, which has a resolver of its own and waits for 30 s otherwise.
IMPATIENT_SQUID = "dns_timeout 1 second\ndns_retransmit_interval 1 second\n"


def checked(text: str) -> str:
    """Return one value of --resolver in its usual form. Raises UsageError."""
    if text in (HOST, NONE):
        return text
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise errors.UsageError(f"{text!r} is not an address", f"write it as 10.0.0.53, or {NONE} or {HOST}") from None
    if address.is_loopback:
        raise errors.UsageError(
            f"{text} is each container itself, or this host by the name of another",
            f"give the address that the name server has in your network; or {HOST}: those of this host",
        )
    if address.is_unspecified or address.is_multicast or address.is_link_local:
        raise errors.UsageError(
            f"{text} is not an address that containers can ask", "give the one that it has in your network"
        )
    return str(address)


def joined(values: Iterable[str]) -> str:
    """Return checked values as they stand in `.env`. Raises UsageError for what cannot be together, or is too much."""
    unique = list(dict.fromkeys(values))
    for word in (HOST, NONE):
        if word in unique and len(unique) > 1:
            raise errors.UsageError(f"{word} and another resolver are named", f"give {word} alone, or leave it out")
    if len(unique) > MOST:
        raise errors.UsageError(f"{len(unique)} resolvers are named; a container has room for {MOST}", "name fewer")
    return ",".join(unique)


def read(text: str | None) -> str:
    """Return what a value of `.env` asks for, in its usual form; an empty one is HOST. Raises UsageError."""
    return joined(checked(part.strip()) for part in (text or HOST).split(","))


def list_named(text: str | None) -> tuple[str, ...]:
    """Return the addresses that a value of `.env` names; none for HOST and NONE. Raises UsageError."""
    chosen = read(text)
    return () if chosen in (HOST, NONE) else tuple(chosen.split(","))


def in_words(text: str | None) -> str:
    """Return for people whom the containers ask."""
    words = {HOST: "the name servers of this host", NONE: "nobody"}
    chosen = read(text)
    return words.get(chosen) or chosen.replace(",", ", ")


def service_keys(text: str | None) -> dict[str, Any]:
    """Return what a service of the compose file gets."""
    chosen = read(text)
    if chosen == NONE:
        return {"dns": [NOBODY], "dns_opt": list(IMPATIENT)}
    named = list_named(text)
    return {"dns": list(named)} if named else {}


def squid_rules(text: str | None) -> str:
    """Return what squid has to be told."""
    return IMPATIENT_SQUID if read(text) == NONE else ""
