"""The bundles, made once a session by the real build, and machines to install them on."""

from __future__ import annotations

import fcntl
import functools
import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from build.plugins import signature
from tests.target import browser as browsers
from tests.target import bundle as bundles
from tests.target import difypkg, uv
from tests.target import machine as machines
from tests.target.bundle import Bundle
from tests.target.machine import Machine
from tests.target.registry import Registry

# Machines of several kinds live at the same time, each in a folder of its own.
NUMBERS = itertools.count()
MachineMaker = Callable[[], Machine]


@pytest.fixture(scope="session")
def kept(request: pytest.FixtureRequest) -> Path:
    """Where all workers keep what is slow to make."""
    if os.geteuid() != 0:
        pytest.skip("the end-to-end tests boot machines, which needs root")
    path = Path(request.config.getoption("--work") or bundles.WORK).resolve()
    path.mkdir(parents=True, exist_ok=True)
    return path


@pytest.fixture(scope="session")
def work(kept: Path) -> Path:
    """Where this worker keeps what is slow to make."""
    path = kept / os.environ.get("PYTEST_XDIST_WORKER", "")
    shutil.rmtree(path / "machines", ignore_errors=True)
    path.mkdir(exist_ok=True)
    return path


@pytest.fixture(scope="module")
def run_root() -> Iterator[Path]:
    """A short path for podman's runroot: 4.3 takes no more than 50 characters, and a worker's folders are deep."""
    with tempfile.TemporaryDirectory(prefix="dify-", dir="/run", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def registry(work: Path) -> Iterator[Registry]:
    """A real registry with the images that the builds pull."""
    with Registry(work / "registry") as running:
        yield running


@pytest.fixture(scope="session")
def sample(work: Path, registry: Registry) -> Bundle:
    """The bundle of the project in tests/sample."""
    return bundles.make("sample", bundles.SAMPLE, registry, work)


@pytest.fixture(scope="session")
def owner_key(work: Path) -> Path:
    """The key of an installation's owner, who signs packages with it."""
    return difypkg.owner_key(work / "owner.key")


@pytest.fixture(scope="session")
def owner(owner_key: Path) -> rsa.RSAPrivateKey:
    return signature.load_private_key(owner_key)


@pytest.fixture(scope="session")
def provided(sample: Bundle, registry: Registry, work: Path, owner_key: Path) -> Bundle:
    """The sample with the providers for Ollama and for OpenAI's interface, ours, signed by the owner.

    Their wheels are fetched from PyPI; the first build takes half a minute more for that.
    """
    packages = work / "packages"
    for name in (difypkg.OLLAMA, difypkg.OPENAI):
        difypkg.write(packages / f"{name}.difypkg", difypkg.contents(name))
    made = bundles.prepare("provided", bundles.SAMPLE, registry, work, {"plugin_daemon": [uv.layer(work)]})
    command = bundles.command(made, work, "--plugin", str(packages), "--plugin-key", str(owner_key))
    environment = {**bundles.environment(registry), **bundles.containers_conf(work)}
    subprocess.run(bundles.contained(command), check=True, cwd=bundles.ROOT, env=environment)
    # Builds that come later find the sample's images again.
    bundles.publish(sample.checkout, registry, work)
    return made


@pytest.fixture(scope="session")
def upstream(work: Path, registry: Registry, dify: Path) -> Bundle:
    """The bundle of Dify's real compose file."""
    return bundles.make("dify", dify, registry, work)


@pytest.fixture(scope="session")
def base(kept: Path) -> Path:
    """The root that machines are copied from."""
    return _base(kept, "podman")


@pytest.fixture(scope="module")
def new_machine(work: Path, base: Path) -> Iterator[MachineMaker]:
    """Makes machines with podman, booted, each on a copy of its own; they are destroyed at the end of the module."""
    yield from _maker(work, base)


@pytest.fixture(scope="module")
def new_docker_machine(work: Path, kept: Path) -> Iterator[MachineMaker]:
    """The same with docker, and no podman."""
    yield from _maker(work, _base(kept, "docker"))


@pytest.fixture(scope="module")
def new_dnf_machine(work: Path, kept: Path) -> Iterator[MachineMaker]:
    """The same with dnf, and no engine."""
    yield from _maker(work, _base(kept, "dnf"))


@pytest.fixture(scope="session")
def browser_root(kept: Path) -> Path:
    """The root that a real browser lives in; one worker makes it, the others wait."""
    with (kept / "browser.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return browsers.browser_root(kept)


@functools.cache
def _base(kept: Path, kind: Literal["podman", "docker", "dnf"]) -> Path:
    """Return the root of a kind; one worker makes it, the others wait."""
    with (kept / "base.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return machines.base_root(kept, kind)


def _maker(work: Path, base: Path) -> Iterator[MachineMaker]:
    made: list[Machine] = []

    def make() -> Machine:
        machine = Machine.clone(base, work / "machines" / f"m{os.getpid()}-{next(NUMBERS)}")
        made.append(machine)
        machine.boot()
        return machine

    yield make
    for machine in made:
        machine.destroy()
