"""Why a server of others cannot be reached, or not be trusted: one message for each reason, with what to do."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import ssl
from collections.abc import Iterator

from installer.core import errors


def require_not_here(host: str, port: int, where: str) -> None:
    """Raise PreflightFailed for a name that this host does not know, or that means this host alone."""
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    except OSError as error:
        raise errors.PreflightFailed(
            f"{where}: nobody whom this host asks knows the name {host}",
            "give an address that other machines reach it by, or have the name entered in your name server",
        ) from error
    addresses = [ipaddress.ip_address(each.partition("%")[0]) for each in found]
    if all(each.is_loopback for each in addresses):
        raise errors.PreflightFailed(
            f"{where}: {host} is {', '.join(sorted(found))} here, which inside of a container is the container itself",
            "give the address by which other machines reach it",
        )


@contextlib.contextmanager
def telling(where: str, *, url: str, plain: str) -> Iterator[None]:
    """Raise PreflightFailed for an error of the network or of TLS in the block.

    `url` is the option that the administrator gives, `plain` what says there that TLS is not wanted.
    """
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        raise _untrusted(where, error, url) from error
    except ssl.SSLError as error:
        raise errors.PreflightFailed(
            f"{where}: TLS does not come about: {getattr(error, 'reason', '') or error}",
            f"look at its log and its certificate; without TLS, where nobody else can listen: {plain}",
        ) from error
    except TimeoutError as error:
        raise errors.PreflightFailed(
            f"{where} does not answer: a firewall stands between, or there is no such machine",
            f"let this host through to that port, or correct {url}",
        ) from error
    except ConnectionRefusedError as error:
        raise errors.PreflightFailed(
            f"{where}: nothing listens there",
            f"start it, and have it listen on that address and not on its own machine alone; or correct {url}",
        ) from error
    except OSError as error:
        raise errors.PreflightFailed(
            f"{where} cannot be reached: {error.strerror or error}", f"correct {url}, or the network between"
        ) from error


@contextlib.contextmanager
def speaking(where: str, *, url: str, plain: str, tls: bool, kind: str, wrong: type[Exception]) -> Iterator[None]:
    """Raise PreflightFailed for what `telling` tells, and for an answer that is none of its kind.

    `kind` is what the server should be, by its name; `wrong` is raised in the block for an answer that is none of it.
    """
    try:
        with telling(where, url=url, plain=f"{plain} in {url}"):
            # One that speaks TLS may end the connection of whoever does not.
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                yield
                return
            raise wrong("it ends the connection")
    except wrong as error:
        remedy = f"correct {url}" + ("" if tls else f"; if it speaks TLS there, leave {plain} out")
        raise errors.PreflightFailed(f"{where} does not answer as {kind} does: {error}", remedy) from error


def _untrusted(where: str, error: ssl.SSLCertVerificationError, url: str) -> errors.PreflightFailed:
    why = error.verify_message
    if "ostname" in why or "IP address" in why:
        return errors.PreflightFailed(
            f"{where}: its certificate is for another name: {why}",
            f"name the server in {url} as its certificate does, or have one made that has this name",
        )
    if "expired" in why or "not yet valid" in why:
        return errors.PreflightFailed(f"{where}: {why}", "renew its certificate, or set this host's clock")
    return errors.PreflightFailed(
        f"{where}: its certificate is not of an authority that is trusted here: {why}",
        "give the certificate of the authority that has signed it, PEM, with --ca-bundle",
    )


def make_context(*, verifies: bool, names: bool, authorities: bytes | None, where: str) -> ssl.SSLContext:
    """Return what a client of a server of others trusts. Raises PreflightFailed where nothing says whom."""
    context = ssl.create_default_context()
    context.check_hostname = names
    if not verifies:
        context.verify_mode = ssl.CERT_NONE
        return context
    if authorities is None:
        raise errors.PreflightFailed(
            f"{where}: its certificate is to be compared, and nothing says with which authority's",
            "give the certificate of the authority that has signed it, PEM, with --ca-bundle",
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = names
    context.load_verify_locations(cadata=authorities.decode("ascii", "ignore"))
    return context
