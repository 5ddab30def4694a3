"""The bundles, made once in a run of the tests by the real build, and machines to install them on."""

from __future__ import annotations

import fcntl
import functools
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Protocol

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from build.plugins import signature
from tests.target import browser as browsers
from tests.target import bundle as bundles
from tests.target import difypkg, uv
from tests.target import embedder as embedders
from tests.target import machine as machines
from tests.target import newer as releases
from tests.target.bundle import Bundle
from tests.target.machine import Machine
from tests.target.registry import Registry

# Machines of several kinds live at the same time, each in a folder of its own.
NUMBERS = itertools.count()
Kind = Literal["podman", "docker", "dnf"]
Once = Callable[[str, Callable[[], Bundle]], Bundle]


class MachineMaker(Protocol):
    """Makes a machine with podman, or docker and no podman, or dnf and no engine; booted, on a disk of its own."""

    def __call__(self, kind: Kind = "podman") -> Machine: ...


@pytest.fixture(scope="session")
def work(request: pytest.FixtureRequest) -> Path:
    """Where all workers keep what is slow to make."""
    if os.geteuid() != 0:
        pytest.skip("the end-to-end tests boot machines, which needs root")
    path = Path(request.config.getoption("--work") or bundles.WORK).resolve()
    path.mkdir(parents=True, exist_ok=True)
    return path


@pytest.fixture(scope="session")
def once(work: Path, testrun_uid: str) -> Once:
    """Makes a bundle if no other worker has: calls `make` unless a file says that this run of the tests has done it."""

    def once(name: str, make: Callable[[], Bundle]) -> Bundle:
        done = work / f"{name}.made"
        with alone(work / f"{name}.lock"):
            if not done.is_file() or done.read_text() != testrun_uid:
                make()
                done.write_text(testrun_uid)
        return bundles.named(name, work)

    return once


@pytest.fixture(scope="session")
def disks(work: Path) -> Path:
    """Where this worker keeps the disks of its machines."""
    path = work / "machines" / os.environ.get("PYTEST_XDIST_WORKER", "alone")
    shutil.rmtree(path, ignore_errors=True)
    return path


@pytest.fixture(scope="module")
def run_root() -> Iterator[Path]:
    """A short path for podman's runroot: 4.3 takes no more than 50 characters, and a worker's folders are deep."""
    with tempfile.TemporaryDirectory(prefix="dify-", dir="/run", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def registry(work: Path) -> Registry:
    """A real registry for the images that the builds pull; it runs inside a `with` block, for one worker at a time."""
    return Registry(work / "registry")


@pytest.fixture
def published(sample: Bundle, registry: Registry, work: Path) -> Iterator[Registry]:
    """The registry while it runs and has the sample's images."""
    with registry:
        bundles.publish(sample.checkout, registry, work)
        yield registry


@pytest.fixture(scope="session")
def sample(work: Path, registry: Registry, once: Once) -> Bundle:
    """The bundle of the project in tests/sample."""

    def make() -> Bundle:
        with registry:
            return bundles.make("sample", bundles.SAMPLE, registry, work)

    return once("sample", make)


@pytest.fixture(scope="session")
def newer(registry: Registry, work: Path, once: Once) -> Bundle:
    """The bundle of the sample's next release."""
    return once("newer", lambda: releases.make(registry, work))


@pytest.fixture(scope="session")
def owner_key(work: Path) -> Path:
    """The key of an installation's owner, who signs packages with it."""
    with alone(work / "owner.lock"):
        return difypkg.owner_key(work / "owner.key")


@pytest.fixture(scope="session")
def embedder(work: Path) -> Path:
    """The folder with a real embedding model."""
    with alone(work / "embedder.lock"):
        return embedders.folder(work)


@pytest.fixture(scope="session")
def owner(owner_key: Path) -> rsa.RSAPrivateKey:
    return signature.load_private_key(owner_key)


@pytest.fixture(scope="session")
def provided(registry: Registry, work: Path, owner_key: Path, once: Once) -> Bundle:
    """The sample with the providers for Ollama and for OpenAI's interface, ours, signed by the owner.

    Their wheels are fetched from PyPI; the first build takes half a minute more for that.
    """

    def make() -> Bundle:
        packages = work / "packages"
        for name in (difypkg.OLLAMA, difypkg.OPENAI):
            difypkg.write(packages / f"{name}.difypkg", difypkg.contents(name))
        with registry:
            made = bundles.prepare("provided", bundles.SAMPLE, registry, work, {"plugin_daemon": [uv.layer(work)]})
            command = bundles.command(made, work, "--plugin", str(packages), "--plugin-key", str(owner_key))
            bundles.build(command, registry, work)
        return made

    return once("provided", make)


@pytest.fixture(scope="session")
def upstream(work: Path, registry: Registry, dify: Path, once: Once) -> Bundle:
    """The bundle of Dify's real compose file."""

    def make() -> Bundle:
        with registry:
            return bundles.make("dify", dify, registry, work)

    return once("dify", make)


@pytest.fixture(scope="session")
def base(work: Path) -> Path:
    """The root that machines with podman are copied from."""
    return _base(work, "podman")


@pytest.fixture
def new_machine(disks: Path, work: Path) -> Iterator[MachineMaker]:
    """Makes machines for one test, at whose end they are destroyed: a stack that nobody needs any more costs time."""
    yield from _maker(disks, work)


@pytest.fixture(scope="module")
def lasting_machine(disks: Path, work: Path) -> Iterator[MachineMaker]:
    """Makes machines for fixtures, which destroy them (`with Server(…)`) if they do not last as long as the module."""
    yield from _maker(disks, work)


@pytest.fixture(scope="session")
def browser_root(work: Path) -> Path:
    """The root that a real browser lives in."""
    with alone(work / "browser.lock"):
        return browsers.browser_root(work)


@functools.cache
def _base(work: Path, kind: Kind) -> Path:
    """Return the root of a kind."""
    with alone(work / "base.lock"):
        return machines.base_root(work, kind)


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Let one worker make what the others wait for."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _maker(disks: Path, work: Path) -> Iterator[MachineMaker]:
    made: list[Machine] = []

    def make(kind: Kind = "podman") -> Machine:
        machine = Machine.clone(_base(work, kind), disks / f"m{os.getpid()}-{next(NUMBERS)}")
        made.append(machine)
        machine.boot()
        return machine

    yield make
    for machine in made:
        machine.destroy()
