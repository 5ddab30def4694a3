"""Brings what a backup holds into an installation; what was there is kept, and comes back if that fails."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import shutil
import tarfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from installer.backup import data, database, exchange, file
from installer.backup.file import Head, Part
from installer.bundle import verify
from installer.commands import backup, start
from installer.core import errors, files, finding, layout, lock, logfile
from installer.core.console import Console, size
from installer.core.finding import Finding
from installer.core.runner import PIPE, Runner
from installer.engine import choose
from installer.engine.base import Engine
from installer.release import compose, dify, env_history, envfile, resolvers, settings
from installer.stack import project, run, state

# A database takes so many times the size of its dump (measured with Dify's tables and their indexes: 2.2).
ROOM_FACTOR = 3
# Names of a backup's settings, below the install folder.
ENV = f"{layout.PROJECT}/.env"
POLL_SECONDS = 0.5
# What the services of this host are reached by; what the backup says of it was true where it was made.
OF_THIS_HOST = {*dify.URLS, *dify.PORTS.values(), *dify.HTTPS, *dify.HOSTS, dify.RESOLVERS}


@dataclass(frozen=True, kw_only=True, slots=True)
class Restored:
    """A backup that was restored; `kept` is where the data are that were there before."""

    head: Head
    parts: tuple[Part, ...]
    compared: tuple[Finding, ...]
    kept: str
    seconds: float


def restore(place: layout.Installation, path: Path, timeout: float, runner: Runner, console: Console) -> Restored:
    """Put what a backup holds in the place of what an installation holds, and wait until Dify answers.

    All of the file is proved first. Afterwards both sides are compared: rows of each table, files of each folder. If
    anything fails, what was there before is put back and started. Raises BackupRefused, PreflightFailed, CommandFailed,
    NotHealthy, AlreadyRunning; nothing has changed then.
    """
    memory = logfile.begin()
    begun = time.monotonic()
    head, parts = backup.prove(path, console)
    with lock.hold(place.folder):
        engine = choose.choose_engine(None, place, runner)
        document = project.read_installed(place, engine)
        logfile.write_to(memory, place.logs, "restore")
        if exchange.is_begun(place):
            exchange.put_back(place, document, engine, console)
        exchange.require_possible(place)
        _require_alike(path, head, settings.load(place).resolved)
        _require_room(place, parts)
        kept = exchange.begin(place, document, engine)
        try:
            compared = _bring(place, path, parts, engine, console)
            start.bring_up(place, project.read_installed(place, engine), timeout, engine, console)
        except errors.InstallerError as error:
            # Not for Ctrl-C, which is to end at once: the next command puts back then.
            exchange.put_back(place, document, engine, console)
            start.bring_up(place, document, timeout, engine, console)
            error.remedy = "; ".join(filter(None, (error.remedy, "what was there before is back and runs")))
            raise
        exchange.end(place)
    seconds = round(time.monotonic() - begun, 1)
    return Restored(head=head, parts=parts, compared=tuple(compared), kept=kept, seconds=seconds)


def _require_alike(path: Path, head: Head, variables: Mapping[str, str]) -> None:
    """Raise BackupRefused for a backup whose data another Dify, or another kind of store, has written."""
    version = verify.check_embedded(layout.bundled("")).dify
    if head.dify != version:
        raise errors.BackupRefused(
            f"{path} is of Dify {head.dify}, and this installation is {version}",
            f"install Dify {head.dify} beside it (--dir), restore there, then upgrade that",
        )
    here = variables.get(dify.VECTOR_STORE, ""), variables.get(dify.DB_TYPE, database.POSTGRESQL)
    if (head.vector_store, head.database) != here:
        raise errors.BackupRefused(
            f"{path} has {head.vector_store} and {head.database}, and this installation {' and '.join(here)}",
            "install with a bundle of the same stores",
        )


def _require_room(place: layout.Installation, parts: Iterable[Part]) -> None:
    needed = sum(part.bytes * (ROOM_FACTOR if part.name.startswith(backup.DATABASE) else 1) for part in parts)
    free = shutil.disk_usage(place.project).free
    if free < needed:
        raise errors.PreflightFailed(
            f"{place.project} has {size(free)} of room, and beside what is there the backup may need {size(needed)}",
            "make room; nothing has been changed",
        )


def _bring(
    place: layout.Installation, path: Path, parts: Iterable[Part], engine: Engine, console: Console
) -> list[Finding]:
    """Bring all parts into the empty installation, and compare what has come with what the backup says it has."""
    by_name = {part.name: part for part in parts}
    came: list[Finding] = []
    with (
        console.progress("restore", path.stat().st_size) as bar,
        file.reading(path, bar.update) as reader,
    ):
        for name, pieces in reader:
            if name == backup.SETTINGS:
                _write_settings(place, b"".join(pieces))
                document = project.read_installed(place, engine)
                variables = settings.load(place).resolved
                project.make_folders(place, document, variables)
                _start_database(place, document, engine, console)
            elif name.startswith(f"{backup.DATABASE}/"):
                counts = _fill_database(name.rpartition("/")[2], pieces, variables, engine)
                came.append(_compared(name, by_name[name].counts, counts, "rows"))
            elif name in (backup.HELD, backup.FILES):
                _unpack(place, pieces, engine)
                counts = data.count_files(place.volumes, list(by_name[name].counts), engine)
                came.append(_compared(name, by_name[name].counts, counts, "files"))
            else:
                raise reader.damaged(f"it has a part {name}, which is not known")
    if bad := [each for each in came if each.level == "error"]:
        raise errors.CommandFailed(
            "what has come is not what the backup has: " + "; ".join(f"{each.check}: {each.seen}" for each in bad),
            "run it again; if it happens twice, report it with the log",
        )
    return came


def _write_settings(place: layout.Installation, packed: bytes) -> None:
    """Write the backup's `.env`, but with this host's addresses, and what else has no file here yet."""
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        held = {entry.name: (archive.extractfile(entry) or io.BytesIO()).read() for entry in archive if entry.isfile()}
    here = envfile.parse(place.env.read_text("utf-8"))
    ours = {key: value for key, value in here.items() if key in OF_THIS_HOST}
    theirs = env_history.unmarked(held.get(ENV, b"").decode())
    if dify.RESOLVERS in envfile.parse(theirs):
        ours.setdefault(dify.RESOLVERS, resolvers.HOST)
    env_history.write(place, env_history.marked(envfile.edit(theirs, ours)))
    for path in (place.ca_bundle, place.admin_password, place.account):
        content = held.get(str(path.relative_to(place.folder)))
        if content is not None and (path in (place.admin_password, place.account) or not path.exists()):
            files.folder(path.parent)
            files.write(path, content, mode=0o644 if path == place.ca_bundle else 0o600)


def _start_database(place: layout.Installation, document: compose.Document, engine: Engine, console: Console) -> None:
    """Start the database alone, and wait until it is healthy. Raises NotHealthy."""
    service = dify.DATABASES[database.POSTGRESQL]["DB_HOST"]
    console.waiting(f"{service} to make an empty database")
    run.up_alone(place, service, document, engine)
    console.waiting("")


def _fill_database(name: str, pieces: Iterator[bytes], variables: Mapping[str, str], engine: Engine) -> dict[str, int]:
    """Read a dump into an empty database, all of it or nothing; return the rows of its tables. Raises CommandFailed."""
    target = database.make_empty(name, variables, state.list_containers(engine), engine)
    command = target.command(engine, "psql", *database.QUIET, "--single-transaction", "--output", "/dev/null")
    _feed(command, pieces, engine)
    return database.count_rows(target, engine)


def _unpack(place: layout.Installation, pieces: Iterator[bytes], engine: Engine) -> None:
    command = ["tar", "--extract", "--file=-", "--numeric-owner", "--same-owner", "--preserve-permissions"]
    _feed(engine.as_owner([*command, "--directory", str(place.volumes)]), pieces, engine)


def _feed(command: list[str], pieces: Iterator[bytes], engine: Engine) -> None:
    """Run a program that reads pieces from its standard input. Raises CommandFailed when it fails."""
    begun = time.monotonic()
    with engine.runner.started(command, stdin=PIPE, text=False) as child:
        assert child.stdin is not None
        # A program that has failed reads no more: its status tells.
        with contextlib.suppress(BrokenPipeError):
            for piece in pieces:
                child.stdin.write(piece)  # type: ignore[arg-type]  # bytes, since text is off
        _, told = child.communicate()
        result = engine.runner.ended(command, child.returncode, told or b"", time.monotonic() - begun)  # type: ignore[arg-type]
    if not result.ok:
        raise engine.runner.failure(result, "fix what it says, and run the same command again")


def _compared(name: str, there: Mapping[str, int], here: Mapping[str, int], things: str) -> Finding:
    different = [
        f"{key}: {there.get(key, 0)} there, {here.get(key, 0)} here"
        for key in sorted({*there, *here})
        if there.get(key) != here.get(key)
    ]
    if different:
        return Finding(name, "error", "; ".join(different[:10]))
    return Finding(name, "ok", f"{sum(here.values())} {things} on both sides, in {len(here)} {_places(things)}")


def _places(things: str) -> str:
    return "tables" if things == "rows" else "folders"


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
