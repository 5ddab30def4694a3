"""A Dify on a company's own PostgreSQL and Redis: with TLS of their own authority, on another host, few rights."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.e2e.conftest import MachineMaker
from tests.e2e.console import EMAIL, PASSWORD, Console
from tests.e2e.server import Server
from tests.e2e.test_backup import JOURNEYS, inside, printed
from tests.e2e.test_upgrade import carry, versions
from tests.target.bundle import Bundle
from tests.target.neighbour import NEIGHBOUR, Neighbour
from tests.target.newer import NEW, OLD
from tests.target.servers import PASSWORD as OF_SERVERS
from tests.target.servers import Authority, Postgres, Redis, Sentinel

# As a password is that nobody has to write down; in a URL, most of it is encoded.
SECRET, CACHE_SECRET = "Jr7/kP+2:w@9xQ~mT4vZ", "aV9_nB3.xL7-cE5!tR1w"
ENCODED = "Jr7%2FkP%2B2%3Aw%409xQ~mT4vZ"
PORT, CACHE_PORT = 5432, 6380
URL = f"postgresql://dify:{ENCODED}@{NEIGHBOUR}:{PORT}/dify"
CACHE = f"rediss://dify:{CACHE_SECRET}@{NEIGHBOUR}:{CACHE_PORT}/0"
# What Dify's user may do on a Redis that others use as well.
RIGHTS = "~* &* +@all -@admin -@dangerous +info +keys"
ADDRESSES = {"DIFY_INSTALLER_DB_URL": URL, "DIFY_INSTALLER_REDIS_URL": CACHE}
# The rows that the newer release's migration changes, and people's work.
FILL = """
SET ROLE dify;
CREATE TABLE apps (id serial PRIMARY KEY, name text NOT NULL);
INSERT INTO apps (name) SELECT '앱 ' || n FROM generate_series(1, 100) n;
CREATE TABLE written (n bigserial PRIMARY KEY, at timestamptz DEFAULT now());
INSERT INTO written DEFAULT VALUES;
"""
LOSES = """
SET ROLE dify;
CREATE TABLE loses ();
CREATE TABLE messages (id serial PRIMARY KEY, said text NOT NULL);
INSERT INTO messages (said) VALUES ('안녕하세요');
"""
APPS = "SELECT md5(string_agg(a::text, '|' ORDER BY id)) FROM apps a"
# All that runs on the machine, its containers as well, for the whole of an installation: a process a line.
WATCH = """
while [ ! -e /tmp/installed ]; do
    for each in /proc/[0-9]*/cmdline; do tr '\\0\\n' '  ' < $each; echo; done 2>/dev/null; sleep 0.05
done
"""


@dataclass(frozen=True, kw_only=True)
class Company:
    """A server on which nothing is installed yet, and what the company has beside it."""

    server: Server
    database: Postgres
    cache: Redis

    def install(self, *arguments: str, **changed: str) -> Any:
        """Install with the addresses of the environment, some of them changed; the status is the caller's to judge."""
        options = [*self.server.arguments(), "--ca-bundle", f"{self.server.home}/ca.pem", *arguments]
        return self.server.installer(*options, env={**ADDRESSES, **changed})

    def untouched(self) -> bool:
        """Tell whether neither the host nor the company's servers have been changed."""
        left = self.database.sql("SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace", "dify")
        there = self.server.machine.exists(f"{self.server.folder}/docker")
        return left == "0" and not there and "db" not in self.cache.ask("INFO", "keyspace")


