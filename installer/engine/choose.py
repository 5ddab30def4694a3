"""Which engine runs an installation."""

from __future__ import annotations

import contextlib
import shutil

from installer.core import errors, layout
from installer.core.runner import Runner
from installer.engine.base import Engine, Name
from installer.engine.docker import Docker
from installer.engine.podman import Podman

ENGINES: dict[Name, type[Engine]] = {"podman": Podman, "docker": Docker}


def choose_engine(asked: Name | None, place: layout.Installation, runner: Runner) -> Engine:
    """Return the engine that runs an installation; for a new one that asked for, else podman, else docker.

    Raises UsageError when another engine than the installation's is asked for: data and images are with that one.
    """
    used = used_by(place)
    if asked and used and asked != used:
        raise errors.UsageError(
            f"the installation in {place.folder} is run by {used}, not {asked}",
            f"leave out --runtime, or install into another folder with --dir and other ports beside {used}'s",
        )
    only_docker = _is_there("docker", runner) and not _is_there("podman", runner)
    return ENGINES[asked or used or ("docker" if only_docker else "podman")](runner)


def used_by(place: layout.Installation) -> Name | None:
    """Return the engine that an installation is for, by the compose file that we wrote for it."""
    with contextlib.suppress(OSError):
        if place.override.is_file():
            return "docker"
        if place.compose.is_file():
            return "podman"
    return None


def _is_there(name: str, runner: Runner) -> bool:
    return shutil.which(name, path=runner.env.get("PATH")) is not None
