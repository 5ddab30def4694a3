"""Brings what a backup holds into an installation; what was there is kept, and comes back if that fails."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from installer.backup import arrival, exchange, file, vectors
from installer.backup.file import Head, Part
from installer.commands import backup, start
from installer.core import errors, finding, layout, lock, logfile
from installer.core.console import Console
from installer.core.finding import Finding
from installer.core.runner import Runner
from installer.engine import choose
from installer.engine.base import Engine
from installer.release import compose, env_history, settings
from installer.stack import project, state
from installer.upgrade.kept import require_ended as require_upgrade_ended


@dataclass(frozen=True, kw_only=True, slots=True)
class Restored:
    """A backup that was restored; `kept` is where the data are that were there before."""

    head: Head
    parts: tuple[Part, ...]
    compared: tuple[Finding, ...]
    kept: str
    seconds: float


def restore(
    place: layout.Installation,
    path: Path,
    timeout: float,
    runner: Runner,
    console: Console,
    *,
    identity: Path | None = None,
    without_vectors: bool = False,
    restored: bool = False,
    filled: bool = False,
) -> Restored:
    """Put what a backup holds in the place of what an installation holds, and wait until Dify answers.

    All of the file is proved first. Afterwards both sides are compared: rows of each table, files of each folder. If
    anything fails, what was there before is put back and started. `restored` says that the rows of a database that is
    not ours are those of the backup, `filled` that its files are in the bucket. Raises BackupRefused, PreflightFailed,
    CommandFailed, NotHealthy, AlreadyRunning, UsageError; nothing has changed then.
    """
    memory = logfile.begin()
    begun = time.monotonic()
    here = arrival.read(path, identity, without_vectors=without_vectors)
    head, found = file.prove(path, console, identity)
    with lock.hold(place.folder):
        engine = choose.choose_engine(None, place, runner)
        require_upgrade_ended(place)
        document = project.read_installed(place, engine)
        logfile.write_to(memory, place.logs, "restore")
        if exchange.is_begun(place):
            exchange.put_back(place, document, engine, console)
        exchange.require_possible(place)
        variables = settings.load(place).resolved
        upstream = compose.load(place.upstream_compose)
        arrival.require_suitable(here, variables, upstream, restored=restored, filled=filled)
        arrival.require_room(place, found)
        kept = exchange.begin(place, document, engine)
        try:
            compared = _bring(here, place, found, engine, console)
            start.bring_up(place, project.read_installed(place, engine), timeout, engine, console)
        except errors.InstallerError as error:
            # Not for Ctrl-C, which is to end at once: the next command puts back then.
            told = _put_back(place, document, timeout, engine, console)
            error.remedy = "; ".join(filter(None, (error.remedy, told)))
            raise
        exchange.end(place, head, engine)
        if not without_vectors:
            now = vectors.count(settings.load(place).resolved, state.list_ours(place, engine), engine)
            compared += vectors.compare(found, now)
    seconds = round(time.monotonic() - begun, 1)
    return Restored(head=head, parts=found, compared=tuple(compared), kept=kept, seconds=seconds)


def _put_back(
    place: layout.Installation, document: compose.Document, timeout: float, engine: Engine, console: Console
) -> str:
    """Bring back and start what was there before; return in words what came of it."""
    back = False
    try:
        exchange.put_back(place, document, engine, console)
        back = True
        start.bring_up(place, document, timeout, engine, console)
    except errors.InstallerError as error:
        where = "what was there before is back, but does not run" if back else "what was there before is not back yet"
        return f"{where}: {error.message}; `dify-installer start` tries that again"
    return "what was there before is back and runs"


def _bring(
    here: arrival.Arrival, place: layout.Installation, found: tuple[Part, ...], engine: Engine, console: Console
) -> list[Finding]:
    """Write the settings that go on, and bring the data into the place that has been made free."""
    example = env_history.text_of(place.project / layout.ENV_EXAMPLE)
    env_history.write(place, arrival.text_for(here, place, example))
    if here.head.ours:
        arrival.write_own(here, place)
    return arrival.bring(here, place, found, engine, console)


def as_fields(done: Restored) -> dict[str, Any]:
    """Return how a restore went for a machine."""
    compared = [dataclasses.asdict(each) for each in done.compared]
    return {"kept": done.kept, "seconds": done.seconds, "compared": compared, **backup.as_fields(done.head, done.parts)}


def as_text(done: Restored) -> str:
    """Return how a restore went for people."""
    return "\n".join(
        [
            backup.as_text(done.head, done.parts),
            finding.as_text(done.compared),
            f"restored in {done.seconds} s; what was there before is in {done.kept}",
            f"  do: look at Dify; when all is there, remove {done.kept}",
        ]
    )
