from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from installer.core import errors, layout
from installer.core.runner import Runner
from installer.engine import choose, docker, podman
from tests.unit.test_boot import program

LABELS = {
    "com.docker.compose.project": "dify",
    "com.docker.compose.service": "db",
    "com.docker.compose.project.working_dir": "/opt/dify/docker",
}


def test_podmans_list_is_read() -> None:
    entry = {
        "Names": ["dify_db_1"],
        "Image": "docker.io/library/postgres:15",
        "State": "running",
        "Status": "Up 3 seconds (healthy)",
        "ExitCode": 0,
        "Labels": LABELS,
        "Created": 5,
        "StartedAt": 7,
        "Ports": [{"host_port": 80, "range": 2}],
    }
    read = podman.read_container(entry)
    assert (read.project, read.service, read.folder) == ("dify", "db", "/opt/dify/docker")
    assert (read.state, read.health, read.created, read.started, read.ports) == ("running", "healthy", 5, 7, (80, 81))


def test_dockers_list_is_read() -> None:
    entry = {
        "Name": "/dify-db-1",
        "Created": "1970-01-01T00:00:05.468839764Z",
        "RestartCount": 3,
        "Config": {"Labels": LABELS, "Image": "postgres:15"},
        "State": {
            "Status": "running",
            "ExitCode": 0,
            "StartedAt": "1970-01-01T00:00:07.1Z",
            "Health": {"Status": "starting"},
        },
        "NetworkSettings": {
            "Ports": {
                "80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}, {"HostIp": "::", "HostPort": "8080"}],
                "9/tcp": None,
            }
        },
    }
    read = docker.read_container(entry)
    assert (read.name, read.service, read.state, read.health, read.restarts) == (
        "dify-db-1",
        "db",
        "running",
        "starting",
        3,
    )
    assert (read.created, read.started, read.ports) == (5, 7, (8080,))


def test_a_docker_container_that_never_started_and_has_no_project() -> None:
    entry = {
        "Name": "/x",
        "Created": "2026-01-01T00:00:00Z",
        "Config": {"Labels": None},
        "State": {"Status": "created", "ExitCode": 0, "StartedAt": "0001-01-01T00:00:00Z"},
    }
    read = docker.read_container(entry)
    assert (read.project, read.health, read.started, read.ports) == ("", "", 0, ())


def test_what_a_killed_start_has_left_in_the_runtime_is_deleted_there(tmp_path: Path) -> None:
    runtime = tmp_path / "crun"
    runtime.write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/deleted\n')
    runtime.chmod(0o755)
    engine = podman.Podman(program(tmp_path, "podman", f"echo {runtime}"))
    one, another = "7c33" * 16, "ab12" * 16
    said = [
        f'Error: OCI runtime error: unable to start container "{each}": crun: container `{each}` already exists'
        for each in (one, one, another)
    ]
    assert engine.mend_start("\n".join(["dify_web_1", *said]))
    assert (tmp_path / "deleted").read_text().splitlines() == [f"delete --force {each}" for each in (one, another)]
    assert not engine.mend_start('Error: unable to start container "x": no space left on device')


def runner_with(folder: Path, *names: str) -> Runner:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch(mode=0o755)
    return Runner({"PATH": str(folder)})


@pytest.mark.parametrize(
    ("programs", "found"),
    [(("podman", "docker"), "podman"), (("docker",), "docker"), (("podman",), "podman"), ((), "podman")],
)
def test_podman_comes_before_docker(tmp_path: Path, programs: tuple[str, ...], found: str) -> None:
    place = layout.Installation(tmp_path / "dify")
    assert choose.choose_engine(None, place, runner_with(tmp_path / "bin", *programs)).name == found


def test_an_installation_stays_with_its_engine(tmp_path: Path) -> None:
    place = layout.Installation(tmp_path)
    runner = runner_with(tmp_path / "bin", "podman", "docker")
    assert choose.choose_engine("docker", place, runner).name == "docker"
    place.project.mkdir()
    place.override.touch()
    assert choose.choose_engine(None, place, runner).name == "docker"
    with pytest.raises(errors.UsageError, match="run by docker, not podman"):
        choose.choose_engine("podman", place, runner)
    place.override.unlink()
    place.compose.touch()
    assert choose.used_by(place) == "podman"


def test_an_object_that_vanishes_while_docker_is_asked_is_left_out(tmp_path: Path) -> None:
    """`docker inspect` fails for it, and still answers for the others."""
    image = {"Id": "sha256:aa", "RepoTags": ["postgres:15"], "RootFS": {"Layers": ["sha256:bb"]}}
    script = tmp_path / "docker"
    listed = "[ $2 = ls ] && echo sha256:aa sha256:gone && exit"
    script.write_text(f"#!/bin/sh\n{listed}\necho '{json.dumps([image])}'\nexit 1\n")
    script.chmod(0o755)
    (stored,) = docker.Docker(Runner({"PATH": f"{tmp_path}:{os.environ['PATH']}"})).images()
    assert (stored.id, stored.layers) == ("aa", ("bb",))
    assert stored.names == {"docker.io/library/postgres:15"}
