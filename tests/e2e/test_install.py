"""From nothing to a healthy stack and through its life, on a target machine, with the frozen executable."""

from __future__ import annotations

import json

import pytest

from installer import dify, settings
from tests.e2e.conftest import MachineMaker
from tests.e2e.server import Server
from tests.target.bundle import Bundle


@pytest.fixture(scope="module", params=["sample-root", "sample-dify", "upstream-root", "upstream-dify"])
def server(request: pytest.FixtureRequest, new_machine: MachineMaker) -> Server:
    """A server on which nothing is installed yet; the tests below run on it in their order."""
    name, user = request.param.split("-")
    bundle: Bundle = request.getfixturevalue(name)
    return Server(new_machine(), bundle, user)


def test_install_from_nothing(server: Server) -> None:
    result = server.install()
    assert f"is at {server.url}" in result.stderr
    assert json.loads(server.get("/console/api/setup").stdout)["step"] == "not_started"
    report = server.report()
    assert report["result"] == "done"
    assert [step["name"] for step in report["steps"]] == [
        *("verify", "preflight", "podman-compose", "images", "settings", "start", "health", "boot", "check"),
    ]
    levels = {check["name"]: check["level"] for check in report["checks"]}
    assert set(levels.values()) <= {"ok", "info"}
    assert {"containers up", "console reachable", "version", "web page", "marketplace off"} <= set(levels)
    assert {f"api reaches {name}" for name in ("plugin_daemon", "sandbox", "weaviate")} <= set(levels)


def test_secrets_are_fresh_private_and_nowhere_else(server: Server) -> None:
    values = settings.secret_values(server.env())
    assert len(values) >= 8
    assert server.run("stat", "-c", "%a", f"{server.folder}/docker/.env").stdout.strip() == "600"
    written = server.run("sh", "-c", f"cat {server.folder}/logs/*.log {server.folder}/install-report.json").stdout
    assert "podman" in written
    for value in values:
        assert value not in written


def test_containers_get_what_env_says(server: Server) -> None:
    shown = server.run("podman", "exec", "dify_api_1", "env").stdout
    inside = dict(line.partition("=")[::2] for line in shown.splitlines())
    env = server.env()
    for key in (dify.SECRET_KEY, "DB_PASSWORD", "CELERY_BROKER_URL", "CONSOLE_WEB_URL", "ENDPOINT_URL_TEMPLATE"):
        assert inside[key] == env[key], key
    assert inside["CHECK_UPDATE_URL"] == ""
    assert inside["HOSTED_FETCH_APP_TEMPLATES_MODE"] == "builtin"
    assert env["ENDPOINT_URL_TEMPLATE"] == f"{server.url}/e/{{hook_id}}"


def test_upstreams_file_is_kept_and_podman_compose_is_on_the_path(server: Server) -> None:
    assert "podman-compose version 1.6.0" in server.run("podman-compose", "--version").stdout
    names = server.run("ls", "-A", f"{server.folder}/docker").stdout.split()
    assert {"docker-compose.yaml", "dify-compose.yaml", ".env", ".env.example"} <= set(names)


def test_the_same_command_again_changes_nothing(server: Server) -> None:
    containers, env = server.containers(), server.env()
    # Another locale of the login must not recreate containers.
    result = server.installer(*server.arguments(), env={"LANG": "ko_KR.UTF-8", "LOG_LEVEL": "DEBUG"})
    assert result.returncode == 0, result.stderr
    assert "run already" in result.stderr
    assert "the archive is not read" in result.stderr
    assert server.containers() == containers
    assert server.env() == env


def test_status_tells_how_it_is(server: Server) -> None:
    assert server.installer("status").returncode == 0
    server.run("podman", "stop", "--time", "1", "dify_worker_1")
    broken = server.installer("status")
    assert broken.returncode == 6
    assert "worker: exited" in broken.stdout


def test_a_second_run_repairs(server: Server) -> None:
    server.run("podman", "rm", "--force", "--time", "1", "dify_web_1")
    server.install()
    assert server.installer("status").returncode == 0


def test_a_setting_of_env_reaches_the_containers_and_secrets_stay(server: Server) -> None:
    before = settings.secret_values(server.env())
    server.install("--set", "LOG_LEVEL=WARNING")
    assert server.run("podman", "exec", "dify_api_1", "printenv", "LOG_LEVEL").stdout.strip() == "WARNING"
    assert settings.secret_values(server.env()) == before
    assert server.machine.exists(f"{server.folder}/docker/.env.before")


@pytest.mark.parametrize("how", ["reboot", "power failure"])
def test_the_stack_comes_back_after(server: Server, how: str) -> None:
    env = server.env()
    if how == "reboot":
        server.machine.poweroff()
    else:
        server.machine.kill()
    server.machine.boot()
    server.await_healthy()
    assert server.env() == env
