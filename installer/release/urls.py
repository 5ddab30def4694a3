"""Reads the parts of a URL that names a server of others; what Dify's programs would not read alike is refused.

No message has the URL, or a part of it that may be a piece of a password.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import SplitResult, unquote, urlsplit

from installer.core import errors
from installer.release import dify

# The names of our own services that a server of others cannot have: the containers would find ours, or nothing.
OWN_DATABASES = ("", "db", *(values["DB_HOST"] for values in dify.DATABASES.values()), "oceanbase", "seekdb")
REDIS_SERVICE, VECTOR_SERVICES = "redis", ("pgvector", "qdrant", "opensearch")
_UNWRITABLE = re.compile(r"[\s'\\]")
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?")


def split(text: str, schemes: tuple[str, ...], shape: str) -> SplitResult:
    """Return the parts of a URL. Raises UsageError for one of another scheme, or that ends early."""
    try:
        url = urlsplit(text)
    except ValueError:
        url = urlsplit("")
    # A password that holds one of these and is not encoded ends the URL early.
    if url.scheme not in schemes or url.fragment or url.hostname is None:
        raise errors.UsageError(
            f"the URL is not of the shape {shape}", "in user and password write / ? # @ : % as %2F %3F %23 %40 %3A %25"
        )
    return url


def host_of(url: SplitResult, what: str) -> str:
    """Return the host that a URL names. Raises UsageError for one that is another in a container."""
    host = url.hostname or ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    if (address is not None and (address.is_loopback or address.is_unspecified)) or is_local_name(host):
        raise errors.UsageError(
            f"{host} is the container itself for Dify's programs, not this machine: they would not find the {what}",
            "give the address or name by which other machines reach it",
        )
    if address is not None and address.version == 6:
        raise errors.UsageError(
            f"the address of the {what} is an IPv6 address, and the containers' networks have IPv4 alone",
            "give a name, or an IPv4 address",
        )
    if not _HOST.fullmatch(host):
        raise errors.UsageError(f"the host of the {what} is neither a name nor an address", "correct it")
    if host in (*OWN_DATABASES, REDIS_SERVICE, *VECTOR_SERVICES):
        raise errors.UsageError(
            f"{host} is the name of a service of Dify's own", "give another name of that host, or its address"
        )
    return host


def is_local_name(host: str) -> bool:
    """Tell whether a name means the machine, or container, that looks it up (RFC 6761, 6.3)."""
    return host == "localhost" or host.endswith(".localhost") or host.startswith("localhost.")


def port_of(url: SplitResult, what: str, usual: int) -> int:
    """Return the port of a URL, else the usual one. Raises UsageError."""
    try:
        port = url.port
    except ValueError:
        port = 0
    if port == 0:
        raise errors.UsageError(f"the port of the {what} is not a valid one", "give a number from 1 to 65535")
    return port or usual


def word_of(text: str | None, what: str, whose: str) -> str:
    """Return a user, a password or a key of a URL, decoded. Raises UsageError where programs would differ on it."""
    word = unquote(text or "")
    if not word:
        raise errors.UsageError(
            f"the URL of the {whose} names no {what}, and Dify's programs need one", f"write the {what} into it"
        )
    if _UNWRITABLE.search(word) or "${" in word:
        raise errors.UsageError(
            f"the {what} of the {whose} holds a space, a quote, a backslash or ${{: the plugin daemon or the compose "
            "programs would read it differently",
            f"have it changed to one without them; letters, digits and _ - . ~ ! * are safe in a {what}",
        )
    return word
