"""Provides the bootloader of the executable: PyInstaller's, patched for hosts whose /tmp is noexec or full."""

from __future__ import annotations

from pathlib import Path

from build import watched
from build.failure import BuildError
from installer.core import digest, files
from installer.core.console import Console
from installer.core.runner import Runner

RECIPES = Path(__file__).resolve().parent / "portable"
USED = ("bootloader.sh", "bootloader.patch", "bootloader.lock", "zig.sh", "zig.lock")
BUILD_SECONDS = 1800.0


def bootloader(work: Path, runner: Runner, console: Console) -> Path:
    """Return the bootloader below `work`, compiled once for each version of the recipe.

    Raises BuildError when it cannot be built.
    """
    identity = digest.hash_bytes("".join(digest.hash_file(RECIPES / name) for name in USED).encode())[:16]
    made = work / f"bootloader-{identity}"
    if made.is_file():
        return made
    files.folder(work)
    log = work / "bootloader.log"
    console.line(f"python   compiling the bootloader, once (about 40 s; log: {log})")
    partial = made.with_suffix(".part")
    command = ["bash", str(RECIPES / "bootloader.sh"), str(partial)]
    result = watched.run(command, log, "the bootloader", BUILD_SECONDS, runner, console)
    if not result.ok:
        raise BuildError(
            f"PyInstaller's bootloader cannot be built: {result.last_words}",
            f"see in {log} what is missing, then build again",
        )
    partial.rename(made)
    return made
