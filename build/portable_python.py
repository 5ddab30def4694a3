"""Provides the portable CPython that the executable is frozen with: it needs glibc 2.28, no more.

An ordinary Python will not do: Debian 12's needs GLIBC_2.35, and RHEL 8 has 2.28, RHEL 9 2.34 (docs/decisions/011).
"""

from __future__ import annotations

import platform
import shutil
import tarfile
from pathlib import Path

from build.wheels import MACHINES
from installer.bundle import manifest
from installer.core import digest, errors, files
from installer.core.console import Console
from installer.core.runner import Runner

RECIPES = Path(__file__).resolve().parent / "portable"
INTERPRETER = "bin/python3.13"
# 8 minutes of processor time on two cores of 2020, several times that on a slow machine.
USED = ("fetch.sh", "sources.sha256", "build.sh", "zig.sh", "zig.lock", "pack.sh")
BUILD_SECONDS = 7200.0


def portable_python(
    work: Path, ready: Path | None, architecture: manifest.Architecture, runner: Runner, console: Console
) -> Path:
    """Return a portable interpreter below `work`: unpacked from `ready`, or built from sources and kept.

    Raises BuildError when it is not to be had; for the other architecture, since PyInstaller
    freezes only for the machine that it runs on.
    """
    if platform.machine() != MACHINES[architecture]:
        raise errors.BuildError(
            f"an executable for {architecture} cannot be made on {platform.machine()}",
            f"build on an {architecture} machine: PyInstaller does not freeze for another architecture",
        )
    archive = ready or _built(work / "portable-python", runner, console)
    folder = work / "portable-python" / digest.hash_file(archive)[:16]
    if not folder.is_dir():
        partial = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(partial, ignore_errors=True)
        files.folder(partial)
        try:
            with tarfile.open(archive) as packed:
                packed.extractall(partial, filter="data")
        except (OSError, tarfile.TarError) as error:
            raise errors.BuildError(
                f"{archive} cannot be unpacked: {error}", "give a tar.xz of a portable Python"
            ) from error
        partial.rename(folder)
    return _interpreter(folder, archive, runner)


def _interpreter(folder: Path, archive: Path, runner: Runner) -> Path:
    found = next(iter(sorted(folder.glob(f"*/{INTERPRETER}"))), None)
    if found is None:
        raise errors.BuildError(f"{archive} holds no {INTERPRETER}", "give a tar.xz made by build/portable/pack.sh")
    result = runner.run([str(found), "-c", "import ssl, zlib, lzma, bz2, ctypes"], timeout=60, check=False)
    if not result.ok:
        raise errors.BuildError(f"the portable Python does not run: {result.last_words}", "build it again")
    return found


def _built(work: Path, runner: Runner, console: Console) -> Path:
    """Build from Debian's source packages with zig's compiler, once for each version of the recipes."""
    identity = digest.hash_bytes("".join(digest.hash_file(RECIPES / name) for name in USED).encode())[:16]
    archive = work / f"built-{identity}.tar.xz"
    if archive.is_file():
        return archive
    files.folder(work)
    console.line("python   building the portable CPython from sources, once: some minutes")
    for script, *arguments in (
        ("fetch.sh", work / "sources"),
        ("build.sh", work / "sources", work / "tree" / "py313"),
        ("pack.sh", work / "tree" / "py313", archive.with_suffix(".part")),
    ):
        result = runner.run(["bash", str(RECIPES / script), *map(str, arguments)], timeout=BUILD_SECONDS, check=False)
        if not result.ok:
            raise errors.BuildError(
                f"the portable Python cannot be built ({script}): {result.last_words}",
                "see what is missing, or give a ready one with PORTABLE_PYTHON=FILE",
            )
    archive.with_suffix(".part").rename(archive)
    return archive
