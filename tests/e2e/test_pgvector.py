"""A Dify that keeps its vectors in a company's own PostgreSQL with pgvector: TLS, on another host, few rights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import MachineMaker, alone
from tests.e2e.server import Server
from tests.e2e.test_backup import inside, printed
from tests.e2e.test_external import ENCODED, SECRET, check_of
from tests.target import servers
from tests.target.bundle import Bundle
from tests.target.neighbour import NEIGHBOUR, Neighbour
from tests.target.servers import Authority, Postgres

PORT = 5433
URL = f"postgresql://dify:{ENCODED}@{NEIGHBOUR}:{PORT}/vectors"
PLACE = f"PostgreSQL at {NEIGHBOUR}:{PORT}, vectors"
# What the api's driver does with the variables of its environment: psycopg2 is that of the sample's api, too.
REACHES = """
import os, psycopg2
names = {"host": "HOST", "port": "PORT", "user": "USER", "password": "PASSWORD", "dbname": "DATABASE"}
connection = psycopg2.connect(**{name: os.environ["PGVECTOR_" + key] for name, key in names.items()})
cursor = connection.cursor()
cursor.execute("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
print(cursor.fetchone()[0], os.environ["PGSSLMODE"], os.environ["VECTOR_STORE"])
cursor.execute("CREATE TABLE embedding_one (id uuid, embedding vector(2)) USING heap")
connection.commit()
"""


@dataclass(frozen=True, kw_only=True)
class Company:
    """A server, and the PostgreSQL with pgvector that the company has beside it."""

    server: Server
    database: Postgres

    def install(self, *arguments: str, url: str = URL, ca: str = "ca.pem") -> Any:
        """Install with the address in the environment; the status is the caller's to judge."""
        options = [*self.server.arguments(), "--ca-bundle", f"{self.server.home}/{ca}", *arguments]
        return self.server.installer(*options, env={"DIFY_INSTALLER_VECTOR_URL": url})

    def tables(self) -> str:
        """Return what is in the database."""
        return self.database.sql(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace "
            "UNION SELECT extname FROM pg_extension WHERE extname <> 'plpgsql' ORDER BY 1",
            "vectors",
        )


@pytest.fixture(scope="module")
def company(lasting_machine: MachineMaker, sample: Bundle, work: Path) -> Iterator[Company]:
    with alone(work / "root-pgvector.lock"):
        root = servers.root_with_pgvector(work)
    server = Server(lasting_machine(), sample)
    Neighbour(server.machine)
    beside = ["nsenter", f"--net=/proc/{server.machine.init()}/root/run/netns/neighbour"]
    with Postgres(NEIGHBOUR, PORT, beside, root=root) as database:
        database.let_in("hostssl all all all scram-sha-256")
        database.restart()
        database.give("dify", SECRET, "vectors")
        for name, content in (
            ("ca.pem", database.authority.certificate),
            ("stranger.pem", Authority("stranger").certificate),
        ):
            (database.folder / name).write_bytes(content)
            server.put(database.folder / name, name)
        yield Company(server=server, database=database)


def test_what_cannot_be_is_refused_before_the_first_change(company: Company) -> None:
    database = company.database
    database.sql("CREATE ROLE reader LOGIN PASSWORD '" + SECRET + "'")
    cases: list[tuple[str, str, list[str]]] = [
        (URL.replace(ENCODED, "wrong"), "ca.pem", ["refuses the password", "--vector-url"]),
        (URL.replace("dify:", "reader:"), "ca.pem", ["the extension vector is missing", "CREATE EXTENSION"]),
        (URL.replace("/vectors", "/none"), "ca.pem", ["no database none", "CREATE DATABASE"]),
        (URL, "stranger.pem", ["is not of an authority that is trusted", "--ca-bundle"]),
    ]
    for url, ca, said in cases:
        result = company.install(url=url, ca=ca)
        assert result.returncode == 4, result.stderr
        for each in said:
            assert each in result.stderr
        assert SECRET not in result.stderr and ENCODED not in result.stderr
        assert not company.server.machine.exists(f"{company.server.folder}/docker")
        assert company.tables() == ""


@pytest.mark.feature("a PostgreSQL with pgvector of the company's own, with TLS", "works; its certificate is compared")
def test_install_on_it_ends_healthy_without_a_vector_store(company: Company) -> None:
    server = company.server
    # What an administrator does where the extension is not a trusted one.
    company.database.sql("CREATE EXTENSION IF NOT EXISTS vector", "vectors")
    result = company.install()
    assert result.returncode == 0, result.stderr
    names = {name.split("_", 1)[-1].removesuffix("_1") for name in server.containers()}
    assert "db_postgres" in names
    assert not {"weaviate", "pgvector"} & names
    checks = {check["check"]: check["level"] for check in server.report()["checks"]}
    assert set(checks.values()) <= {"ok", "info"}
    assert f"api reaches PostgreSQL at {NEIGHBOUR}:{PORT}" in checks
    assert inside(server, "api", f"python3 -c '{REACHES}'") == "True verify-full pgvector\n"
    assert company.tables() == "embedding_one\nvector"


def test_the_same_command_again_asks_it_again_and_changes_nothing(company: Company) -> None:
    server = company.server
    containers, env = server.containers(), server.env()
    assert "run already" in server.install().stderr
    assert (server.containers(), server.env()) == (containers, env)
    found = check_of(server, "doctor", check="vectors")
    assert (found["level"], "pgvector 0." in found["seen"]) == ("ok", True)
    assert f"not ours: {PLACE}" in server.installer("status").stdout
    refused = server.installer("preflight", *server.arguments(), "--set", "VECTOR_STORE=weaviate")
    assert refused.returncode == 4
    assert "stays with the store that it was made with" in refused.stdout


def test_a_backup_and_the_end_of_the_installation_leave_the_vectors_where_they_are(company: Company) -> None:
    server = company.server
    made = printed(server, "backup", "rest.tar.zst")
    assert f"the vectors, which are not ours: {PLACE}" in made["backup"]["left_out"][0]
    removed = server.installer("uninstall", "--purge-data", "dify")
    assert PLACE in removed.stderr
    assert company.tables() == "embedding_one\nvector"
