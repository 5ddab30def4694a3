"""PostgreSQL's own dump and its own client, inside of its container: a snapshot, the rows in it, and back again.

Inside, the client needs no password: the official image trusts the local socket (docker-library/postgres,
docker-entrypoint.sh, `initdb --auth-local=trust` by default).
"""

from __future__ import annotations

import contextlib
import re
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO

from installer.core import errors
from installer.core.runner import PIPE, Result
from installer.engine.base import Container, Engine
from installer.release import dify
from installer.stack import state

ASK_SECONDS = 120.0
# The plugin daemon's own database, beside Dify's (.env.example).
PLUGINS_KEY, PLUGINS_DEFAULT = "DB_PLUGIN_DATABASE", "dify_plugin"
POSTGRESQL = "postgresql"
# One transaction sees one state; what it exports, pg_dump sees as well (PostgreSQL's manual, "Snapshot
# Synchronization Functions").
BEGIN = "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY;\nSELECT pg_export_snapshot();\n"
# A row for each table: its name and how many rows it has.
COUNT = r"""SELECT format('SELECT %L, count(*) FROM %I.%I', schemaname || '.' || tablename, schemaname, tablename)
FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1 \gexec
"""
END = "end of the rows"


@dataclass(frozen=True, kw_only=True, slots=True)
class Database:
    """A database in a container."""

    container: str
    user: str
    name: str

    def command(self, engine: Engine, program: str, *arguments: str) -> list[str]:
        """Return the command line, on this host, of a client of PostgreSQL inside of the container."""
        options = ["--username", self.user, "--dbname", self.name]
        return [engine.name, "exec", "--interactive", self.container, program, *options, *arguments]


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """A state of a database that others may read while its transaction is open, and its rows by table."""

    database: Database
    id: str
    rows: Mapping[str, int]


def require_postgresql(variables: Mapping[str, str]) -> None:
    """Raise UsageError when the database is of another kind."""
    kind = variables.get(dify.DB_TYPE, POSTGRESQL)
    if kind != POSTGRESQL:
        raise errors.UsageError(
            f"the database is {kind}, and only PostgreSQL can be backed up", "use the database's own tools"
        )


def find_server(variables: Mapping[str, str], found: Iterable[Container]) -> Container:
    """Return the container of an installation of ours that runs PostgreSQL.

    Raises CommandFailed when it does not run, UsageError when the database is of another kind.
    """
    require_postgresql(variables)
    service = dify.DATABASES[POSTGRESQL]["DB_HOST"]
    container = next((each for each in found if each.service == service and each.state == "running"), None)
    if container is None:
        raise errors.CommandFailed(f"{service} does not run", "start the stack: dify-installer start")
    return container


def find_databases(server: Container, variables: Mapping[str, str], engine: Engine) -> list[Database]:
    """Return the databases that a server has of a Dify: its own, and the plugin daemon's. Raises CommandFailed."""
    user = variables.get("DB_USERNAME") or "postgres"
    any_of_it = Database(container=server.name, user=user, name="postgres")
    listed = ask(any_of_it, "SELECT datname FROM pg_database", engine).stdout.split()
    names = [variables.get("DB_DATABASE") or "dify", variables.get(PLUGINS_KEY) or PLUGINS_DEFAULT]
    return [Database(container=server.name, user=user, name=name) for name in names if name in listed]


def measure(each: Database, engine: Engine) -> int:
    """Return how many bytes a database takes on the disk. Raises CommandFailed."""
    return int(ask(each, "SELECT pg_database_size(current_database())", engine).stdout.strip())


def make_empty(name: str, variables: Mapping[str, str], found: Iterable[Container], engine: Engine) -> Database:
    """Return an empty database of this name, made if it is missing. Raises CommandFailed when it holds tables."""
    service = dify.DATABASES[POSTGRESQL]["DB_HOST"]
    container = next(each.name for each in found if each.service == service)
    user = variables.get("DB_USERNAME", "postgres")
    server = Database(container=container, user=user, name="postgres")
    target = Database(container=container, user=user, name=name)
    if name not in ask(server, "SELECT datname FROM pg_database", engine).stdout.split():
        ask(server, f'CREATE DATABASE "{name}"', engine)
    elif rows := count_rows(target, engine):
        raise errors.CommandFailed(f"the database {name} is not empty: it has {len(rows)} tables", "report it")
    return target


def ask(database: Database, question: str, engine: Engine) -> Result:
    """Ask a question, and return what psql prints: a line a row, fields apart by a bar. Raises CommandFailed."""
    command = database.command(engine, "psql", *QUIET, "--command", question)
    return engine.runner.run(command, timeout=ASK_SECONDS)


