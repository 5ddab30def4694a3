"""The folders that the services keep their data in, as a tar of the host's own; read and written as their owner."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

from installer.backup import pause, pipes
from installer.core import layout
from installer.core.console import Console
from installer.engine.base import Container, Engine
from installer.release import compose, dify

# Not copied: PostgreSQL is dumped; Redis holds what is under way, and sessions; certificates come with the settings.
NOT_COPIED = ("db", "mysql", "redis", "certbot")
# These write files once and under names of their own: a copy that is made after the database's snapshot lacks none.
WRITE_ONCE = (dify.API, "worker", "worker_beat", dify.MODEL_CALLER, "sandbox", dify.PROXY, dify.SSRF_PROXY, dify.WEB)
# tar's status for files that changed or went away while they were read (GNU tar's manual, "Synopsis").
TAR_STATUSES = (0, 1)
COPY_SECONDS = 3600.0
COUNT_SECONDS = 600.0
PIECE_BYTES = 1024 * 1024


def find_folders(place: layout.Installation) -> list[str]:
    """Return the names of the folders of data that are copied."""
    if not place.volumes.is_dir():
        return []
    return sorted(path.name for path in place.volumes.iterdir() if path.is_dir() and path.name not in NOT_COPIED)


def find_held(document: compose.Document, folders: Collection[str], found: Iterable[Container]) -> dict[str, list[str]]:
    """Return the containers that change their files in place, by name, each with the folders that it writes to.

    They are the vector stores: theirs is copied while they are stopped.
    """
    held: dict[str, list[str]] = {}
    for container in found:
        service = document["services"].get(container.service)
        if service is None or container.service in WRITE_ONCE or container.state != "running":
            continue
        names = {folder.partition("/")[0] for folder, _ in mounted(service)} & set(folders)
        if names:
            held[container.name] = sorted(names)
    return held


def mounted(service: compose.Service) -> Iterator[tuple[str, str]]:
    """Yield the folders below `volumes/` that a service of a compose file mounts, and where it sees them."""
    for each in service.get("volumes") or ():
        source, _, inside = str(each).partition(":")
        parts = Path(source).parts
        if parts[:1] == ("volumes",) and len(parts) > 1:
            yield "/".join(parts[1:]), inside.partition(":")[0]


@contextlib.contextmanager
def held_copy(
    held: dict[str, list[str]], place: layout.Installation, engine: Engine, console: Console
) -> Iterator[tuple[list[str], float]]:
    """Give the names of the folders that were copied while their services were stopped, and for how many seconds.

    The copies lie in `place.held`; on XFS and btrfs they take no time and no room (`cp --reflink`). They are removed
    when the block ends, and by the next run of a command that changes anything.
    """
    remove(place, engine)
    begun = time.monotonic()
    copied: list[str] = []
    place.held.mkdir(mode=0o700, exist_ok=True)
    try:
        for name, folders in held.items():
            console.line(f"  {name} is stopped while {', '.join(folders)} is copied")
            with pause.stopped(name, engine):
                sources = [str(place.volumes / folder) for folder in folders]
                command = ["cp", "--archive", "--reflink=auto", "--", *sources, str(place.held)]
                engine.runner.run(engine.as_owner(command), timeout=COPY_SECONDS)
            copied += folders
        yield copied, time.monotonic() - begun
    finally:
        remove(place, engine)


def remove(place: layout.Installation, engine: Engine) -> None:
    """Remove the copies that `held_copy` has made, also those of a run that was killed. Raises CommandFailed."""
    if place.held.exists():
        engine.runner.run(engine.as_owner(["rm", "-rf", "--", str(place.held)]), timeout=COPY_SECONDS)


@contextlib.contextmanager
def packed(folder: Path, engine: Engine, index: Path | None = None) -> Iterator[IO[bytes]]:
    """Give a folder as a tar, owners as numbers: the same inside of every container. Raises CommandFailed.

    The same files give the same bytes, whatever host they are on; so a copy is compared with its original by hash.
    `index` is a file that tar writes the names into, one a line; those of folders end with a slash.
    """
    command = ["tar", "--create", "--file=-", "--format=posix", "--numeric-owner", "--sort=name"]
    # What tells of tar's own process, and of when a file was read last (GNU tar's manual, "Controlling Extended Header
    # Keywords").
    command += ["--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime"]
    command += ["--warning=no-file-changed", "--warning=no-file-removed", "--warning=no-file-ignored"]
    command += [] if index is None else ["--verbose", f"--index-file={index}"]
    command += ["--directory", str(folder), "."]
    with pipes.streaming(engine.as_owner(command), engine.runner, TAR_STATUSES) as stream:
        yield stream


def hash_of(folder: Path, engine: Engine) -> str:
    """Return the SHA-256 of what `packed` gives. Raises CommandFailed."""
    hashed = hashlib.sha256()
    with packed(folder, engine) as stream:
        while piece := stream.read(PIECE_BYTES):
            hashed.update(piece)
    return hashed.hexdigest()


def count_files(folder: Path, engine: Engine) -> int:
    """Return how many files a folder has, and links and the like. Raises CommandFailed."""
    command = engine.as_owner(["find", str(folder), "!", "-type", "d", "-printf", "."])
    return len(engine.runner.run(command, timeout=COUNT_SECONDS).stdout)


def measure(folders: Sequence[Path], engine: Engine) -> int:
    """Return how many bytes folders hold. Raises CommandFailed."""
    if not folders:
        return 0
    command = ["du", "--summarize", "--bytes", "--", *map(str, folders)]
    result = engine.runner.run(engine.as_owner(command), timeout=COUNT_SECONDS, check=False)
    return sum(int(line.partition("\t")[0]) for line in result.stdout.splitlines())
