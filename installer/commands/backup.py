"""Writes what an installation holds into one file while it runs, and proves such a file."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import shutil
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from installer import VERSION
from installer.backup import data, databases, exchange, file, parts, split, vectors
from installer.backup.database import Database
from installer.backup.file import Head, Part
from installer.bundle import verify
from installer.checks import trend
from installer.commands import overview
from installer.core import errors, files, layout, lock, logfile
from installer.core.console import Console, size
from installer.core.runner import Runner
from installer.engine import choose
from installer.engine.base import Container, Engine
from installer.release import compose, dify, dify_store, external, settings, storage
from installer.stack import project, state
from installer.system import backup_timer
from installer.upgrade import kept

# What a part holds that holds no files.
THINGS = {vectors.PART: "objects"}
PREFIX = "dify-backup-"
LEFT_OUT = (
    "images and plugins' wheels (the bundle has them)",
    "Redis: what is being worked on at this moment, and who is signed in",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """A backup that was written; `held_seconds` is how long a vector store was stopped.

    `files` are where it is, in their order: `path` alone, the numbered ones of that name, or none for a pipe.
    """

    path: Path
    files: tuple[Path, ...]
    bytes: int
    seconds: float
    held_seconds: float
    head: Head
    parts: tuple[Part, ...]
    removed: tuple[str, ...]  # names of older ones


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What is asked for."""

    target: Path  # a file, or a folder in which it gets a name
    keep: int | None = None  # so many of this installation's are to remain in the folder
    largest: int | None = None  # bytes of a file
    recipients: tuple[str, ...] = ()  # public keys, for which it is encrypted


def backup(place: layout.Installation, asked: Asked, runner: Runner, console: Console) -> Written:
    """Back an installation up while it runs.

    Raises CommandFailed, UsageError, PreflightFailed when the target has no room, AlreadyRunning.
    """
    memory = logfile.begin()
    begun = time.monotonic()
    with lock.hold(place.folder):
        engine = choose.choose_engine(None, place, runner)
        exchange.require_ended(place)
        kept.require_ended(place)
        document = project.read_installed(place, engine)
        env = settings.load(place)
        logfile.write_to(memory, place.logs, "backup")
        path = choose_path(asked.target, PREFIX, encrypted=bool(asked.recipients))
        # What a run that was killed has left there, and in our folder.
        files.remove_temporaries(path.parent)
        found = state.list_ours(place, engine)
        found_databases = _find_databases(env, found, engine)
        folders = data.find_folders(place)
        held = data.find_held(document, folders, found)
        total = _require_room(place, path, found_databases, folders, engine, console)
        if asked.largest:
            split.require_possible(asked.largest, total)
        head = _head(place, env)
        counted = vectors.count(env.resolved, found, engine)
        with contextlib.ExitStack() as stack:
            # Where nothing can be written, nobody's store is stopped for it.
            writer = stack.enter_context(file.writing(path, head, asked.largest, asked.recipients))
            snapshots = [stack.enter_context(each.hold_snapshot(engine)) for each in found_databases]
            copied, held_seconds = stack.enter_context(data.held_copy(held, place, engine, console))
            bar = stack.enter_context(console.progress("back up", total))
            parts.add_settings(writer, _read_settings(place))
            parts.add_vectors(writer, counted)
            for snapshot in snapshots:
                parts.add_database(writer, snapshot, bar.update)
            for name in folders:
                source = place.held if name in copied else place.volumes
                parts.add_folder(writer, name, source / name, engine, bar.update)
        made = split.find(path)
        _note(place, path, head, made, encrypted=bool(asked.recipients))
        trend.note(place, overview.measure_data(place, engine), datetime.datetime.now(datetime.UTC).date())
    removed = remove_old(path, asked.keep, head, _read_encrypted(place)) if asked.keep else ()
    return Written(
        path=path,
        files=made,
        bytes=split.measure(made),
        seconds=round(time.monotonic() - begun, 1),
        held_seconds=round(held_seconds, 1),
        head=head,
        parts=tuple(writer.written),
        removed=tuple(removed),
    )


