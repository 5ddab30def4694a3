"""Loads the images from the archive, the fastest correct way, and proves each by its ID.

`podman load -i FILE` first unpacks the whole archive into /var/tmp as if it were an OCI archive, deletes that and only
then loads it (strace, podman 4.3.1 and 5.4.2); `podman pull docker-archive:FILE:@INDEX` does not. podman hashes
each layer while it spools it, and unpacks only one that has the SHA-256 of the configuration; the configuration,
whose SHA-256 is the image ID, has been proved before (`verify.check_index`): the archive is read, and hashed, once.
Names are set by us, by ID.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from installer.bundle import manifest, verify
from installer.core import errors, layout
from installer.core.console import Bar, Console
from installer.engine.engine import Engine, Stored
from installer.host import host
from installer.images import spool

# An image of 10 GiB from a slow disk; the whole run has no limit of its own here.
LOAD_SECONDS = 3600.0
TAG_SECONDS = 60.0
# What an image left in memory, written to a slow disk.
SYNC_SECONDS = 3600.0

# Two loads at a time take 0.69 of the time of one on podman 4, but bring nothing on podman 5, which extracts one
# layer at a time (medians of three: 17.1 and 16.5 s, 3.5 GB, podman 5.4, two cores).
PARALLEL_BELOW = (5, 0)

# podman collects garbage only when it has this much (https://go.dev/doc/gc-guide, "Memory limit"): 0.89 of the time
# (medians of three, 16.5 and 18.5 s, in both cases without a second load beside it).
GARBAGE = {"GOGC": "off", "GOMEMLIMIT": "512MiB"}


def list_present(engine: Engine) -> list[Stored]:
    """Return the images that the engine has; none at all when it cannot say."""
    try:
        return engine.images()
    except errors.CommandFailed:
        return []


def find_missing(images: Iterable[manifest.Image], found: Sequence[Stored]) -> list[manifest.Image]:
    """Return the images that the engine does not have."""
    return [image for image in images if find_stored(image, found) is None]


def find_stored(image: manifest.Image, found: Sequence[Stored]) -> Stored | None:
    """Return the stored image that is the one of the manifest: of the same ID.

    docker with containerd's store has IDs of its own (the manifest's digest): there it is the one of
    that name with the same layers, each of which is named by its SHA-256.
    """
    for each in found:
        if each.id == image.id or (each.layers == image.layers and image.reference in each.names):
            return each
    return None


def require_base(bundle: manifest.Manifest, missing: Iterable[manifest.Image], engine: Engine) -> None:
    """Raise PreflightFailed unless the engine has the layers that a differential bundle leaves to its base."""
    outside = {layer for image in missing for layer in image.layers} - set(bundle.held_layers)
    if outside and (lacking := outside - _layers(engine)):
        raise errors.PreflightFailed(
            f"this bundle holds only what another one lacks ({bundle.base}), and that one is not on this host: "
            f"{len(lacking)} of its layers are missing",
            "install that bundle here first (its images are enough: `podman load` or `docker load`), or take a whole "
            "bundle, made without --base; nothing has been changed",
        )


def _layers(engine: Engine) -> set[str]:
    try:
        return engine.layers()
    except errors.CommandFailed:
        return set()


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
        if engine.name == "docker":
            verify.check_file(part.path, part.archive, console)
        else:
            verify.check_index(
                part.path, part.archive, [image for image in bundle.images if image.archive == part.number]
            )
    names = ", ".join(part.path.name for part in needed)
    return names if engine.name == "docker" else f"the index of {names}"


def load(
    bundle: manifest.Manifest,
    archive: Path,
    place: layout.Installation,
    engine: Engine,
    found: host.Host,
    console: Console,
) -> list[manifest.Image]:
    """Load the images that are missing and return those that were loaded; `tag` is to follow.

    Raises CommandFailed when the engine fails or the disk is full, BundleDamaged when an archive, or an image of it, is
    not what was built: podman has unpacked none of the damaged layer then. Podman's temporary files are ours, and gone
    afterwards.
    """
    wanted = find_missing(bundle.images, list_present(engine))
    spool.clear(place)
    if wanted:
        with console.progress("load images", sum(layer_sizes(wanted, bundle).values())) as bar:
            for part in list_parts(bundle, archive, wanted):
                if engine.name == "docker":
                    _load_by_docker(part, engine)
                    bar.update(sum(part.archive.layers.values()))
                else:
                    _load_by_podman(part, place, engine, found, console, bar)
    return wanted


def layer_sizes(images: Iterable[manifest.Image], bundle: manifest.Manifest) -> dict[str, int]:
    """Return the bytes, by diff ID, of the layers of these images that the bundle holds."""
    return {layer: bundle.held_layers.get(layer, 0) for image in images for layer in image.layers}


def _load_by_podman(
    part: Part, place: layout.Installation, engine: Engine, found: host.Host, console: Console, bar: Bar
) -> None:
    """Load each image by itself, the largest first, so that two that run together are busy to the end."""
    workers = 2 if (found.engine_version or ()) < PARALLEL_BELOW else 1
    order = sorted(part.images, key=lambda image: image.size, reverse=True)
    try:
        temporary = spool.prepare(place, sum(image.size for image in order[:workers]))
        with ThreadPoolExecutor(1) as beside, ThreadPoolExecutor(workers) as pool:
            jobs = [pool.submit(_load_one, image, part.path, place, temporary, engine) for image in order]
            try:
                left = dict(part.archive.layers)
                for image, job in zip(order, jobs, strict=True):
                    job.result()
                    bar.update(sum(left.pop(layer, 0) for layer in image.layers))
                    beside.submit(_write_out, found, engine)
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


def _write_out(found: host.Host, engine: Engine) -> None:
    """Let the disk write what has been loaded while the next image is.

    podman leaves that to the kernel: a power failure would lose layers of images that podman counts as its own, and
    the first containers, whose database waits for the disk, would wait for all of it (5.8 s instead of 8.4 s).
    """
    if found.storage is not None:
        engine.runner.run(["sync", "--file-system", str(found.storage.path)], timeout=SYNC_SECONDS, check=False)


def _load_one(
    image: manifest.Image, archive: Path, place: layout.Installation, temporary: Path, engine: Engine
) -> None:
    command = ["pull", "--quiet", f"docker-archive:{archive}:@{image.index}"]
    result = engine.run(command, timeout=LOAD_SECONDS, env={"TMPDIR": str(temporary), **GARBAGE}, check=False)
    if not result.ok:
        raise engine.runner.failure(
            result,
            f"the image is {image.reference}; look for space in podman's storage and in {place.folder} "
            "(`dify-installer preflight`), then run the same command again: what is loaded is kept",
        )
    loaded = result.stdout.split()[-1].removeprefix("sha256:") if result.stdout.strip() else ""
    if loaded != image.id:
        engine.run(["rmi", "--force", loaded], timeout=TAG_SECONDS, check=False)
        raise errors.BundleDamaged(
            f"{image.reference} was loaded with the ID {loaded or '(none)'}, not {image.id}; it was removed again",
            "copy the image archive again and compare it with SHA256SUMS",
        )


def _load_by_docker(part: Part, engine: Engine) -> None:
    """Load the whole archive: docker's engine takes no single image of it, and skips the layers that it has."""
    result = engine.run(["load", "--quiet", "--input", str(part.path)], timeout=LOAD_SECONDS, check=False)
    if not result.ok:
        raise engine.runner.failure(
            result,
            "look for space in docker's storage (`dify-installer preflight`), then run the same command again: "
            "what is loaded is kept",
        )


def tag(images: Sequence[manifest.Image], engine: Engine) -> None:
    """Prove that all images are there; give each its name by ID, and to no other image.

    podman takes an image of its own storage before one of that name in a mounted store (seen with 4.3): an older one of
    the same tag would run. An image in a read-only store keeps its name: there, the newest store comes first.
    Raises CommandFailed when an image is not there; none has been named then.
    """
    found = list_present(engine)
    if lacking := find_missing(images, found):
        raise errors.CommandFailed(
            f"{engine.name} does not have {lacking[0].reference} ({lacking[0].id}) now that all are loaded or mounted",
            f"another program may remove images (`{engine.name} system prune`): run the same command again",
        )
    for image in images:
        its = find_stored(image, found)
        assert its is not None
        others = [each.id for each in found if each.id != its.id and image.reference in each.names]
        if engine.name == "podman":
            for other in others:
                engine.run(["untag", other, image.reference], timeout=TAG_SECONDS, check=False)
        if image.reference not in its.names:
            engine.run(["tag", its.id, image.reference], timeout=TAG_SECONDS)
