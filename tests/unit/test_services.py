"""A company's PostgreSQL and Redis, real ones: what lets Dify in, and each refusal with what to do about it."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from installer.core import errors
from installer.release import external
from installer.services import postgresql, reach, redis_server
from tests.target import servers
from tests.target.servers import Authority, Postgres, Redis, Sentinel

SECRET = "s3cret/with+signs:in@it"


@pytest.fixture(scope="module")
def database() -> Iterator[Postgres]:
    try:
        servers.find_postgres()
    except LookupError as error:
        pytest.skip(str(error))
    with Postgres() as running:
        running.give("dify", SECRET, "dify", "dify_plugin")
        yield running


@pytest.fixture(scope="module")
def cache() -> Iterator[Redis]:
    if shutil.which("redis-server") is None:
        pytest.skip("Redis is not installed: tests/target/packages.sh installs it")
    users = (
        f"user dify on >{SECRET} ~* &* +@all -@admin -@dangerous +info +keys\nuser half on >{SECRET} ~* &* +@read +info"
    )
    with Redis(users=users) as running:
        yield running


def wanted(server: Postgres, **fields: Any) -> external.Database:
    return external.Database(
        **{
            "host": server.address,
            "port": server.port,
            "user": "dify",
            "password": SECRET,
            "name": "dify",
            "mode": "verify-full",
            **fields,
        }
    )


def look(
    server: Postgres, *, key_is_new: bool = True, authority: bytes | None = None, **fields: Any
) -> postgresql.Seen:
    trusted = server.authority.certificate if authority is None else authority
    return postgresql.look(wanted(server, **fields), trusted, key_is_new=key_is_new)


def refusal(server: Postgres, **options: Any) -> errors.PreflightFailed:
    with pytest.raises(errors.PreflightFailed) as caught:
        look(server, **options)
    assert caught.value.remedy
    assert SECRET not in caught.value.message + caught.value.remedy
    return caught.value


def everything(server: Postgres) -> str:
    """Return all that a database holds by its catalogues."""
    return server.sql(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace "
        "UNION SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace "
        "UNION SELECT extname FROM pg_extension ORDER BY 1",
        "dify",
    )


@pytest.mark.parametrize("mode", external.MODES)
def test_a_user_with_his_own_databases_alone_is_enough_and_nothing_is_left(database: Postgres, mode: str) -> None:
    before = everything(database)
    seen = look(database, mode=mode)
    assert (seen.missing, seen.revision, seen.warnings) == ((), "", ())
    assert seen.version.partition(".")[0] == database.programs.parts[-2]
    assert everything(database) == before == "plpgsql"


def test_tls_is_compared_as_it_is_asked_for(database: Postgres) -> None:
    stranger = Authority("stranger").certificate
    assert "not of an authority" in refusal(database, authority=stranger).message
    assert "not of an authority" in refusal(database, authority=stranger, mode="verify-ca").message
    assert "--ca-bundle" in refusal(database, authority=stranger).remedy
    # The certificate is for 127.0.0.1, and for no name that means it.
    assert "for another name" in refusal(database, host="localhost").message
    assert look(database, host="localhost", mode="verify-ca").version
    assert look(database, authority=stranger, mode="require").version
    with pytest.raises(errors.PreflightFailed, match="nothing says with which"):
        postgresql.look(wanted(database), None, key_is_new=True)


def test_a_server_without_tls_gets_no_password_unless_that_is_said() -> None:
    with Postgres(ssl=False) as plain:
        plain.give("dify", SECRET, "dify", "dify_plugin")
        assert "speaks no TLS" in refusal(plain).message
        assert "?sslmode=disable" in refusal(plain).remedy
        assert look(plain, mode="disable").version


def test_a_certificate_that_has_ended_is_told(database: Postgres) -> None:
    with Postgres() as old:
        old.give("dify", SECRET, "dify", "dify_plugin")
        old.present(*old.authority.sign(old.address, ends=-1))
        old.restart()
        assert "expired" in refusal(old).message


def test_who_is_not_let_in_is_told_why(database: Postgres) -> None:
    wrong = refusal(database, password="another-one")
    assert "refuses the password of dify" in wrong.message
    assert 'ALTER ROLE "dify" PASSWORD' in wrong.remedy
    database.let_in("hostssl dify_plugin all all scram-sha-256")
    database.sql("SELECT pg_reload_conf()")
    try:
        shut = refusal(database)
        assert "does not let dify in" in shut.message
        assert "`hostssl dify dify ADDRESS/32 scram-sha-256`" in shut.remedy
    finally:
        database.let_in("host all all all scram-sha-256")
        database.sql("SELECT pg_reload_conf()")
    look(database)


def test_what_is_no_database_is_told(database: Postgres) -> None:
    assert "nothing listens" in refusal(database, port=servers.free_port()).message
    with pytest.raises(errors.PreflightFailed, match="knows the name"):
        reach.require_not_here("no-such-host.invalid", 5432, "PostgreSQL at no-such-host.invalid:5432")
    with pytest.raises(errors.PreflightFailed, match="the container itself"):
        reach.require_not_here("127.0.0.1", 5432, "PostgreSQL at here:5432")


def test_databases_that_are_missing_are_made_or_asked_for(database: Postgres) -> None:
    lacking = refusal(database, name="orders", plugins="orders_plugin")
    assert "has no database orders and orders_plugin" in lacking.message
    assert lacking.remedy.count("CREATE DATABASE") == 2
    assert 'OWNER "dify"' in lacking.remedy
    database.sql(f"CREATE ROLE maker LOGIN CREATEDB PASSWORD '{SECRET}'")
    theirs = wanted(database, user="maker", name="made", plugins="made_plugin")
    seen = postgresql.look(theirs, database.authority.certificate, key_is_new=True)
    assert seen.missing == ("made", "made_plugin")
    assert database.sql("SELECT count(*) FROM pg_database WHERE datname LIKE 'made%'") == "0"
    postgresql.create(theirs, seen.missing, database.authority.certificate)
    assert postgresql.look(theirs, database.authority.certificate, key_is_new=True).missing == ()
    # What it made itself can be used at once; and what an administrator pastes does the same.
    database.sql(lacking.remedy.removeprefix("its administrator runs: "))
    assert look(database, name="orders", plugins="orders_plugin").missing == ()


def test_a_user_who_may_not_make_tables_is_told_what_his_administrator_runs(database: Postgres) -> None:
    database.sql(f"CREATE ROLE reader LOGIN PASSWORD '{SECRET}'; GRANT CONNECT ON DATABASE dify TO reader;")
    found = refusal(database, user="reader")
    assert "may not make tables in the schema public" in found.message
    database.sql('GRANT USAGE, CREATE ON SCHEMA "public" TO "reader"', "dify")
    found = refusal(database, user="reader")
    assert "uuid-ossp is missing, and reader may not add it" in found.message
    database.sql('CREATE EXTENSION "uuid-ossp"', "dify")
    found = refusal(database, user="reader")
    assert "dify_plugin: reader may not make tables" in found.message
    database.sql('GRANT USAGE, CREATE ON SCHEMA "public" TO "reader"', "dify_plugin")
    assert look(database, user="reader").missing == ()
    database.sql('DROP EXTENSION "uuid-ossp"; REVOKE ALL ON SCHEMA "public" FROM "reader"', "dify")


def test_a_database_that_cannot_hold_every_text_is_refused(database: Postgres) -> None:
    database.sql("CREATE DATABASE latin OWNER dify TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'")
    assert "encoded in LATIN1" in refusal(database, name="latin").message


def test_another_version_is_refused(database: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    here = int(database.programs.parts[-2])
    for name, value in (("NEWEST", here - 1), ("OLDEST", here + 1)):
        with monkeypatch.context() as other:
            other.setattr(postgresql, name, value)
            assert f"is version {here}." in refusal(database).message


def test_what_others_have_there_is_left_alone(database: Postgres) -> None:
    database.give("tenant", SECRET, "filled", "filled_plugin")
    database.sql("CREATE TABLE orders (id int); ALTER TABLE orders OWNER TO tenant", "filled")
    found = refusal(database, user="tenant", name="filled", plugins="filled_plugin")
    assert "1 tables, and none of Dify" in found.message
    # A table of another user.
    database.sql("ALTER TABLE orders OWNER TO dify", "filled")
    found = refusal(database, user="tenant", name="filled", plugins="filled_plugin")
    assert "belong to dify" in found.message
    assert 'REASSIGN OWNED BY "dify" TO "tenant"' in found.remedy


def test_a_dify_without_its_key_is_refused_and_with_it_goes_on(database: Postgres) -> None:
    database.give("older", SECRET, "olddify", "olddify_plugin")
    for statement in ("CREATE TABLE alembic_version (version_num text)", "CREATE TABLE apps (id int)"):
        database.sql(f"SET ROLE older; {statement}", "olddify")
    database.sql("INSERT INTO alembic_version VALUES ('0003'); INSERT INTO apps VALUES (1), (2)", "olddify")
    fields: dict[str, Any] = {"user": "older", "name": "olddify", "plugins": "olddify_plugin"}
    found = refusal(database, **fields)
    assert "SECRET_KEY" in found.message and "--set SECRET_KEY" in found.remedy
    assert look(database, key_is_new=False, **fields).revision == "0003"
    trusted = database.authority.certificate
    assert postgresql.read_revision(wanted(database, **fields), trusted) == "0003"
    counted = postgresql.count_rows(wanted(database, **fields), trusted)
    assert counted == {"olddify": {"public.alembic_version": 1, "public.apps": 2}, "olddify_plugin": {}}


def test_few_connections_are_a_warning(database: Postgres) -> None:
    database.sql("ALTER ROLE dify CONNECTION LIMIT 20")
    try:
        ((seen, remedy),) = look(database).warnings
        assert "20 connections" in seen and "CONNECTION LIMIT 100" in remedy
    finally:
        database.sql("ALTER ROLE dify CONNECTION LIMIT -1")


def test_a_server_that_can_only_be_read_is_refused(database: Postgres) -> None:
    database.sql("ALTER ROLE dify SET default_transaction_read_only = on")
    try:
        found = refusal(database)
        assert "is refused" in found.message and "read-only" in found.message
    finally:
        database.sql("ALTER ROLE dify RESET default_transaction_read_only")


# -- Redis


def redis_of(server: Redis, **fields: Any) -> external.Redis:
    return external.Redis(
        **{
            "host": server.address,
            "port": server.port,
            "user": "dify",
            "password": SECRET,
            "number": 0,
            "broker": 1,
            "tls": server.tls,
            **fields,
        }
    )


def redis_refusal(server: Redis, authority: bytes | None = None, **fields: Any) -> errors.PreflightFailed:
    with pytest.raises(errors.PreflightFailed) as caught:
        redis_server.look(redis_of(server, **fields), authority or server.authority.certificate)
    assert caught.value.remedy
    assert SECRET not in caught.value.message + caught.value.remedy
    return caught.value


def test_redis_lets_dify_in_and_nothing_is_left(cache: Redis) -> None:
    seen = redis_server.look(redis_of(cache), cache.authority.certificate)
    assert seen.version.startswith(("Redis ", "Valkey "))
    assert seen.warnings == ()
    assert cache.ask("INFO", "keyspace").strip() == "# Keyspace"


def test_redis_refuses_in_words(cache: Redis) -> None:
    assert "not of an authority" in redis_refusal(cache, Authority("stranger").certificate).message
    assert "for another name" in redis_refusal(cache, host="localhost").message
    assert "refuses the password of dify" in redis_refusal(cache, password="another-one").message
    half = redis_refusal(cache, user="half")
    assert "may not do all that Dify does" in half.message and "ACL SETUSER half" in half.remedy
    assert "nothing listens" in redis_refusal(cache, port=servers.free_port()).message
    assert "databases 99 and 1 cannot both be used" in redis_refusal(cache, number=99).message
    plain = redis_refusal(cache, tls=False)
    assert "does not answer as Redis does" in plain.message and "rediss://" in plain.remedy


def test_a_redis_without_tls_or_with_a_memory_that_throws_away(cache: Redis) -> None:
    users = f"user dify on >{SECRET} ~* &* +@all"
    with Redis(tls=False, users=users, more="maxmemory 100mb\nmaxmemory-policy allkeys-lru\n") as plain:
        assert "TLS does not come about" in redis_refusal(plain, tls=True).message
        ((seen, _),) = redis_server.look(redis_of(plain), None).warnings
        assert "allkeys-lru" in seen


@pytest.fixture
def watched() -> Iterator[Redis]:
    """A Redis without TLS, as Dify reaches one by sentinels."""
    with Redis(tls=False, users=f"user dify on >{SECRET} ~* &* +@all") as running:
        yield running


def by_sentinels(server: Redis, *sentinels: Sentinel | int, **fields: Any) -> external.Redis:
    addresses = tuple((server.address, each if isinstance(each, int) else each.port) for each in sentinels)
    return redis_of(server, host="nowhere", port=1, sentinels=addresses, service="mymaster", **fields)


def anywhere(*_: object) -> None:
    """Let a server be on loopback, where those of these tests are."""


def test_sentinels_name_the_server_that_is_looked_at(watched: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = servers.free_port()
    with (
        Sentinel("mymaster", watched, password="of-sentinels") as sentinel,
        Sentinel("mymaster", watched, password="of-sentinels") as another,
    ):
        wanted = by_sentinels(watched, sentinel, dead, another, sentinel_password="of-sentinels")
        with pytest.raises(errors.PreflightFailed, match=r"which is 127\.0\.0\.1:\d+ now.*is the container itself"):
            redis_server.look(wanted, None)
        monkeypatch.setattr(reach, "require_not_here", anywhere)
        seen = redis_server.look(wanted, None)
        assert seen.version.startswith(("Redis ", "Valkey "))
        ((told, remedy),) = seen.warnings
        assert f"the sentinel 127.0.0.1:{dead}: nothing listens there" in told and remedy
        assert watched.ask("INFO", "keyspace").strip() == "# Keyspace"


def test_sentinels_refuse_in_words(watched: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "require_not_here", anywhere)
    with (
        Redis(tls=False, users="user dify on >x ~* &* +@all") as other,
        Sentinel("mymaster", watched, password="of-sentinels") as sentinel,
        Sentinel("mymaster", other, password="of-sentinels") as stranger,
    ):

        def refusal(*asked: Sentinel | int, **fields: Any) -> errors.PreflightFailed:
            with pytest.raises(errors.PreflightFailed) as caught:
                redis_server.look(
                    by_sentinels(watched, *asked, **{"sentinel_password": "of-sentinels", **fields}), None
                )
            assert caught.value.remedy and "of-sentinels" not in caught.value.message + caught.value.remedy
            return caught.value

        assert "nothing listens" in refusal(servers.free_port()).message
        wrong = refusal(sentinel, sentinel_password="another-one")
        assert "the sentinel" in wrong.message and "sentinel-password" in wrong.remedy
        nobody = dataclasses.replace(
            by_sentinels(watched, sentinel, sentinel_password="of-sentinels"), service="another"
        )
        with pytest.raises(errors.PreflightFailed, match="knows no service another"):
            redis_server.look(nobody, None)
        assert "do not name the same server" in refusal(sentinel, stranger).message
        assert "refuses the password of dify" in refusal(sentinel, password="wrong").message


def test_a_replica_is_refused(cache: Redis) -> None:
    with Redis(tls=False, users=f"user dify on >{SECRET} ~* &* +@all") as replica:
        replica.ask("REPLICAOF", "127.0.0.1", "1")
        assert "is a replica" in redis_refusal(replica).message
