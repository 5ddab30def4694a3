"""Writes `.env`: addresses, generated secrets, offline switches, and what `--set` asks for.

An existing `.env` is the starting point of the next one: what a person or an earlier run
set is kept, secrets always. Only what follows from an option of this run changes.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from installer.core import errors, files, layout
from installer.release import dify, envfile

DEFAULT_PORTS: dict[str, int] = {"http": 80, "https": 443, "plugin debugging": 5003}


@dataclass(frozen=True, kw_only=True, slots=True)
class Address:
    """Where browsers find Dify: `scheme` is http or https, `port` the published one."""

    scheme: str
    host: str
    port: int

    @property
    def url(self) -> str:
        """Return scheme://host[:port]; the scheme's own port is left out, an IPv6 host is bracketed."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        usual = {"http": 80, "https": 443}[self.scheme]
        return f"{self.scheme}://{host}" if self.port == usual else f"{self.scheme}://{host}:{self.port}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What the options of this run ask for; None and empty mean that they do not say."""

    host: str | None = None
    ports: Mapping[str, int] = field(default_factory=dict)
    values: Mapping[str, str] = field(default_factory=dict)


_HOST = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?:\.(?!-)[A-Za-z0-9-]{1,63})*")
_KEY = re.compile(r"[A-Z][A-Z0-9_]*")


def checked_ip(text: str) -> str:
    """Return an IP address as given. Raises UsageError for anything that browsers could not open."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError as error:
        raise errors.UsageError(
            f"{text!r} is not a valid IP address",
            "give this server's address as in `ip -brief address`, or a name with --host",
        ) from error
    if address.version == 6:
        # netavark forwards a published port for the addresses that a network has, and compose's have IPv4 alone.
        raise errors.UsageError(
            f"{text} is an IPv6 address, and the containers' ports are published for IPv4 alone",
            "give this server's IPv4 address, or a name with --host",
        )
    if address.is_unspecified or address.is_multicast or address.is_reserved:
        raise errors.UsageError(
            f"{text} is not an address that a server can have", "give this server's address as browsers reach it"
        )
    return text


def checked_host(text: str) -> str:
    """Return a host name as given. Raises UsageError when it is none."""
    if len(text) > 253 or not _HOST.fullmatch(text):
        raise errors.UsageError(f"{text!r} is no host name", "give the name alone, without scheme, port or path")
    return text


def checked_values(pairs: tuple[str, ...]) -> dict[str, str]:
    """Return the KEY=VALUE pairs of `--set`. Raises UsageError when one is none."""
    values: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not _KEY.fullmatch(key):
            raise errors.UsageError(f"--set {key} is not KEY=VALUE", "write it as --set LOG_LEVEL=DEBUG")
        envfile.quote(value)
        values[key] = value
    return values


def compute(example: str, existing: str | None, asked: Asked, choices: Mapping[str, str], data: Path) -> str:
    """Return the text of `.env`.

    `example` is upstream's, `existing` the `.env` that is there, `choices` those of the build
    (vector store, database), `data` the `volumes` folder. Raises PreflightFailed when a secret is
    gone on which data depend, UsageError when no address is known or values contradict each other.
    """
    text = example if existing is None else existing
    known = set(envfile.parse(example)) | set(dify.NOT_IN_EXAMPLE)
    before = envfile.parse(text)
    changes = _fresh(before, choices, known) if existing is None else {}
    changes |= _ports(before, asked, known)
    changes |= {key: value for key, value in asked.values.items() if before.get(key) != value}
    changes |= _urls(before | changes, asked, existing is None, known, asked.values)
    changes |= _secrets(before | changes, existing is None, asked.values, known, data)
    _agree(before | changes)
    for key in dify.PORTS.values():
        if port := (before | changes).get(key):
            checked_port(port, key)
    return envfile.edit(text, changes)


def _fresh(example: Mapping[str, str], choices: Mapping[str, str], known: set[str]) -> dict[str, str]:
    """Return what a first `.env` changes whatever the options are."""
    database = dify.DATABASES.get(choices.get(dify.DB_TYPE, ""), {})
    wanted = {**dify.FIXED, **database, **choices}
    return {key: value for key, value in wanted.items() if key in known and example.get(key) != value}


def _ports(before: Mapping[str, str], asked: Asked, known: set[str]) -> dict[str, str]:
    wanted = {dify.PORTS[name]: str(port) for name, port in asked.ports.items()}
    return {key: value for key, value in wanted.items() if key in known and before.get(key) != value}


def address(values: Mapping[str, str], host: str) -> Address:
    """Return the address that `.env`'s scheme and ports make of a host."""
    https = values.get("NGINX_HTTPS_ENABLED", "false").lower() == "true"
    name = "https" if https else "http"
    port = values.get(dify.PORTS[name]) or str(DEFAULT_PORTS[name])
    return Address(scheme=name, host=host, port=checked_port(port, dify.PORTS[name]))