@pytest.fixture(scope="module")
def company(request: pytest.FixtureRequest, lasting_machine: MachineMaker, sample: Bundle) -> Iterator[Company]:
    engine, user = request.param.split()
    server = Server(lasting_machine(engine), sample, user, engine=engine)
    Neighbour(server.machine)
    beside = ["nsenter", f"--net=/proc/{server.machine.init()}/root/run/netns/neighbour"]
    users = f"user dify on >{CACHE_SECRET} {RIGHTS}\nuser reader on >{CACHE_SECRET} ~* &* +@read +info +ping"
    with Postgres(NEIGHBOUR, PORT, beside) as database, Redis(NEIGHBOUR, CACHE_PORT, beside, users=users) as cache:
        # No word without TLS, and of the databases none but their own.
        database.let_in("hostssl all all all scram-sha-256")
        database.restart()
        database.sql(
            "REVOKE CONNECT ON DATABASE postgres FROM PUBLIC; REVOKE CONNECT ON DATABASE template1 FROM PUBLIC"
        )
        database.give("dify", SECRET, "dify", "dify_plugin")
        database.sql(f"CREATE ROLE reader LOGIN PASSWORD '{SECRET}'; GRANT CONNECT ON DATABASE dify TO reader")
        for name, content in (
            ("ca.pem", database.authority.certificate + cache.authority.certificate),
            ("stranger.pem", Authority("stranger").certificate),
        ):
            (database.folder / name).write_bytes(content)
            server.put(database.folder / name, name)
        yield Company(server=server, database=database, cache=cache)
    server.machine.destroy()


each_journey = pytest.mark.parametrize("company", JOURNEYS, indirect=True, ids=lambda each: each.replace(" ", "-"))
# What is refused does not depend on the engine.
rootful = pytest.mark.parametrize("company", ["podman root"], indirect=True, ids=["podman-root"])


def check_of(server: Server, *command: str, check: str) -> dict[str, str]:
    """Return the first finding of a name."""
    found = json.loads(server.installer(*command, "--json").stdout)
    return next(each for each in found.get("checks", found.get("findings")) if each["check"] == check)


@rootful
@pytest.mark.parametrize(
    ("changed", "arguments", "said"),
    [
        ({"DIFY_INSTALLER_DB_URL": URL.replace(ENCODED, "wrong")}, (), ["refuses the password", "ALTER ROLE"]),
        ({"DIFY_INSTALLER_DB_URL": URL.replace("dify:", "reader:")}, (), ["may not make tables", "GRANT USAGE"]),
        ({"DIFY_INSTALLER_DB_URL": f"{URL}?sslmode=disable"}, (), ["no encryption", "pg_hba.conf `host dify"]),
        ({"DIFY_INSTALLER_DB_URL": f"{URL}x"}, (), ["no database difyx", "CREATE DATABASE"]),
        ({"DIFY_INSTALLER_DB_URL": URL.replace(str(PORT), "5999")}, (), ["nothing listens there"]),
        ({"DIFY_INSTALLER_REDIS_URL": CACHE.replace(CACHE_SECRET, "wrong")}, (), ["refuses the password", "ACL"]),
        ({"DIFY_INSTALLER_REDIS_URL": CACHE.replace("dify:", "reader:")}, (), ["may not do all", "ACL SETUSER reader"]),
        ({}, ("--ca-bundle", "stranger.pem"), ["is not of an authority that is trusted", "--ca-bundle"]),
    ],
)
def test_what_cannot_be_is_refused_before_the_first_change(
    company: Company, changed: dict[str, str], arguments: tuple[str, ...], said: list[str]
) -> None:
    result = company.install(*arguments, **changed)
    assert result.returncode == 4, result.stderr
    for each in said:
        assert each in result.stderr
    assert not any(secret in result.stderr for secret in (SECRET, ENCODED, CACHE_SECRET))
    assert company.untouched()


@rootful
def test_a_url_on_the_command_line_is_refused_and_not_repeated(company: Company) -> None:
    result = company.server.installer(*company.server.arguments(), "--db-url", URL)
    assert result.returncode == 2
    assert "DIFY_INSTALLER_DB_URL" in result.stderr
    assert ENCODED not in result.stdout + result.stderr
    assert company.untouched()


