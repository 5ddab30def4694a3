"""Writes what a Dify holds that somebody else has installed on this host: the file that an installation begins with."""

from __future__ import annotations

import contextlib
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from installer import VERSION
from installer.backup import arrival, data, databases, file, foreign, parts, pause, split, vectors
from installer.backup.database import Database
from installer.backup.file import Head
from installer.backup.foreign import Foreign
from installer.commands import backup
from installer.core import errors, layout
from installer.core.console import Console, size
from installer.core.runner import Runner
from installer.release import dify

PREFIX = "dify-export-"
# Where upstream's nginx has its certificate.
CERTIFICATES = "nginx/ssl"
STANDARD_OUTPUT = Path("-")
LARGEST_CERTIFICATE = 1024 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What is asked for: where it is to be written, and which Dify is meant where that is not clear.

    `largest` is how large a file may be, in bytes; `recipients` are public keys, for which it is encrypted.
    """

    target: Path  # a file, a folder, or - for standard output
    folder: Path | None = None
    version: str | None = None
    largest: int | None = None
    recipients: tuple[str, ...] = ()


def export(asked: Asked, runner: Runner, console: Console) -> backup.Written:
    """Write what a Dify holds into a file or to standard output, while it goes on; its vector store stops for its copy.

    Raises UsageError, CommandFailed, PreflightFailed when the target has no room.
    """
    begun = time.monotonic()
    found = foreign.find(asked.folder, asked.version, runner)
    _require_taken(found)
    path = _choose_path(asked)
    console.line(f"Dify {found.version} in {found.folder}, run by {found.engine.name} (project {found.project})")
    stopped_seconds = 0.0
    with foreign.running_database(found, console) as server, contextlib.ExitStack() as stack:
        there = databases.find_databases(server, found.variables, found.engine)
        if not there:
            raise errors.CommandFailed(
                f"{server.name} has no database {found.variables.get('DB_DATABASE') or 'dify'}",
                "name the right folder: --from FOLDER",
            )
        total = _require_room(found, path, there, console)
        if asked.largest:
            split.require_possible(asked.largest, total)
        snapshots = [stack.enter_context(each.hold_snapshot(found.engine)) for each in there]
        counted = vectors.count(found.variables, found.containers.values(), found.engine)
        writer = stack.enter_context(_writing(path, _head(found), asked))
        bar = stack.enter_context(console.progress("export", total))
        parts.add_settings(writer, _read_settings(found))
        parts.add_vectors(writer, counted)
        # The stores are stopped first, right behind the snapshot.
        for container, folders in found.stores.items():
            console.line(f"  {container} is stopped while {', '.join(folders)} is read")
            stopped = time.monotonic()
            with pause.stopped(container, found.engine):
                for name in folders:
                    parts.add_folder(writer, name, found.folders[name], found.engine, bar.update)
            stopped_seconds += time.monotonic() - stopped
        for snapshot in snapshots:
            parts.add_database(writer, snapshot, bar.update)
        read = {name for folders in found.stores.values() for name in folders}
        for name, source in found.folders.items():
            if name not in read:
                parts.add_folder(writer, name, source, found.engine, bar.update)
    written = () if path == STANDARD_OUTPUT else split.find(path)
    return backup.Written(
        path=path,
        files=written,
        bytes=split.measure(written),
        seconds=round(time.monotonic() - begun, 1),
        held_seconds=round(stopped_seconds, 1),
        head=_head(found),
        parts=tuple(writer.written),
        removed=(),
    )


def _require_taken(found: Foreign) -> None:
    """Raise UsageError for a Dify that this bundle could not take: better now than behind the closed door."""
    if obstacle := arrival.find_obstacle(found.version):
        why, remedy = obstacle
        raise errors.UsageError(f"Dify is {found.version} here, and {why}", remedy)


def _choose_path(asked: Asked) -> Path:
    """Return the file to write, or -. Raises UsageError for one that is there, or a folder that is not."""
    if asked.target == STANDARD_OUTPUT:
        if asked.largest:
            raise errors.UsageError("a pipe is not cut into files", "leave --split out, or name a file or a folder")
        if sys.stdout.isatty():
            raise errors.UsageError("standard output is a terminal", "send it on: export - | split …, or name a file")
        return asked.target
    return backup.choose_path(asked.target, PREFIX, encrypted=bool(asked.recipients))


def _require_room(found: Foreign, path: Path, there: list[Database], console: Console) -> int:
    """Say how much it will be and what is not in it; return the bytes. Raises PreflightFailed without room."""
    stored = sum(each.measure(found.engine) for each in there)
    copied = data.measure(list(found.folders.values()), found.engine)
    at_most = int(stored * parts.DUMP_SHARE) + copied
    console.line(
        f"databases {size(stored)} on the disk, files {size(copied)}; the export will have at most {size(at_most)}"
    )
    for each in found.left_out:
        console.line(f"  not in it: {each}")
    if path != STANDARD_OUTPUT and (free := shutil.disk_usage(path.parent).free) < at_most:
        raise errors.PreflightFailed(
            f"{path.parent} has {size(free)} of room, and the export may have {size(at_most)}",
            "make room there, or write it onto another disk; nothing has been changed",
        )
    return at_most


@contextlib.contextmanager
def _writing(path: Path, head: Head, asked: Asked) -> Iterator[file.Writer]:
    if path == STANDARD_OUTPUT:
        try:
            with file.streaming(sys.stdout.buffer, head, asked.recipients) as writer:
                yield writer
            sys.stdout.buffer.flush()
        except OSError as error:
            raise errors.CommandFailed(
                f"standard output takes no more: {error.strerror}", "see what the program behind the pipe says"
            ) from error
        return
    with file.writing(path, head, asked.largest, asked.recipients) as writer:
        yield writer


def _head(found: Foreign) -> Head:
    return Head(
        dify=found.version,
        installer=VERSION,
        made=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        host=socket.gethostname(),
        folder=str(found.folder),
        url=found.variables.get(dify.ADDRESS_KEY, ""),
        vector_store=found.variables.get(dify.VECTOR_STORE, ""),
        database=databases.kind_of(found.variables),
        left_out=found.left_out,
        store_version=found.store_version,
        ours=False,
    )


def _read_settings(found: Foreign) -> dict[str, bytes]:
    """Return `.env`, the example that it began with, and certificates, by their names below an install folder."""
    contents = {arrival.ENV: found.env.encode()}
    if found.example:
        contents[arrival.EXAMPLE] = found.example.encode()
    folder = found.folder / CERTIFICATES
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        with contextlib.suppress(OSError):
            if path.is_file() and path.stat().st_size < LARGEST_CERTIFICATE:
                contents[f"{layout.PROJECT}/{CERTIFICATES}/{path.name}"] = path.read_bytes()
    return contents
