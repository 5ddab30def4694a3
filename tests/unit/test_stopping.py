"""The order of stopping, and what has to be ended before anything can be started."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from installer.core import errors, layout
from installer.core.console import Console
from installer.engine.podman import Podman
from installer.release import compose, envfile, render
from installer.stack import stopping
from installer.system import boot_unit
from tests.unit.test_boot import called, program

DOCUMENT = {
    "services": {
        "db": {},
        "redis": {},
        "api": {"depends_on": ["db", "redis"]},
        "web": {},
        "nginx": {"depends_on": {"api": {"condition": "service_started"}, "web": {}}},
    }
}
SILENT = Console(silent=True)


def entry(service: str, place: layout.Installation, state: str = "running") -> dict[str, Any]:
    labels = {layout.PROJECT_LABEL: "dify", layout.SERVICE_LABEL: service, layout.FOLDER_LABEL: str(place.project)}
    return {"Names": [f"dify_{service}_1"], "State": state, "Labels": labels}


def engine(folder: Path, entries: list[dict[str, Any]], script: str = "exit 0") -> Podman:
    """A podman that knows these containers; `stop`, `kill` and `rm` change nothing but what `script` does."""
    (folder / "list").write_text(json.dumps(entries))
    return Podman(program(folder, "podman", f'[ "$1" = ps ] && exec cat "{folder}/list"\n{script}'))


def acted(folder: Path) -> list[str]:
    return [line for line in called(folder) if not line.startswith(("ps ", "inspect "))]


def test_who_needs_others_stops_before_them() -> None:
    assert stopping.stop_levels(DOCUMENT) == [["nginx"], ["api", "web"], ["db", "redis"]]


def test_a_circle_has_an_end() -> None:
    circle = {"services": {"a": {"depends_on": ["b"]}, "b": {"depends_on": ["a"]}}}
    assert stopping.stop_levels(circle) == [["a", "b"]]


def test_a_level_stops_together_each_service_within_its_own_time(tmp_path: Path) -> None:
    place = layout.Installation(tmp_path / "dify")
    entries = [entry(name, place) for name in ("db", "api", "web", "old")]
    entries += [entry("nginx", place, "exited"), entry("redis", layout.Installation(tmp_path / "another"))]
    stopping.stop(place, DOCUMENT, engine(tmp_path, entries))
    first, *level, last = acted(tmp_path)
    assert (first, last) == ("stop -t 10 dify_old_1", "stop -t 10 dify_db_1")
    assert sorted(level) == ["stop -t 10 dify_web_1", "stop -t 40 dify_api_1"]


def test_what_does_not_end_is_killed_and_then_an_error(tmp_path: Path) -> None:
    place = layout.Installation(tmp_path / "dify")
    podman = engine(tmp_path, [entry("db", place)], "echo stuck >&2; exit 125")
    with pytest.raises(errors.CommandFailed, match="stuck"):
        stopping.stop(place, DOCUMENT, podman)
    assert acted(tmp_path) == ["stop -t 10 dify_db_1", "kill dify_db_1"]


def test_what_has_ended_is_no_error_whatever_podman_says(tmp_path: Path) -> None:
    """It fails for a container whose monitor is gone, and has stopped it."""
    place = layout.Installation(tmp_path / "dify")
    podman = engine(tmp_path, [entry("db", place)], f'echo "[]" > "{tmp_path}/list"; exit 125')
    stopping.stop(place, DOCUMENT, podman)
    assert acted(tmp_path) == ["stop -t 10 dify_db_1"]


@pytest.fixture
def monitor(tmp_path: Path) -> Iterator[int]:
    """The ID of a process that is called as podman's monitor of a container is."""
    (tmp_path / "conmon").symlink_to("/bin/sleep")
    child = subprocess.Popen([str(tmp_path / "conmon"), "600"])
    yield child.pid
    child.kill()
    child.wait()


def test_what_is_stopping_or_has_lost_its_monitor_is_ended_first(tmp_path: Path, monitor: int) -> None:
    place = layout.Installation(tmp_path / "dify")
    entries = [
        entry("db", place),
        entry("api", place),
        entry("nginx", place, "stopping"),
        entry("web", place, "exited"),
        entry("redis", place, "removing"),
    ]
    # No process has this number: it is above the kernel's limit (proc(5), /proc/sys/kernel/pid_max).
    answer = f'[ "$1" = inspect ] && printf "dify_db_1 {monitor}\\ndify_api_1 4194305\\n"; exit 0'
    podman = engine(tmp_path, entries, answer)
    assert stopping.finish_stuck(place, DOCUMENT, podman, SILENT) == ["api", "nginx", "redis"]
    assert acted(tmp_path) == ["stop -t 10 dify_nginx_1", "stop -t 40 dify_api_1", "rm --force dify_redis_1"]


def test_nothing_is_ended_that_runs_as_it_should(tmp_path: Path, monitor: int) -> None:
    place = layout.Installation(tmp_path / "dify")
    podman = engine(tmp_path, [entry("db", place)], f'[ "$1" = inspect ] && echo "dify_db_1 {monitor}"; exit 0')
    assert stopping.finish_stuck(place, DOCUMENT, podman, SILENT) == []
    assert acted(tmp_path) == []


def test_what_needs_a_replaced_container_is_removed_with_it(tmp_path: Path) -> None:
    place = layout.Installation(tmp_path / "dify")
    podman = engine(tmp_path, [entry(name, place) for name in DOCUMENT["services"]])
    stopping.remove(place, ["db"], DOCUMENT, podman)
    removed = [line for line in acted(tmp_path) if line.startswith("rm")]
    assert removed == [f"rm --force --volumes dify_{name}_1" for name in ("nginx", "api", "db")]
    assert stopping.with_dependents(["web"], DOCUMENT) == {"web", "nginx"}


@pytest.mark.parametrize(
    "profiles", ["postgresql,weaviate", "mysql,milvus", "mysql,oceanbase", "postgresql,elasticsearch"]
)
def test_the_unit_waits_until_all_of_upstreams_services_have_ended(dify: Path, profiles: str) -> None:
    upstream = compose.load(dify / "docker/docker-compose.yaml")
    variables = envfile.resolve((dify / "docker/.env.example").read_text())
    choice = render.Choice(variables={**variables, "COMPOSE_PROFILES": profiles}, selinux=False)
    assert stopping.longest_stop(yaml.safe_load(render.render(upstream, choice))) <= boot_unit.STOP_SECONDS
