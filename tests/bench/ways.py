"""`make growth`, its second half: which way wins where, by the bundle's size, the disk and the processors.

The application is that of `make bench`; filler images make the bundle larger. The bundle lies on a disk as slow as the
others. Each case is run once, with a cold cache, on a machine and file systems of its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from build import archive, compiled, store
from installer.bundle import manifest
from installer.core import files, layout
from installer.core.console import Console
from installer.core.runner import Runner
from tests.bench import ballast, bench, filler, growth, slow_disk, ways_report
from tests.bench.hosts import ROOTFUL
from tests.bench.slow_disk import FAST, LIMITS, Limit
from tests.bench.target import BUNDLE, arguments, booted, set_cache
from tests.target import bundle as bundles
from tests.target import machine as machines
from tests.target.bundle import Bundle
from tests.target.registry import Registry

GB = 10**9
# Bytes of the archive, and filler images: the smallest one is what the application takes.
SIZES = ((0, 0), (4 * GB, 8), (16 * GB, 60))
# The one that the other cases are of.
USUAL = 4 * GB
WAYS = ("loaded", "mounted", "unpacked", "by hand")


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """What a way is tried with: bytes that were asked for, how slow the disks are, how many processors it has."""

    size: int
    limit: Limit = FAST
    processors: int


@dataclass(kw_only=True, slots=True)
class Run:
    """Seconds of a way in a case, the whole and by step; `size` is that of the archive."""

    way: str
    size: int
    disk: str
    processors: int
    seconds: float = 0.0
    steps: dict[str, float] = dataclasses.field(default_factory=dict)


def cases() -> list[Case]:
    """Return the cases: each changes one thing of the usual one."""
    every = len(os.sched_getaffinity(0))
    sized = [Case(size=size, processors=every) for size, _ in SIZES]
    slow = [] if slow_disk.find_obstacle() else [Case(size=USUAL, limit=limit, processors=every) for limit in LIMITS]
    fewer = [Case(size=USUAL, processors=number) for number in (1, 2, 4) if number < every]
    return [*sized, *slow, *fewer]


def main() -> None:
    """Measure every way in every case, and write the table and the plot after each."""
    kept, _ = arguments(__doc__, rounds=1)
    work = kept / "ways"
    shutil.rmtree(work, ignore_errors=True)
    layers = ballast.layers(kept / "bench")
    source = bench.with_beat(kept / "bench/source")
    with Registry(kept / "registry") as registry:
        own = {"api": layers["api"]}
        sample = bundles.make("ways", source, registry, kept, own, ["--images", "both"])
    prepared, podman = bench.prepare(ROOTFUL, sample.folder, sample, kept)
    tars = [tar for found in layers.values() for tar in found]
    if obstacle := slow_disk.find_obstacle():
        print(f"no disk is made slow: {obstacle}", flush=True)
    runs = []
    for size, count in SIZES:
        bundle = _larger(sample, size, count, tars, work) if count else sample
        for case in (each for each in cases() if each.size == size):
            for way in WAYS:
                run = Run(
                    way=way,
                    size=bundle.archive.stat().st_size,
                    disk=case.limit.name,
                    processors=case.processors,
                )
                measure(run, case, bundle, prepared, kept)
                runs.append(run)
                print(run, flush=True)
            # All of them take hours: what ends the next case does not take this one along.
            ways_report.write(runs, bench.describe(sample, podman))
        shutil.rmtree(work, ignore_errors=True)


def _larger(sample: Bundle, size: int, count: int, tars: list[Path], work: Path) -> Bundle:
    """Return the sample's bundle with filler images, its archive and its store, and an executable."""
    bundle = filler.add(sample, count, size, filler.Ballast(tars), work)
    console, runner = Console(), Runner()
    path = bundle.payload / layout.MANIFEST
    before = manifest.loads(path.read_bytes())
    api = next(image for image in before.images if image.reference.rpartition(":")[0].endswith("/api"))
    # The sample's build has just compiled it, and keeps it there.
    kept = compiled.make(api.reference, api.id, before.architecture, "podman", work.parent / "build", runner, console)
    made = store.make([bundle.archive], before.images, kept, bundle.folder, work, runner, console)
    files.write(path, manifest.dumps(dataclasses.replace(before, store=made)))
    growth.freeze_bundle(bundle, work.parent / "build")
    names = (layout.EXECUTABLE, layout.IMAGES, layout.STORE)
    lines = [f"{archive.hashed(bundle.folder / name, console).sha256}  {name}\n" for name in names]
    files.write(bundle.checksums, "".join(lines))
    return bundle


def measure(run: Run, case: Case, bundle: Bundle, prepared: Path, kept: Path) -> None:
    """Run a way on a machine of its own, from the bundle's first byte until Dify answers."""
    disks = {**ROOTFUL.disks, "bundle": BUNDLE.lstrip("/")}
    with (
        on_processors(case.processors),
        booted(machines.base_root(kept), {bench.PREPARED: prepared}, kept / "ways-machine", disks) as machine,
    ):
        folder = machine.path(BUNDLE)
        _copy(bundle, run.way, folder)
        if run.way == "unpacked":
            machine.run(machines.NO_LOOPS)
        set_cache("cold", folder)
        with slow_disk.slowed([machine.path(f"/{path}") for path in disks.values()], case.limit):
            measured = bench.Run(way=run.way, cache="cold", host=ROOTFUL.name)
            (bench.by_hand if run.way == "by hand" else bench.install)(machine, measured, ROOTFUL)
    run.seconds, run.steps = measured.seconds, measured.steps


def _copy(bundle: Bundle, way: str, folder: Path) -> None:
    """Copy what this way needs of a bundle onto the machine's disk."""
    images = layout.STORE if way in ("mounted", "unpacked") else layout.IMAGES
    for name in (layout.EXECUTABLE, images):
        subprocess.run(["cp", str(bundle.folder / name), str(folder / name)], check=True)
    bench.keep_sums(bundle, folder)


@contextlib.contextmanager
def on_processors(number: int) -> Iterator[None]:
    """Let all that is started in the block run on so many processors alone."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:number])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


if __name__ == "__main__":
    main()
