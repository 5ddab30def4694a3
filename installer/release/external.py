"""Services that a company runs already: where Dify is to find its database and its Redis, and the settings for that.

What each program reads (Dify 1.11.3, api/configs/middleware; plugin daemon 0.5.2, internal/types/app/config.go,
internal/db/pg/pg.go, pkg/utils/cache/redis.go):

- The api makes a URL of its DB_… settings, with DB_EXTRAS behind it as libpq's parameters; libpq honours every sslmode.
- The plugin daemon has no other DB_SSL_MODE than `disable` and `require`, and takes DB_EXTRAS for server options, so it
  must not get those of the api. Its driver reads PGSSLROOTCERT, and `require` compares the certificate's issuer then,
  as `verify-ca` does (pgx 5.5.5, pgconn/config.go, configTLS); no setting makes it compare the name.
- The api compares Redis's certificate as REDIS_SSL_CERT_REQS says; the daemon always does, with the authorities of the
  system, which SSL_CERT_FILE names (Go's crypto/x509).
- By sentinels the api knows no TLS, and celery no user of theirs (api/extensions/ext_redis.py, ext_celery.py).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

from installer.core import errors
from installer.release import compose, dify

Mode = Literal["disable", "require", "verify-ca", "verify-full"]
MODES: tuple[Mode, ...] = get_args(Mode)
# Whoever does not say how is not to send a password to whom it may concern.
DEFAULT_MODE: Mode = "verify-full"
POSTGRESQL = "postgresql"
REDIS_SERVICE = "redis"
# Our own databases' services, the older releases' name as well; OceanBase and SeekDB are reached by their kind.
OWN_DATABASES = ("", "db", *(values["DB_HOST"] for values in dify.DATABASES.values()), "oceanbase", "seekdb")
DEFAULT_DATABASE, DEFAULT_PLUGINS = "dify", "dify_plugin"
PLUGINS_KEY = "DB_PLUGIN_DATABASE"
DATABASE_KEYS = (
    *("DB_HOST", "DB_PORT", "DB_USERNAME", "DB_PASSWORD", "DB_DATABASE", PLUGINS_KEY),
    *(dify.DB_EXTRAS, dify.DB_SSL_MODE),
)
BY_SENTINELS = "REDIS_USE_SENTINEL"
SENTINEL_KEYS = (
    *(BY_SENTINELS, "REDIS_SENTINELS", "REDIS_SENTINEL_SERVICE_NAME", "REDIS_SENTINEL_USERNAME"),
    *("REDIS_SENTINEL_PASSWORD", "CELERY_USE_SENTINEL", "CELERY_SENTINEL_MASTER_NAME", "CELERY_SENTINEL_PASSWORD"),
)
REDIS_KEYS = (
    *("REDIS_HOST", "REDIS_PORT", "REDIS_USERNAME", "REDIS_PASSWORD", "REDIS_DB", "REDIS_USE_SSL"),
    *("REDIS_SSL_CERT_REQS", "REDIS_SSL_CA_CERTS", "CELERY_BROKER_URL", *SENTINEL_KEYS),
)
# The plugin daemon writes user, password and names without quotes into its connection string, and a database's name
# into SQL; the api writes that name into a URL as it is.
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,62}")
_UNWRITABLE = re.compile(r"[\s'\\]")
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?")
_SERVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
LARGEST_REDIS_DB = 15
SENTINEL, SENTINEL_PORT = "sentinel", 26379
TRUE = "true"

# Host and port.
Address = tuple[str, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Database:
    """A PostgreSQL server with Dify's database and the plugin daemon's."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    name: str
    plugins: str = DEFAULT_PLUGINS
    mode: Mode

    @property
    def where(self) -> str:
        """Return where it is, for people."""
        return f"PostgreSQL at {self.host}:{self.port}"

    @property
    def addresses(self) -> dict[str, Address]:
        """Return what is connected to, by its name for people."""
        return {self.where: (self.host, self.port)}

    @property
    def verifies(self) -> bool:
        """Whether the server's certificate is compared with the authorities."""
        return self.mode.startswith("verify")


