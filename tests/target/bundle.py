"""Builds a bundle as a person would, from a checkout and a real registry."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from installer.core import layout
from tests.target import images, machine
from tests.target.registry import Registry

ROOT = Path(__file__).resolve().parent.parent.parent
SAMPLE = images.SAMPLE
# The default of the whole suite; `pytest --work` and `make demo WORK=` choose another.
WORK = ROOT / ".cache/tests"


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundle:
    """The files of a bundle and what it was made from."""

    name: str
    folder: Path
    checkout: Path
    payload: Path

    @property
    def executable(self) -> Path:
        return self.folder / layout.EXECUTABLE

    @property
    def archive(self) -> Path:
        return self.folder / layout.IMAGES

    @property
    def checksums(self) -> Path:
        return self.folder / layout.CHECKSUMS


def checkout(name: str, source: Path, work: Path) -> Path:
    """Return a complete checkout of `source`, whose images can be had from `registry`'s folder."""
    target = work / f"checkout-{name}"
    shutil.rmtree(target, ignore_errors=True)
    return images.dify_checkout(source, target)


def publish(
    source: Path,
    registry: Registry,
    work: Path,
    ballast: Mapping[str, Sequence[Path]] | None = None,
    chosen: Mapping[str, str] | None = None,
) -> None:
    """Push the stand-in images that a checkout needs, with settings that are chosen."""
    docker = source / layout.PROJECT
    made = images.build(docker / layout.COMPOSE_FILE, docker / layout.ENV_EXAMPLE, work / "images", ballast, chosen)
    images.push(made, registry.url)
    images.forget(made, environment(registry))


def command(bundle: Bundle, work: Path, *options: str) -> list[str]:
    """Return the command line of the build for this bundle."""
    return [
        *(sys.executable, "-m", "build", "bundle", "--engine", "podman", "--source", str(bundle.checkout)),
        *("--output", str(bundle.folder), "--payload", str(bundle.payload), "--work", str(work / "build")),
        *(() if "--plugin" in options else ("--plugin", "none")),
        *(() if "--images" in options else ("--images", "archive")),
        *options,
    ]


def make(
    name: str,
    source: Path,
    registry: Registry,
    work: Path,
    ballast: Mapping[str, Sequence[Path]] | None = None,
    options: Sequence[str] = (),
    chosen: Mapping[str, str] | None = None,
) -> Bundle:
    """Build the bundle of a Dify-shaped folder with the real build, which pulls from the registry."""
    bundle = prepare(name, source, registry, work, ballast, chosen)
    build(command(bundle, work, *options), registry, work)
    return bundle


def prepare(
    name: str,
    source: Path,
    registry: Registry,
    work: Path,
    ballast: Mapping[str, Sequence[Path]] | None = None,
    chosen: Mapping[str, str] | None = None,
) -> Bundle:
    """Return the bundle that is to be built, its checkout complete and its images in the registry."""
    checkout(name, source, work)
    bundle = named(name, work)
    publish(bundle.checkout, registry, work, ballast, chosen)
    return bundle


def named(name: str, work: Path) -> Bundle:
    """Return where the bundle of this name lies below `work`."""
    return Bundle(
        name=name,
        folder=work / f"dist-{name}",
        checkout=work / f"checkout-{name}",
        payload=work / f"payload-{name}",
    )


def build(command: Sequence[str], registry: Registry, work: Path) -> None:
    """Run a build, or what else runs containers of images from the registry."""
    env = {**environment(registry), **containers_conf(work)}
    subprocess.run(contained(command), check=True, cwd=ROOT, env=env)


def contained(command: Sequence[str]) -> list[str]:
    """Return a command that may run containers here, with `containers_conf` in its environment."""
    hidden = 'umount /sys/fs/cgroup/unified 2>/dev/null; exec "$@"'
    return list(command) if machine.unified_host() else ["unshare", "--mount", "sh", "-c", hidden, "sh", *command]


def containers_conf(work: Path) -> dict[str, str]:
    """Return what lets podman run containers on this host, whatever it is itself."""
    if machine.unified_host():
        return {}
    path = work / "containers.conf"
    path.write_text(machine.CONTAINERS_CONF)
    return {"CONTAINERS_CONF": str(path)}


def environment(registry: Registry) -> dict[str, str]:
    """Return the environment in which podman pulls from the registry, into a store beside it."""
    return {
        **os.environ,
        "CONTAINERS_REGISTRIES_CONF": str(registry.registries_conf),
        "CONTAINERS_STORAGE_CONF": str(registry.storage_conf),
    }
