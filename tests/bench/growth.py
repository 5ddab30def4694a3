"""`make growth`: what an installation costs as the bundle grows, in bytes and in images.

The sample's bundle, made by the real build, gets filler images beside its own ten. Every run is a whole installation
on a machine and file systems of its own, with a cold cache. A bundle is removed before the next one is made: the
largest takes 16 GB, and as much again once it is loaded.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from build import bootloader, freeze, portable_python
from installer.bundle import manifest
from installer.core import layout
from installer.core.console import Console
from installer.core.runner import Runner
from tests.bench import ballast, bench, filler, growth_report, target
from tests.target import bundle as bundles
from tests.target import machine as machines
from tests.target.bundle import Bundle
from tests.target.machine import Machine
from tests.target.registry import Registry

# Filler images, and bytes of the archive: first ever more images of the same 0.3 GB, then the same bytes in ever more.
BY_SIZE = ((2, 10**9), (12, 4 * 10**9), (51, 16 * 10**9))
BY_COUNT = ((3, 4 * 10**9), (12, 4 * 10**9), (30, 4 * 10**9))
# One run of a bundle from this size on.
LARGE_BYTES = 10**10
# What a run takes of the disk, in units of the archive: itself, the graph root, and the spool of an image.
DISK_RATIO = 2.4
PROGRAMS = ("dify-installer", "podman")
MEMORY = "/dev/shm"
INSTALL_SECONDS = 3600.0


@dataclass(kw_only=True, slots=True)
class Run:
    """One installation of a bundle: seconds, and peaks in bytes, of memory by program and of disks by name.

    `seconds` and `steps` are of the first run of the installer; `again` are the seconds of the second one.
    """

    size: int
    images: int
    layers: int
    largest: int
    seconds: float = 0.0
    steps: dict[str, float] = field(default_factory=dict)
    again: float = 0.0
    cpu: float = 0.0
    memory: dict[str, int] = field(default_factory=dict)
    disk: dict[str, int] = field(default_factory=dict)


def main() -> None:
    """Measure every bundle, and write the table and its runs."""
    kept, rounds = target.arguments(__doc__, rounds=2)
    work = kept / "growth"
    shutil.rmtree(work, ignore_errors=True)
    tars = [tar for layers in ballast.layers(kept / "bench").values() for tar in layers]
    with Registry(kept / "registry") as registry:
        sample = bundles.make("growth", bundles.SAMPLE, registry, kept)
    base = machines.base_root(kept)
    _require_space(kept, max(size for _, size in BY_SIZE))
    runs: dict[tuple[int, int], list[Run]] = {}
    facts: dict[str, str] = {}
    for count, size in dict.fromkeys(BY_SIZE + BY_COUNT):
        bundle = filler.add(sample, count, size, filler.Ballast(tars), work)
        freeze_bundle(bundle, kept / "build")
        runs[count, size] = []
        for _ in range(1 if size >= LARGE_BYTES else rounds):
            with target.booted(base, {target.BUNDLE: bundle.folder}, work) as machine:
                facts = facts or describe(sample, machine)
                run = measured(bundle, machine)
            runs[count, size].append(run)
            print(run, flush=True)
        shutil.rmtree(work)
    growth_report.write([runs[each] for each in BY_SIZE], [runs[each] for each in BY_COUNT], facts)


def freeze_bundle(bundle: Bundle, work: Path) -> None:
    """Write the bundle's executable, with what the build of the sample has left in `work`."""
    runner, console = Runner(), Console()
    ready = os.environ.get("PORTABLE_PYTHON")
    python = portable_python.portable_python(work, Path(ready) if ready else None, "amd64", runner, console)
    loader = bootloader.bootloader(work, runner, console)
    tools = freeze.Tools(python=python, bootloader=loader)
    freeze.freeze(tools, bundle.payload, bundle.executable, work, runner, console)


def _require_space(work: Path, size: int) -> None:
    free = shutil.disk_usage(work).free
    if free < DISK_RATIO * size:
        sys.exit(f"{work} has {free / 1e9:.0f} GB free, and {DISK_RATIO * size / 1e9:.0f} GB are needed")


def describe(sample: Bundle, machine: Machine) -> dict[str, str]:
    """Return what the figures depend on: machine, engine, sample, and where podman spools an image."""
    facts = bench.describe(sample, machine.run("podman --version").stdout.strip())
    facts["sample"] = facts.pop("bundle")
    room = os.statvfs(_memory(machine))
    spool = f"in memory if an image fits into {MEMORY} ({room.f_blocks * room.f_frsize / 1e9:.1f} GB), else on the disk"
    return facts | {"podman's spool": spool}


# -- a run


def measured(bundle: Bundle, machine: Machine) -> Run:
    """Install a bundle twice, watching the first time."""
    run = _described(bundle)
    target.set_cache("cold", bundle.folder)
    started = target.processor_seconds()
    with _watched(machine, run):
        run.seconds = _install(machine)
    run.cpu = target.processor_seconds() - started
    steps = json.loads(machine.read("/opt/dify/install-report.json"))["steps"]
    run.steps = {step["name"]: step["seconds"] for step in steps}
    run.again = _install(machine)
    return run


def _described(bundle: Bundle) -> Run:
    described = manifest.loads((bundle.payload / layout.MANIFEST).read_bytes())
    return Run(
        size=bundle.archive.stat().st_size,
        images=len(described.images),
        layers=len(described.held_layers),
        largest=max(image.size for image in described.images),
    )


def _install(machine: Machine) -> float:
    begun = time.monotonic()
    command = f"cd {target.BUNDLE} && ./dify-installer --ip {machines.ADDRESS} --no-boot"
    machine.run(command, timeout=INSTALL_SECONDS)
    return time.monotonic() - begun


def _watched(machine: Machine, run: Run) -> contextlib.AbstractContextManager[None]:
    """Note the peaks of each program's memory and of each disk while something runs."""
    folders = {name: machine.root / path for name, path in target.DISKS.items()} | {MEMORY: _memory(machine)}
    before = {name: target.used(folder) for name, folder in folders.items()}
    inside = (Path("/proc") / str(machine.init()) / "ns/pid").readlink()

    def sample() -> None:
        for name, folder in folders.items():
            run.disk[name] = max(run.disk.get(name, 0), target.used(folder) - before[name])
        for name, resident in _resident(inside).items():
            run.memory[name] = max(run.memory.get(name, 0), resident)

    return target.sampled(sample)


def _memory(machine: Machine) -> Path:
    """Return the path, on this host, of the machine's file system in memory."""
    return Path(f"/proc/{machine.init()}/root{MEMORY}")


def _resident(namespace: Path) -> Counter[str]:
    """Return the memory, in bytes, of each program in a machine's process namespace.

    A process is what its executable is: podman runs itself to unpack a layer, by another name. What several processes
    share is counted once (proc(5), "Pss"): the installer is two for each command that it starts, until that has begun.
    A peak between two samples is not lost where one process alone had it: the kernel notes it ("VmHWM").
    """
    together: Counter[str] = Counter()
    alone: Counter[str] = Counter()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                program = (entry / "exe").readlink().name
                if program in PROGRAMS and (entry / "ns/pid").readlink() == namespace:
                    together[program] += _kilobytes(entry / "smaps_rollup", "Pss") * 1024
                    alone[program] = max(alone[program], _kilobytes(entry / "status", "VmHWM") * 1024)
    return together | alone


def _kilobytes(file: Path, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", file.read_text(), re.MULTILINE)
    return int(found.group(1)) if found else 0


if __name__ == "__main__":
    main()
