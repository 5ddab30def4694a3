"""Loads the images from the archive, the fastest correct way, and proves each by its ID.

`podman load -i FILE` first unpacks the whole archive into /var/tmp, deletes that and only then
loads it (strace, podman 4.3.1 and 5.4.2); `podman pull docker-archive:FILE:@INDEX` does not, and
takes 0.5 to 0.85 of the time of `sha256sum` and `podman load`. podman checks every layer against the
configuration, whose SHA-256 is the image ID, which we compare; names are set by us, by ID.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from installer import errors, layout, manifest, spool, verify
from installer.console import Bar, Console
from installer.engine import Engine, Stored

# An image of 10 GiB from a slow disk; the whole run has no limit of its own here.
LOAD_SECONDS = 3600.0
TAG_SECONDS = 60.0

# Two loads at a time take 0.69 of the time of one on podman 4, but 0.86 against 0.76 on podman 5,
# which extracts one layer at a time (measured with ten images of 4.6 GB on two cores).
PARALLEL_BELOW = (5, 0)

# podman collects its garbage a fourth as often (https://pkg.go.dev/runtime, "GOGC"; 100 is the default): 0.71 to 0.93
# of the time, 0.80 to 0.85 of the processor's outside the kernel (four pairs of loads, 3.3 GB, podman 5.4).
GOGC = "400"


def present(engine: Engine) -> list[Stored]:
    """Return the images that the engine has; none at all when it cannot say."""
    try:
        return engine.images()
    except errors.CommandFailed:
        return []


def missing(images: Iterable[manifest.Image], found: Sequence[Stored]) -> list[manifest.Image]:
    """Return the images that the engine does not have."""
    return [image for image in images if stored(image, found) is None]


def stored(image: manifest.Image, found: Sequence[Stored]) -> Stored | None:
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


def load(
    bundle: manifest.Manifest,
    archive: Path,
    place: layout.Installation,
    engine: Engine,
    version: tuple[int, ...],
    console: Console,
) -> list[manifest.Image]:
    """Load the images that are missing and name all; return those that were loaded.

    Raises CommandFailed when the engine, of this version, fails or the disk is full, BundleDamaged when an image
    is not the one that was built; it is removed then. Podman's temporary files are ours, and gone afterwards.
    """
    wanted = missing(bundle.images, present(engine))
    workers = 2 if version < PARALLEL_BELOW else 1
    spool.clear(place)
    if wanted:
        try:
            with console.progress("load images", sum(image.size for image in wanted)) as bar:
                for number, path in enumerate(verify.paths(archive, bundle)):
                    # In their order: an archive may do without the layers of the ones before it.
                    if here := [image for image in wanted if image.archive == number]:
                        _load_archive(here, path, place, engine, workers, bar)
        finally:
            spool.clear(place)
    _name_all(bundle.images, engine)
    return wanted


def _load_archive(
    wanted: Sequence[manifest.Image],
    archive: Path,
    place: layout.Installation,
    engine: Engine,
    workers: int,
    bar: Bar,
) -> None:
    """Load these images of one archive; the largest first, so that two that run together are busy to the end."""
    if engine.name == "docker":
        _load_by_docker(archive, engine)
        bar.update(sum(image.size for image in wanted))
        return
    order = sorted(wanted, key=lambda image: image.size, reverse=True)
    temporary = spool.prepare(place, sum(image.size for image in order[:workers]))
    with ThreadPoolExecutor(workers) as pool:
        jobs = [pool.submit(_load_one, image, archive, place, temporary, engine) for image in order]
        try:
            for image, job in zip(order, jobs, strict=True):
                job.result()
                bar.update(image.size)
        except BaseException:
            # First what waits, then what runs: else the next one starts when the first is ended.
            pool.shutdown(wait=False, cancel_futures=True)
            engine.runner.end_all()
            raise


def _load_one(
    image: manifest.Image, archive: Path, place: layout.Installation, temporary: Path, engine: Engine
) -> None:
    command = ["pull", "--quiet", f"docker-archive:{archive}:@{image.index}"]
    result = engine.run(command, timeout=LOAD_SECONDS, env={"TMPDIR": str(temporary), "GOGC": GOGC}, check=False)
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


def _load_by_docker(archive: Path, engine: Engine) -> None:
    """Load the whole archive: docker's engine takes no single image of it, and skips the layers that it has."""
    result = engine.run(["load", "--quiet", "--input", str(archive)], timeout=LOAD_SECONDS, check=False)
    if not result.ok:
        raise engine.runner.failure(
            result,
            "look for space in docker's storage (`dify-installer preflight`), then run the same command again: "
            "what is loaded is kept",
        )


def _name_all(images: Iterable[manifest.Image], engine: Engine) -> None:
    """Give every image its name by ID; prove that all are there."""
    found = present(engine)
    for image in images:
        its = stored(image, found)
        if its is None:
            raise errors.CommandFailed(
                f"{engine.name} does not have {image.reference} ({image.id}) although it was loaded",
                f"another program may remove images (`{engine.name} system prune`): run the same command again",
            )
        if image.reference not in its.names:
            engine.run(["tag", its.id, image.reference], timeout=TAG_SECONDS)
