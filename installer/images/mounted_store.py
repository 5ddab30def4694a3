"""Mounts the images instead of loading them: an image store on a read-only squashfs, ready in a second.

The file is copied into the install folder, proved on the way, and mounted by a systemd unit. Only root can
(docs/decisions/005).
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

from installer.bundle import manifest, verify
from installer.core import errors, files, layout
from installer.core.console import Console
from installer.engine.base import Engine
from installer.host.facts import Host
from installer.images import image_store
from installer.images.image_store import LABEL, MOUNT_SECONDS, UNITS, Store

# Between one write-out of a copy and the next.
WRITE_OUT_SECONDS = 0.05
# linux/fs.h, _IOW(0x94, 9, int): share the blocks of another file, where the file system can (XFS, btrfs).
FICLONE = 0x40049409

NOT_MOUNTED = "this host does not mount the image store"

UNIT = """\
# Written by dify-installer; removed by it with its image store.
[Unit]
Description=The images of Dify, read-only
Before=podman.service podman-restart.service dify.service

[Mount]
What={file}
Where={mount_point}
Type=squashfs
Options={options}

[Install]
WantedBy=local-fs.target
"""


def mount(
    source: Path,
    bundle: manifest.Manifest,
    place: layout.Installation,
    engine: Engine,
    found: Host,
    console: Console,
) -> None:
    """Bring every image of the bundle into podman's sight, from the store in `source`.

    Raises BundleDamaged when the store is not what was built, CommandFailed when this host cannot mount it or its
    podman does not see in it what was built; what was changed is as before then.
    """
    assert bundle.store is not None
    store = image_store.store_of(place, bundle.store)
    if store.note.exists():
        raise errors.CommandFailed("an earlier run has found that this host does not mount the image store")
    if not found.mounts_stores:
        raise errors.CommandFailed(f"{NOT_MOUNTED}: its kernel has no squashfs, or may not have it")
    image_store.clear(place)
    try:
        with ThreadPoolExecutor(1) as beside:
            configuration = beside.submit(image_store.read_configuration, engine)
            _copy(source, store, bundle.store, console)
            written = beside.submit(files.sync, store.file)
            unit = _mount(store, found, engine)
            changed = image_store.prove(bundle, store, configuration.result(), engine)
            # Only what is on the disk is told to podman: after a power failure it would count half a file as images.
            written.result()
        _enable(unit, engine)
        image_store.name(changed)
    except BaseException:
        tidying = dataclasses.replace(engine, runner=engine.runner.for_tidying())
        image_store.remove(store, tidying, keep_file=source == store.file)
        raise


def _copy(source: Path, store: Store, described: manifest.BigFile, console: Console) -> None:
    """Put the store into the install folder and prove it; share its blocks where the file system can.

    Never a hard link: a later copy over the bundle would write into the mounted store.
    """
    if source == store.file:
        verify.check_file(source, described, console)
        return
    files.folder(store.folder, mode=0o700)
    with (
        files.reading(source) as original,
        files.replacing(store.file, mode=0o600, sync=False) as target,
        _written_out(target, store.file),
    ):
        try:
            fcntl.ioctl(target.fileno(), FICLONE, original.fileno())
        except OSError:
            verify.check_file(source, described, console, "copy images", copy_to=target)
            return
        # The clone is what will be mounted: the source may be written to while it is read.
        verify.check_file(source, described, console, clone=Path(target.name))


@contextlib.contextmanager
def _written_out(target: IO[bytes], path: Path) -> Iterator[None]:
    """Let the disk write what the block writes while it does.

    A loop device waits for all that its file has not written yet (docs/decisions/005).
    """
    ended = threading.Event()

    def write_out() -> None:
        while not ended.wait(WRITE_OUT_SECONDS):
            with files.telling(path):
                os.fdatasync(target.fileno())

    with ThreadPoolExecutor(1) as beside:
        job = beside.submit(write_out)
        try:
            yield
        finally:
            ended.set()
    job.result()


def _mount(store: Store, found: Host, engine: Engine) -> str:
    """Mount a store by a unit of its own, and return its name. Raises CommandFailed when this host does not.

    With SELinux it is given podman's label; a policy that lets `mount` give none (the reference policy's; RHEL's mount
    is unconfined) gets it without: podman reads the layers with its own rights, and containers see the label that
    podman gives to what it mounts for them.
    """
    files.folder(store.tree, mode=0o700)
    unit = image_store.unit_of(store, engine)
    labels = [f",context={LABEL}", ""] if found.engine.labels else [""]
    if not any(_mounted(store, unit, f"loop,ro,nodev{label}", engine) for label in labels):
        raise errors.CommandFailed(f"{NOT_MOUNTED}: see `journalctl -u {unit}`")
    return unit


def _mounted(store: Store, unit: str, options: str, engine: Engine) -> bool:
    """Write the unit and start it, and tell whether that worked.

    systemd reads a new file by itself, a changed one when it is told to (systemd, pull request 15948; older ones:
    "Release the path cache" in core/manager.c).
    """
    path = UNITS / unit
    known = path.exists()
    with files.replacing(path, sync=False) as file:
        what, where = (str(path).replace("%", "%%") for path in (store.file, store.tree))
        file.write(UNIT.format(file=what, mount_point=where, options=options).encode())
    if known:
        engine.runner.run(["systemctl", "daemon-reload"], timeout=MOUNT_SECONDS)
    result = engine.runner.run(["systemctl", "start", unit], timeout=MOUNT_SECONDS, check=False)
    return result.ok and store.tree.is_mount()


def _enable(unit: str, engine: Engine) -> None:
    """Have the store mounted at the next boot; the unit is on the disk then."""
    files.sync(UNITS / unit)
    engine.runner.run(["systemctl", "enable", "--no-reload", unit], timeout=MOUNT_SECONDS)
