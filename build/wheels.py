"""Collects the wheels with which a server installs podman-compose, for every Python it may have."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from build.failure import BuildError
from installer.bundle import manifest
from installer.core import digest, files
from installer.core.console import Console
from installer.core.runner import Runner

# CPython versions with binary wheels of PyYAML; RHEL 9 has 3.9, 3.11 and 3.12, RHEL 10 3.12.
PYTHONS = ((3, 9), (3, 10), (3, 11), (3, 12), (3, 13), (3, 14))
MACHINES: dict[str, str] = {"amd64": "x86_64", "arm64": "aarch64"}
# What runs on glibc 2.28, RHEL 8's (PEP 600), newest first.
PLATFORMS = ("manylinux_2_28", "manylinux_2_17", "manylinux2014", "manylinux_2_12", "manylinux_2_5")
DOWNLOAD_SECONDS = 600.0


def collect(
    lock: Path, architecture: manifest.Architecture, work: Path, runner: Runner, console: Console
) -> list[Path]:
    """Return the wheels that `lock` pins, for all PYTHONS; kept below `work` for the next build.

    pip compares each with the hashes of the lock. Raises BuildError when one cannot be had.
    """
    folder = work / f"{architecture}-{digest.hash_file(lock)[:16]}"
    if not folder.is_dir():
        partial = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(partial, ignore_errors=True)
        files.folder(partial)
        with console.progress("download wheels", len(PYTHONS), unit="Pythons") as bar:
            for version in PYTHONS:
                _download(lock, version, MACHINES[architecture], partial, runner)
                bar.update(1)
        partial.rename(folder)
    return sorted(folder.glob("*.whl"))


def _download(lock: Path, version: tuple[int, int], machine: str, folder: Path, runner: Runner) -> None:
    major, minor = version
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--require-hashes", "--only-binary", ":all:", "--requirement", str(lock), "--dest", str(folder)]
    command += ["--implementation", "cp", "--python-version", f"{major}.{minor}"]
    for abi in (f"cp{major}{minor}", "abi3", "none"):
        command += ["--abi", abi]
    for platform in PLATFORMS:
        command += ["--platform", f"{platform}_{machine}"]
    result = runner.run(command, timeout=DOWNLOAD_SECONDS, check=False)
    if not result.ok:
        raise BuildError(
            f"the wheels of {lock.name} for Python {major}.{minor} on {machine} cannot be had: {result.last_words}",
            "check the network and pip's index; a hash that differs means that the file is not the pinned one",
        )
