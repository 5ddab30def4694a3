"""Mounts the images instead of loading them: a store of podman's on a read-only squashfs, ready in a second.

The build lets podman load the images into a storage of their own and packs that (`build/store.py`). Here the file is
copied into the install folder, proved on the way, mounted by a systemd unit and named in podman's storage.conf as an
additional image store (containers-storage.conf(5)). Only root's podman reads it; the archive is the way for everybody
else, and for a host on which the store does not prove itself (docs/decisions/005).
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import re
import tempfile
import threading
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from installer.bundle import manifest, verify
from installer.core import errors, files, layout
from installer.core.console import Console
from installer.core.runner import Runner
from installer.engine.base import Engine
from installer.host.facts import Host
from installer.images import inventory, storage_conf

CONFIG = Path("/etc/containers/storage.conf")
UNITS = Path("/etc/systemd/system")
MOUNT_SECONDS = 120.0
PODMAN_SECONDS = 60.0
# Between one write-out of a copy and the next.
WRITE_OUT_SECONDS = 0.05
# What the files of a store are called: `Store.name`, and what a killed run leaves of a copy.
STORE_FILE = re.compile(r"[0-9a-f]{12}\.squashfs")
HALF_FILE = re.compile(r"\.[0-9a-f]{12}\.squashfs\..+")
# The container that podman makes of a store as its proof.
PROOF = "dify-installer-proof"
# linux/fs.h, _IOW(0x94, 9, int): share the blocks of another file, where the file system can (XFS, btrfs).
FICLONE = 0x40049409

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
# What podman gives the layers in its own storage (container-selinux); squashfs is given it at the mount.
LABEL = "system_u:object_r:container_ro_file_t:s0"


@dataclass(frozen=True, slots=True)
class Store:
    """An image store on this host; `name` are the first digits of its SHA-256."""

    folder: Path
    name: str

    @property
    def file(self) -> Path:
        return self.folder / f"{self.name}.squashfs"

    @property
    def mount_point(self) -> Path:
        return self.folder / self.name

    @property
    def images(self) -> frozenset[str]:
        """The IDs of the images in it, while it is mounted."""
        with contextlib.suppress(OSError, ValueError):
            listed = json.loads((self.mount_point / "overlay-images/images.json").read_bytes())
            return frozenset(entry["id"] for entry in listed)
        return frozenset()


def store_of(place: layout.Installation, described: manifest.BigFile) -> Store:
    """Return the store that a bundle's becomes on this host."""
    return Store(place.stores, described.sha256[:12])


def list_stores(place: layout.Installation) -> list[Store]:
    """Return the stores of an installation."""
    paths = sorted(place.stores.glob("*.squashfs"))
    return [Store(place.stores, path.stem) for path in paths if STORE_FILE.fullmatch(path.name)]


def find_offered(
    bundle: manifest.Manifest,
    archive: Path,
    place: layout.Installation,
    missing: Sequence[manifest.Image],
    engine: Engine,
) -> Path | None:
    """Return the store that missing images can be had from: the one beside the archive, or the installation's own.

    None where the bundle has none, nobody copied it, or this is not root's podman: then the archive serves.
    """
    if bundle.store is None or not missing or not engine.mounts_stores or os.geteuid() != 0:
        return None
    candidates = (verify.store_path(archive, bundle.store), store_of(place, bundle.store).file)
    return next((path for path in candidates if path.is_file()), None)


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
    store = store_of(place, bundle.store)
    clear(place)
    try:
        with ThreadPoolExecutor(1) as beside:
            configuration = beside.submit(_configuration, engine)
            _copy(source, store, bundle.store, console)
            written = beside.submit(files.sync, store.file)
            unit = _mount(store, found, engine.runner)
            changed = storage_conf.add(configuration.result(), store.mount_point)
            with _trial(store, changed, engine) as trial:
                _prove(bundle, trial)
                inventory.tag(bundle.images, trial)
            # Only what is on the disk is told to podman: after a power failure it would count half a file as images.
            written.result()
        _enable(unit, engine.runner)
        files.rewrite(CONFIG, changed)
    except BaseException:
        remove(store, engine.runner.for_tidying())
        raise


def _configuration(engine: Engine) -> str:
    """Return the text that storage.conf has, or would have. Raises CommandFailed where we cannot add to it."""
    answer = json.loads(engine.run(["info", "--format", "json"], timeout=PODMAN_SECONDS).stdout)["store"]
    if answer["graphDriverName"] != "overlay" or "CONTAINERS_STORAGE_CONF" in engine.runner.env:
        raise errors.CommandFailed("podman's storage is not of the usual kind (overlay, configured in /etc/containers)")
    with contextlib.suppress(FileNotFoundError):
        return CONFIG.read_text("utf-8")
    with contextlib.suppress(OSError):
        return storage_conf.marked(Path(answer["configFile"]).read_text("utf-8"))
    return storage_conf.marked(storage_conf.default(answer["graphDriverName"], answer["graphRoot"], answer["runRoot"]))


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


def _mount(store: Store, found: Host, runner: Runner) -> str:
    """Mount a store by a unit of its own, and return its name. Raises CommandFailed when this host does not.

    With SELinux it is given podman's label; a policy that lets `mount` give none (the reference policy's; RHEL's mount
    is unconfined) gets it without: podman reads the layers with its own rights, and containers see the label that
    podman gives to what it mounts for them.
    """
    files.folder(store.mount_point, mode=0o700)
    unit = _unit(store, runner)
    labels = [f",context={LABEL}", ""] if found.engine.labels else [""]
    if not any(_mounted(store, unit, f"loop,ro,nodev{label}", runner) for label in labels):
        known = "squashfs" in Path("/proc/filesystems").read_text()
        why = f"see `journalctl -u {unit}`" if known else "its kernel has no squashfs, or may not have it"
        raise errors.CommandFailed(f"this host does not mount the image store: {why}")
    return unit


