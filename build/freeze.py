"""Freezes the installer and its payload into one executable.

With the same inputs the same bytes: PYTHONHASHSEED fixed, no times, no paths of this machine.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from build import glibc_floor, kept, spec
from installer.bundle import seal
from installer.core import digest, errors, files, layout
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


def freeze(python: Path, bootloader: Path, payload: Path, executable: Path, work: Path, runner: Runner) -> None:
    """Write `executable`, sealed, from the installer of this checkout and `payload`.

    `python` is the interpreter that goes in, `bootloader` what unpacks and starts it. Raises
    BuildError when PyInstaller fails or the result needs a newer glibc than the floor.
    """
    key = _key(python, bootloader, payload)
    made = kept.executable(key, work)
    if made is not None and seal.is_intact(made):
        _copy(made, executable)
        return
    interpreter = environment(python, work, runner, bootloader)
    with tempfile.TemporaryDirectory(prefix="freeze-", dir=work) as scratch:
        made = _pyinstaller(interpreter, payload, Path(scratch), runner)
        glibc_floor.require(made, interpreter, runner)
        seal.add(made)
        _copy(made, executable)
        kept.keep_executable(made, key, work)


def _key(python: Path, bootloader: Path, payload: Path) -> str:
    """Return a digest of all that an executable is made of; the manifest names what else is in the payload."""
    ours = sorted((spec.FOLDER.parent / "installer").rglob("*.py"))
    inputs = [*ours, Path(__file__), SPEC, LOCK, bootloader, payload / layout.MANIFEST]
    return digest.hash_bytes(" ".join([str(python.resolve()), *map(digest.hash_file, inputs)]).encode())


def _copy(made: Path, executable: Path) -> None:
    with files.replacing(executable, mode=0o755) as target, made.open("rb") as source:
        shutil.copyfileobj(source, target)


def environment(python: Path, work: Path, runner: Runner, bootloader: Path | None = None) -> Path:
    """Return the interpreter of an environment with PyInstaller and our libraries, made once and kept.

    Without a `bootloader` it keeps PyInstaller's own.
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
    result = runner.run(command, timeout=INSTALL_SECONDS, check=False)
    if not result.ok:
        raise errors.BuildError(f"the libraries cannot be installed: {result.last_words}", "check the network")
    if bootloader is not None:
        (own,) = site.glob("PyInstaller/bootloader/Linux-*/run")
        files.write(own, bootloader.read_bytes(), mode=0o755)
    files.write(folder / "complete", "")
    return interpreter


def _pyinstaller(interpreter: Path, payload: Path, scratch: Path, runner: Runner) -> Path:
    command = [str(interpreter), "-m", "PyInstaller", "--noconfirm", "--clean", "--log-level", "WARN"]
    command += ["--distpath", str(scratch / "dist"), "--workpath", str(scratch / "work"), str(SPEC)]
    env = {
        "PYTHONHASHSEED": "0",
        "SOURCE_DATE_EPOCH": spec.EPOCH,
        "DIFY_INSTALLER_PAYLOAD": str(payload),
        # PyInstaller's cache must not be shared with another build that runs at the same time.
        "PYINSTALLER_CONFIG_DIR": str(scratch / "cache"),
    }
    result = runner.run(command, timeout=FREEZE_SECONDS, env=env, cwd=scratch, check=False)
    made = scratch / "dist" / layout.EXECUTABLE
    if not result.ok or not made.is_file():
        raise errors.BuildError(
            f"PyInstaller failed: {result.last_words}", "run it again; report it if it happens twice"
        )
    return made
