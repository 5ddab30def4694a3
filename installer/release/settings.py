"""Computes `.env` and checks it, once: addresses, generated secrets, offline switches, and what `--set` asks for.

An existing `.env` is the starting point of the next one: what a person or an earlier run
set is kept, secrets always. Only what follows from an option of this run changes.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, quote, unquote, urlsplit

from installer.core import errors, files, layout
from installer.release import carry, compose, dify, env_history, envfile, external, intranet, masks, resolvers

DEFAULT_PORTS: dict[str, int] = {"http": 80, "https": 443, "plugin debugging": 5003}

# What the compose programs get of our environment, and take from it whatever `.env` says. No more: both let any
# variable of the environment win over `.env` (podman_compose.py 1.6.0, `_parse_compose_file`; docker's documents,
# "Environment variables precedence"), so that a login with LANG=ko_KR.UTF-8 would change, and recreate, containers
# that systemd had started without it.
NOT_FROM_ENV = (
    *("PATH", "HOME", "USER", "LOGNAME", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "TMPDIR"),
    *("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "DOCKER_CERT_PATH", "DOCKER_TLS_VERIFY"),
)


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """An `.env` that has been read and checked, once; it holds secrets, so its `repr` does not tell them."""

    # What stands in the file, or will.
    text: str = field(repr=False)
    # Key -> value as it stands there, not expanded.
    values: Mapping[str, str] = field(repr=False)
    # Key -> value as the containers get it.
    resolved: Mapping[str, str] = field(repr=False)
    # What must not be shown, in every form in which it may turn up.
    secrets: tuple[str, ...] = field(repr=False)

    @property
    def address(self) -> Address:
        """Return where browsers find Dify, as CONSOLE_WEB_URL says. Raises UsageError when it is not an address."""
        url = _split(self.resolved.get(dify.ADDRESS_KEY, ""))
        port = _port_of(url) if url else None
        if url is None or url.hostname is None or port is None:
            raise errors.UsageError(
                f"{self._where(dify.ADDRESS_KEY)} is not the address of a web page",
                f"write it as for example http://10.0.0.5: --set {dify.ADDRESS_KEY}=…",
            )
        return Address(scheme=url.scheme, host=url.hostname, port=port)

    @property
    def url(self) -> str:
        """Return CONSOLE_WEB_URL: what browsers open. Raises UsageError when it is not an address."""
        _ = self.address
        return self.resolved[dify.ADDRESS_KEY]

    @property
    def ports(self) -> dict[str, int]:
        """Return the ports on this host by their names in `dify.PORTS`. Raises UsageError for one that is not valid."""
        return {
            name: checked_port(self.resolved.get(key) or str(DEFAULT_PORTS[name]), self._where(key))
            for name, key in dify.PORTS.items()
        }

    def _where(self, key: str) -> str:
        return f".env, line {envfile.lines(self.text).get(key, 0)}: {key}"


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
        raise errors.UsageError(
            f"{text!r} is not a valid host name", "give the name alone, without scheme, port or path"
        )
    return text


def checked_values(pairs: tuple[str, ...]) -> dict[str, str]:
    """Return the KEY=VALUE pairs of `--set`. Raises UsageError when one is none."""
    values: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not _KEY.fullmatch(key):
            raise errors.UsageError(f"--set {key} is not KEY=VALUE", "write it as --set LOG_LEVEL=DEBUG")
        envfile.quote(value, key)
        values[key] = value
    return values


def compute(
    example: str,
    existing: env_history.Existing | None,
    asked: Asked,
    choices: Mapping[str, str],
    data: Path,
    before: str | None = None,
) -> Settings:
    """Return what `.env` is to be; all that can be wrong with it is found here, before anything is changed.

    `example` is the text of upstream's, `existing` what is there, `choices` those of the build (vector store,
    database), `data` the `volumes` folder. `before` is the example of the release that `existing` is of, if that is
    another one: what was chosen goes on.
    Raises UsageError when no address is known, when values contradict each other, and for what cannot be read, naming
    key and line; PreflightFailed when keys are lost that were there, or a secret on which data depend.
    """
    known = _known(example)
    if existing is None:
        text = envfile.edit(example, _fresh(envfile.parse(example), choices, known))
    else:
        # A key that only the new release has is not lost.
        theirs = known if before is None else _known(before)
        _require_readable(existing, asked.values, theirs, data)
        env_history.require_kept(existing, asked.values, theirs, data)
        text = env_history.unmarked(existing.text)
        text = text if before is None else _rebased(text, before, example, choices)
    text = envfile.edit(text, {**_ports_asked(asked, known), **asked.values})
    values = envfile.read(text)
    changes = _urls(values, asked, existing is None, known, asked.values)
    emptied = {key for key, filled in (existing.recorded or {}).items() if not filled} if existing else set()
    changes |= _secrets({**values, **changes}, existing is None, asked.values, known - emptied, data)
    text = env_history.marked(envfile.edit(text, changes))
    values = envfile.read(text)
    if (profiles := external.profiles_of_ours(values)) is not None:
        text = env_history.marked(envfile.edit(env_history.unmarked(text), {compose.PROFILES: profiles}))
        values = envfile.read(text)
    _require_usable(values)
    _agree(values)
    intranet.read(values.get(dify.ALLOW_INTRANET))
    resolvers.read(values.get(dify.RESOLVERS))
    for key in asked.values.keys() & set(dify.PORTS.values()):
        checked_port(values[key] or "80", f"--set {key}")
    env = _settings(text, values, example)
    # Whoever asks for them later is not to be refused.
    _ = env.address, env.ports
    return env


def load(place: layout.Installation) -> Settings:
    """Return the settings of an installation.

    Raises CommandFailed when there is no `.env` that we may read, UsageError when it is empty, not text or holds
    what cannot be read, PreflightFailed when that is because it was cut off. What is only lost or a wrong value is not
    looked at: whoever stops a stack may have that.
    """
    found = env_history.read_existing(place)
    if found is None:
        raise errors.CommandFailed(
            f"{place.env} is not there: nothing is installed in {place.folder}, or it was not finished",
            "name the folder of the installation with --dir, or install first: dify-installer --ip …",
        )
    example = env_history.text_of(place.project / layout.ENV_EXAMPLE)
    _require_readable(found, (), envfile.parse(example), place.volumes)
    return _settings(found.text, envfile.resolve(found.text), example)


def read(path: Path, example: str) -> Settings:
    """Return the settings in a file of its own, as `manifests` writes it; `example` is the text of upstream's.

    Raises UsageError when it cannot be read.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise errors.UsageError(f"{path} cannot be read: {error}", "name a file that is yours to read") from error
    envfile.require_readable(text)
    return _settings(text, envfile.resolve(text), example)