def _find_databases(env: settings.Settings, found: Sequence[Container], engine: Engine) -> list[Database]:
    """Return the databases that are dumped: none of a server that is not ours. Raises CommandFailed, UsageError."""
    if external.has_database(env.resolved):
        return []
    return databases.find_databases(databases.find_server(env.resolved, found), env.resolved, engine)


def schedule(place: layout.Installation, asked: Asked, every: backup_timer.Every, runner: Runner) -> str:
    """Have backups made again and again, or never; return in words what came of it. Raises as `backup` does."""
    with lock.hold(place.folder):
        project.read_installed(place, choose.choose_engine(None, place, runner))
        if every == "never":
            return backup_timer.cancel(place, runner)
        given = [(name, str(value)) for name, value in (("--keep", asked.keep), ("--split", asked.largest)) if value]
        given += [("--recipient", each) for each in asked.recipients]
        return backup_timer.schedule(place, asked.target.absolute(), every, given, runner)


def _note(place: layout.Installation, path: Path, head: Head, made: Sequence[Path], *, encrypted: bool) -> None:
    """Note the last backup, and which encrypted ones are this installation's: they do not tell it themselves."""
    there = [each for each in _read_encrypted(place) if split.first(Path(each)).exists()]
    note = {
        "file": str(path),
        "made": head.made,
        "bytes": split.measure(made),
        "encrypted": [*there, str(path)] if encrypted else there,
    }
    files.write(place.last_backup, json.dumps(note, indent=1) + "\n")


def _read_encrypted(place: layout.Installation) -> list[str]:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return [str(each) for each in json.loads(place.last_backup.read_bytes())["encrypted"]]
    return []


def choose_path(target: Path, prefix: str, *, encrypted: bool) -> Path:
    """Return the file to write. Raises UsageError for one that is there, or a folder that is not."""
    path = target.absolute()
    if path.is_dir():
        suffix = split.ENCRYPTED if encrypted else split.SUFFIX
        path /= f"{prefix}{socket.gethostname()}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}{suffix}"
    for each in (path, split.numbered(path, 1), split.listing(path)):
        if each.exists():
            raise errors.UsageError(f"{each} exists already", "name another file, or a folder")
    if not path.parent.is_dir():
        raise errors.UsageError(f"the folder {path.parent} does not exist", "make it, or mount the disk there")
    return path


def _require_room(
    place: layout.Installation,
    path: Path,
    found: Sequence[Database],
    folders: Sequence[str],
    engine: Engine,
    console: Console,
) -> int:
    """Say how much it will be, and return it in bytes, before compression. Raises PreflightFailed without room."""
    stored = sum(each.measure(engine) for each in found)
    copied = data.measure([place.volumes / name for name in folders], engine)
    at_most = int(stored * parts.DUMP_SHARE) + copied
    free = shutil.disk_usage(path.parent).free
    console.line(
        f"databases {size(stored)} on the disk, files {size(copied)}; the backup will have at most {size(at_most)}, "
        f"and {path.parent} has {size(free)} of room"
    )
    if free < at_most:
        raise errors.PreflightFailed(
            f"{path.parent} has {size(free)} of room, and the backup may have {size(at_most)}",
            "make room there, or write it onto another disk; nothing has been changed",
        )
    return at_most


def not_in_it(database: external.Database) -> str:
    """Say that the rows of a database that is not ours are not in a backup, and what that asks for."""
    return (
        f"the database, which is not ours: {database.where}, {database.name} and {database.plugins}. Have it dumped "
        "just before each backup: files that are newer than its rows do no harm, rows without their files do"
    )


def files_not_in_it(found: storage.Storage) -> str:
    """Say that the files in a bucket that is not ours are not in a backup, and what that asks for."""
    return (
        f"the files, which are not ours: {found.place}. Have a copy of them as well, or let the bucket keep versions: "
        "files that are newer than the rows do no harm, rows without their files do"
    )


def vectors_not_in_it(found: external.Vectors) -> str:
    """Say that vectors that are not ours are not in a backup, and what that asks for."""
    return (
        f"the vectors, which are not ours: {found.place}. Have them copied as well: without them nothing "
        "is found in the knowledge bases"
    )


