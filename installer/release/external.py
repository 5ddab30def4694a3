"""Services that a company runs already: where Dify is to find its database and its Redis, and the settings for that.

Where it keeps its files is in `release.storage`; of what keeps vectors, Qdrant and OpenSearch are in
`release.vector_store`.

What each program reads (Dify 1.11.3, api/configs/middleware; plugin daemon 0.5.2, internal/types/app/config.go,
internal/db/pg/pg.go, pkg/utils/cache/redis.go):

- The api makes a URL of its DB_… settings, with DB_EXTRAS behind it as libpq's parameters; libpq honours every sslmode.
- The plugin daemon has no other DB_SSL_MODE than `disable` and `require`, and takes DB_EXTRAS for server options, so it
  must not get those of the api. Its driver reads PGSSLROOTCERT, and `require` compares the certificate's issuer then,
  as `verify-ca` does (pgx 5.5.5, pgconn/config.go, configTLS); no setting makes it compare the name.
- For vectors in pgvector the api says nothing of TLS (core/rag/datasource/vdb/pgvector/pgvector.py), and libpq takes
  PGSSLMODE and PGSSLROOTCERT then (its documents, "Environment Variables"). It would take them for a database of ours
  as well, which speaks no TLS: that gets its own word in DB_EXTRAS.
- The api compares Redis's certificate as REDIS_SSL_CERT_REQS says; the daemon always does, with the authorities of the
  system, which SSL_CERT_FILE names (Go's crypto/x509).
- By sentinels the api knows no TLS, and celery no user of theirs (api/extensions/ext_redis.py, ext_celery.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from installer.core import errors
from installer.release import compose, dify, storage, urls, vector_store
from installer.release.vector_store import VectorStore

Mode = Literal["disable", "require", "verify-ca", "verify-full"]
MODES: tuple[Mode, ...] = get_args(Mode)
# Whoever does not say how is not to send a password to whom it may concern.
DEFAULT_MODE: Mode = "verify-full"
POSTGRESQL = "postgresql"
# The name of the vector store, and of our own service for it.
PGVECTOR, VECTOR_OPTION = "pgvector", "--vector-url"
DEFAULT_DATABASE, DEFAULT_PLUGINS = "dify", "dify_plugin"
PLUGINS_KEY = "DB_PLUGIN_DATABASE"
DATABASE_KEYS = (
    *("DB_HOST", "DB_PORT", "DB_USERNAME", "DB_PASSWORD", "DB_DATABASE", PLUGINS_KEY),
    *(dify.DB_EXTRAS, dify.DB_SSL_MODE),
)
VECTOR_KEYS = (
    *("PGVECTOR_HOST", "PGVECTOR_PORT", "PGVECTOR_USER", "PGVECTOR_PASSWORD", "PGVECTOR_DATABASE"),
    # The last two have the same value as the password (`dify.SECRETS`).
    *(dify.VECTOR_SSL_MODE, "PGVECTOR_POSTGRES_PASSWORD", "PGVECTO_RS_PASSWORD"),
    *vector_store.KEYS,
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
    option: str = "--db-url"  # that names it

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

    @property
    def place(self) -> str:
        """Return where its data are, for people; two that are equal are one place."""
        return f"{self.where}, {self.name}" + (f" and {self.plugins}" if self.plugins else "")


# What keeps vectors: a PostgreSQL with pgvector, or a server of another kind.
Vectors = Database | VectorStore


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
    url = urls.split(text, (POSTGRESQL, "postgres"), "postgresql://USER:PASSWORD@HOST:5432/NAME?sslmode=verify-full")
    # What comes first tells of a password that is not encoded: nothing of it is to be in a message.
    host, port = urls.host_of(url, "database"), urls.port_of(url, "database", 5432)
    user, password = urls.word_of(url.username, "user", "database"), urls.word_of(url.password, "password", "database")
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


def checked_vectors(text: str) -> Vectors:
    """Return what keeps vectors, as a URL names it. Raises UsageError, never with the URL: a password is in it."""
    if kind := vector_store.find_kind(text):
        return vector_store.checked(text, kind)
    return replace(checked_database(text), plugins="", option=VECTOR_OPTION)


def checked_redis(text: str) -> Redis:
    """Return the server that a URL names. Raises UsageError, never with the URL: a password is in it."""
    if text.startswith((f"{SENTINEL}:", f"{SENTINEL}s:")):
        return _by_sentinels(text)
    url = urls.split(text, ("redis", "rediss"), "rediss://USER:PASSWORD@HOST:6379/0, rediss with TLS, redis without")
    host, port = urls.host_of(url, "Redis"), urls.port_of(url, "Redis", 6379)
    user = urls.word_of(url.username, "user", "Redis") if url.username else ""
    password = urls.word_of(url.password, "password", "Redis")
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
    url = urls.split(text.replace(f"@{hosts}/", "@host/", 1), (SENTINEL, f"{SENTINEL}s"), shape)
    if url.scheme != SENTINEL:
        raise errors.UsageError(
            "Dify's programs cannot ask sentinels with TLS (Dify 1.11.3, api/extensions/ext_redis.py)",
            "write sentinel://, where nobody else can listen; or name the server itself, with rediss://",
        )
    each = [urls.split(f"{SENTINEL}://{login}@{host}", (SENTINEL,), shape) for host in hosts.split(",")]
    sentinels = tuple((urls.host_of(one, "sentinel"), urls.port_of(one, "sentinel", SENTINEL_PORT)) for one in each)
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
        user=urls.word_of(url.username, "user", "Redis") if url.username else "",
        password=urls.word_of(url.password, "password", "Redis"),
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


def vector_settings(found: Vectors) -> dict[str, str]:
    """Return the settings by which the api keeps its vectors there."""
    if isinstance(found, VectorStore):
        return vector_store.settings(found)
    return {
        dify.VECTOR_STORE: PGVECTOR,
        "PGVECTOR_HOST": found.host,
        "PGVECTOR_PORT": str(found.port),
        "PGVECTOR_USER": found.user,
        "PGVECTOR_PASSWORD": found.password,
        "PGVECTOR_DATABASE": found.name,
        dify.VECTOR_SSL_MODE: found.mode,
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
    return kind == POSTGRESQL and variables.get("DB_HOST", "") not in urls.OWN_DATABASES


def has_redis(variables: Mapping[str, str]) -> bool:
    """Tell whether the settings name a Redis that is not our container."""
    return variables.get("REDIS_HOST", "") not in ("", urls.REDIS_SERVICE)


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


def find_vectors(variables: Mapping[str, str]) -> Vectors | None:
    """Return what the settings name for vectors, if it is not one of our containers."""
    return vector_store.find(variables) or _find_pgvector(variables)


def _find_pgvector(variables: Mapping[str, str]) -> Database | None:
    if variables.get(dify.VECTOR_STORE) != PGVECTOR or variables.get("PGVECTOR_HOST", "") in ("", PGVECTOR):
        return None
    found, port = variables.get(dify.VECTOR_SSL_MODE, ""), variables.get("PGVECTOR_PORT") or "5432"
    return Database(
        host=variables["PGVECTOR_HOST"],
        port=int(port) if port.isdecimal() else 0,
        user=variables.get("PGVECTOR_USER") or "postgres",
        password=variables.get("PGVECTOR_PASSWORD", ""),
        name=variables.get("PGVECTOR_DATABASE") or "postgres",
        plugins="",
        # What libpq does where nothing is said is nearest to this one.
        mode=next((each for each in MODES if each == found), "disable"),
        option=VECTOR_OPTION,
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


def profiles_of_ours(variables: Mapping[str, str]) -> str | None:
    """Return COMPOSE_PROFILES without those of what others run; None where nothing is to change."""
    theirs = {variables.get(dify.DB_TYPE) or POSTGRESQL} if has_database(variables) else set()
    theirs |= {variables.get(dify.VECTOR_STORE, "")} if find_vectors(variables) else set()
    active = compose.active_profiles(variables)
    left = [name for name in active if name not in theirs]
    return ",".join(left) if len(left) < len(active) else None


def find_addresses(variables: Mapping[str, str]) -> set[tuple[str, int]]:
    """Return host and port of what an installation uses that is not its own; hosts in lower case."""
    return {(host.lower(), port) for each in find_all(variables) for host, port in each.addresses.values()}


def find_all(variables: Mapping[str, str]) -> list[Database | Redis | storage.Storage | VectorStore]:
    """Return the servers that an installation uses and that are not its own."""
    found = (find_database(variables), find_redis(variables), storage.find(variables), find_vectors(variables))
    # One server may have the rows and the vectors.
    return list({each.where: each for each in found if each is not None}.values())


def _place_of_rows(variables: Mapping[str, str]) -> str:
    found = find_database(variables)
    return found.place if found else ""


def _place_of_files(variables: Mapping[str, str]) -> str:
    found = storage.find(variables)
    return found.place if found else ""


def _place_of_vectors(variables: Mapping[str, str]) -> str:
    found = find_vectors(variables)
    return found.place if found else ""


# Where what people have made lies, by what it is, as far as that is not our own; two that are equal are one place.
PLACES: dict[str, Callable[[Mapping[str, str]], str]] = {
    "rows": _place_of_rows,
    "files": _place_of_files,
    "vectors": _place_of_vectors,
}


def compared(variables: Mapping[str, str]) -> list[str]:
    """Return the servers whose certificate Dify compares with authorities that it has to be told of."""
    databases = [each for each in (find_database(variables), find_vectors(variables)) if each and each.verifies]
    others = [each for each in (find_redis(variables), storage.find(variables)) if each and each.tls]
    return list(dict.fromkeys(each.where for each in (*databases, *others)))


def rows_in_words(variables: Mapping[str, str]) -> list[str]:
    """Say which databases and which Redis an installation uses that are not its own, without secrets."""
    told = []
    if database := find_database(variables):
        told.append(f"{database.place}, as {database.user}, {database.mode}")
    if redis := find_redis(variables):
        security = "TLS" if redis.tls else "without TLS"
        told.append(f"{redis.where}, databases {redis.number} and {redis.broker}, {security}")
    vectors = find_vectors(variables)
    if isinstance(vectors, VectorStore):
        told.append(vectors.in_words)
    elif vectors is not None:
        told.append(f"{vectors.place} with the vectors, as {vectors.user}, {vectors.mode}")
    return told


def in_words(variables: Mapping[str, str]) -> list[str]:
    """Say what an installation uses that is not its own, without secrets."""
    files = storage.find(variables)
    return [*rows_in_words(variables), *([storage.in_words(files)] if files else [])]
