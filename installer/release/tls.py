"""The certificate for https: read and checked, or made for this host alone."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from installer.core import errors, files, layout

# Browsers refuse certificates that live longer (CA/Browser Forum, ballot 193).
SELF_SIGNED_DAYS = 825


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """A certificate, its chain behind it, and its key; both PEM."""

    certificate: bytes
    key: bytes


def read(certificate: Path, key: Path, host: str, now: datetime.datetime) -> Pair:
    """Read a certificate and its key for `host`.

    Raises UsageError when one cannot be read, when they do not belong together, when the
    certificate is not valid now, or is not for `host`.
    """
    pair = Pair(certificate=_bytes(certificate), key=_bytes(key))
    leaf = _leaf(pair.certificate, certificate)
    try:
        private = serialization.load_pem_private_key(pair.key, password=None)
    except (ValueError, TypeError) as error:
        raise errors.UsageError(
            f"{key} holds no key in PEM form without a password", f"`openssl pkey -in {key} -out plain.key`"
        ) from error
    if _public(leaf.public_key()) != _public(private.public_key()):
        raise errors.UsageError(
            f"{key} is not the key of {certificate}", "give the key that the certificate was made with"
        )
    if not leaf.not_valid_before_utc <= now <= leaf.not_valid_after_utc:
        raise errors.UsageError(
            f"{certificate} is valid from {leaf.not_valid_before_utc:%Y-%m-%d} to {leaf.not_valid_after_utc:%Y-%m-%d} "
            f"and today is {now:%Y-%m-%d}",
            "give one that is valid, or set this host's clock",
        )
    if not covers(leaf, host):
        raise errors.UsageError(
            f"{certificate} is not for {host}, but for {', '.join(_names(leaf)) or 'no name at all'}",
            "give one of its names with --host, or a certificate that has this address among its alternative names",
        )
    return pair


def _leaf(content: bytes, path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificates(content)[0]
    except ValueError as error:
        raise errors.UsageError(f"{path} holds no certificate in PEM form", "convert it to PEM") from error


def read_end(certificate: Path) -> datetime.datetime:
    """Return when a certificate ends. Raises UsageError when it cannot be read."""
    return end_of(_bytes(certificate), certificate)


def end_of(content: bytes, where: Path) -> datetime.datetime:
    """Return when the certificate in PEM ends that was read from `where`. Raises UsageError when it is none."""
    return _leaf(content, where).not_valid_after_utc


def require_accepted(certificate: Path, key: Path, host: str, policy: ssl.SSLContext) -> None:
    """Let a client with this policy, which trusts the certificate's file, meet a server that has the pair.

    That is how this installation is asked whether it is healthy: what fails here would fail there, after all images are
    loaded. Raises UsageError with OpenSSL's reason.
    """
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        server_context.load_cert_chain(certificate, key)
        client = policy.wrap_bio(to_client, to_server, server_hostname=host)
        server = server_context.wrap_bio(to_server, to_client, server_side=True)
        for side in (client, server, client, server):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    except ssl.SSLError as error:
        why = getattr(error, "verify_message", "") or error.reason or str(error)
        raise errors.UsageError(
            f"{certificate} is not accepted by a client that trusts it: {why}",
            "give the certificate with its whole chain behind it: the server's own first, then its authorities",
        ) from error


def read_authorities(path: Path) -> bytes:
    """Read a bundle of authorities' certificates. Raises UsageError when it holds none in PEM form."""
    text = _bytes(path)
    try:
        x509.load_pem_x509_certificates(text)
    except ValueError as error:
        raise errors.UsageError(f"{path} holds no certificate in PEM form", "convert it to PEM") from error
    return text


def make_self_signed(host: str, now: datetime.datetime) -> Pair:
    """Make a certificate that is its own authority, for `host` alone."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host[:64])])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # A browser's clock may be behind.
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=SELF_SIGNED_DAYS - 1))
        .add_extension(x509.SubjectAlternativeName([_general_name(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(_usage(), critical=True)
        .sign(key, hashes.SHA256())
    )
    return Pair(
        certificate=certificate.public_bytes(serialization.Encoding.PEM),
        key=key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    )


def _usage() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def covers(leaf: x509.Certificate, host: str) -> bool:
    """Tell whether a certificate is for `host`: an address, a name, or a name below a wildcard (RFC 6125)."""
    wanted = _plain(host)
    wildcard = f"*.{wanted.partition('.')[2]}" if "." in wanted else wanted
    return any(_plain(name) in (wanted, wildcard) for name in _names(leaf))


def _plain(name: str) -> str:
    """Return a name or an address in the one form in which two of them compare."""
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name.lower()


def _names(leaf: x509.Certificate) -> list[str]:
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    addresses = [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    return [*addresses, *names.get_values_for_type(x509.DNSName)]


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _public(key: object) -> bytes:
    return key.public_bytes(  # type: ignore[attr-defined, no-any-return]
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise errors.UsageError(
            f"{path} cannot be read: {error.strerror}", "check the path and its permissions"
        ) from error


def read_installed(place: layout.Installation, host: str, now: datetime.datetime) -> Pair | None:
    """Return the pair that is in the install folder, if it is still good for `host`."""
    try:
        return read(place.certificate, place.key, host, now)
    except errors.UsageError:
        return None


def holds(place: layout.Installation, pair: Pair) -> bool:
    """Tell whether a pair, both halves of it, is in the install folder."""
    try:
        there = place.certificate.read_bytes(), place.key.read_bytes()
    except OSError:
        return False
    return there == (pair.certificate, pair.key)


def write(place: layout.Installation, pair: Pair) -> bool:
    """Put a pair where nginx looks for it, the key 0600; return False when it is there. Raises CommandFailed."""
    if holds(place, pair):
        return False
    files.folder(place.certificate.parent)
    files.write(place.key, pair.key, mode=0o600)
    files.write(place.certificate, pair.certificate)
    return True
