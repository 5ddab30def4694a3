"""Makes disks slow: the kernel lets so many bytes, or requests, through to a block device in a second.

The throttle is that of the first cgroups (Linux, Documentation/admin-guide/cgroup-v1/blkio-controller.rst); of the
root group it holds for what the kernel writes out by itself, too. Version 2 has none for its root.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

THROTTLE = Path("/sys/fs/cgroup/blkio")
PROVED_BYTES = 64 * 1024**2


@dataclass(frozen=True, slots=True)
class Limit:
    """So many bytes, or so many requests, a second; 0 for as many as it can."""

    name: str
    bytes: int = 0
    requests: int = 0


FAST = Limit("as it is")
# What a disk that takes 20 ms for each request does where one request follows the other.
LIMITS = (Limit("100 MB/s", bytes=100 * 10**6), Limit("50 requests/s", requests=50))


def find_obstacle() -> str:
    """Return why nothing can be made slow here; empty where it can."""
    if not (THROTTLE / "blkio.throttle.read_bps_device").exists():
        return "this kernel has no throttle for block devices in its first cgroups"
    return ""


@contextlib.contextmanager
def slowed(mounts: Sequence[Path], limit: Limit) -> Iterator[None]:
    """Slow the devices of these file systems down while the block runs, and prove that it holds."""
    if limit is FAST:
        yield
        return
    devices = [path.stat().st_dev for path in mounts]
    try:
        for device in devices:
            _set(device, limit.bytes, limit.requests)
        _prove(mounts[0], limit)
        yield
    finally:
        for device in devices:
            _set(device, 0, 0)


def _set(device: int, size: int, requests: int) -> None:
    number = f"{os.major(device)}:{os.minor(device)}"
    for what in ("read", "write"):
        (THROTTLE / f"blkio.throttle.{what}_bps_device").write_text(f"{number} {size}")
        (THROTTLE / f"blkio.throttle.{what}_iops_device").write_text(f"{number} {requests}")


def _prove(mount: Path, limit: Limit) -> None:
    """Fail unless writing, and reading back, take as long as the limit makes them."""
    path = mount / "proof"
    for command in (
        ["dd", "if=/dev/zero", f"of={path}", "bs=1M", f"count={PROVED_BYTES >> 20}", "oflag=direct"],
        ["dd", f"if={path}", "of=/dev/null", "bs=1M", "iflag=direct"],
    ):
        begun = time.monotonic()
        subprocess.run(command, check=True, capture_output=True)
        taken = time.monotonic() - begun
        expected = PROVED_BYTES / limit.bytes if limit.bytes else (PROVED_BYTES >> 20) / limit.requests
        if taken < 0.8 * expected:
            raise SystemExit(f"{limit.name}: {' '.join(command)} took {taken:.2f} s, not {expected:.2f} s or more")
    path.unlink()
