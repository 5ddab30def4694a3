"""MySQL by its own dump and its own client; MariaDB's, which have the same names, do as well.

The password comes to the client as MYSQL_PWD, by the name of the variable alone: it is on no command line (MySQL's
manual, "Environment Variables"; `podman exec --env NAME` and docker's take the value from their own environment).
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO

from installer.backup import database, file, pipes
from installer.backup.database import ASK_SECONDS, END, Database, Snapshot
from installer.core import errors
from installer.core.runner import PIPE, Child, Result, Runner
from installer.engine.base import Engine

PASSWORD_VARIABLE = "MYSQL_PWD"  # noqa: S105 - the name of it
# Rows alone, fields apart by a tab, each answer at once, and an end at the first error.
QUIET = ("--batch", "--skip-column-names", "--unbuffered", "--default-character-set=utf8mb4")
TAB = "\t"
# A row is one statement, and may be as large as the protocol lets it be (the manual, "max_allowed_packet").
LARGEST_STATEMENT = 1024 * 1024 * 1024
# One transaction sees one state. Bytes as hexadecimal digits survive any character set. MariaDB's dump does not know
# the option that begins with "loose", and goes on without it (the manual, "Program Option Modifiers").
DUMP = (
    *("--single-transaction", "--quick", "--hex-blob", "--routines", "--triggers", "--no-tablespaces"),
    *("--loose-set-gtid-purged=OFF", "--default-character-set=utf8mb4", f"--max-allowed-packet={LARGEST_STATEMENT}"),
)
# "Access denied" (the manual's list of errors of the server, 1045).
REFUSED = "ERROR 1045"
# With nobody writing, two transactions that begin see the same state: this one, and the dump's. The end of the lock
# ends none of them (the manual, "Interaction of Table Locking and Transactions"). We wait no longer than this for a
# statement to end, since everybody else waits behind us.
LOCK = """SET SESSION lock_wait_timeout = 60;
SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ;
FLUSH TABLES WITH READ LOCK;
START TRANSACTION WITH CONSISTENT SNAPSHOT;
"""
TABLES = """SELECT table_name FROM information_schema.tables
WHERE table_schema = DATABASE() AND table_type = 'BASE TABLE' ORDER BY table_name;
"""
# A dump has begun its transaction when it tells of the first table.
FIRST_TABLE = b"-- Table structure"
PIPE_BYTES = 64 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Mysql(Database):
    """A database of MySQL, asked over TCP: by its socket the official image already answers while it is being made."""

    def command(self, engine: Engine, program: str, *arguments: str) -> list[str]:
        inside = [engine.name, "exec", "--interactive", "--env", PASSWORD_VARIABLE, self.container]
        return [*inside, program, "--host=127.0.0.1", f"--user={self.user}", *arguments, self.name]

    def runner(self, engine: Engine) -> Runner:
        engine.runner.hide([self.password])
        return engine.runner.also({PASSWORD_VARIABLE: self.password})

    def ask(self, question: str, engine: Engine) -> Result:
        command = self.command(engine, "mysql", *QUIET, f"--execute={question}")
        return self.runner(engine).run(command, timeout=ASK_SECONDS)

    def answers(self, engine: Engine) -> bool:
        """Tell whether the server takes a question; one that refuses the password does."""
        command = self.command(engine, "mysql", *QUIET, "--execute=SELECT 1")
        result = self.runner(engine).run(command, timeout=ASK_SECONDS, check=False)
        return result.ok or REFUSED in result.stderr

    def list_names(self, engine: Engine) -> list[str]:
        return self.ask("SHOW DATABASES", engine).stdout.splitlines()

    def create(self, name: str, engine: Engine) -> None:
        self.ask(f"CREATE DATABASE {_quoted(name)} CHARACTER SET utf8mb4", engine)

    def measure(self, engine: Engine) -> int:
        """Return how many bytes it takes on the disk, as the server estimates it. Raises CommandFailed."""
        question = "SELECT COALESCE(SUM(data_length + index_length), 0) FROM information_schema.tables"
        return int(self.ask(f"{question} WHERE table_schema = DATABASE()", engine).stdout.strip())

    def count_rows(self, engine: Engine) -> dict[str, int]:
        tables = self.ask(TABLES, engine).stdout.splitlines()
        command = self.command(engine, "mysql", *QUIET)
        counted = self.runner(engine).run(command, timeout=ASK_SECONDS, input=_counting(tables))
        return _as_rows(counted.stdout.splitlines())

    @contextlib.contextmanager
    def hold_snapshot(self, engine: Engine) -> Iterator[Snapshot]:
        """Hold a state of it: its dump has begun by then, and waits in its pipe. Raises CommandFailed.

        Who writes waits for a moment, until both transactions have begun.
        """
        runner = self.runner(engine)
        with (
            database.telling_of_its_end(self, engine),
            runner.started(self.command(engine, "mysql", *QUIET), stdin=PIPE) as child,
            tempfile.TemporaryFile() as told,
            contextlib.ExitStack() as stack,
        ):
            session = _Session(child)
            try:
                session.ask(LOCK)
                dumping = stack.enter_context(
                    runner.started(self.command(engine, "mysqldump", *DUMP), stderr=told, text=False)
                )
                begin = _read_first_table(dumping)
                tables = session.ask(f"UNLOCK TABLES;\n{TABLES}")
                rows = _as_rows(session.ask(_counting(tables)))
            except (OSError, ValueError) as error:
                words = runner.mask(session.last_words())
                message = f"MySQL gives no snapshot of {self.name}: {words}"
                raise errors.CommandFailed(
                    message, "it is asked as DB_USERNAME and DB_PASSWORD of .env say; see its log as well"
                ) from error
            yield Snapshot(database=self, rows=rows, dump=functools.partial(self._dump, dumping, begin, told, engine))

    @contextlib.contextmanager
    def _dump(self, child: Child, begin: bytes, told: IO[bytes], engine: Engine) -> Iterator[Iterator[bytes]]:
        """Give the rest of a dump that has begun. Raises CommandFailed when it ends too soon."""
        yield itertools.chain([begin], file.in_pieces(_bytes_of(child)))
        status = child.wait()
        told.seek(0)
        runner = self.runner(engine)
        result = runner.ended(tuple(map(str, child.args)), status, told.read(), 0.0)  # type: ignore[arg-type]
        if status != 0:
            raise runner.failure(result, pipes.REMEDY)

    def fill(self, pieces: Iterable[bytes], engine: Engine) -> None:
        """Read a dump into it; where that fails, the tables are there up to then. Raises CommandFailed.

        As long as it takes, the server takes statements of any size.
        """
        limit = self.ask("SELECT @@GLOBAL.max_allowed_packet", engine).stdout.strip()
        self.ask(f"SET GLOBAL max_allowed_packet = {LARGEST_STATEMENT}", engine)
        try:
            command = self.command(engine, "mysql", *QUIET, f"--max-allowed-packet={LARGEST_STATEMENT}")
            pipes.feed(command, pieces, self.runner(engine))
        finally:
            # Where the server has stopped meanwhile, it begins again with its own.
            with contextlib.suppress(errors.CommandFailed):
                self.ask(f"SET GLOBAL max_allowed_packet = {int(limit)}", engine)


class _Session:
    """A client that is asked one question after the other. Its methods raise OSError and ValueError when it ends."""

    def __init__(self, child: Child) -> None:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stderr is not None
        self._questions, self._answers, self._words = child.stdin, child.stdout, child.stderr

    def ask(self, statements: str) -> list[str]:
        """Return the lines that statements answer with."""
        self._questions.write(f"{statements}SELECT '{END}';\n")
        self._questions.flush()
        lines: list[str] = []
        for line in iter(self._answers.readline, ""):
            if line.rstrip("\n") == END:
                return lines
            lines.append(line.rstrip("\n"))
        raise ValueError("mysql has ended")

    def last_words(self) -> str:
        """Return why it has ended; one that has not is ended by that."""
        self._questions.close()
        return self._words.read().strip()


def _bytes_of(child: Child) -> IO[bytes]:
    assert child.stdout is not None
    return child.stdout  # type: ignore[return-value]  # bytes, since text is off


def _read_first_table(child: Child) -> bytes:
    """Return what a dump begins with, up to its first table or its end."""
    begin = b""
    while FIRST_TABLE not in begin and (piece := os.read(_bytes_of(child).fileno(), PIPE_BYTES)):
        begin += piece
    return begin


def _counting(tables: Iterable[str]) -> str:
    """Return the statements that give a row for each table: its name and how many rows it has."""
    # Both ways in which the name stands there are quoted.
    return "".join(f"SELECT {_text(each)}, COUNT(*) FROM {_quoted(each)};\n" for each in tables)  # noqa: S608


def _as_rows(lines: Iterable[str]) -> dict[str, int]:
    """Return rows by table. Raises ValueError for a line that has no number."""
    fields = (line.rpartition(TAB) for line in lines)
    return {table: int(number) for table, _, number in fields}


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def _text(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"