def checked_port(text: str, where: str) -> int:
    """Return a port number. Raises UsageError when it is none, naming `where` it stands."""
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise errors.UsageError(f"{where} is {text!r}, which is no port", "give a number from 1 to 65535")
    return int(text)


def _urls(
    values: Mapping[str, str], asked: Asked, first: bool, known: set[str], own: Mapping[str, str]
) -> dict[str, str]:
    """Return the keys that hold our address, as far as they still hold the one that we made before.

    Which that was, CONSOLE_WEB_URL tells: a key that follows from it is ours, another is a person's.
    """
    old = values.get(dify.ADDRESS_KEY, "")
    host = asked.host or urlsplit(old).hostname
    if not host:
        raise errors.UsageError(
            "no address is known for this server",
            "give the address that browsers will open: --ip ADDRESS, or --host NAME",
        )
    new = address(values, host).url
    ours = {key: (template.format(old), template.format(new)) for key, template in dify.URLS.items()}
    ours |= {key: (urlsplit(old).hostname or "", host) for key in dify.HOSTS}
    return {
        key: after
        for key, (before, after) in ours.items()
        if key in known and key not in own and (first or values.get(key) == before) and values.get(key) != after
    }


def _secrets(
    values: Mapping[str, str], first: bool, own: Mapping[str, str], known: set[str], data: Path
) -> dict[str, str]:
    """Return generated values for the secrets that have none, the same for all keys that must agree."""
    changes: dict[str, str] = {}
    for secret in dify.SECRETS:
        keys = [key for key in secret.keys if key in known]
        if not keys:
            continue
        given = next((own[key] for key in keys if key in own), "")
        kept = "" if first else next((values[key] for key in keys if values.get(key)), "")
        value = given or kept or _generated(secret, data, keys[0])
        wanted = {key: value for key in keys if key not in own and (first or given or not values.get(key))}
        wanted |= {
            key: shape.format(value)
            for key, shape in secret.within
            if key in known and key not in own and (first or given or not values.get(key))
        }
        changes |= {key: text for key, text in wanted.items() if values.get(key) != text}
    return changes


def _generated(secret: dify.Secret, data: Path, key: str) -> str:
    """Return a new value in [A-Za-z0-9_-], or refuse where data depend on the lost one."""
    for folder in secret.data:
        if files.holds_anything(data / folder):
            raise errors.PreflightFailed(
                f"{data / folder} holds data, but {key}, with which they are protected, is not in .env: "
                "a new value would lock you out of them",
                "put back the .env of that installation; or, if the data may go, move that folder away",
            )
    return secrets.token_urlsafe(48)[: secret.length]


def _agree(values: Mapping[str, str]) -> None:
    """Refuse values that cannot work together: a person changed one of them and forgot the other."""
    for secret in dify.SECRETS:
        present = {key: values[key] for key in secret.keys if values.get(key)}
        if len(set(present.values())) > 1:
            raise errors.UsageError(
                f"{' and '.join(present)} differ in .env, but must be the same", "give them one value in .env"
            )
        for key, _ in secret.within:
            password = urlsplit(values.get(key, "")).password
            inner = next(iter(present.values()), "")
            if values.get(key) and inner and password != inner:
                raise errors.UsageError(
                    f"the password inside {key} is not {secret.keys[0]}",
                    f"write the value of {secret.keys[0]} into {key}",
                )


def secret_values(values: Mapping[str, str]) -> list[str]:
    """Return every value that must not be shown: for the masks of logs and messages."""
    keys = {key for secret in dify.SECRETS for key in secret.keys}
    keys |= {key for secret in dify.SECRETS for key, _ in secret.within}
    return [values[key] for key in sorted(keys) if values.get(key)]


def write(installation: layout.Installation, text: str) -> bool:
    """Write `.env`, 0600, the file before kept beside it; return False when nothing changed."""
    before = installation.env.read_text("utf-8") if installation.env.exists() else None
    if before == text:
        installation.env.chmod(0o600)
        return False
    if before is not None:
        files.write(installation.env_before, before, mode=0o600)
    files.write(installation.env, text, mode=0o600)
    return True


def host_of(text: str) -> str:
    """Return the host in the address of an `.env`: that which browsers open, and a certificate is for."""
    return urlsplit(envfile.parse(text).get(dify.ADDRESS_KEY, "")).hostname or ""


def published_ports(asked: Asked, values: Mapping[str, str]) -> dict[str, int]:
    """Return the ports that will be published: asked for, else those of `.env`, else upstream's.

    One in `.env` that is not a valid port counts as not given: `compute` refuses it.
    """
    ports = {}
    for name, key in dify.PORTS.items():
        ports[name] = DEFAULT_PORTS[name]
        with contextlib.suppress(errors.UsageError):
            text = asked.values.get(key) or values.get(key)
            ports[name] = asked.ports.get(name) or (checked_port(text, key) if text else ports[name])
    return ports