def _mounted(store: Store, unit: str, options: str, runner: Runner) -> bool:
    """Write the unit and start it, and tell whether that worked.

    systemd reads a new file by itself, a changed one when it is told to (systemd, pull request 15948; older ones:
    "Release the path cache" in core/manager.c).
    """
    path = UNITS / unit
    known = path.exists()
    with files.replacing(path, sync=False) as file:
        what, where = (str(path).replace("%", "%%") for path in (store.file, store.mount_point))
        file.write(UNIT.format(file=what, mount_point=where, options=options).encode())
    if known:
        runner.run(["systemctl", "daemon-reload"], timeout=MOUNT_SECONDS)
    result = runner.run(["systemctl", "start", unit], timeout=MOUNT_SECONDS, check=False)
    return result.ok and store.mount_point.is_mount()


def _unit(store: Store, runner: Runner) -> str:
    """Return the name that systemd wants for the mount unit of this path."""
    command = ["systemd-escape", "--path", "--suffix=mount", str(store.mount_point)]
    return runner.run(command, timeout=MOUNT_SECONDS).stdout.strip()


@contextlib.contextmanager
def _trial(store: Store, configuration: str, engine: Engine) -> Iterator[Engine]:
    """Give an engine with this storage.conf, while everybody else's podman has the one that was there."""
    with tempfile.NamedTemporaryFile("w", dir=store.folder, prefix=f".{store.file.name}.", suffix=".conf") as file:
        file.write(configuration)
        file.flush()
        yield dataclasses.replace(engine, runner=engine.runner.also({"CONTAINERS_STORAGE_CONF": file.name}))


def _prove(bundle: manifest.Manifest, engine: Engine) -> None:
    """Require that podman can mount and read a container of the image with the most layers.

    `podman image mount` would refuse: not for images of a read-only store (podman 5.4).
    """
    deepest = max(bundle.images, key=lambda image: len(image.layers))
    # A run that was killed may have left one.
    command = ["create", "--quiet", "--replace", "--name", PROOF, "--pull=never", "--network=none", deepest.id, "true"]
    engine.run(command, timeout=PODMAN_SECONDS)
    try:
        mounted = engine.run(["mount", PROOF], timeout=PODMAN_SECONDS).stdout.strip()
        empty = not any(Path(mounted).iterdir())
    finally:
        tidying = dataclasses.replace(engine, runner=engine.runner.for_tidying())
        tidying.run(["rm", "--force", PROOF], timeout=PODMAN_SECONDS, check=False)
    if empty:
        raise errors.CommandFailed(f"podman mounts {deepest.reference} from the image store, and it is empty")


def _enable(unit: str, runner: Runner) -> None:
    """Have the store mounted at the next boot; the unit is on the disk then."""
    files.sync(UNITS / unit)
    runner.run(["systemctl", "enable", "--no-reload", unit], timeout=MOUNT_SECONDS)


def clear(place: layout.Installation) -> None:
    """Remove what a run that was killed has left of a copy."""
    for half in place.stores.glob(".*.squashfs.*"):
        if HALF_FILE.fullmatch(half.name) and half.is_file() and half.lstat().st_uid == os.geteuid():
            half.unlink()
    with contextlib.suppress(OSError):
        place.stores.rmdir()


def retire(
    place: layout.Installation, described: manifest.BigFile | None, engine: Engine, names: Collection[str] = ()
) -> list[Store]:
    """Remove the stores that no container needs, but for the one that is `described` and those of these names.

    Returns those that stay.

    Raises CommandFailed when podman cannot say what its containers were made from.
    """
    kept = store_of(place, described) if described else None
    stores = list_stores(place)
    if not [store for store in stores if store != kept]:
        return stores
    listed = engine.run(["ps", "--all", "--no-trunc", "--format", "{{.ImageID}}"], timeout=PODMAN_SECONDS).stdout
    used = {identity.removeprefix("sha256:") for identity in listed.split()}
    staying = [store for store in stores if store == kept or store.name in names or store.images & used]
    for store in stores:
        if store not in staying:
            remove(store, engine.runner)
    return staying


def remove(store: Store, runner: Runner) -> None:
    """Take a store away, as far as it came: out of storage.conf, unmounted, unit and file gone."""
    _forget(store)
    unit = _unit(store, runner)
    runner.run(["systemctl", "disable", "--now", unit], timeout=MOUNT_SECONDS, check=False)
    if store.mount_point.is_mount():
        # Where a container still runs from it, the mount ends with that.
        runner.run(["umount", "--lazy", str(store.mount_point)], timeout=MOUNT_SECONDS, check=False)
    (UNITS / unit).unlink(missing_ok=True)
    runner.run(["systemctl", "daemon-reload"], timeout=MOUNT_SECONDS, check=False)
    store.file.unlink(missing_ok=True)
    if not store.mount_point.is_mount():
        # Not mounted for a while, it got lock files from podman.
        files.remove(store.mount_point)
    with contextlib.suppress(OSError):
        store.folder.rmdir()


def _forget(store: Store) -> None:
    with contextlib.suppress(FileNotFoundError):
        before = CONFIG.read_text("utf-8")
        after = storage_conf.remove(before, store.mount_point)
        if after is None:
            CONFIG.resolve().unlink()
        elif after != before:
            files.rewrite(CONFIG, after)
