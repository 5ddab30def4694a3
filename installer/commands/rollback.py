"""Goes back to the version before an upgrade, with its data as they were then, while that is kept."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from typing import Any

from installer.backup import exchange
from installer.commands import back
from installer.core import errors, layout, lock, logfile
from installer.core.console import Console
from installer.core.runner import Runner
from installer.engine import choose
from installer.engine.base import Engine
from installer.release import env_history, envfile, external
from installer.system import leftovers
from installer.upgrade import kept
from installer.upgrade.kept import Record


@dataclass(frozen=True, kw_only=True, slots=True)
class RolledBack:
    """A way back; `aside` is where all is that was written since the upgrade."""

    dify: str
    left: str  # the version that ran until now
    aside: str
    since: str  # when the copy was made that runs now
    seconds: float


def rollback(
    place: layout.Installation, timeout: float, runner: Runner, console: Console, *, restored: bool = False
) -> RolledBack:
    """Put the version before the last upgrade in its place again, and wait until it answers.

    What was written since goes aside, as a whole, and is never removed. The same call again goes on where one was
    interrupted. `restored` says that the rows of a database that is not ours are those from before. Raises UsageError
    when nothing is kept, PreflightFailed when images of that version are gone or nobody says that of the rows,
    CommandFailed, NotHealthy, AlreadyRunning.
    """
    memory = logfile.begin()
    begun = time.monotonic()
    with lock.hold(place.folder) as held:
        kept.end_renames(place)
        engine = choose.choose_engine(None, place, runner)
        exchange.require_ended(place)
        record = _require_kept(place)
        _require_complete(place, record, engine)
        if not restored and record.state != "returning":
            _require_rows(place, record)
        logfile.write_to(memory, place.logs, "rollback")
        leftovers.remove_leftovers(place)
        begin = f"{layout.PROJECT_AFTER}{record.after}-"
        aside = back.put_back(place, record.before, begin, timeout, held, engine, console)
    seconds = round(time.monotonic() - begun, 1)
    return RolledBack(dify=record.before, left=record.after, aside=aside, since=record.when, seconds=seconds)


def _require_kept(place: layout.Installation) -> Record:
    record = kept.read(place)
    if record is None:
        raise errors.UsageError(
            f"there is no version to go back to: {place.previous} is not there",
            "it is made by an upgrade, and removed by `prune` and by going back",
        )
    if record.state not in ("done", "returning"):
        kept.require_ended(place)
    return record


def _require_complete(place: layout.Installation, record: Record, engine: Engine) -> None:
    """Raise PreflightFailed when the older version could not run."""
    if record.state == "returning":
        return
    if lacking := kept.find_lacking(record, engine):
        raise errors.PreflightFailed(
            f"images of Dify {record.before} are gone: {', '.join(lacking)}",
            f"load them from the archive of its bundle (`{engine.name} load`), or install that bundle into another "
            "folder (--dir) on this host; nothing has been changed",
        )
    if not layout.Installation(place.previous).executable.is_file():
        raise errors.PreflightFailed(
            f"the dify-installer of Dify {record.before} is gone from {place.previous}",
            f"copy it there from its bundle, as {layout.Installation(place.previous).executable}",
        )


def _require_rows(place: layout.Installation, record: Record) -> None:
    """Raise PreflightFailed where the database is not ours: its rows do not go back with the rest."""
    database = external.find_database(envfile.parse(env_history.text_of(place.env)))
    if database is not None:
        raise errors.PreflightFailed(
            f"{database.where} is not ours: its rows are as Dify {record.after} has made them, and {record.before} "
            "would work on what it does not know",
            f"`dify-installer stop`; have the copy from before the upgrade loaded into {database.name} and "
            f"{database.plugins}; then run the same command with --db-restored",
        )


def as_fields(done: RolledBack) -> dict[str, Any]:
    """Return it for a machine."""
    return dataclasses.asdict(done)


def as_text(done: RolledBack) -> str:
    """Return it for people."""
    return "\n".join(
        [
            f"Dify {done.dify} runs again, after {done.seconds} s, with its data as they were at {done.since}",
            f"What was written since, with Dify {done.left}, is in {done.aside}",
            f"  do: look at Dify; remove {done.aside} only when nobody needs what is in it",
        ]
    )
