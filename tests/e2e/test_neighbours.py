"""What runs on the host already is found, named and never damaged."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import MachineMaker
from tests.e2e.server import Server
from tests.target import machine as machines
from tests.target.bundle import Bundle

PORTS = ("--port", "8088", "--https-port", "8448")
# A Dify as somebody starts it by hand: `docker compose up` in upstream's folder, whose name is the project's.
LABELS = "--label com.docker.compose.project=docker --label com.docker.compose.project.working_dir=/srv/dify/docker"


@pytest.fixture(scope="module")
def server(lasting_machine: MachineMaker, sample: Bundle) -> Server:
    """A machine with a web server on port 80, a container of somebody's on 443, and a Dify started by hand."""
    server = Server(lasting_machine(), sample)
    server.run("podman", "load", "--quiet", "--input", "dify-images.tar")
    images = {
        name.rpartition("/")[2].partition(":")[0]: name
        for name in server.run("podman", "images", "--format", "{{.Repository}}:{{.Tag}}").stdout.split()
    }
    run = "podman run --detach --pull=never --entrypoint sleep"
    server.machine.run(f"{run} --name other -p 443:443 {images['redis']} infinity")
    server.machine.run(f"{run} --name docker_api_1 {LABELS} {images['api']} infinity")
    web = "systemd-run --unit=web --quiet python3 -m http.server 80"
    server.machine.run(f"{web}; until ss -Hltn | grep -q ':80 '; do sleep 0.1; done")
    return server


@pytest.mark.feature("a web server or a container on our ports", "refused: who it is, and `--port 8080`")
def test_who_holds_the_ports_is_named(server: Server) -> None:
    result = server.installer(*server.arguments())
    assert result.returncode == 4
    assert "port 80 (http) is held by python3 (process" in result.stderr
    assert "port 443 (https) is held by the container other" in result.stderr


@pytest.mark.feature("other containers, a Dify started by hand", "works with `--port`, `--https-port`; they are named")
def test_beside_them_on_other_ports_and_none_is_touched(server: Server) -> None:
    before = server.containers()
    assert set(before) == {"other", "docker_api_1"}
    result = server.install(*PORTS)
    assert "another Dify runs here, which somebody else started: docker_api_1 (/srv/dify/docker)" in result.stderr
    assert before.items() <= server.containers().items()
    assert server.run("curl", "-s", "http://10.0.0.5:80/").returncode == 0
    server.installer("stop")
    assert server.containers() == before


@pytest.mark.feature("containers named dify_…, started from another folder", "refused: that folder for `--dir`")
def test_a_stack_of_our_name_from_another_folder_is_not_taken_over(server: Server) -> None:
    result = server.installer("--ip", machines.ADDRESS, *PORTS, "--dir", "/opt/second")
    assert result.returncode == 4
    assert "containers named dify run already, from another folder: dify_" in result.stderr
    assert not server.machine.exists("/opt/second")
