"""Removes the version that an upgrade has kept, with the images that only it needs: there is no way back then."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from installer.bundle import verify
from installer.core import errors, layout, lock, logfile
from installer.core.console import Console, size
from installer.core.runner import Runner
from installer.engine import choose
from installer.engine.base import Engine
from installer.host import ownership
from installer.images import image_store, superseded
from installer.stack import project
from installer.system import leftovers
from installer.upgrade import kept


@dataclass(frozen=True, kw_only=True, slots=True)
class Pruned:
    """What was removed; `left` are folders with data that only a person removes."""

    dify: str  # the version that was kept; empty for none
    bytes: int  # of its copy
    images: int
    freed_bytes: int  # by which the file systems of the install folder and of the images have more room now
    left: tuple[str, ...]
    remove: str  # the command that removes those


def prune(place: layout.Installation, runner: Runner, console: Console) -> Pruned:
    """Remove what is kept of the version before the last upgrade.

    The same call again goes on where one was interrupted. Raises CommandFailed when nothing is installed, or an
    upgrade was interrupted, BundleDamaged, AlreadyRunning.
    """
    memory = logfile.begin()
    with lock.hold(place.folder):
        engine = choose.choose_engine(None, place, runner)
        kept.require_ended(place)
        project.read_installed(place, engine)
        bundle = verify.check_embedded(layout.bundled(""))
        if (installed := project.find_version(place)) != bundle.dify:
            raise errors.UsageError(
                f"this executable is of Dify {bundle.dify}, and {installed} is installed",
                f"use the installation's own: {place.executable} prune",
            )
        record = kept.read(place)
        logfile.write_to(memory, place.logs, "prune")
        leftovers.remove_leftovers(place)
        before = _free(place, engine)
        taken = kept.measure(place.previous, engine)
        console.waiting(f"the removal of {place.previous}")
        kept.remove(place, engine)
        kept.discard(place, engine)
        console.waiting("")
        superseded.rename(place, record.images if record is not None else {}, bundle.images, engine)
        images = superseded.remove_superseded(place, bundle.images, engine)
        image_store.retire(place, bundle.store, engine)
        left = tuple(map(str, ownership.list_aside(place)))
        return Pruned(
            dify=record.before if record else "",
            bytes=taken,
            images=images,
            freed_bytes=max(0, _free(place, engine) - before),
            left=left,
            remove=f"{engine.removal_prefix(os.geteuid() == 0)}rm -rf {shlex.join(left)}" if left else "",
        )


def _free(place: layout.Installation, engine: Engine) -> int:
    """Return the free bytes of the file systems that the install folder and the images are on."""
    paths = [place.folder, *filter(None, [engine.describe().graph_root])]
    by_device: dict[int, int] = {}
    for path in paths:
        with contextlib.suppress(OSError):
            by_device[Path(path).stat().st_dev] = shutil.disk_usage(path).free
    return sum(by_device.values())


def as_fields(done: Pruned) -> dict[str, Any]:
    """Return it for a machine."""
    return dataclasses.asdict(done)


def as_text(done: Pruned) -> str:
    """Return it for people."""
    removed = f"Dify {done.dify} is removed, {size(done.bytes)}" if done.dify else "no version was kept"
    lines = [f"{removed}; {done.images} images are removed; there is {size(done.freed_bytes)} more room"]
    if done.left:
        lines.append(f"What was put aside stays, with people's data in it: {', '.join(done.left)}")
        lines.append(f"  do: when nobody needs it: {done.remove}")
    return "\n".join(lines)