@dataclass(frozen=True, kw_only=True, slots=True)
class Redis:
    """A Redis or Valkey server; `broker` is the number of the database that holds the queues.

    With sentinels, which are asked for the server of a service, `host` and `port` are those of the first of them.
    """

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    number: int
    broker: int
    tls: bool
    sentinels: tuple[Address, ...] = ()
    service: str = ""
    sentinel_password: str = field(default="", repr=False)

    @property
    def where(self) -> str:
        """Return where it is, for people."""
        if self.sentinels:
            return (
                f"Redis {self.service} of the sentinels {', '.join(f'{host}:{port}' for host, port in self.sentinels)}"
            )
        return f"Redis at {self.host}:{self.port}"

    @property
    def addresses(self) -> dict[str, Address]:
        """Return what is connected to first, by its name for people."""
        sentinels = {f"the sentinel {host}:{port}": (host, port) for host, port in self.sentinels}
        return sentinels or {self.where: (self.host, self.port)}


def checked_database(text: str) -> Database:
    """Return the server that a URL names. Raises UsageError, never with the URL: a password is in it."""
    url = _split(text, (POSTGRESQL, "postgres"), "postgresql://USER:PASSWORD@HOST:5432/NAME?sslmode=verify-full")
    # What comes first tells of a password that is not encoded: nothing of it is to be in a message.
    host, port = _host(url, "database"), _port(url, "database", 5432)
    user, password = _word(url.username, "user", "database"), _word(url.password, "password", "database")
    query = dict(parse_qsl(url.query, keep_blank_values=True))
    if unknown := sorted(set(query) - {"sslmode"}):
        raise errors.UsageError(
            f"the URL of the database has {', '.join(unknown)}, which not all of Dify's programs understand",
            "leave it out: sslmode alone may stand behind the name; the authorities are given with --ca-bundle",
        )
    mode = query.get("sslmode", DEFAULT_MODE)
    if mode not in MODES:
        raise errors.UsageError(
            f"sslmode={mode} is not one that all of Dify's programs understand alike",
            f"give one of {', '.join(MODES)}",
        )
    name = checked_name(unquote(url.path.removeprefix("/")))
    return Database(host=host, port=port, user=user, password=password, name=name, mode=mode)


def checked_redis(text: str) -> Redis:
    """Return the server that a URL names. Raises UsageError, never with the URL: a password is in it."""
    if text.startswith((f"{SENTINEL}:", f"{SENTINEL}s:")):
        return _by_sentinels(text)
    url = _split(text, ("redis", "rediss"), "rediss://USER:PASSWORD@HOST:6379/0, rediss with TLS, redis without")
    host, port = _host(url, "Redis"), _port(url, "Redis", 6379)
    user = _word(url.username, "user", "Redis") if url.username else ""
    password = _word(url.password, "password", "Redis")
    if url.query:
        raise errors.UsageError(
            "the URL of Redis has parameters, which not all of Dify's programs understand",
            "leave them out; rediss:// means TLS, and the authorities are given with --ca-bundle",
        )
    number = _number(url.path.removeprefix("/"))
    return Redis(
        host=host,
        port=port,
        user=user,
        password=password,
        number=number,
        broker=number + 1,
        tls=url.scheme == "rediss",
    )


def _by_sentinels(text: str) -> Redis:
    """Return the server that sentinels know: sentinel://USER:PASSWORD@HOST:26379,HOST:26379/SERVICE/0."""
    shape = "sentinel://USER:PASSWORD@HOST:26379,HOST:26379/SERVICE/0"
    login, _, hosts = text.partition("://")[2].partition("/")[0].rpartition("@")
    # One host stands for all, since a URL has one.
    url = _split(text.replace(f"@{hosts}/", "@host/", 1), (SENTINEL, f"{SENTINEL}s"), shape)
    if url.scheme != SENTINEL:
        raise errors.UsageError(
            "Dify's programs cannot ask sentinels with TLS (Dify 1.11.3, api/extensions/ext_redis.py)",
            "write sentinel://, where nobody else can listen; or name the server itself, with rediss://",
        )
    each = [_split(f"{SENTINEL}://{login}@{host}", (SENTINEL,), shape) for host in hosts.split(",")]
    sentinels = tuple((_host(one, "sentinel"), _port(one, "sentinel", SENTINEL_PORT)) for one in each)
    service, _, number = url.path.removeprefix("/").partition("/")
    if not _SERVICE.fullmatch(service):
        raise errors.UsageError(
            "the URL of the sentinels names no service, or one that is not a valid name",
            f"write what `sentinel monitor NAME` of their configuration says: {shape}",
        )
    query = dict(parse_qsl(url.query, keep_blank_values=True))
    if set(query) - {"sentinel-password"}:
        raise errors.UsageError(
            "the URL of the sentinels has parameters that Dify's programs do not understand",
            "leave them out: sentinel-password=PASSWORD alone may stand behind the number",
        )
    first = _number(number)
    return Redis(
        host=sentinels[0][0],
        port=sentinels[0][1],
        user=_word(url.username, "user", "Redis") if url.username else "",
        password=_word(url.password, "password", "Redis"),
        number=first,
        broker=first + 1,
        tls=False,
        sentinels=sentinels,
        service=service,
        sentinel_password=query.get("sentinel-password", ""),
    )