# No start file, rows alone, and an end at the first error.
QUIET = ("--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set", "ON_ERROR_STOP=1")


@contextlib.contextmanager
def hold_snapshot(database: Database, engine: Engine) -> Iterator[Snapshot]:
    """Hold a state of a database while the block runs, and count its rows. Raises CommandFailed."""
    command = database.command(engine, "psql", *QUIET)
    with telling_of_its_end(database, engine), engine.runner.started(command, stdin=PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stderr is not None
        try:
            child.stdin.write(f"{BEGIN}{COUNT}\\echo {END}\n")
            child.stdin.flush()
            identity = child.stdout.readline().strip()
            rows = dict(_rows(iter(child.stdout.readline, "")))
        except (OSError, ValueError):
            identity, rows = "", {}
        if not identity or child.poll() is not None:
            words = engine.runner.mask(child.stderr.read().strip())
            raise errors.CommandFailed(f"PostgreSQL gives no snapshot of {database.name}: {words}", "see its log")
        yield Snapshot(database=database, id=identity, rows=rows)


def _rows(lines: Iterator[str]) -> Iterator[tuple[str, int]]:
    for line in lines:
        if line.strip() == END:
            return
        table, _, number = line.strip().rpartition("|")
        yield table, int(number)
    raise ValueError("psql has ended")


def count_rows(database: Database, engine: Engine) -> dict[str, int]:
    """Return the rows of each table, as they are now. Raises CommandFailed."""
    command = database.command(engine, "psql", *QUIET)
    result = engine.runner.run(command, timeout=ASK_SECONDS, input=f"{COUNT}\\echo {END}\n")
    return dict(_rows(iter(result.stdout.splitlines())))


@contextlib.contextmanager
def dump(snapshot: Snapshot, engine: Engine) -> Iterator[IO[bytes]]:
    """Give the dump of a snapshot as SQL; large objects are in it. Raises CommandFailed when it ends too soon."""
    options = ["--snapshot", snapshot.id, "--no-owner", "--no-privileges"]
    command = snapshot.database.command(engine, "pg_dump", *options)
    with telling_of_its_end(snapshot.database, engine), streaming(command, engine) as stream:
        yield stream


@contextlib.contextmanager
def telling_of_its_end(database: Database, engine: Engine) -> Iterator[None]:
    """Say of a failure of the block that the database has stopped, if it has: its clients end without a word then."""
    begun = int(time.time())
    try:
        yield
    except errors.CommandFailed as error:
        server = next((each for each in state.list_containers(engine) if each.name == database.container), None)
        if server is not None and server.started <= begun and _answers(database, engine):
            raise
        now = "it is gone" if server is None else f"{server.state}, status {server.exit_code}"
        raise errors.CommandFailed(
            f"{database.container}, the database, has stopped in the middle ({now}), and with it what was being done",
            f"`{engine.name} logs {database.container}` says why; start it unless it comes back by itself, and run the "
            "same command again",
        ) from error


def _answers(database: Database, engine: Engine) -> bool:
    with contextlib.suppress(errors.CommandFailed):
        return ask(database, "SELECT 1", engine).stdout.strip() == "1"
    return False


# Since August 2025 a dump begins and ends with a word that keeps its text from having psql do something else
# (CVE-2025-8714); a psql from before does not know it. What we read has been proved.
RESTRICT = re.compile(rb"(?m)^\\(?:un)?restrict [A-Za-z0-9]+\n")


def readable(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Give the pieces of a dump, cut at ends of lines, without what an older psql does not know."""
    rest = b""
    for piece in pieces:
        whole, newline, rest = (rest + piece).rpartition(b"\n")
        text = whole + newline
        yield RESTRICT.sub(b"", text) if b"restrict " in text else text
    yield RESTRICT.sub(b"", rest)


@contextlib.contextmanager
def streaming(command: Sequence[str], engine: Engine, accepted: Sequence[int] = (0,)) -> Iterator[IO[bytes]]:
    """Give the output of a program; it must end with an accepted status, else CommandFailed is raised."""
    with tempfile.TemporaryFile() as told:
        with engine.runner.started(command, stderr=told, text=False) as child:
            stream: IO[bytes] = child.stdout  # type: ignore[assignment]  # bytes, since text is off
            yield stream
            status = child.wait()
        told.seek(0)
        result = engine.runner.ended(command, status, told.read(), 0.0)
    if status not in accepted:
        raise engine.runner.failure(result, "fix what it says, and run the same command again")
