"""A stack that stops, or was cut off while it did: from everywhere the same commands bring it back."""

from __future__ import annotations

import time

import pytest
import yaml

from tests.e2e.conftest import MachineMaker
from tests.e2e.server import Server
from tests.e2e.test_failures import await_text
from tests.target.bundle import Bundle

# The first process of a container does not answer while it is stopped, neither to SIGTERM nor to anybody.
FREEZE = "kill -STOP $(podman inspect --format '{{.State.Pid}}' dify_%s_1)"
THAW = "kill -CONT $(podman inspect --format '{{.State.Pid}}' dify_%s_1)"
IS_STOPPING = "podman ps --all --filter name=%s --format '{{.State}}' | grep -q stopping"
# What every process of the machine is called with, again and again while health checks run.
WATCH = """
for i in $(seq 5); do podman healthcheck run dify_redis_1; done &
while kill -0 $! 2>/dev/null; do cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '; done > /root/seen
"""


@pytest.fixture(scope="module")
def server(lasting_machine: MachineMaker, sample: Bundle) -> Server:
    """A server with an installation."""
    made = Server(lasting_machine(), sample)
    made.install()
    return made


def interrupt(server: Server, command: str) -> None:
    """Press Ctrl-C as soon as nginx is being stopped; it does not end by itself."""
    server.run("sh", "-c", FREEZE % "nginx")
    run = server.machine.start(["./dify-installer", command])
    await_text(server, IS_STOPPING % "nginx")
    server.machine.signal("INT", f"dify-installer {command}")
    output = run.communicate(timeout=60)[0]
    assert run.returncode == 130, output
    assert server.run("sh", "-c", IS_STOPPING % "nginx").returncode == 0
    assert server.run("pgrep", "--full", "podman stop").returncode == 1


@pytest.mark.feature("Ctrl-C of `stop`, all monitors (conmon) killed", "works; the next command goes on from there")
def test_ctrl_c_of_stop_and_then_an_installation(server: Server) -> None:
    interrupt(server, "stop")
    server.install("--timeout", "200")
    assert server.installer("status").returncode == 0


def test_ctrl_c_of_stop_and_then_a_start(server: Server) -> None:
    interrupt(server, "stop")
    assert server.installer("start", "--timeout", "200").returncode == 0
    assert server.get("/console/api/setup").stdout.startswith("{")


def test_ctrl_c_of_stop_and_then_a_stop(server: Server) -> None:
    interrupt(server, "stop")
    assert server.installer("stop").returncode == 0
    assert server.containers() == {}
    assert server.installer("start", "--timeout", "200").returncode == 0


@pytest.mark.parametrize("command", ["install", "start", "stop"])
def test_all_monitors_are_killed(server: Server, command: str) -> None:
    """Their containers go on, and no podman command sees that they have lost their ports and their output."""
    server.run("pkill", "-KILL", "--exact", "conmon")
    if command == "install":
        server.install("--timeout", "200")
    else:
        assert server.installer(command).returncode == 0
    if command == "stop":
        assert server.containers() == {}
        assert server.installer("start", "--timeout", "200").returncode == 0
    assert server.installer("status").returncode == 0
    assert server.get("/console/api/setup").stdout.startswith("{")


def test_the_plugin_daemon_hears_that_it_is_to_end(server: Server) -> None:
    """Its image starts it behind two shells (plugin daemon 0.5.2, entrypoint.sh); this one takes a second to end."""
    rendered = yaml.safe_load(server.machine.read(f"{server.folder}/docker/dify-compose.yaml"))
    command = [word.replace("$$", "$") for word in rendered["services"]["plugin_daemon"]["command"]]
    daemon = "#!/bin/bash\ntrap 'sleep 1; echo ended > /app/told; exit 0' TERM\necho up > /app/told\nsleep 100 & wait\n"
    for name, text in (("main", daemon), ("entrypoint.sh", 'bash -c "exec /app/main"')):
        server.machine.path("/app").mkdir(exist_ok=True)
        server.machine.path(f"/app/{name}").write_text(text)
        server.machine.path(f"/app/{name}").chmod(0o755)
    # As the first process, which gets no signal that it does not handle.
    run = server.machine.start(["unshare", "--pid", "--fork", "--mount-proc", *command])
    await_text(server, "grep -q up /app/told")
    server.run("pkill", "-TERM", "--full", "^/bin/bash -c setsid /app/entrypoint.sh")
    assert run.wait(timeout=20) == 0
    assert server.machine.read("/app/told") == "ended\n"


def test_what_a_killed_start_has_left_in_the_runtime_is_taken_away(server: Server) -> None:
    web = server.container("web")
    server.run("podman", "stop", "--time", "5", web)
    identity = server.run("podman", "inspect", "--format", "{{.Id}}", web).stdout.strip()
    # The runtime knows a container by its folder.
    server.run("mkdir", f"/run/crun/{identity}")
    refused = server.run("podman", "start", web)
    assert "already exists" in refused.stderr
    server.install()
    assert web in server.containers()


def test_every_program_hears_that_it_is_to_end(server: Server) -> None:
    assert server.installer("stop").returncode == 0
    shown = server.run("podman", "ps", "--all", "--format", "{{.Names}} {{.ExitCode}}").stdout.split()
    status = dict(zip(shown[::2], shown[1::2], strict=True))
    assert "137" not in status.values(), status
    assert {status[server.container(name)] for name in ("nginx", "ssrf_proxy")} == {"0"}
    assert server.installer("start", "--timeout", "200").returncode == 0


def test_a_stack_that_starts_says_so_and_the_unit_is_active_once_it_answers(server: Server) -> None:
    server.run("systemctl", "stop", "dify.service")
    server.run("systemctl", "start", "--no-block", "dify.service")
    await_text(server, f"podman ps --filter name=dify_api_1 --format up | grep -q up && {FREEZE % 'api'}")
    status = server.installer("status")
    assert status.returncode == 0, status.stdout
    assert "WARN console reachable: starting since" in status.stdout
    assert "FAIL" not in status.stdout
    server.run("sh", "-c", THAW % "api")
    deadline = time.monotonic() + 120
    while server.run("systemctl", "is-active", "dify.service").stdout.strip() != "active":
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert server.get("/console/api/setup").stdout.startswith("{")
    server.await_healthy()


def test_no_user_sees_a_password_in_a_health_check(server: Server) -> None:
    server.run("sh", "-c", WATCH)
    seen = server.machine.read("/root/seen")
    assert "redis-cli ping" in seen
    assert server.env()["REDIS_PASSWORD"] not in seen


def test_ctrl_c_while_podman_hangs(server: Server) -> None:
    """It is asked for several things at the same time, and does not listen to SIGTERM."""
    hanging = "#!/bin/sh\ntrap '' TERM\nwhile :; do sleep 600; done\n"
    server.run("sh", "-c", f"cat > /usr/local/bin/podman << 'END'\n{hanging}END\nchmod +x /usr/local/bin/podman")
    run = server.machine.start(["./dify-installer", *server.arguments()])
    await_text(server, "pgrep --full '[/]usr/local/bin/podman'")
    server.machine.signal("INT", "dify-installer --ip")
    begun = time.monotonic()
    output = run.communicate(timeout=60)[0]
    took = time.monotonic() - begun
    server.run("rm", "/usr/local/bin/podman")
    assert run.returncode == 130, output
    assert server.run("pgrep", "--full", "/usr/local/bin/podman").returncode == 1
    # Two seconds by design, and the time that a busy machine takes to end the executable.
    assert took < 20