def require_kept(place: layout.Installation) -> None:
    """Refuse to start containers from an `.env` that has lost keys: they would get upstream's public secrets.

    Raises PreflightFailed, naming the keys and the copy in which they still are.
    """
    if found := env_history.read_existing(place):
        example = env_history.text_of(place.project / layout.ENV_EXAMPLE)
        env_history.require_kept(found, (), envfile.parse(example), place.volumes)


def _require_readable(found: env_history.Existing, given: Collection[str], known: Collection[str], data: Path) -> None:
    """Refuse a file that cannot be read: as one that has lost keys where it was cut off, else naming the line."""
    try:
        envfile.require_readable(found.text)
    except errors.UsageError:
        if env_history.is_cut(found):
            env_history.require_kept(found, given, known, data)
        raise


def _settings(text: str, resolved: Mapping[str, str], example: str) -> Settings:
    return Settings(
        text=text,
        values=envfile.parse(text),
        resolved=resolved,
        secrets=masks.secret_values(resolved, envfile.parse(example)),
    )


def _require_usable(values: Mapping[str, str]) -> None:
    """Refuse what would not reach a container as it stands in `.env`."""
    for key in NOT_FROM_ENV:
        if key in values:
            raise errors.UsageError(
                f"{key} is set in .env, but compose takes it from the environment that it is started with",
                f"take the line {key}=… out of .env",
            )
    for key in dify.IN_COMMANDS:
        if key == "REDIS_PASSWORD" and external.has_redis(values):
            # Nobody runs that command.
            continue
        if values.get(key) and not _BARE_WORD.fullmatch(values[key]):
            raise errors.UsageError(
                f"the value of {key} holds characters that a shell changes: Dify's compose file puts it into a command",
                f"choose a value of letters, digits and _@%+=:,./#!^- that does not begin with # or --: --set {key}=…",
            )


_BARE_WORD = re.compile(r"(?!#|--)[A-Za-z0-9_@%+=:,./#!^-]*")


def _fresh(example: Mapping[str, str], choices: Mapping[str, str], known: set[str]) -> dict[str, str]:
    """Return what a first `.env` changes whatever the options are."""
    database = dify.DATABASES.get(choices.get(dify.DB_TYPE, ""), {})
    wanted = {**dify.FIXED, **database, **choices}
    return {key: value for key, value in wanted.items() if key in known and example.get(key) != value}


# What a new release's defaults must not change: secrets, addresses, ports, and where data lie.
BOUND = (
    *(key for secret in dify.SECRETS for key in (*secret.keys, *(inner for inner, _ in secret.within))),
    *(*dify.URLS, *dify.PORTS.values(), *dify.HTTPS, *dify.HOSTS, *dify.WHERE_DATA_ARE),
)


