"""What an earlier build made, taken again where it was made of the same things: a second build takes seconds."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

from build import archive, store
from build.compiled import Compiled
from build.images import Pulled
from installer.bundle import manifest, verify
from installer.core import digest, errors, files
from installer.core.console import Console

# Executables are kept by what went into them; so many of them, since one checkout may make several bundles.
EXECUTABLES = 4
# What PyInstaller found out of our code, kept by that code: of one checkout there is one that counts.
ANALYSES = 2


def archives_key(pulled: Sequence[Pulled], cut: archive.Cut) -> str:
    """Return a digest of all that the archives are made of: the images, how they are cut, and our own code for it."""
    inputs = {
        "images": [[image.reference, image.id, image.digest] for image in pulled],
        "largest": cut.largest,
        "compression": cut.compression,
        "base": sorted(cut.base),
        "code": [digest.hash_file(Path(module.__file__ or "")) for module in (archive, manifest)],
    }
    return digest.hash_bytes(json.dumps(inputs, sort_keys=True).encode())


def archives(
    state: Path, pulled: Sequence[Future[Pulled]], cut: archive.Cut, folder: Path, console: Console
) -> manifest.Manifest | None:
    """Return the manifest of the archives in `folder`, if they are whole and of the same things; else None.

    Only where there are such archives are the images waited for: to compare them.
    """
    try:
        noted, _, text = state.read_bytes().partition(b"\n")
        before = manifest.loads(text)
        if noted.decode() != archives_key([job.result() for job in pulled], cut):
            return None
        for path, expected in zip(verify.archive_paths(folder, before), before.archives, strict=True):
            verify.check_file(path, expected, console)
    except (OSError, errors.BundleDamaged):
        return None
    return before


def images(state: Path, cut: archive.Cut, folder: Path, console: Console) -> archive.Earlier:
    """Return what the archives of the last build hold, if they are whole and have the form that is wanted."""
    try:
        before = manifest.loads(state.read_bytes().partition(b"\n")[2])
        if any(each.compression != cut.compression for each in before.archives):
            return archive.NOTHING
        for path, expected in zip(verify.archive_paths(folder, before), before.archives, strict=True):
            verify.check_file(path, expected, console)
        return archive.earlier(before, folder)
    except (OSError, tarfile.TarError, errors.BundleDamaged):
        return archive.NOTHING


def image_store(
    state: Path, archives: Sequence[manifest.Archive], compiled: Compiled | None, folder: Path, console: Console
) -> manifest.BigFile | None:
    """Return the image store in `folder`, if it is whole and was made from these things by this code; else None."""
    try:
        noted = json.loads(state.read_bytes())
        if noted["key"] != _store_key(archives, compiled):
            return None
        described = manifest.BigFile(**{**noted["store"], "chunks": tuple(noted["store"]["chunks"])})
        verify.check_file(folder / described.name, described, console)
    except (OSError, KeyError, TypeError, ValueError, errors.BundleDamaged):
        return None
    return described


def note_image_store(
    state: Path, archives: Sequence[manifest.Archive], compiled: Compiled | None, described: manifest.BigFile
) -> None:
    """Note what the image store was made of, for the next build."""
    noted = {"key": _store_key(archives, compiled), "store": dataclasses.asdict(described)}
    files.write(state, json.dumps(noted))


def _store_key(archives: Sequence[manifest.Archive], compiled: Compiled | None) -> str:
    # Its folder has the name of what it was made from.
    folder = compiled.folder.parent.name if compiled else "nothing compiled"
    return " ".join([*(each.sha256 for each in archives), folder, digest.hash_file(Path(store.__file__))])


def note_archives(state: Path, pulled: Sequence[Future[Pulled]], cut: archive.Cut, bundle: manifest.Manifest) -> None:
    """Note what the archives were made of, for the next build."""
    key = archives_key([job.result() for job in pulled], cut)
    files.write(state, key.encode() + b"\n" + manifest.dumps(bundle))


def executable(key: str, work: Path) -> Path | None:
    """Return the executable that was made of these things, if it is kept."""
    path = work / f"frozen-{key}"
    if not path.is_file():
        return None
    os.utime(path)
    return path


def keep_executable(made: Path, key: str, work: Path) -> None:
    """Keep an executable, and only so many of them, the latest used."""
    with files.replacing(work / f"frozen-{key}", mode=0o755) as target, made.open("rb") as source:
        shutil.copyfileobj(source, target)
    kept = sorted(work.glob("frozen-*"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in kept[EXECUTABLES:]:
        path.unlink()


@contextmanager
def analysis(key: str, work: Path) -> Iterator[Path]:
    """Give the folder in which PyInstaller keeps what it found out of this code; for one build at a time.

    What a build leaves that was killed or has failed is removed by the next one.
    """
    folder = work / f"analysis-{key[:16]}"
    complete = folder / "complete"
    with (work / "analysis.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete.is_file():
            shutil.rmtree(folder, ignore_errors=True)
            files.folder(folder)
        complete.unlink(missing_ok=True)
        yield folder
        files.write(complete, "")
        kept = sorted(work.glob("analysis-*"), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in kept[ANALYSES:]:
            shutil.rmtree(path)
