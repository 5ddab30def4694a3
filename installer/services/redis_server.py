"""Asks a Redis or Valkey server of others whether Dify can work there; what is tried is removed again.

What Dify needs (1.11.3): two databases, one for celery's queues (lists), one for locks (scripts), caches and messages.
"""

from __future__ import annotations

import contextlib
import secrets
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from installer.core import errors
from installer.release.external import Redis
from installer.services import reach

if TYPE_CHECKING:
    import redis

CONNECT_SECONDS = 5.0
# Should we be killed in between, what was tried goes by itself.
EXPIRY_SECONDS = 60
# Dify's own compose file brings 6.
OLDEST = 6
OPTION = "--redis-url"
# Those throw away queues when the memory is full (Redis's documents, "Key eviction"); `volatile-…` throw away locks.
KEEPS_ALL = "noeviction"


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """A server that Dify can work on; `warnings` are (seen, remedy)."""

    version: str
    warnings: tuple[tuple[str, str], ...]


def look(wanted: Redis, authorities: bytes | None) -> Seen:
    """Ask whether Dify can work there, as it would ask; leaves nothing there.

    `authorities` are certificates, PEM. Raises PreflightFailed with the reason and what to do.
    """
    context = None
    if wanted.tls:
        context = reach.make_context(verifies=True, names=True, authorities=authorities, where=wanted.where)
    version, warnings = "", []
    for number in (wanted.number, wanted.broker):
        with _open(wanted, number, context) as client, _telling(wanted, number):
            if not version:
                version = _require_version(client, wanted)
                warnings = list(_find_eviction(client, wanted))
            _go_round(client, wanted)
    return Seen(version=version, warnings=tuple(warnings))


@contextlib.contextmanager
def _open(wanted: Redis, number: int, context: Any) -> Iterator[redis.Redis]:
    import redis
    from redis import backoff, retry

    class Connection(redis.Connection):
        """A connection whose TLS is ours."""

        def _connect(self) -> Any:
            found = super()._connect()  # type: ignore[no-untyped-call]
            if context is None:
                return found
            try:
                return context.wrap_socket(found, server_hostname=wanted.host)
            except TimeoutError as error:
                # One without TLS waits for the end of what it takes for a command.
                raise ssl.SSLError("it does not answer as a server of TLS does") from error

    pool = redis.ConnectionPool(
        connection_class=Connection,
        host=wanted.host,
        port=wanted.port,
        username=wanted.user or None,
        password=wanted.password,
        db=number,
        socket_timeout=CONNECT_SECONDS,
        socket_connect_timeout=CONNECT_SECONDS,
        retry=retry.Retry(backoff.NoBackoff(), 0),
    )
    client = redis.Redis(connection_pool=pool)
    try:
        yield client
    finally:
        client.close()
        pool.disconnect()


@contextlib.contextmanager
def _telling(wanted: Redis, number: int) -> Iterator[None]:
    """Raise PreflightFailed for whatever the client raises in the block."""
    import redis

    user = wanted.user or "default"
    try:
        yield
    except (redis.AuthenticationError, redis.exceptions.AuthenticationWrongNumberOfArgsError) as error:
        raise errors.PreflightFailed(
            f"{wanted.where}: it refuses the password of {user}",
            f"correct the password in {OPTION}; or its administrator sets it: ACL SETUSER {user} on '>…'",
        ) from error
    except redis.exceptions.NoPermissionError as error:
        raise errors.PreflightFailed(
            f"{wanted.where}: {user} may not do all that Dify does: {error}",
            f"its administrator runs: ACL SETUSER {user} ~* &* +@all -@admin -@dangerous +info +keys",
        ) from error
    except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
        _tell_of_network(wanted, error)
    except redis.ResponseError as error:
        told = f"its database {number} cannot be used: {error}" if "DB index" in str(error) else f"it refuses: {error}"
        raise errors.PreflightFailed(
            f"{wanted.where}: {told}",
            f"name another number in {OPTION} (the next one is used for the queues), or have `databases` raised there",
        ) from error


def _tell_of_network(wanted: Redis, error: BaseException) -> None:
    """Raise what the innermost reason of an error means."""
    reason: BaseException | None = error
    with reach.telling(wanted.where, url=OPTION, plain=f"redis:// in {OPTION}"):
        while reason is not None:
            # The client wraps errors of the network in its own, which are none of Python's; one that speaks TLS ends
            # the connection of whoever does not.
            if isinstance(reason, OSError) and not isinstance(reason, ConnectionResetError):
                raise reason
            reason = reason.__cause__ or reason.__context__
    raise errors.PreflightFailed(
        f"{wanted.where} does not answer as Redis does: {error}",
        f"correct {OPTION}; if it speaks TLS there, write rediss://",
    ) from error


def _require_version(client: redis.Redis, wanted: Redis) -> str:
    told: Any = client.info()
    version = str(told.get("redis_version", ""))
    first = version.partition(".")[0]
    if not first.isdecimal() or int(first) < OLDEST:
        raise errors.PreflightFailed(
            f"{wanted.where} is version {version or 'unknown'}, and Dify is to work with {OLDEST} and later ones",
            f"name a server of version {OLDEST} or later",
        )
    if told.get("role") not in (None, "master"):
        raise errors.PreflightFailed(
            f"{wanted.where} is a replica, which can only be read", f"name the primary server in {OPTION}"
        )
    if told.get("redis_mode") == "cluster":
        raise errors.PreflightFailed(
            f"{wanted.where} is a cluster, which has no second database for the queues",
            "name a server that is no cluster",
        )
    name = "Valkey" if told.get("server_name") == "valkey" else "Redis"
    return f"{name} {told.get('valkey_version', version)}"


def _go_round(client: redis.Redis, wanted: Redis) -> None:
    """Do once what Dify's programs do, and remove it."""
    key = f"dify-installer-{secrets.token_hex(6)}"
    script = "return redis.call('get', KEYS[1])"
    try:
        client.set(key, "1", ex=EXPIRY_SECONDS, nx=True)
        client.lpush(f"{key}-queue", "1")
        client.expire(f"{key}-queue", EXPIRY_SECONDS)
        client.publish(key, "1")
        found: Any = client.eval(script, 1, key)
        taken: Any = client.brpop([f"{key}-queue"], 1)
    finally:
        with contextlib.suppress(Exception):
            client.delete(key, f"{key}-queue")
    if found != b"1" or taken is None or client.exists(key):
        raise errors.PreflightFailed(
            f"{wanted.where}: what was written is not what was read, or not removed",
            "name a server of Redis or Valkey itself: something between changes what is said",
        )


def _find_eviction(client: redis.Redis, wanted: Redis) -> Iterator[tuple[str, str]]:
    """Yield a warning where a full memory throws away what waits to be done."""
    told: Any = client.info("memory")
    policy = told.get("maxmemory_policy", KEEPS_ALL)
    if told.get("maxmemory") and policy != KEEPS_ALL:
        yield (
            f"{wanted.where} throws away keys when its memory is full ({policy}): tasks that wait would be lost",
            f"its administrator runs: CONFIG SET maxmemory-policy {KEEPS_ALL}",
        )
