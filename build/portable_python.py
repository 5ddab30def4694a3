"""Provides the portable CPython that the executable is frozen with: it needs glibc 2.28, no more.

An ordinary Python will not do: Debian 12's needs GLIBC_2.35, and RHEL 8 has 2.28, RHEL 9 2.34 (docs/decisions/011).
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import tarfile
from functools import partial
from pathlib import Path

from build import watched
from build.failure import BuildError
from build.wheels import MACHINES
from installer.bundle import manifest
from installer.core import digest, files
from installer.core.console import Console
from installer.core.runner import Runner

RECIPES = Path(__file__).resolve().parent / "portable"
INTERPRETER = "bin/python3.13"
# 8 minutes of processor time on two cores of 2020, several times that on a slow machine.
USED = ("fetch.sh", "sources.sha256", "build.sh", "zig.sh", "zig.lock", "pack.sh")
BUILD_SECONDS = 7200.0
PHASE = "== "


def portable_python(
    work: Path, ready: Path | None, architecture: manifest.Architecture, runner: Runner, console: Console
) -> Path:
    """Return a portable interpreter below `work`: unpacked from `ready`, or built from sources and kept.

    Raises BuildError when it is not to be had; for the other architecture, since PyInstaller
    freezes only for the machine that it runs on.
    """
    if platform.machine() != MACHINES[architecture]:
        raise BuildError(
            f"an executable for {architecture} cannot be made on {platform.machine()}",
            f"build on an {architecture} machine: PyInstaller does not freeze for another architecture",
        )
    archive = ready or _built(work / "portable-python", runner, console)
    folder = work / "portable-python" / digest.hash_file(archive)[:16]
    if not folder.is_dir():
        unpacked = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(unpacked, ignore_errors=True)
        files.folder(unpacked)
        try:
            with tarfile.open(archive) as packed:
                packed.extractall(unpacked, filter="data")
        except (OSError, tarfile.TarError) as error:
            raise BuildError(f"{archive} cannot be unpacked: {error}", "give a tar.xz of a portable Python") from error
        unpacked.rename(folder)
    return _interpreter(folder, archive, runner)


def phase(log: Path) -> str:
    """Return what a recipe does, from its log: `compiling openssl, 5 of 6, 412 of 1090 objects`.

    The last line that begins with `== ` says it (build/portable/zig.sh); objects are counted where that line says.
    """
    lines = log.read_text(errors="replace").splitlines()
    found = next((line for line in reversed(lines) if line.startswith(PHASE)), PHASE).removeprefix(PHASE)
    counted = re.fullmatch(r"(.*), (\d+) objects in (/.*)", found)
    if counted is None:
        return found
    what, total, folder = counted.groups()
    done = sum(name.endswith(".o") for _, _, names in os.walk(folder) for name in names)
    return f"{what}, {min(done, int(total))} of {total} objects"


def _interpreter(folder: Path, archive: Path, runner: Runner) -> Path:
    found = next(iter(sorted(folder.glob(f"*/{INTERPRETER}"))), None)
    if found is None:
        raise BuildError(f"{archive} holds no {INTERPRETER}", "give a tar.xz made by build/portable/pack.sh")
    result = runner.run([str(found), "-c", "import ssl, zlib, lzma, bz2, ctypes"], timeout=60, check=False)
    if not result.ok:
        raise BuildError(f"the portable Python does not run: {result.last_words}", "build it again")
    return found


def _built(work: Path, runner: Runner, console: Console) -> Path:
    """Build from Debian's source packages with zig's compiler, once for each version of the recipes."""
    identity = digest.hash_bytes("".join(digest.hash_file(RECIPES / name) for name in USED).encode())[:16]
    archive = work / f"built-{identity}.tar.xz"
    if archive.is_file():
        return archive
    files.folder(work)
    console.line("python   building the portable CPython from sources, once: about 4 minutes on two quiet processors")
    for script, *arguments in (
        ("fetch.sh", work / "sources"),
        ("build.sh", work / "sources", work / "tree" / "py313"),
        ("pack.sh", work / "tree" / "py313", archive.with_suffix(".part")),
    ):
        log = work / f"{script.removesuffix('.sh')}.log"
        console.line(f"python   {script}: its log is {log}")
        result = watched.run(
            ["bash", str(RECIPES / script), *map(str, arguments)],
            log,
            "the portable CPython",
            BUILD_SECONDS,
            runner,
            console,
            progress=partial(phase, log),
        )
        if not result.ok:
            raise BuildError(
                f"the portable Python cannot be built ({script}, log: {log}): {result.last_words}",
                "see what is missing, or give a ready one with PORTABLE_PYTHON=FILE",
            )
    archive.with_suffix(".part").rename(archive)
    return archive