def _number(text: str) -> int:
    """Return the number of Redis's database that a URL ends with. Raises UsageError."""
    if text and (not text.isdecimal() or int(text) >= LARGEST_REDIS_DB):
        raise errors.UsageError(
            "the URL of Redis ends with what is not the number of a database",
            f"give one from 0 to {LARGEST_REDIS_DB - 1}; the next one is used as well, for the queues",
        )
    return int(text or "0")


def checked_name(name: str) -> str:
    """Return the name of a database. Raises UsageError for one that not all programs write alike."""
    if not _NAME.fullmatch(name):
        raise errors.UsageError(
            f"{name!r} is not a name of a database that all of Dify's programs write alike",
            "give one of letters, digits, _ and -, which does not begin with a digit",
        )
    return name


def _split(text: str, schemes: tuple[str, ...], shape: str) -> SplitResult:
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


def _host(url: SplitResult, what: str) -> str:
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
    if host in (*OWN_DATABASES, REDIS_SERVICE):
        raise errors.UsageError(
            f"{host} is the name of a service of Dify's own", "give another name of that host, or its address"
        )
    return host


def is_local_name(host: str) -> bool:
    """Tell whether a name means the machine, or container, that looks it up (RFC 6761, 6.3)."""
    return host == "localhost" or host.endswith(".localhost") or host.startswith("localhost.")


def _port(url: SplitResult, what: str, usual: int) -> int:
    try:
        port = url.port
    except ValueError:
        port = 0
    if port == 0:
        raise errors.UsageError(f"the port of the {what} is not a valid one", "give a number from 1 to 65535")
    return port or usual


def _word(text: str | None, what: str, whose: str) -> str:
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


def database_settings(database: Database) -> dict[str, str]:
    """Return the settings by which all of Dify's programs find a database."""
    extras = f"sslmode={database.mode}"
    extras += f"&sslrootcert={dify.CA_IN_CONTAINER}" if database.verifies else ""
    return {
        dify.DB_TYPE: POSTGRESQL,
        "DB_HOST": database.host,
        "DB_PORT": str(database.port),
        "DB_USERNAME": database.user,
        "DB_PASSWORD": database.password,
        "DB_DATABASE": database.name,
        dify.DB_EXTRAS: extras,
        dify.DB_SSL_MODE: "disable" if database.mode == "disable" else "require",
    }


def redis_settings(redis: Redis) -> dict[str, str]:
    """Return the settings by which all of Dify's programs find Redis."""
    login = f"{quote(redis.user, safe='')}:{quote(redis.password, safe='')}"
    scheme = "rediss" if redis.tls else "redis"
    brokers = [f"{scheme}://{login}@{redis.host}:{redis.port}/{redis.broker}"]
    if redis.sentinels:
        brokers = [f"{SENTINEL}://{login}@{host}:{port}/{redis.broker}" for host, port in redis.sentinels]
    return {
        "REDIS_HOST": redis.host,
        "REDIS_PORT": str(redis.port),
        "REDIS_USERNAME": redis.user,
        "REDIS_PASSWORD": redis.password,
        "REDIS_DB": str(redis.number),
        "REDIS_USE_SSL": str(redis.tls).lower(),
        "REDIS_SSL_CERT_REQS": "CERT_REQUIRED" if redis.tls else "CERT_NONE",
        "REDIS_SSL_CA_CERTS": dify.CA_IN_CONTAINER if redis.tls else "",
        "CELERY_BROKER_URL": ";".join(brokers),
        BY_SENTINELS: str(bool(redis.sentinels)).lower(),
        "REDIS_SENTINELS": ",".join(f"{host}:{port}" for host, port in redis.sentinels),
        "REDIS_SENTINEL_SERVICE_NAME": redis.service,
        "REDIS_SENTINEL_USERNAME": "",
        "REDIS_SENTINEL_PASSWORD": redis.sentinel_password,
        "CELERY_USE_SENTINEL": str(bool(redis.sentinels)).lower(),
        "CELERY_SENTINEL_MASTER_NAME": redis.service,
        "CELERY_SENTINEL_PASSWORD": redis.sentinel_password,
    }


