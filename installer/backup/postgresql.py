"""PostgreSQL by its own dump and its own client.

Inside of its container the client needs no password: the official image trusts the local socket (docker-library/
postgres, docker-entrypoint.sh, `initdb --auth-local=trust` by default).
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from installer.backup import database, file, pipes
from installer.backup.database import ASK_SECONDS, END, Database, Snapshot
from installer.core import errors
from installer.core.runner import PIPE, Result, Runner
from installer.engine.base import Engine

# One transaction sees one state; what it exports, pg_dump sees as well (PostgreSQL's manual, "Snapshot
# Synchronization Functions").
BEGIN = "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY;\nSELECT pg_export_snapshot();\n"
# A row for each table: its name and how many rows it has.
COUNT = r"""SELECT format('SELECT %L, count(*) FROM %I.%I', schemaname || '.' || tablename, schemaname, tablename)
FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1 \gexec
"""
# No start file, rows alone, fields apart by a bar, and an end at the first error.
QUIET = ("--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set", "ON_ERROR_STOP=1")
BAR = "|"


@dataclass(frozen=True, kw_only=True, slots=True)
class Postgresql(Database):
    """A database of PostgreSQL."""

    def command(self, engine: Engine, program: str, *arguments: str) -> list[str]:
        options = ["--username", self.user, "--dbname", self.name]
        return [engine.name, "exec", "--interactive", self.container, program, *options, *arguments]

    def runner(self, engine: Engine) -> Runner:
        return engine.runner

    def ask(self, question: str, engine: Engine) -> Result:
        return engine.runner.run(self.command(engine, "psql", *QUIET, "--command", question), timeout=ASK_SECONDS)

    def answers(self, engine: Engine) -> bool:
        with contextlib.suppress(errors.CommandFailed):
            return self.ask("SELECT 1", engine).stdout.strip() == "1"
        return False

    def list_names(self, engine: Engine) -> list[str]:
        return self.ask("SELECT datname FROM pg_database", engine).stdout.split()

    def create(self, name: str, engine: Engine) -> None:
        self.ask(f'CREATE DATABASE "{name}"', engine)

    def measure(self, engine: Engine) -> int:
        return int(self.ask("SELECT pg_database_size(current_database())", engine).stdout.strip())

    def count_rows(self, engine: Engine) -> dict[str, int]:
        command = self.command(engine, "psql", *QUIET)
        result = engine.runner.run(command, timeout=ASK_SECONDS, input=f"{COUNT}\\echo {END}\n")
        return dict(_rows(iter(result.stdout.splitlines())))

    @contextlib.contextmanager
    def hold_snapshot(self, engine: Engine) -> Iterator[Snapshot]:
        """Hold a state of it in a transaction that stays open, and that pg_dump joins. Raises CommandFailed."""
        command = self.command(engine, "psql", *QUIET)
        with database.telling_of_its_end(self, engine), engine.runner.started(command, stdin=PIPE) as child:
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
                raise errors.CommandFailed(f"PostgreSQL gives no snapshot of {self.name}: {words}", "see its log")
            yield Snapshot(database=self, rows=rows, dump=functools.partial(self._dump, identity, engine))

    @contextlib.contextmanager
    def _dump(self, snapshot: str, engine: Engine) -> Iterator[Iterator[bytes]]:
        """Give the dump of a snapshot; large objects are in it. Raises CommandFailed when it ends too soon."""
        options = ["--snapshot", snapshot, "--no-owner", "--no-privileges"]
        command = self.command(engine, "pg_dump", *options)
        with database.telling_of_its_end(self, engine), pipes.streaming(command, engine.runner) as stream:
            yield file.in_pieces(stream)

    def fill(self, pieces: Iterable[bytes], engine: Engine) -> None:
        """Read a dump into it, all of it or nothing. Raises CommandFailed."""
        command = self.command(engine, "psql", *QUIET, "--single-transaction", "--output", "/dev/null")
        pipes.feed(command, readable(pieces), engine.runner)


def _rows(lines: Iterator[str]) -> Iterator[tuple[str, int]]:
    for line in lines:
        if line.strip() == END:
            return
        table, _, number = line.strip().rpartition(BAR)
        yield table, int(number)
    raise ValueError("psql has ended")


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
