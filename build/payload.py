"""Stages what the executable will carry: the compose project, the wheels, the programs for elsewhere, the manifest."""

from __future__ import annotations

import shutil
from pathlib import Path

from build import source, spec, wheels
from installer.bundle import manifest
from installer.checks import probe
from installer.core import digest, files, layout
from installer.core.console import Console
from installer.core.runner import Runner
from installer.engine import compose_program
from installer.stack import prepare_api


def stage(
    release: source.Source,
    architecture: manifest.Architecture,
    payload: Path,
    work: Path,
    runner: Runner,
    console: Console,
) -> None:
    """Fill `payload` anew with everything but the manifest; wheels come from a cache below `work`.

    Raises BuildError when a wheel cannot be had.
    """
    _emptied(payload)
    source.stage(release, payload)
    lock = spec.FOLDER / layout.PODMAN_COMPOSE_LOCK
    files.write(payload / layout.PODMAN_COMPOSE_LOCK, lock.read_bytes())
    files.folder(payload / layout.WHEELS)
    for wheel in wheels.collect(lock, architecture, work / "wheels", runner, console):
        files.write(payload / layout.WHEELS / wheel.name, wheel.read_bytes())
    for program in (probe, prepare_api, compose_program):
        files.write(payload / Path(str(program.__file__)).name, Path(str(program.__file__)).read_bytes())


def _emptied(payload: Path) -> None:
    """Remove what an earlier build staged; the folder's own README stays."""
    files.folder(payload)
    for entry in payload.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry.name != "README.md":
            entry.unlink()


def describe(payload: Path) -> tuple[manifest.File, ...]:
    """Return every staged file, sorted by path."""
    found = sorted(path for path in payload.rglob("*") if path.is_file())
    names = [path for path in found if path.relative_to(payload).as_posix() not in ("README.md", layout.MANIFEST)]
    return tuple(
        manifest.File(
            path=path.relative_to(payload).as_posix(),
            size=path.stat().st_size,
            sha256=digest.hash_file(path),
            executable=bool(path.stat().st_mode & 0o111),
        )
        for path in names
    )
