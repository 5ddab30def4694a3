"""Loads the images from the archive, the fastest correct way, and proves each by its ID.

`podman load` first unpacks the whole archive into /var/tmp; `podman pull docker-archive:FILE:@INDEX` does not
(docs/decisions/002). podman hashes each layer while it spools it, and unpacks only one that has the SHA-256 of the
configuration; the configuration, whose SHA-256 is the image ID, has been proved before (`verify.check_index`): the
archive is read, and hashed, once (docs/decisions/003). Names are set by us, by ID.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from installer.bundle import manifest, verify
from installer.core import errors, layout
from installer.core.console import Bar, Console
from installer.engine.base import Engine
from installer.host.facts import Host
from installer.images import spool
from installer.images.inventory import find_missing, layer_sizes, list_present
from installer.images.order import AS_THEY_COME, Order

# An image of 10 GiB from a slow disk; the whole run has no limit of its own here.
LOAD_SECONDS = 3600.0
TAG_SECONDS = 60.0
# What an image left in memory, written to a slow disk.
SYNC_SECONDS = 3600.0

# podman collects garbage only when it has this much, which is faster (docs/decisions/002).
GARBAGE = {"GOGC": "off", "GOMEMLIMIT": "512MiB"}


@dataclass(frozen=True, slots=True)
class Part:
    """The `number`-th archive and the images that are to be loaded from it."""

    number: int
    path: Path
    archive: manifest.Archive
    images: tuple[manifest.Image, ...]


def list_parts(bundle: manifest.Manifest, archive: Path, wanted: Sequence[manifest.Image]) -> list[Part]:
    """Return the archives that these images come from, in their order: one may lack layers of those before it."""
    paths = verify.archive_paths(archive, bundle)
    every = [
        Part(number, path, described, tuple(image for image in wanted if image.archive == number))
        for number, (path, described) in enumerate(zip(paths, bundle.archives, strict=True))
    ]
    return [part for part in every if part.images]


def verify_parts(needed: Sequence[Part], bundle: manifest.Manifest, engine: Engine, console: Console) -> str:
    """Verify the archives before anything is loaded from them; return in words what was verified.

    For podman all but the layers, which it proves by itself before it unpacks them; docker unpacks first and compares
    then (moby, image/tarexport/load.go), and gets nothing that has not been proved. Raises BundleDamaged.
    """
    for part in needed:
        if engine.proves_layers:
            images = [image for image in bundle.images if image.archive == part.number]
            verify.check_index(part.path, part.archive, images)
        else:
            verify.check_file(part.path, part.archive, console)
    names = ", ".join(part.path.name for part in needed)
    return f"the index of {names}" if engine.proves_layers else names


def load(
    bundle: manifest.Manifest,
    needed: Sequence[manifest.Image],
    archive: Path,
    place: layout.Installation,
    engine: Engine,
    found: Host,
    console: Console,
    order: Order = AS_THEY_COME,
) -> list[manifest.Image]:
    """Load those of the needed images that are missing and return them; `tag` is to follow.

    Raises CommandFailed when the engine fails or the disk is full, BundleDamaged when an archive, or an image of it, is
    not what was built: podman has unpacked none of the damaged layer then. Podman's temporary files are ours, and gone
    afterwards.
    """
    wanted = find_missing(needed, list_present(engine))
    spool.clear(place)
    for image in needed:
        if image not in wanted:
            order.arrived(image)
    if wanted:
        with console.progress("load images", sum(layer_sizes(wanted, bundle).values())) as bar:
            for part in list_parts(bundle, archive, wanted):
                if engine.proves_layers:
                    _load_one_by_one(part, order, place, engine, found, console, bar)
                else:
                    _load_whole(part, engine)
                    bar.update(sum(part.archive.layers.values()))
                    for image in part.images:
                        order.arrived(image)
    return wanted


def _load_one_by_one(
    part: Part, order: Order, place: layout.Installation, engine: Engine, found: Host, console: Console, bar: Bar
) -> None:
    """Load each image by itself."""
    workers = found.engine.spooled_images
    images = order.sort(part.images)
    try:
        temporary = spool.prepare(place, sum(sorted(image.size for image in images)[-workers:]))
        with ThreadPoolExecutor(1) as beside, ThreadPoolExecutor(workers) as pool:
            jobs = [pool.submit(_load_one, image, part.path, place, temporary, engine) for image in images]
            try:
                left = dict(part.archive.layers)
                for image, job in zip(images, jobs, strict=True):
                    job.result()
                    bar.update(sum(left.pop(layer, 0) for layer in image.layers))
                    beside.submit(_write_out, found, engine)
                    order.arrived(image)
            except BaseException:
                # First what waits, then what runs: else the next one starts when the first is ended.
                pool.shutdown(wait=False, cancel_futures=True)
                beside.shutdown(wait=False, cancel_futures=True)
                engine.runner.end_all()
                raise
    except errors.CommandFailed:
        # podman knows that a layer is damaged, not where; then this tells, and is the cause.
        verify.check_file(part.path, part.archive, console)
        raise
    finally:
        spool.clear(place)


def _write_out(found: Host, engine: Engine) -> None:
    """Let the disk write what has been loaded while the next image is.

    podman leaves that to the kernel: a power failure would lose layers of images that podman counts as its own, and
    the first containers, whose database waits for the disk, would wait for all of it (docs/decisions/002).
    """
    if found.room.storage is not None:
        engine.runner.run(["sync", "--file-system", str(found.room.storage.path)], timeout=SYNC_SECONDS, check=False)


def _load_one(
    image: manifest.Image, archive: Path, place: layout.Installation, temporary: Path, engine: Engine
) -> None:
    command = ["pull", "--quiet", f"docker-archive:{archive}:@{image.index}"]
    result = engine.run(
        command,
        timeout=LOAD_SECONDS,
        env={"TMPDIR": str(temporary), **GARBAGE},
        remedy=f"the image is {image.reference}; look for space in podman's storage and in {place.folder} "
        "(`dify-installer preflight`), then run the same command again: what is loaded is kept",
    )
    loaded = result.stdout.split()[-1].removeprefix("sha256:") if result.stdout.strip() else ""
    if loaded != image.id:
        engine.run(["rmi", "--force", loaded], timeout=TAG_SECONDS, check=False)
        raise errors.BundleDamaged(
            f"{image.reference} was loaded with the ID {loaded or '(none)'}, not {image.id}; it was removed again",
            "copy the image archive again and compare it with SHA256SUMS",
        )


def _load_whole(part: Part, engine: Engine) -> None:
    """Load the whole archive: docker's engine takes no single image of it, and skips the layers that it has."""
    engine.run(
        ["load", "--quiet", "--input", str(part.path)],
        timeout=LOAD_SECONDS,
        remedy="look for space in docker's storage (`dify-installer preflight`), then run the same command again: "
        "what is loaded is kept",
    )