@each_journey
@pytest.mark.feature(
    "a PostgreSQL and a Redis of the company's own, with TLS", "works; their certificates are compared"
)
def test_install_on_them_ends_healthy_and_nothing_tells_a_password(company: Company) -> None:
    server, database = company.server, company.database
    # The tests hand an environment over on a command line of their own.
    answers = database.folder / "answers.yaml"
    answers.write_text(f"db-url: {URL}\nredis-url: {CACHE}\nadmin-email: {EMAIL}\nadmin-password: {PASSWORD}\n")
    server.put(answers, "answers.yaml", mode=0o600)
    watching = server.machine.start(WATCH)
    try:
        result = server.installer(*server.arguments(), "--ca-bundle", "ca.pem", "--config", "answers.yaml")
    finally:
        server.machine.run("touch /tmp/installed")
    lines = watching.communicate(timeout=60)[0].splitlines()
    assert result.returncode == 0, result.stderr
    # podman-compose hands settings to podman so, which docs/host-changes.md tells.
    seen = "\n".join(line for line in lines if not re.match(r"(\S*/)?podman (\S+ )*?(create|run) ", line))
    assert "dify-installer" in seen
    written = server.run("sh", "-c", f"cat {server.folder}/logs/*.log {server.folder}/install-report.*").stdout
    for secret in (SECRET, ENCODED, CACHE_SECRET):
        for text in (seen, written, result.stdout, result.stderr):
            assert secret not in text
    assert not {"db_postgres", "redis"} & {name.split("_", 1)[-1].removesuffix("_1") for name in server.containers()}
    assert not {"db", "redis"} & set(server.run("ls", f"{server.folder}/docker/volumes").stdout.split())
    checks = {check["check"]: check["level"] for check in server.report()["checks"]}
    assert set(checks.values()) <= {"ok", "info"}
    assert {
        f"api reaches {name} at {NEIGHBOUR}:{port}" for name, port in (("PostgreSQL", PORT), ("Redis", CACHE_PORT))
    } <= set(checks)
    # Each connection of theirs is encrypted, both programs are there, and the rows as well.
    told = "SELECT DISTINCT datname, ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = 'dify'"
    assert "|f" not in database.sql(told)
    assert database.sql("SELECT count(*) FROM records WHERE kind = 'account'", "dify") == "1"
    assert int(database.sql("SELECT count(*) FROM records", "dify_plugin")) >= 0
    Console(server.machine, server.url).login()


@each_journey
def test_the_same_command_again_asks_them_again_and_changes_nothing(company: Company) -> None:
    server = company.server
    containers, env = server.containers(), server.env()
    # The addresses are in `.env` now.
    result = server.installer(*server.arguments())
    assert result.returncode == 0, result.stderr
    assert "run already" in result.stderr
    assert (server.containers(), server.env()) == (containers, env)
    found = check_of(server, "preflight", *server.arguments(), check="postgresql")
    assert found["level"] == "ok"
    assert f"PostgreSQL at {NEIGHBOUR}:{PORT}, version" in found["seen"]
    assert "sslmode=verify-full: dify is there, dify_plugin is there; it holds a Dify" in found["seen"]
    assert (
        "TLS: databases 0 and 1 can be used"
        in check_of(server, "preflight", *server.arguments(), check="redis")["seen"]
    )


@each_journey
def test_status_and_doctor_say_where_they_are(company: Company) -> None:
    server = company.server
    shown = server.installer("status")
    assert shown.returncode == 0, shown.stdout
    assert f"not ours: PostgreSQL at {NEIGHBOUR}:{PORT}, dify and dify_plugin, as dify, verify-full" in shown.stdout
    assert f"not ours: Redis at {NEIGHBOUR}:{CACHE_PORT}" in shown.stdout
    assert not any(secret in shown.stdout for secret in (SECRET, CACHE_SECRET))
    assert check_of(server, "doctor", check="postgresql")["level"] == "ok"
    company.database.stop()
    broken = check_of(server, "doctor", check="postgresql")
    assert (broken["level"], "nothing listens" in broken["seen"]) == ("error", True)
    company.database.start()
    server.await_healthy()
    assert server.installer("doctor", "--bundle", "support.tar.gz").returncode in (0, 6)
    packed = server.run("sh", "-c", "tar -xzOf support.tar.gz").stdout
    assert f"DB_HOST={NEIGHBOUR}" in packed
    assert not any(secret in packed for secret in (SECRET, ENCODED, CACHE_SECRET))


@each_journey
def test_a_backup_says_that_the_rows_are_not_in_it_and_brings_the_rest_back(company: Company) -> None:
    server = company.server
    inside(server, "api", "echo mine > /app/api/storage/mine.txt")
    made = printed(server, "backup", "rest.tar.zst")
    assert f"the database, which is not ours: PostgreSQL at {NEIGHBOUR}:{PORT}" in made["backup"]["left_out"][0]
    assert not any(part["name"].startswith("database/") for part in made["parts"])
    inside(server, "api", "rm /app/api/storage/mine.txt")
    refused = server.installer("restore", "rest.tar.zst")
    assert refused.returncode == 11, refused.stderr
    assert "--db-restored" in refused.stderr
    assert "half a Dify" in refused.stderr
    restored = printed(server, "restore", "rest.tar.zst", "--db-restored")
    assert inside(server, "api", "cat /app/api/storage/mine.txt") == "mine\n"
    server.run("rm", "-rf", restored["kept"])
    Console(server.machine, server.url).login()


