"""What is read from the answers of real engines: tests/unit/recorded/README.md says how they were recorded."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

import pytest

from installer.core import layout
from installer.core.runner import Runner
from installer.engine.base import Container, Description, Engine, Stored
from installer.engine.docker import Docker
from installer.engine.podman import Podman
from installer.host import observe
from tests.unit.recorded import record

RECORDED = Path(record.__file__).parent
PODMANS = ("podman-4.6.2", "podman-4.9.5", "podman-5.2.5", "podman-5.4.2", "podman-5.6.2")
ALL = (*PODMANS, "docker-26.1.5")

# The images that record.py makes; their IDs are the digests of what it makes them of.
BASE = "2a64b84e6ef7986e1326014f3ecfc5e8250872ea3149ee943c6bd0f67b26d1f3"
OLD = "8f1360a97b7265ef934cbcec74a67d54b9e93248831d2b1e231ae39162f33cfc"
UPPER = "9ce19773504a4a5a710027d680f32ff6d6c5728498372f82649060ae62c827fc"
ONE = "43f8896848d570c05e321bb4c4473337465cffec95f26759f090ff2d49210ba2"
TWO = "bd0b01be86a82229f2507c3346c91f39a4446dc76f7e3915a37c2ddb5a588a80"
NAMELESS = "21de3f568cfff3c580c6bbaa9c7bfba9c7912482d2bf988bcc3067b09b4f1253"
IMAGES = {
    ONE: frozenset({"docker.io/recorded/one:1"}),
    TWO: frozenset({"docker.io/recorded/two:1", "docker.io/recorded/two:latest"}),
    NAMELESS: frozenset[str](),
}


def engine_of(recorded: str, folder: Path) -> Engine:
    """Return the engine as the installer calls it; its program answers what was recorded, and nothing else."""
    name = recorded.partition("-")[0]
    cases = []
    for file, arguments in record.QUESTIONS[name].items():
        asked = [part for part in arguments if part != record.IDS]
        rest = "' '*" if len(asked) < len(arguments) else ""
        cases.append(f"{shlex.quote(' '.join(asked))}{rest}) exec cat {shlex.quote(str(RECORDED / recorded / file))};;")
    program = folder / name
    lines = ["#!/bin/sh", 'case "$*" in', *cases, "esac", 'echo "not recorded: $*" >&2', "exit 64"]
    program.write_text("\n".join(lines) + "\n")
    program.chmod(0o755)
    runner = Runner({"PATH": f"{folder}:{os.environ['PATH']}"})
    return Podman(runner) if name == "podman" else Docker(runner)


def expected_containers(recorded: str) -> dict[str, Container]:
    """Return what must be read, by name: the states that record.py waited for, the times as `date` read them."""
    times = json.loads((RECORDED / recorded / "times.json").read_text())

    def container(
        name: str,
        state: str = "running",
        *,
        of_project: bool = True,
        image: tuple[str, str] = ("docker.io/recorded/two:1", TWO),
        health: str = "",
        exit_code: int = 0,
        restarts: int = 0,
        ports: tuple[int, ...] = (),
    ) -> Container:
        return Container(
            project="dify" if of_project else "",
            service=name if of_project else "",
            folder="/opt/dify/docker" if of_project else "",
            name=name,
            image=image[0],
            image_id=image[1],
            state=state,
            health=health,
            exit_code=exit_code,
            restarts=restarts,
            created=times[name][0],
            started=times[name][1],
            ports=ports,
        )

    # docker has no word for a container that it is about to stop, and tells ports only of those that run.
    is_podman = recorded in PODMANS
    expected = (
        container("healthy", health="healthy", ports=(18080,)),
        container("starting", health="starting", ports=(18081, 18082, 18083)),
        container("unhealthy", health="unhealthy", ports=(18443,)),
        # It publishes 18053 for UDP alone.
        container("unchecked", of_project=False, image=("docker.io/recorded/one:1", ONE)),
        container("finished", "exited"),
        container("failed", "exited", exit_code=3, ports=(18084,) if is_podman else ()),
        container("created", "created", ports=(18085,) if is_podman else ()),
        container("paused", "paused", of_project=False, ports=(18086,)),
        container("stopping", "stopping" if is_podman else "running", ports=(18087,)),
        container("restarted", restarts=1),
        container("given-up", "exited", exit_code=3, restarts=2),
    )
    return {each.name: each for each in expected}


def test_every_recording_is_read() -> None:
    assert {path.name for path in RECORDED.iterdir() if path.is_dir() and path.name[0] != "_"} == set(ALL)


@pytest.mark.parametrize("recorded", ALL)
def test_all_containers_are_read_as_they_were(recorded: str, tmp_path: Path) -> None:
    read = {each.name: each for each in engine_of(recorded, tmp_path).containers()}
    assert read == expected_containers(recorded)


@pytest.mark.parametrize("recorded", ALL)
def test_a_container_that_never_started_has_no_time_of_its_start(recorded: str, tmp_path: Path) -> None:
    (created,) = (each for each in engine_of(recorded, tmp_path).containers() if each.state == "created")
    assert created.started == 0 < created.created


@pytest.mark.parametrize("recorded", ALL)
def test_a_port_is_held_by_a_container_that_has_not_ended_and_publishes_it_for_tcp(
    recorded: str, tmp_path: Path
) -> None:
    listeners = observe._listeners("", engine_of(recorded, tmp_path).containers())
    assert {each.port: (each.holder, each.ours) for each in listeners or ()} == {
        18080: ("the container healthy", True),
        18081: ("the container starting", True),
        18082: ("the container starting", True),
        18083: ("the container starting", True),
        18086: ("the container paused", False),
        18087: ("the container stopping", True),
        18443: ("the container unhealthy", True),
    }


@pytest.mark.parametrize("recorded", ALL)
def test_each_image_is_read_once_with_all_its_names(recorded: str, tmp_path: Path) -> None:
    read = engine_of(recorded, tmp_path).images()
    layers = {ONE: (BASE,), TWO: (BASE, UPPER), NAMELESS: (BASE, OLD)}
    told = layers if recorded not in PODMANS else dict.fromkeys(layers, ())
    assert sorted(read, key=lambda each: each.id) == [
        Stored(id=id, names=IMAGES[id], layers=told[id]) for id in sorted(IMAGES)
    ]


@pytest.mark.parametrize("recorded", ALL)
def test_the_layers_of_all_images_are_read(recorded: str, tmp_path: Path) -> None:
    assert engine_of(recorded, tmp_path).layers() == {BASE, OLD, UPPER}


@pytest.mark.parametrize("recorded", ALL)
def test_the_engine_is_known_by_version_and_description(recorded: str, tmp_path: Path) -> None:
    engine = engine_of(recorded, tmp_path)
    number, text = engine.version()
    assert (engine.name, number) == (recorded.partition("-")[0], tuple(map(int, recorded.partition("-")[2].split("."))))
    facts = observe._engine(engine, (number, text), engine.describe(), None)
    assert (facts.problem, facts.emulated) == ("", False)
    if recorded in PODMANS:
        assert engine.describe() == Description(
            graph_root=Path("/var/lib/containers/storage"),
            network_backend="netavark",
            rootless=os.geteuid() != 0,
            labels=True,
        )
    else:
        assert engine.describe() == Description(graph_root=Path("/var/lib/docker"))


@pytest.mark.parametrize("recorded", ALL)
def test_only_the_projects_internal_networks_are_told_to_a_firewall(recorded: str, tmp_path: Path) -> None:
    engine = engine_of(recorded, tmp_path)
    assert sorted(engine.networks(layout.COMPOSE_PROJECT)) == ["dify_inside", "dify_outside"]
    assert engine.volumes(layout.COMPOSE_PROJECT) == ["dify_data"]
    assert engine.internal_subnets(layout.COMPOSE_PROJECT) == (["10.201.1.0/24"] if recorded in PODMANS else [])
