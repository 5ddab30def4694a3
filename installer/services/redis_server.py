"""Asks a Redis or Valkey server of others whether Dify can work there; what is tried is removed again.

What Dify needs (1.11.3): two databases, one for celery's queues (lists), one for locks (scripts), caches and messages.
"""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from installer.core import errors
from installer.release import external
from installer.release.external import Redis
from installer.services import reach, resp

SECONDS = 5.0
# Should we be killed in between, what was tried goes by itself.
EXPIRY_SECONDS = "60"
# Dify's own compose file brings 6.
OLDEST = 6
OPTION = "--redis-url"
# The others throw away queues, or locks, when the memory is full (Redis's documents, "Key eviction").
KEEPS_ALL = "noeviction"
SCRIPT = "return redis.call('get', KEYS[1])"


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """A server that Dify can work on; `warnings` are (seen, remedy)."""

    version: str
    warnings: tuple[tuple[str, str], ...]


def look(wanted: Redis, authorities: bytes | None) -> Seen:
    """Ask whether Dify can work there, as it would ask; leaves nothing there.

    `authorities` are certificates, PEM. Raises PreflightFailed with the reason and what to do.
    """
    warnings: list[tuple[str, str]] = []
    if wanted.sentinels:
        wanted, warnings = _ask_sentinels(wanted)
    context = None
    if wanted.tls:
        context = reach.make_context(verifies=True, names=True, authorities=authorities, where=wanted.where)
    with _telling(wanted), resp.Connection(wanted.host, wanted.port, SECONDS, context) as connection:
        connection.ask("AUTH", *filter(None, (wanted.user, wanted.password)))
        told = _told(connection.ask("INFO"))
        version = _require_version(told, wanted)
        for number in (wanted.number, wanted.broker):
            connection.ask("SELECT", str(number))
            _go_round(connection, wanted)
    return Seen(version=version, warnings=(*warnings, *_find_eviction(told, wanted)))


def _ask_sentinels(wanted: Redis) -> tuple[Redis, list[tuple[str, str]]]:
    """Return the server that the sentinels name, and a warning for each of them that does not answer.

    Raises PreflightFailed where none does, or they do not name the same one.
    """
    named: dict[external.Address, list[str]] = {}
    failed: list[errors.PreflightFailed] = []
    for host, port in wanted.sentinels:
        try:
            named.setdefault(_ask_sentinel(host, port, wanted), []).append(f"{host}:{port}")
        except errors.PreflightFailed as error:
            failed.append(error)
    if not named:
        raise failed[0]
    if len(named) > 1:
        told = "; ".join(f"{', '.join(who)}: {host}:{port}" for (host, port), who in named.items())
        raise errors.PreflightFailed(
            f"the sentinels do not name the same server for {wanted.service}: {told}",
            "name sentinels of one system; right after a failover, wait until they agree",
        )
    ((host, port),) = named
    reach.require_not_here(host, port, f"{wanted.where}, which is {host}:{port} now")
    found = dataclasses.replace(wanted, host=host, port=port, sentinels=())
    return found, [(error.message, error.remedy) for error in failed]


def _ask_sentinel(host: str, port: int, wanted: Redis) -> external.Address:
    """Ask one sentinel for the server of the service. Raises PreflightFailed."""
    asked = dataclasses.replace(wanted, host=host, port=port, sentinels=(), user="")
    try:
        with _telling(asked), resp.Connection(host, port, SECONDS, None) as connection:
            if wanted.sentinel_password:
                connection.ask("AUTH", wanted.sentinel_password)
            answer = connection.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", wanted.service)
    except errors.PreflightFailed as error:
        raise errors.PreflightFailed(
            error.message.replace(asked.where, f"the sentinel {host}:{port}"),
            error.remedy.replace("the password in", "sentinel-password in"),
        ) from error
    if not isinstance(answer, list) or len(answer) != 2 or not str(answer[1]).isdecimal():
        raise errors.PreflightFailed(
            f"the sentinel {host}:{port} knows no service {wanted.service}",
            f"write what `sentinel monitor NAME` of its configuration says into {OPTION}",
        )
    return str(answer[0]), int(str(answer[1]))