@rootful
@pytest.mark.feature("a Redis of the company's own by sentinels, and a failover", "works; Dify follows")
def test_sentinels_are_asked_and_followed(company: Company) -> None:
    beside, users = company.cache.enter, f"user dify on >{CACHE_SECRET} {RIGHTS}"
    login = f"masterauth {OF_SERVERS}\n"
    behind = f"{login}replicaof {NEIGHBOUR} 6391\n"
    with (
        Redis(NEIGHBOUR, 6391, beside, tls=False, users=users, more=login) as first,
        Redis(NEIGHBOUR, 6392, beside, tls=False, users=users, more=behind) as second,
        Sentinel("mymaster", first, 26379, beside, password="of-sentinels") as sentinel,
    ):
        asked = f"sentinel://dify:{CACHE_SECRET}@{NEIGHBOUR}:26379/mymaster/0?sentinel-password="
        wrong = company.install(DIFY_INSTALLER_REDIS_URL=f"{asked}wrong")
        assert wrong.returncode == 4, wrong.stderr
        assert "sentinel-password" in wrong.stderr
        done = company.install(DIFY_INSTALLER_REDIS_URL=f"{asked}of-sentinels")
        assert done.returncode == 0, done.stderr
        assert check_of(company.server, "status", check=f"api reaches the sentinel {NEIGHBOUR}:26379")["level"] == "ok"
        console = Console(company.server.machine, company.server.url)
        console.login()
        assert "db0" in first.ask("INFO", "keyspace")
        until("num-slaves 1", lambda: "num-slaves\n1\n" in sentinel.ask("SENTINEL", "MASTER", "mymaster"))
        assert sentinel.ask("SENTINEL", "FAILOVER", "mymaster").strip() == "OK"
        until("the other one leads", lambda: "role:master" in second.ask("INFO", "replication"))
        until("the first one follows", lambda: "role:slave" in first.ask("INFO", "replication"))
        console.login()
        assert check_of(company.server, "doctor", check="redis")["level"] == "ok"
        back = company.install()
        assert back.returncode == 0, back.stderr
        assert company.server.env()["REDIS_USE_SENTINEL"] == "false"