def _known(example: str) -> set[str]:
    """Return the keys that a release knows, and ours."""
    ours = (dify.ALLOW_INTRANET, dify.RESOLVERS, dify.DB_EXTRAS, dify.DB_SSL_MODE)
    return {*envfile.parse(example), *dify.NOT_IN_EXAMPLE, *ours}


def _rebased(text: str, before: str, example: str, choices: Mapping[str, str]) -> str:
    """Return the `.env` of the new release with what was chosen in the older one.

    Keys that are new get what a first installation gives them; a value of ours, such as a switch that keeps Dify from
    calling home, stays even where it was the older release's default.
    """
    here, new = envfile.parse(text), envfile.parse(example)
    wanted = _fresh(new, choices, _known(example))
    ours = {key: value for key, value in wanted.items() if here.get(key, value) == value}
    added = {key for key in new if key not in here}
    address = here.get(dify.ADDRESS_KEY, "")
    ours |= {key: template.format(address) for key, template in dify.URLS.items() if key in added and address}
    parts = _split(address)
    host = (parts and parts.hostname) or ""
    ours |= {key: host for key in dify.HOSTS if key in added and host}
    # Not upstream's public ones: they are generated where they are empty.
    secret = {key for each in dify.SECRETS for key in (*each.keys, *(inner for inner, _ in each.within))}
    ours |= dict.fromkeys(secret & added, "")
    return envfile.edit(carry.rebase(text, before, example, BOUND), ours)


def _ports_asked(asked: Asked, known: Collection[str]) -> dict[str, str]:
    wanted = {dify.PORTS[name]: str(port) for name, port in asked.ports.items()}
    return {key: value for key, value in wanted.items() if key in known}


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


def address(values: Mapping[str, str], host: str) -> Address:
    """Return the address that `.env`'s scheme and ports make of a host."""
    https = values.get("NGINX_HTTPS_ENABLED", "false").lower() == "true"
    name = "https" if https else "http"
    port = values.get(dify.PORTS[name]) or str(DEFAULT_PORTS[name])
    return Address(scheme=name, host=host, port=checked_port(port, dify.PORTS[name]))


def _port_of(url: SplitResult) -> int | None:
    """Return the port that a URL names or means; None when it is not one of http or https."""
    with contextlib.suppress(ValueError, KeyError):
        return url.port or {"http": 80, "https": 443}[url.scheme]
    return None


def _split(url: str) -> SplitResult | None:
    """Return the parts of a URL, or None when it is none."""
    try:
        return urlsplit(url)
    except ValueError:
        return None


def checked_port(text: str, where: str) -> int:
    """Return a port number. Raises UsageError when it is none, naming `where` it stands."""
    if not re.fullmatch("[0-9]{1,5}", text) or not 1 <= int(text) <= 65535:
        raise errors.UsageError(f"{where} is {text!r}, which is not a valid port", "give a number from 1 to 65535")
    return int(text)


def _urls(
    values: Mapping[str, str], asked: Asked, first: bool, known: set[str], own: Mapping[str, str]
) -> dict[str, str]:
    """Return the keys that hold our address, as far as they still hold the one that we made before.

    Which that was, CONSOLE_WEB_URL tells: a key that follows from it is ours, another is a person's.
    """
    old = values.get(dify.ADDRESS_KEY, "")
    parts = _split(old)
    before_host = (parts and parts.hostname) or ""
    host = asked.host or before_host
    if not host:
        raise errors.UsageError(
            "no address is known for this server",
            "give the address that browsers will open: --ip ADDRESS, or --host NAME",
        )
    new = address(values, host).url
    ours = {key: (template.format(old), template.format(new)) for key, template in dify.URLS.items()}
    ours |= dict.fromkeys(dify.HOSTS, (before_host, host))
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
            # In a URL, / @ # : would end the password; who reads it decodes it (kombu, `utils/url.py`).
            key: shape.format(quote(value, safe=""))
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
    # redis-server would take one that begins with -- for an option.
    return secrets.token_urlsafe(48).lstrip("-_")[: secret.length]


def _agree(values: Mapping[str, str]) -> None:
    """Refuse values that cannot work together: a person changed one of them and forgot the other."""
    for secret in dify.SECRETS:
        present = {key: values[key] for key in secret.keys if values.get(key)}
        if len(set(present.values())) > 1:
            raise errors.UsageError(
                f"{' and '.join(present)} differ in .env, but must be the same", "give them one value in .env"
            )
        for key, _ in secret.within:
            url = _split(values.get(key, ""))
            password = unquote((url and url.password) or "")
            inner = next(iter(present.values()), "")
            if values.get(key) and inner and password != inner:
                raise errors.UsageError(
                    f"the password inside {key} is not {secret.keys[0]}",
                    f"write the value of {secret.keys[0]} into {key}, percent-encoded; "
                    f"or leave {key} empty, and it is written anew",
                )
