"""Freezes the installer and its payload into one executable.

With the same inputs the same bytes: PYTHONHASHSEED fixed, no times, no paths of this machine.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from build import glibc_floor, kept, spec, watched
from build.failure import BuildError
from installer.bundle import seal
from installer.core import digest, files, layout
from installer.core.console import Console
from installer.core.runner import Runner

SPEC = spec.FOLDER / "dify-installer.spec"
LOCK = spec.FOLDER / "freeze.lock"
INSTALL_SECONDS = 1200.0
FREEZE_SECONDS = 1200.0

# PEP 600: pip asks this module, and takes no wheel that needs a newer glibc than the floor.
MANYLINUX = """\
def manylinux_compatible(major, minor, arch):
    return (major, minor) <= {floor}
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tools:
    """What an executable is frozen with: `python` goes in, `bootloader` unpacks and starts it.

    Without a bootloader it is this machine's own Python that goes in, with PyInstaller's own bootloader. The result
    needs glibc `floor`, and nothing newer.
    """

    python: Path
    bootloader: Path | None
    floor: glibc_floor.Version = glibc_floor.FLOOR


def own_tools() -> Tools:
    """Return this machine's tools: nothing to compile, but the result is for machines like this one alone.

    `sys.executable` has PyInstaller and our libraries: specs/dev.lock holds all of specs/freeze.lock.
    """
    return Tools(python=Path(sys.executable), bootloader=None, floor=glibc_floor.of_this_machine())


def freeze(tools: Tools, payload: Path, executable: Path, work: Path, runner: Runner, console: Console) -> None:
    """Write `executable`, sealed, from the installer of this checkout and `payload`.

    Raises BuildError when PyInstaller fails or the result needs a newer glibc than the tools' floor.
    """
    key = _key(tools, payload)
    made = kept.executable(key, work)
    if made is not None and seal.is_intact(made):
        _copy(made, executable)
        return
    interpreter = environment(tools, work, runner, console)
    with kept.analysis(_code_key(tools), work) as analysis:
        made = _pyinstaller(interpreter, payload, analysis, work / "freeze.log", runner, console)
        glibc_floor.require(made, interpreter, runner, tools.floor)
        seal.add(made)
        _copy(made, executable)
        kept.keep_executable(made, key, work)


def _key(tools: Tools, payload: Path) -> str:
    """Return a digest of all that an executable is made of; the manifest names what else is in the payload."""
    return digest.hash_bytes(f"{_code_key(tools)} {digest.hash_file(payload / layout.MANIFEST)}".encode())


def _code_key(tools: Tools) -> str:
    """Return a digest of all but the payload: our code and where it lies, the libraries and the tools."""
    ours = sorted((spec.FOLDER.parent / "installer").rglob("*.py"))
    inputs = [*ours, Path(__file__), SPEC, LOCK]
    loader = "own" if tools.bootloader is None else digest.hash_file(tools.bootloader)
    places = [str(spec.FOLDER.resolve()), str(tools.python.resolve())]
    return digest.hash_bytes(" ".join([*places, loader, *map(digest.hash_file, inputs)]).encode())


def _copy(made: Path, executable: Path) -> None:
    with files.replacing(executable, mode=0o755) as target, made.open("rb") as source:
        shutil.copyfileobj(source, target)


def environment(tools: Tools, work: Path, runner: Runner, console: Console) -> Path:
    """Return the interpreter of an environment with PyInstaller and our libraries, made once and kept.

    This machine's own tools are such an environment already.
    """
    if tools.bootloader is None:
        return tools.python
    return install_environment(tools.python, work, runner, console, tools.bootloader)


def install_environment(
    python: Path, work: Path, runner: Runner, console: Console, bootloader: Path | None = None
) -> Path:
    """Return the interpreter of an environment of `python` with all of specs/freeze.lock, made once and kept.

    Without a `bootloader` it keeps PyInstaller's own. Raises BuildError when the libraries cannot be had.
    """
    identity = digest.hash_bytes(f"{digest.hash_file(LOCK)} {python.resolve()} {bootloader}".encode())[:16]
    folder = work / f"freeze-env-{identity}"
    interpreter = folder / "bin/python"
    if (folder / "complete").is_file():
        return interpreter
    shutil.rmtree(folder, ignore_errors=True)
    runner.run([str(python), "-m", "venv", str(folder)], timeout=INSTALL_SECONDS)
    site = next(folder.glob("lib/python*/site-packages"))
    files.write(site / "_manylinux.py", MANYLINUX.format(floor=glibc_floor.FLOOR))
    command = [str(interpreter), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--only-binary", ":all:", "--require-hashes", "--requirement", str(LOCK)]
    log = work / "freeze-env.log"
    console.line(f"freeze   installing PyInstaller and our libraries (about 15 s; log: {log})")
    result = watched.run(command, log, "pip", INSTALL_SECONDS, runner, console)
    if not result.ok:
        raise BuildError(
            f"the libraries cannot be installed: {result.last_words}", f"check the network; all of it is in {log}"
        )
    if bootloader is not None:
        (own,) = site.glob("PyInstaller/bootloader/Linux-*/run")
        files.write(own, bootloader.read_bytes(), mode=0o755)
    files.write(folder / "complete", "")
    return interpreter


def _pyinstaller(interpreter: Path, payload: Path, analysis: Path, log: Path, runner: Runner, console: Console) -> Path:
    """Run PyInstaller; what it found out of our code stays in `analysis`, and the payload alone is new the next time.

    The analysis is two thirds of its time (19 of 27 s, one run of the sample).
    """
    command = [str(interpreter), "-m", "PyInstaller", "--noconfirm", "--log-level", "INFO"]
    command += ["--distpath", str(analysis / "dist"), "--workpath", str(analysis / "work"), str(SPEC)]
    env = {
        "PYTHONHASHSEED": "0",
        "SOURCE_DATE_EPOCH": spec.EPOCH,
        "DIFY_INSTALLER_PAYLOAD": str(payload),
        # PyInstaller's cache must not be shared with another build that runs at the same time.
        "PYINSTALLER_CONFIG_DIR": str(analysis / "cache"),
    }
    console.line(f"freeze   the executable, by PyInstaller (about 20 s; log: {log})")
    result = watched.run(command, log, "PyInstaller", FREEZE_SECONDS, runner, console, env=env, cwd=analysis)
    made = analysis / "dist" / layout.EXECUTABLE
    if not result.ok or not made.is_file():
        raise BuildError(
            f"PyInstaller failed: {result.last_words}",
            f"run it again; if it happens twice, report it with {log}",
        )
    return made
