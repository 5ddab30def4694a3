"""Packs the images as a store that podman reads: a containers storage, made by podman itself, as one squashfs.

The images come from the finished archives, by the way that the installer loads them. What podman writes at random or
with the time of the day is made the same for the same images: the short names of layers, and when a layer was made.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from build import archive, spec
from build.compiled import Compiled
from build.failure import BuildError
from installer.bundle import manifest
from installer.core import errors, files, layout
from installer.core.console import Console
from installer.core.runner import Runner

PULL_SECONDS = 3600.0
PACK_SECONDS = 3600.0
# A higher one takes longer and gains almost nothing (docs/decisions/005).
LEVEL = "3"
# So much is proved at once where the store is unpacked.
CHUNK_BYTES = 4 * 1024**2
# Of a storage, only what describes and holds images.
KEPT = ("overlay", "overlay-images", "overlay-layers", layout.COMPILED)
# What overlay needs of a layer only while a container writes into it, and a note of podman's about this host.
LEFT_OUT = ("overlay/*/work", "overlay/*/merged", "overlay/.has-mount-program")
CREATED = datetime.datetime.fromtimestamp(int(spec.EPOCH), datetime.UTC).isoformat()
# Root's, and a tmpfs: what podman knows of a storage until the next boot belongs there.
RUN = "/run"


def find_obstacle(differential: bool) -> errors.InstallerError | None:
    """Return why no store can be made, if none can: here, and of a whole bundle."""
    if differential:
        return errors.UsageError("a store holds whole images, a differential bundle does not", "leave out --base")
    if os.geteuid() != 0:
        return BuildError("only root can make an image store: its files have many owners", "build as root")
    if missing := [name for name in ("podman", "mksquashfs") if shutil.which(name) is None]:
        return BuildError(
            f"an image store is made with podman and mksquashfs, and {' and '.join(missing)} is not installed",
            "apt install podman squashfs-tools",
        )
    return None


def make(
    archives: Sequence[Path],
    images: Iterable[manifest.Image],
    compiled: Compiled | None,
    folder: Path,
    work: Path,
    runner: Runner,
    console: Console,
) -> manifest.BigFile:
    """Write the store of these images, and of what is compiled of one, into `folder` and return what it is.

    Raises BuildError when podman does not load an image as it was saved, CommandFailed when podman, mksquashfs or the
    disk fails.
    """
    path = folder / layout.STORE
    with (
        tempfile.TemporaryDirectory(prefix="store-", dir=work) as scratch,
        # podman 4.3 refuses a runroot of more than 50 characters, whatever the length of the path of the checkout.
        tempfile.TemporaryDirectory(prefix="dify-", dir=RUN) as run_root,
    ):
        storage = Path(scratch) / "storage"
        podman = ["podman", "--root", str(storage), "--runroot", run_root, "--storage-driver", "overlay"]
        podman += ["--storage-opt", "overlay.skip_mount_home=true"]
        begun = storage.parent.stat().st_mtime_ns
        for image in images:
            _load(image, archives[image.archive], podman, runner)
        if compiled is not None:
            _add_compiled(compiled, storage / layout.COMPILED / layout.compiled_name(compiled.image))
        _make_reproducible(storage, begun)
        with files.replacing(path) as target:
            _pack(storage, Path(f"/proc/{os.getpid()}/fd/{target.fileno()}"), runner)
    return archive.hashed(path, console, CHUNK_BYTES)


def _load(image: manifest.Image, path: Path, podman: list[str], runner: Runner) -> None:
    command = [*podman, "pull", "--quiet", f"docker-archive:{path}:@{image.index}"]
    loaded = runner.run(command, timeout=PULL_SECONDS).stdout.strip().removeprefix("sha256:")
    if loaded != image.id:
        raise BuildError(f"podman loads {image.reference} as {loaded}, not as {image.id}", "build again")
    runner.run([*podman, "tag", image.id, image.reference], timeout=PULL_SECONDS)


def _add_compiled(compiled: Compiled, target: Path) -> None:
    """Lay what is compiled beside the images: podman does not look there, and the installer does."""
    # Their times are those of a build; new ones are made the same below.
    shutil.copytree(compiled.folder, target, copy_function=shutil.copyfile)
    for path in (target, *target.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
        os.utime(path)


def _make_reproducible(storage: Path, begun: int) -> None:
    """Leave nothing in a storage that differs the next time; `begun` is when it was made, in nanoseconds."""
    for name in ("overlay-layers/layers", "overlay-images/images"):
        # What podman locks with such a file, and notes in it, is its own last change.
        os.truncate(storage / f"{name}.lock", 0)
    path = storage / "overlay-layers/layers.json"
    layers = [{**layer, "created": CREATED} for layer in json.loads(path.read_bytes())]
    path.write_text(json.dumps(layers, sort_keys=True))
    _name_layers(storage / "overlay")
    for each in (storage, *storage.rglob("*")):
        # Folders that no layer has an entry for got the time of the day; files of layers are older.
        if each.lstat().st_mtime_ns >= begun:
            os.utime(each, (int(spec.EPOCH), int(spec.EPOCH)), follow_symlinks=False)


def _name_layers(overlay: Path) -> None:
    """Give every layer a short name that follows from its own, in place of podman's random one.

    `l/SHORT` is a link to the layer, `link` holds its short name and `lower` those of the layers below it, so that
    the mount of many layers has few enough characters (containers/storage, drivers/overlay/overlay.go).
    """
    short = {}
    for link in overlay.glob("*/link"):
        layer = link.parent.name
        name = base64.b32encode(hashlib.sha256(layer.encode()).digest()).decode()[:26]
        short[link.read_text()] = name
        (overlay / "l" / link.read_text()).rename(overlay / "l" / name)
        link.write_text(name)
    for lower in overlay.glob("*/lower"):
        below = lower.read_text().split(":")
        lower.write_text(":".join(f"l/{short[each.removeprefix('l/')]}" for each in below))


def _pack(storage: Path, target: Path, runner: Runner) -> None:
    left_out = sorted(path.name for path in storage.iterdir() if path.name not in KEPT)
    command = ["mksquashfs", str(storage), str(target), "-noappend", "-quiet", "-no-progress", "-wildcards"]
    command += ["-comp", "zstd", "-Xcompression-level", LEVEL, "-mkfs-time", spec.EPOCH, "-e", *left_out, *LEFT_OUT]
    runner.run(command, timeout=PACK_SECONDS)