def _told(answer: resp.Reply) -> dict[str, str]:
    pairs = (line.partition(":")[::2] for line in str(answer).splitlines())
    return {key: value for key, value in pairs if value}


@contextlib.contextmanager
def _telling(wanted: Redis) -> Iterator[None]:
    """Raise PreflightFailed for whatever keeps the server from answering, or for what it answers."""
    try:
        with reach.telling(wanted.where, url=OPTION, plain=f"redis:// in {OPTION}"):
            # One that speaks TLS ends the connection of whoever does not.
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                yield
                return
            raise resp.NotRedisError
    except resp.RefusedError as error:
        raise _refused(wanted, error) from error
    except resp.NotRedisError as error:
        raise errors.PreflightFailed(
            f"{wanted.where} does not answer as Redis does",
            f"correct {OPTION}; if it speaks TLS there, write rediss://",
        ) from error


def _refused(wanted: Redis, error: resp.RefusedError) -> errors.PreflightFailed:
    """Return the error that an answer means, with its remedy."""
    user = wanted.user or "default"
    if error.kind in ("WRONGPASS", "NOAUTH") or " AUTH " in str(error):
        return errors.PreflightFailed(
            f"{wanted.where}: it refuses the password of {user}",
            f"correct the password in {OPTION}; or its administrator sets it: ACL SETUSER {user} on '>…'",
        )
    if error.kind == "NOPERM":
        return errors.PreflightFailed(
            f"{wanted.where}: {user} may not do all that Dify does: {error}",
            f"its administrator runs: ACL SETUSER {user} ~* &* +@all -@admin -@dangerous +info +keys",
        )
    if "DB index" in str(error) or "SELECT is not allowed" in str(error):
        return errors.PreflightFailed(
            f"{wanted.where}: its databases {wanted.number} and {wanted.broker} cannot both be used: {error}",
            f"name another number in {OPTION} (the next one is used for the queues), or have `databases` raised there",
        )
    return errors.PreflightFailed(f"{wanted.where}: it refuses: {error}", "its administrator lets this user do that")


def _require_version(told: Mapping[str, str], wanted: Redis) -> str:
    version = told.get("redis_version", "")
    first = version.partition(".")[0]
    if not first.isdecimal() or int(first) < OLDEST:
        raise errors.PreflightFailed(
            f"{wanted.where} is version {version or 'unknown'}, and Dify is to work with {OLDEST} and later ones",
            f"name a server of version {OLDEST} or later",
        )
    if told.get("role", "master") != "master":
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


def _go_round(connection: resp.Connection, wanted: Redis) -> None:
    """Do once what Dify's programs do, and remove it."""
    key = f"dify-installer-{secrets.token_hex(6)}"
    queue = f"{key}-queue"
    try:
        connection.ask("SET", key, "1", "EX", EXPIRY_SECONDS, "NX")
        connection.ask("LPUSH", queue, "1")
        connection.ask("EXPIRE", queue, EXPIRY_SECONDS)
        connection.ask("PUBLISH", key, "1")
        found = connection.ask("EVAL", SCRIPT, "1", key)
        taken = connection.ask("BRPOP", queue, "1")
    finally:
        with contextlib.suppress(resp.RefusedError):
            connection.ask("DEL", key, queue)
    if found != "1" or taken != [queue, "1"] or connection.ask("EXISTS", key) != 0:
        raise errors.PreflightFailed(
            f"{wanted.where}: what was written is not what was read, or not removed",
            "name a server of Redis or Valkey itself: something between changes what is said",
        )


def _find_eviction(told: Mapping[str, str], wanted: Redis) -> Iterator[tuple[str, str]]:
    """Yield a warning where a full memory throws away what waits to be done."""
    policy = told.get("maxmemory_policy", KEEPS_ALL)
    if told.get("maxmemory", "0") != "0" and policy != KEEPS_ALL:
        yield (
            f"{wanted.where} throws away keys when its memory is full ({policy}): tasks that wait would be lost",
            f"its administrator runs: CONFIG SET maxmemory-policy {KEEPS_ALL}",
        )
