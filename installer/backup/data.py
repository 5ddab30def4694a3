"""The folders that the services keep their data in, as a tar of the host's own; read and written as their owner."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

from installer.backup import database
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
STOP_SECONDS = 60.0
COUNT_SECONDS = 600.0


def find_folders(place: layout.Installation) -> list[str]:
    """Return the names of the folders of data that are copied."""
    if not place.volumes.is_dir():
        return []
    return sorted(path.name for path in place.volumes.iterdir() if path.is_dir() and path.name not in NOT_COPIED)


def find_held(document: compose.Document, folders: Collection[str], found: Iterable[Container]) -> dict[str, list[str]]:
    """Return the containers that change their files in place, by name, each with the folders that it writes to.

    They are the vector stores: theirs is copied while they hold still.
    """
    held: dict[str, list[str]] = {}
    for container in found:
        service = document["services"].get(container.service)
        if service is None or container.service in WRITE_ONCE or container.state != "running":
            continue
        sources = [Path(str(each).partition(":")[0]).parts for each in service.get("volumes") or ()]
        names = [parts[1] for parts in sources if parts[:1] == ("volumes",) and len(parts) > 1 and parts[1] in folders]
        if names:
            held[container.name] = sorted(set(names))
    return held


@contextlib.contextmanager
def held_copy(
    held: dict[str, list[str]], place: layout.Installation, engine: Engine, console: Console
) -> Iterator[tuple[list[str], float]]:
    """Give the names of the folders that were copied while their services held still, and for how many seconds.

    The copies lie in `place.held`; on XFS and btrfs they take no time and no room (`cp --reflink`). They are removed
    when the block ends, and by the next run of a command that changes anything.
    """
    remove(place, engine)
    begun = time.monotonic()
    copied: list[str] = []
    place.held.mkdir(mode=0o700, exist_ok=True)
    try:
        for name, folders in held.items():
            console.line(f"  {name} holds still while {', '.join(folders)} is copied")
            _freeze(name, engine)
            try:
                sources = [str(place.volumes / folder) for folder in folders]
                command = ["cp", "--archive", "--reflink=auto", "--", *sources, str(place.held)]
                engine.runner.run(engine.as_owner(command), timeout=COPY_SECONDS)
            finally:
                _thaw(name, engine)
            copied += folders
        yield copied, time.monotonic() - begun
    finally:
        remove(place, engine)


def _freeze(name: str, engine: Engine) -> None:
    """Let all processes of a container wait; where the engine cannot, its first one, which the stores have alone."""
    if not engine.run(["pause", name], timeout=STOP_SECONDS, check=False).ok:
        engine.run(["kill", "--signal", "STOP", name], timeout=STOP_SECONDS)


def _thaw(name: str, engine: Engine) -> None:
    if not engine.run(["unpause", name], timeout=STOP_SECONDS, check=False).ok:
        engine.run(["kill", "--signal", "CONT", name], timeout=STOP_SECONDS)


def remove(place: layout.Installation, engine: Engine) -> None:
    """Remove the copies that `held_copy` has made, also those of a run that was killed. Raises CommandFailed."""
    if place.held.exists():
        engine.runner.run(engine.as_owner(["rm", "-rf", "--", str(place.held)]), timeout=COPY_SECONDS)


@contextlib.contextmanager
def packed(folder: Path, names: Sequence[str], engine: Engine) -> Iterator[IO[bytes]]:
    """Give folders as a tar, owners as numbers: the same inside of every container. Raises CommandFailed."""
    command = ["tar", "--create", "--file=-", "--format=posix", "--numeric-owner", "--sort=name", "--sparse"]
    command += ["--warning=no-file-changed", "--warning=no-file-removed", "--warning=no-file-ignored"]
    command += ["--directory", str(folder), "--", *names]
    with database.streaming(engine.as_owner(command), engine, TAR_STATUSES) as stream:
        yield stream


def count_files(folder: Path, names: Sequence[str], engine: Engine) -> dict[str, int]:
    """Return how many files each folder has. Raises CommandFailed."""
    counts = {}
    for name in names:
        command = engine.as_owner(["find", str(folder / name), "-type", "f", "-printf", "."])
        counts[name] = len(engine.runner.run(command, timeout=COUNT_SECONDS).stdout)
    return counts


def measure(folder: Path, names: Sequence[str], engine: Engine) -> int:
    """Return how many bytes folders hold. Raises CommandFailed."""
    if not names:
        return 0
    command = ["du", "--summarize", "--bytes", "--", *(str(folder / name) for name in names)]
    result = engine.runner.run(engine.as_owner(command), timeout=COUNT_SECONDS, check=False)
    return sum(int(line.partition("\t")[0]) for line in result.stdout.splitlines())
