"""Verifying and loading alone, by the podman of this very host, whose version need not be the target machine's.

The same two ways, without a machine around them: `sha256sum` and `podman load`, and what the installer does. Each run
has a fresh file system, podman's storage on it, and podman's temporary folder.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from installer.bundle import manifest
from installer.core import layout
from installer.core.console import Console
from installer.core.runner import Runner
from installer.engine.podman import Podman
from installer.host.facts import Wanted
from installer.host.observe import observe
from installer.images import inventory, load
from tests.bench.target import fresh_disk
from tests.target.bundle import Bundle

STORAGE = """\
[storage]
driver = "overlay"
graphroot = "{disk}/storage"
runroot = "{disk}/run"
"""


@dataclass(frozen=True, slots=True)
class Load:
    """Seconds of verifying and loading, one way, with a warm cache."""

    way: str
    seconds: float


def version() -> str:
    """Return the version of this host's podman."""
    shown = subprocess.run(["podman", "--version"], capture_output=True, text=True, check=True).stdout
    return shown.split()[-1]


def measure(made: Bundle, work: Path, rounds: int) -> list[Load]:
    """Return `rounds` runs of each way, taking turns."""
    ways: dict[str, Callable[[Bundle, Path, dict[str, str]], None]] = {"loaded": _ours, "by hand": _by_hand}
    runs = []
    for _ in range(rounds):
        for way, loaded in ways.items():
            runs.append(Load(way, _on_a_fresh_disk(loaded, made, work)))
            print(f"podman {version()} of this host: {way} {runs[-1].seconds:.1f} s", flush=True)
    return runs


def _on_a_fresh_disk(load: Callable[[Bundle, Path, dict[str, str]], None], made: Bundle, work: Path) -> float:
    work.mkdir(parents=True, exist_ok=True)
    image, disk = work / "disk.img", work / "disk"
    fresh_disk(image, disk)
    try:
        (disk / "storage.conf").write_text(STORAGE.format(disk=disk))
        (disk / "tmp").mkdir()
        env = {**os.environ, "CONTAINERS_STORAGE_CONF": str(disk / "storage.conf"), "TMPDIR": str(disk / "tmp")}
        subprocess.run(["podman", "info"], env=env, capture_output=True, check=True)
        subprocess.run(["cat", str(made.archive)], stdout=subprocess.DEVNULL, check=True)
        begun = time.monotonic()
        load(made, disk, env)
        return time.monotonic() - begun
    finally:
        subprocess.run(["umount", "--recursive", str(disk)], check=True)
        image.unlink()
        shutil.rmtree(disk)


def _by_hand(made: Bundle, _disk: Path, env: dict[str, str]) -> None:
    archive = str(made.archive)
    subprocess.run(["sha256sum", archive], stdout=subprocess.DEVNULL, check=True)
    subprocess.run(["podman", "load", "--quiet", "--input", archive], env=env, stdout=subprocess.DEVNULL, check=True)


def _ours(made: Bundle, disk: Path, env: dict[str, str]) -> None:
    bundle = manifest.loads((made.payload / layout.MANIFEST).read_bytes())
    engine, quiet = Podman(Runner(env)), Console(silent=True)
    wanted = Wanted(
        folder=disk,
        address=None,
        ports={},
        architecture=bundle.architecture,
        largest_image_bytes=0,
        missing_bytes=0,
        not_before=None,
    )
    missing = inventory.find_missing(bundle.images, inventory.list_present(engine))
    load.verify_parts(load.list_parts(bundle, made.archive, missing), bundle, engine, quiet)
    load.load(
        bundle, bundle.images, made.archive, layout.Installation(disk / "dify"), engine, observe(wanted, engine), quiet
    )
    inventory.tag(bundle.images, engine)