def _head(place: layout.Installation, env: settings.Settings) -> Head:
    at, files_at = external.find_database(env.resolved), storage.find(env.resolved)
    not_ours = [not_in_it(at)] if at else []
    not_ours += [files_not_in_it(files_at)] if files_at else []
    not_ours += [vectors_not_in_it(vectors_at)] if (vectors_at := external.find_vectors(env.resolved)) else []
    return Head(
        dify=verify.check_embedded(layout.bundled("")).dify,
        installer=VERSION,
        made=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        host=socket.gethostname(),
        folder=str(place.folder),
        url=env.url,
        vector_store=env.resolved.get(dify.VECTOR_STORE, ""),
        database=databases.kind_of(env.resolved),
        left_out=(*not_ours, *LEFT_OUT),
        database_at="" if at is None else f"{at.where}, {at.name} and {at.plugins}",
        store_version=dify_store.find_version(compose.load(place.upstream_compose), env.resolved),
    )


def _read_settings(place: layout.Installation) -> dict[str, bytes]:
    """Return `.env` with the example that it began with, the certificates and the account, as far as they are there."""
    paths = [place.env, place.project / layout.ENV_EXAMPLE, place.certificate, place.key, place.ca_bundle]
    paths += [place.admin_password, place.account]
    return {str(path.relative_to(place.folder)): path.read_bytes() for path in paths if path.is_file()}


def remove_old(path: Path, keep: int, head: Head, encrypted: Sequence[str]) -> list[str]:
    """Remove the older backups of the same installation beside `path`, but for the `keep` newest of all.

    Only what says of itself that it is one of this installation, or is noted as one that was encrypted, and has a name
    as we give it. One in several files counts once. Raises CommandFailed.
    """
    beside = split.find_backups(path.parent, PREFIX)
    of_this = [each for each in beside if each == path or str(each) in encrypted or _is_of(each, head)]
    old = sorted(of_this, key=split.when_made, reverse=True)[keep:]
    for each in old:
        split.remove(each)
    return [each.name for each in old]


def _is_of(path: Path, head: Head) -> bool:
    with contextlib.suppress(errors.BackupRefused):
        # One whose list is damaged could not be removed as a whole.
        if not path.is_file():
            split.read_list(path)
        found = file.read_head(path)
        return (found.host, found.folder) == (head.host, head.folder)
    return False


def as_fields(head: Head, written: Sequence[Part]) -> dict[str, Any]:
    """Return what a backup holds for a machine."""
    return {"backup": dataclasses.asdict(head), "parts": [dataclasses.asdict(part) for part in written]}


def as_text(head: Head, written: Sequence[Part]) -> str:
    """Return what a backup holds for people."""
    lines = [f"Dify {head.dify} of {head.host}, {head.folder}, {head.url}, {head.made}"]
    for part in written:
        things = "rows" if part.name.startswith(parts.DATABASE) else THINGS.get(part.name, "files")
        lines.append(f"  {part.name}: {sum(part.counts.values())} {things}, {size(part.bytes)}")
    return "\n".join([*lines, *(f"  not in it: {each}" for each in head.left_out)])


def written_fields(written: Written) -> dict[str, Any]:
    """Return how a backup went for a machine."""
    figures = {"bytes": written.bytes, "seconds": written.seconds, "held_seconds": written.held_seconds}
    return {
        "file": str(written.path),
        "files": [str(each) for each in written.files],
        **figures,
        "removed": list(written.removed),
        **as_fields(written.head, written.parts),
    }


def written_text(written: Written) -> str:
    """Return how a backup went for people."""
    held = f"; a vector store was stopped for {written.held_seconds} s" if written.held_seconds else ""
    lines = [as_text(written.head, written.parts), *(f"  removed, older: {name}" for name in written.removed)]
    cut = f", in {len(written.files)} numbered files with their list" if written.path not in written.files else ""
    lines.append(f"{written.path}: {size(written.bytes)}{cut} in {written.seconds} s{held}")
    kept = (
        "keep it on another machine"
        if written.head.ours
        else f"carry it on, and begin with it: --restore {written.path.name}"
    )
    lines.append(f"  do: {kept}; it holds secrets. `dify-installer backup --verify {written.path}` proves it")
    return "\n".join(lines)
