"""Loads the images from the archive, the fastest correct way, and proves each by its ID.

`podman load -i FILE` first unpacks the whole archive into /var/tmp, deletes that and only then
loads it (strace, podman 4.3.1 and 5.4.2); `podman pull docker-archive:FILE:@INDEX` does not, and
takes 0.5 to 0.85 of the time of `sha256sum` and `podman load`. podman checks every layer against the
configuration, whose SHA-256 is the image ID, which we compare; names are set by us, by ID.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from installer import errors, files, layout, manifest
from installer.command import Runner
from installer.console import Bar, Console

LIST_SECONDS = 120.0
# An image of 10 GiB from a slow disk; the whole run has no limit of its own here.
LOAD_SECONDS = 3600.0
TAG_SECONDS = 60.0

# Two loads at a time take 0.69 of the time of one on podman 4, but 0.86 against 0.76 on podman 5,
# which extracts one layer at a time (measured with ten images of 4.6 GB on two cores).
PARALLEL_BELOW = (5, 0)


def present(runner: Runner) -> dict[str, set[str]]:
    """Return the images that podman has: ID -> full names. None at all when podman cannot say."""
    result = runner.run(["podman", "images", "--no-trunc", "--format", "json"], timeout=LIST_SECONDS, check=False)
    if not result.ok:
        return {}
    found: dict[str, set[str]] = {}
    for image in json.loads(result.stdout or "[]") or []:
        found.setdefault(str(image["Id"]).removeprefix("sha256:"), set()).update(image.get("Names") or ())
    return found


def missing(images: Iterable[manifest.Image], found: Mapping[str, set[str]]) -> list[manifest.Image]:
    """Return the images whose ID podman does not have."""
    return [image for image in images if image.id not in found]


def load(
    bundle: manifest.Manifest,
    archive: Path,
    place: layout.Installation,
    podman_version: tuple[int, ...],
    runner: Runner,
    console: Console,
) -> list[manifest.Image]:
    """Load the images that are missing and name all; return those that were loaded.

    Raises CommandFailed when podman fails or the disk is full, BundleDamaged when an image is not the one
    that was built; it is removed then. Podman's temporary files are ours, and gone afterwards.
    """
    wanted = missing(bundle.images, present(runner))
    files.remove(place.spool)
    if wanted:
        files.folder(place.spool, mode=0o700)
        try:
            with console.progress("load images", sum(image.size for image in wanted)) as bar:
                _load_all(bundle, wanted, archive, place, podman_version, runner, bar)
        finally:
            files.remove(place.spool)
    _name_all(bundle.images, runner)
    return wanted


def _load_all(
    bundle: manifest.Manifest,
    wanted: Sequence[manifest.Image],
    archive: Path,
    place: layout.Installation,
    podman_version: tuple[int, ...],
    runner: Runner,
    bar: Bar,
) -> None:
    """Load the largest first, so that two that run together are busy to the end."""
    order = sorted(wanted, key=lambda image: image.size, reverse=True)
    with ThreadPoolExecutor(2 if podman_version < PARALLEL_BELOW else 1) as pool:
        jobs = [pool.submit(_load_one, image, bundle.images.index(image), archive, place, runner) for image in order]
        try:
            for image, job in zip(order, jobs, strict=True):
                job.result()
                bar.update(image.size)
        except BaseException:
            # First what waits, then what runs: else the next one starts when the first is ended.
            pool.shutdown(wait=False, cancel_futures=True)
            runner.end_all()
            raise


def _load_one(image: manifest.Image, index: int, archive: Path, place: layout.Installation, runner: Runner) -> None:
    command = ["podman", "pull", "--quiet", f"docker-archive:{archive}:@{index}"]
    result = runner.run(command, timeout=LOAD_SECONDS, env={"TMPDIR": str(place.spool)}, check=False)
    if not result.ok:
        raise runner.failure(
            result,
            f"the image is {image.reference}; look for space in podman's storage and in {place.folder} "
            "(`dify-installer preflight`), then run the same command again: what is loaded is kept",
        )
    loaded = result.stdout.split()[-1].removeprefix("sha256:") if result.stdout.strip() else ""
    if loaded != image.id:
        runner.run(["podman", "rmi", "--force", loaded], timeout=TAG_SECONDS, check=False)
        raise errors.BundleDamaged(
            f"{image.reference} was loaded with the ID {loaded or '(none)'}, not {image.id}; it was removed again",
            "copy the image archive again and compare it with SHA256SUMS",
        )


def _name_all(images: Iterable[manifest.Image], runner: Runner) -> None:
    """Give every image its name by ID; prove that all are there."""
    found = present(runner)
    for image in images:
        if image.id not in found:
            raise errors.CommandFailed(
                f"podman does not have {image.reference} ({image.id}) although it was loaded",
                "another program may remove images (`podman system prune`): run the same command again",
            )
        if image.reference not in found[image.id]:
            runner.run(["podman", "tag", image.id, image.reference], timeout=TAG_SECONDS)
