"""A database in a container, as far as a backup needs it: its snapshot with the rows in it, its dump, and back again.

What a kind of server does its own way is in `postgresql` and `mysql`; which one an installation has is in `databases`.
Both are asked by their own clients, inside of their container.
"""

from __future__ import annotations

import abc
import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from installer.core import errors
from installer.core.runner import Result, Runner
from installer.engine.base import Engine
from installer.stack import state

ASK_SECONDS = 120.0
END = "end of the rows"


@dataclass(frozen=True, kw_only=True, slots=True)
class Database(abc.ABC):
    """A database of a server that runs in a container."""

    container: str
    user: str
    name: str
    password: str = field(default="", repr=False)

    @abc.abstractmethod
    def command(self, engine: Engine, program: str, *arguments: str) -> list[str]:
        """Return the command line, on this host, of a client inside of the container."""

    @abc.abstractmethod
    def runner(self, engine: Engine) -> Runner:
        """Return what runs the command lines of `command`."""

    @abc.abstractmethod
    def ask(self, question: str, engine: Engine) -> Result:
        """Ask a question; what the client prints has a line a row. Raises CommandFailed."""

    @abc.abstractmethod
    def answers(self, engine: Engine) -> bool:
        """Tell whether the server takes a question at this moment."""

    @abc.abstractmethod
    def list_names(self, engine: Engine) -> list[str]:
        """Return the names of all databases of the server. Raises CommandFailed."""

    @abc.abstractmethod
    def create(self, name: str, engine: Engine) -> None:
        """Make another database on the same server. Raises CommandFailed."""

    @abc.abstractmethod
    def measure(self, engine: Engine) -> int:
        """Return how many bytes it takes on the disk, about. Raises CommandFailed."""

    @abc.abstractmethod
    def count_rows(self, engine: Engine) -> dict[str, int]:
        """Return the rows of each table, as they are now. Raises CommandFailed, ValueError for half an answer."""

    @abc.abstractmethod
    def hold_snapshot(self, engine: Engine) -> AbstractContextManager[Snapshot]:
        """Hold a state while the block runs, and count its rows. The context raises CommandFailed."""

    @abc.abstractmethod
    def fill(self, pieces: Iterable[bytes], engine: Engine) -> None:
        """Read a dump of this kind of server into it, which is empty. Raises CommandFailed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """A state of a database: its rows by table, and the pieces of its dump as SQL, which are read to their end.

    The dump raises CommandFailed when it ends too soon.
    """

    database: Database
    rows: Mapping[str, int]
    dump: Callable[[], AbstractContextManager[Iterator[bytes]]] = field(repr=False)


@contextlib.contextmanager
def telling_of_its_end(database: Database, engine: Engine) -> Iterator[None]:
    """Say of a failure of the block that the database has stopped, if it has: its clients end without a word then."""
    begun = int(time.time())
    try:
        yield
    except errors.CommandFailed as error:
        server = next((each for each in state.list_containers(engine) if each.name == database.container), None)
        if server is not None and server.started <= begun and database.answers(engine):
            raise
        now = "it is gone" if server is None else f"{server.state}, status {server.exit_code}"
        raise errors.CommandFailed(
            f"{database.container}, the database, has stopped in the middle ({now}), and with it what was being done",
            f"`{engine.name} logs {database.container}` says why; start it unless it comes back by itself, and run the "
            "same command again",
        ) from error