def has_database(variables: Mapping[str, str]) -> bool:
    """Tell whether the settings name a database that is not one of our containers."""
    kind = variables.get(dify.DB_TYPE) or POSTGRESQL
    return kind == POSTGRESQL and variables.get("DB_HOST", "") not in OWN_DATABASES


def has_redis(variables: Mapping[str, str]) -> bool:
    """Tell whether the settings name a Redis that is not our container."""
    return variables.get("REDIS_HOST", "") not in ("", REDIS_SERVICE)


def find_database(variables: Mapping[str, str]) -> Database | None:
    """Return the database that the settings name, if it is not one of our containers."""
    if not has_database(variables):
        return None
    extras = dict(parse_qsl(variables.get(dify.DB_EXTRAS, "")))
    found = extras.get("sslmode", "")
    mode = next((each for each in MODES if each == found), None)
    if mode is None:
        # What the plugin daemon does, which has no other word for it.
        mode = "require" if variables.get(dify.DB_SSL_MODE) == "require" else "disable"
    port = variables.get("DB_PORT") or "5432"
    return Database(
        host=variables["DB_HOST"],
        port=int(port) if port.isdecimal() else 0,
        user=variables.get("DB_USERNAME") or "postgres",
        password=variables.get("DB_PASSWORD", ""),
        name=variables.get("DB_DATABASE") or DEFAULT_DATABASE,
        plugins=variables.get(PLUGINS_KEY) or DEFAULT_PLUGINS,
        mode=mode,
    )


def find_redis(variables: Mapping[str, str]) -> Redis | None:
    """Return the Redis that the settings name, if it is not our container."""
    if not has_redis(variables):
        return None
    number, port = variables.get("REDIS_DB") or "0", variables.get("REDIS_PORT") or "6379"
    broker = urlsplit(variables.get("CELERY_BROKER_URL", "").partition(";")[0]).path.removeprefix("/")
    sentinels = _sentinels(variables)
    return Redis(
        host=variables["REDIS_HOST"],
        port=int(port) if port.isdecimal() else 0,
        user=variables.get("REDIS_USERNAME", ""),
        password=variables.get("REDIS_PASSWORD", ""),
        number=int(number) if number.isdecimal() else 0,
        broker=int(broker) if broker.isdecimal() else 1,
        tls=variables.get("REDIS_USE_SSL", "").lower() == TRUE and not sentinels,
        sentinels=sentinels,
        service=variables.get("REDIS_SENTINEL_SERVICE_NAME", "") if sentinels else "",
        sentinel_password=variables.get("REDIS_SENTINEL_PASSWORD", "") if sentinels else "",
    )


def _sentinels(variables: Mapping[str, str]) -> tuple[Address, ...]:
    if variables.get(BY_SENTINELS, "").lower() != TRUE:
        return ()
    pairs = (each.strip().rpartition(":") for each in variables.get("REDIS_SENTINELS", "").split(",") if each.strip())
    return tuple((host, int(port)) for host, _, port in pairs if port.isdecimal())


def profiles_without_database(variables: Mapping[str, str]) -> str | None:
    """Return COMPOSE_PROFILES without that of a database of ours; None where nothing is to change."""
    if not has_database(variables):
        return None
    active = compose.active_profiles(variables)
    left = [name for name in active if name != (variables.get(dify.DB_TYPE) or POSTGRESQL)]
    return ",".join(left) if len(left) < len(active) else None


def find_addresses(variables: Mapping[str, str]) -> set[tuple[str, int]]:
    """Return host and port of what an installation uses that is not its own; hosts in lower case."""
    servers = (find_database(variables), find_redis(variables))
    return {(host.lower(), port) for each in servers if each is not None for host, port in each.addresses.values()}


def in_words(variables: Mapping[str, str]) -> list[str]:
    """Say what an installation uses that is not its own, without secrets."""
    told = []
    if database := find_database(variables):
        told.append(f"{database.where}, {database.name} and {database.plugins}, as {database.user}, {database.mode}")
    if redis := find_redis(variables):
        security = "TLS" if redis.tls else "without TLS"
        told.append(f"{redis.where}, databases {redis.number} and {redis.broker}, {security}")
    return told