def until(what: str, holds: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


@each_journey
def test_the_data_survive_an_uninstall(company: Company) -> None:
    server = company.server
    company.database.sql(FILL, "dify")
    apps = company.database.sql(APPS, "dify")
    removed = server.installer("uninstall")
    assert removed.returncode == 0, removed.stderr
    assert f"Not ours, and left as it is, with what Dify has written there: PostgreSQL at {NEIGHBOUR}" in removed.stderr
    assert company.database.sql(APPS, "dify") == apps
    # Its key is in the `.env` that was kept.
    again = server.installer(*server.arguments())
    assert again.returncode == 0, again.stderr
    assert company.database.sql(APPS, "dify") == apps
    Console(server.machine, server.url).login()


@rootful
def test_an_upgrade_that_fails_does_not_start_the_older_one_on_rows_that_it_does_not_know(
    company: Company, newer: Bundle
) -> None:
    server, database = company.server, company.database
    carry(server, newer)
    # The newer release's migration empties a table of people's work.
    database.sql(LOSES, "dify")
    failed = server.installer(*server.arguments(), "--db-copied")
    assert failed.returncode != 0
    assert "tables with people's work are empty: public.messages: 1 before, 0 now" in failed.stderr
    assert f"Dify {OLD} is back in {server.folder}, but not started" in failed.stderr
    assert "have the copy of the database from before the upgrade loaded" in failed.stderr
    assert versions(server) == set()
    # As whoever loads the copy does it.
    database.sql("DROP TABLE loses, messages; UPDATE alembic_version SET version_num = '0003'", "dify")
    started = server.run(f"{server.folder}/bin/dify-installer", "start")
    assert started.returncode == 0, started.stderr
    assert versions(server) == {OLD}
    Console(server.machine, server.url).login()


@rootful
def test_rows_are_changed_by_an_upgrade_only_when_there_is_a_copy(company: Company, newer: Bundle) -> None:
    server = company.server
    apps = company.database.sql(APPS, "dify")
    carry(server, newer)
    refused = server.installer(*server.arguments())
    assert refused.returncode == 4, refused.stderr
    assert "--db-copied" in refused.stderr
    assert "pg_dump" in refused.stderr
    assert versions(server) == {OLD}
    copies = company.database.dump("dify", "dify_plugin")
    done = server.installer(*server.arguments(), "--db-copied")
    assert done.returncode == 0, done.stderr
    assert versions(server) == {NEW}
    assert company.database.sql(APPS, "dify") == apps
    (rows,) = (step["seen"] for step in server.report()["steps"] if step["name"] == "rows")
    assert "0 tables have fewer than before" in rows
    back = server.installer("rollback")
    assert back.returncode == 4, back.stderr
    assert "--db-restored" in back.stderr
    assert versions(server) == {NEW}
    # As the refusal says it.
    assert server.installer("stop").returncode == 0
    company.database.restore(copies)
    back = server.installer("rollback", "--db-restored")
    assert back.returncode == 0, back.stderr
    assert versions(server) == {OLD}
    assert company.database.sql(APPS, "dify") == apps
    Console(server.machine, server.url).login()
    carry(server, server.bundle)


@rootful
def test_a_dify_whose_key_is_gone_is_not_taken_for_ones_own(company: Company) -> None:
    server = company.server
    key = server.env()["SECRET_KEY"]
    assert server.installer("uninstall", "--purge-data", "dify").returncode == 0
    refused = company.install()
    assert refused.returncode == 4, refused.stderr
    assert "--set SECRET_KEY" in refused.stderr
    assert not server.machine.exists(f"{server.folder}/docker")
    done = company.install("--set", f"SECRET_KEY={key}")
    assert done.returncode == 0, done.stderr
    Console(server.machine, server.url).login()


@rootful
def test_databases_that_are_missing_are_made_where_their_user_may(company: Company) -> None:
    server, database = company.server, company.database
    assert server.installer("uninstall", "--purge-data", "dify").returncode == 0
    for name in ("dify", "dify_plugin"):
        database.sql(f"DROP DATABASE {name} WITH (FORCE)")
    refused = company.install()
    assert refused.returncode == 4, refused.stderr
    assert 'CREATE DATABASE "dify" OWNER "dify"' in refused.stderr
    database.sql("ALTER ROLE dify CREATEDB; GRANT CONNECT ON DATABASE postgres TO dify")
    done = company.install()
    assert done.returncode == 0, done.stderr
    (made,) = (step["seen"] for step in server.report()["steps"] if step["name"] == "database")
    assert made == f"dify and dify_plugin made at PostgreSQL at {NEIGHBOUR}:{PORT}"
    assert json.loads(server.get("/console/api/setup").stdout)["step"] == "not_started"


@rootful
def test_what_this_host_reaches_and_the_containers_do_not_is_told(company: Company) -> None:
    server = company.server
    shut = "nft add chain inet company shut '{ type filter hook forward priority -200; }'"
    server.machine.run(
        f"nft add table inet company && {shut} && nft add rule inet company shut ip daddr {NEIGHBOUR} drop"
    )
    failed = company.install("--set", "LOG_LEVEL=DEBUG", DIFY_INSTALLER_TIMEOUT="40")
    assert failed.returncode == 6, failed.stderr
    assert f"this host reaches what Dify's containers do not (PostgreSQL at {NEIGHBOUR}:{PORT}: " in failed.stderr
    assert "let the containers through" in failed.stderr
    # While the stack starts, what does not answer yet is a warning.
    found = check_of(server, "status", check=f"api reaches PostgreSQL at {NEIGHBOUR}:{PORT}")
    assert found["level"] in ("warning", "error")
    assert "no answer in time" in found["seen"]
    server.machine.run("nft delete table inet company")
    done = company.install()
    assert done.returncode == 0, done.stderr
