"""The machines of the benchmarks, each with file systems of its own, and what is seen of them while something runs."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import resource
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from tests.target import bundle as bundles
from tests.target import machine as machines
from tests.target.machine import Machine

# The file systems that are watched, each of its own, and their size: where they lie, sparse, is `work`.
DISKS = {"graph root": "var/lib/containers", "/var/tmp": "var/tmp", "install folder": "opt"}
DISK_BYTES = 40 * 1024**3
BUNDLE = "/srv/bundle"
WATCHED = ("podman", "dify-installer", "sha256sum", "podman-compose", "tar", "storage-untar")
SAMPLE_SECONDS = 0.1
# A stack at rest takes some hundredths of a processor: health checks, and workers that ask for work.
REST_SECONDS, REST_SHARE, REST_LIMIT = 5.0, 0.3, 180.0


class Peaks(Protocol):
    """What is noted of a run: processor seconds, and peaks in bytes, of the disks by their names in DISKS."""

    cpu: float
    memory: int
    disk: dict[str, int]


def arguments(description: str | None, rounds: int) -> tuple[Path, int]:
    """Read the command line of a benchmark: return the folder to work in, and how many rounds to run."""
    given = parser(description, rounds).parse_args()
    return given.work.resolve(), given.rounds


def parser(description: str | None, rounds: int) -> argparse.ArgumentParser:
    """Return what reads the command line of a benchmark."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--work", type=Path, default=bundles.WORK)
    made.add_argument("--rounds", type=int, default=rounds, help="runs of each way or bundle (the largest: one)")
    return made


@contextlib.contextmanager
def booted(base: Path, bound: Mapping[str, Path], work: Path, disks: Mapping[str, str] = DISKS) -> Iterator[Machine]:
    """Give a booted machine with fresh file systems; `bound` are folders of this host by their paths inside.

    Nothing is left of the file systems: with a large bundle they are much larger than what is kept.
    """
    folder = work / "machines" / "target"
    shutil.rmtree(folder, ignore_errors=True)
    machine = Machine.clone(base, folder)
    images = {folder / name: work / "machines" / f"{name.replace('/', '-')}.img" for name in disks.values()}
    mounted: list[Path] = []
    try:
        for target, image in images.items():
            mounted.append(fresh_disk(image, target))
        for inside, source in bound.items():
            target = machine.path(inside)
            target.mkdir(parents=True)
            subprocess.run(["mount", "--bind", str(source), str(target)], check=True)
            mounted.append(target)
        machine.boot()
        yield machine
    finally:
        machine.kill()
        for target in reversed(mounted):
            subprocess.run(["umount", str(target)], check=True)
        for image in images.values():
            image.unlink(missing_ok=True)
        machine.destroy()
        # The disk is the next measurement's.
        machines.await_removals()


def fresh_disk(image: Path, target: Path) -> Path:
    """Mount a new file system, in a sparse file `image`, at `target`, and return that."""
    image.unlink(missing_ok=True)
    image.touch()
    os.truncate(image, DISK_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(image)], check=True)
    target.mkdir(parents=True, exist_ok=True)
    before = target.stat()
    subprocess.run(["mount", "-o", "loop", str(image), str(target)], check=True)
    (target / "lost+found").rmdir()
    target.chmod(before.st_mode & 0o7777)
    os.chown(target, before.st_uid, before.st_gid)
    return target


def set_cache(cache: str, folder: Path) -> None:
    """Empty the page cache, or fill it with the bundle in this folder."""
    subprocess.run(["sync"], check=True)
    Path("/proc/sys/vm/drop_caches").write_text("3")
    if cache == "warm":
        for path in folder.iterdir():
            subprocess.run(["cat", str(path)], stdout=subprocess.DEVNULL, check=True)


@contextlib.contextmanager
def watched(machine: Machine, run: Peaks, disks: Mapping[str, str] = DISKS) -> Iterator[None]:
    """Note processor time, and the peaks of memory and of each disk, while something runs."""
    before = {name: used(machine.root / path) for name, path in disks.items()}
    run.disk = dict.fromkeys(disks, 0)

    def sample() -> None:
        for name, path in disks.items():
            run.disk[name] = max(run.disk[name], used(machine.root / path) - before[name])
        run.memory = max(run.memory, _resident())

    started = processor_seconds()
    with sampled(sample):
        yield
    run.cpu = processor_seconds() - started


@contextlib.contextmanager
def sampled(sample: Callable[[], None]) -> Iterator[None]:
    """Call `sample` again and again, in a thread beside, while something runs."""
    over = threading.Event()

    def repeat() -> None:
        while not over.wait(SAMPLE_SECONDS):
            sample()

    watcher = threading.Thread(target=repeat)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def await_rest() -> None:
    """Wait until the processors have been idle for most of REST_SECONDS. Raises TimeoutError."""
    deadline = time.monotonic() + REST_LIMIT
    while time.monotonic() < deadline:
        before = _busy_ticks()
        time.sleep(REST_SECONDS)
        if (_busy_ticks() - before) / os.sysconf("SC_CLK_TCK") < REST_SHARE * REST_SECONDS:
            return
    raise TimeoutError(f"the processors are busy for {REST_LIMIT:.0f} s: another program runs on this host")


def _busy_ticks() -> int:
    """Return the ticks that all processors together have worked so far (proc(5), /proc/stat)."""
    user, nice, system, _idle, _wait, *rest = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9])
    return user + nice + system + sum(rest)


def processor_seconds() -> float:
    """Return what all programs that we started, and those that they started, have taken so far and ended."""
    taken = resource.getrusage(resource.RUSAGE_CHILDREN)
    return taken.ru_utime + taken.ru_stime


def used(path: Path) -> int:
    """Return the bytes in use on the file system of this path."""
    status = os.statvfs(path)
    return (status.f_blocks - status.f_bfree) * status.f_frsize


def _resident() -> int:
    """Return the memory of the programs at work, summed, in bytes; nothing else of their names runs here."""
    total = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                if (entry / "comm").read_text().strip() in WATCHED:
                    found = re.search(r"VmRSS:\s+(\d+)", (entry / "status").read_text())
                    total += int(found.group(1)) * 1024 if found else 0
    return total
