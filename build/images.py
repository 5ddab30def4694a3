"""Pulls the images, with docker or podman, and says exactly what was pulled."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from build.failure import BuildError
from installer.bundle import manifest
from installer.core.console import Console
from installer.core.runner import Runner

ENGINES = ("podman", "docker")
PULL_SECONDS = 3600.0
INSPECT_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Pulled:
    """An image in the engine's store: `id` without `sha256:`, `digest` the registry's, `size` in bytes."""

    reference: str
    id: str
    digest: str
    size: int
    created: str


def engine(wanted: str | None) -> str:
    """Return the engine to use. Raises BuildError when there is none."""
    candidates = (wanted,) if wanted else ENGINES
    for name in candidates:
        if shutil.which(name):
            return name
    raise BuildError(
        f"{' or '.join(candidates)} is not installed: images cannot be pulled",
        "install podman (`apt install podman`) or docker",
    )


@contextmanager
def pulling(
    references: Sequence[str], architecture: manifest.Architecture, program: str, runner: Runner, console: Console
) -> Iterator[list[Future[Pulled]]]:
    """Pull, in the background and in order, every image that the store does not have for this architecture.

    Gives them in that order, so that one is saved while the next is pulled: the one waits for the network, the other
    for the processor. The result of each raises BuildError if it cannot be pulled or has another architecture. When
    the block fails, what is being pulled is ended.
    """
    with ThreadPoolExecutor(1) as background:
        jobs = [background.submit(_pulled, each, architecture, program, runner, console) for each in references]
        try:
            yield jobs
        except BaseException:
            background.shutdown(wait=False, cancel_futures=True)
            runner.end_all()
            raise


def _pulled(
    reference: str, architecture: manifest.Architecture, program: str, runner: Runner, console: Console
) -> Pulled:
    found = _inspect(reference, program, runner)
    if found is None or found["Architecture"] != architecture:
        console.line(f"pull     {reference}")
        command = [program, "pull", "--quiet", "--platform", f"linux/{architecture}", reference]
        result = runner.run(command, timeout=PULL_SECONDS, check=False)
        if not result.ok:
            raise BuildError(
                f"{reference} cannot be pulled: {runner.mask(result.last_words)}",
                f"check the network and `{program} login`, then try `{program} pull {reference}` by hand",
            )
        found = _inspect(reference, program, runner)
    if found is None or found["Architecture"] != architecture:
        kind = "nothing" if found is None else found["Architecture"]
        raise BuildError(
            f"{reference}: the registry gave {kind} for {architecture}",
            "this image is not published for that architecture: choose another vector store or database",
        )
    return Pulled(
        reference=reference,
        id=str(found["Id"]).removeprefix("sha256:"),
        digest=_digest(found),
        size=int(found["Size"]),
        created=str(found.get("Created", "")),
    )


def _inspect(reference: str, program: str, runner: Runner) -> dict[str, Any] | None:
    result = runner.run([program, "image", "inspect", reference], timeout=INSPECT_SECONDS, check=False)
    if not result.ok:
        return None
    described = json.loads(result.stdout)
    return described[0] if described else None


def _digest(found: dict[str, Any]) -> str:
    """Return the digest that the registry knows the image by, or nothing for one built here."""
    digests = sorted(str(name).rpartition("@")[2] for name in found.get("RepoDigests") or ())
    return digests[0] if digests else ""
