"""From nothing to a healthy stack and through its life, on a target machine, with the frozen executable."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterator

import pytest

from installer.release import dify, envfile, masks
from tests.e2e.conftest import MachineMaker
from tests.e2e.server import Server
from tests.target.bundle import Bundle

JOURNEYS = ["podman root", "podman dify", "docker root"]

COMPILED = {"PYTHONPYCACHEPREFIX": "/dify-compiled"}
# What a power cut makes of files that were just written, and what somebody may do who looks for room.
HALVES = "find {folder}/compiled -name '*.pyc' -exec truncate --size=400 {{}} +"
REMOVED = "rm -rf {folder}/compiled"


@pytest.fixture(scope="module", params=JOURNEYS, ids=lambda journey: journey.replace(" ", "-"))
def server(request: pytest.FixtureRequest, lasting_machine: MachineMaker) -> Iterator[Server]:
    """A server on which nothing is installed yet; the tests below run on it in their order.

    With upstream's files if they are given: the sample, which other tests install, has less of everything.
    """
    engine, user = request.param.split()
    bundle: Bundle = request.getfixturevalue("upstream" if request.config.getoption("--dify") else "sample")
    with Server(lasting_machine(engine), bundle, user, engine=engine) as made:
        yield made


@pytest.mark.feature("podman 5.4 rootful and rootless, docker 26 with compose 2.26", "works")
def test_install_from_nothing(server: Server) -> None:
    result = server.install()
    assert f"is at {server.url}" in result.stderr
    assert json.loads(server.get("/console/api/setup").stdout)["step"] == "not_started"
    report = server.report()
    assert report["result"] == "done"
    steps = ["verify", "preflight", "settings", "images", "podman-compose", "start", "health", "boot", "check"]
    if server.engine == "docker":
        steps.remove("podman-compose")
    assert [step["name"] for step in report["steps"]] == steps
    levels = {check["check"]: check["level"] for check in report["checks"]}
    assert set(levels.values()) <= {"ok", "info"}
    assert {"containers up", "console reachable", "version", "web page", "marketplace off"} <= set(levels)
    assert {f"api reaches {name}" for name in ("plugin_daemon", "sandbox", "weaviate")} <= set(levels)


def test_secrets_are_fresh_private_and_nowhere_else(server: Server) -> None:
    example = envfile.parse(server.machine.read(f"{server.folder}/docker/.env.example"))
    values = masks.secret_values(server.env(), example)
    assert len(values) >= 7
    assert server.run("stat", "-c", "%a", f"{server.folder}/docker/.env").stdout.strip() == "600"
    written = server.run("sh", "-c", f"cat {server.folder}/logs/*.log {server.folder}/install-report.*").stdout
    assert f"$ {server.engine} info" in written
    for value in values:
        assert value not in written


def test_containers_get_what_env_says(server: Server) -> None:
    shown = server.run(server.engine, "exec", server.container("api"), "env").stdout
    inside = dict(line.partition("=")[::2] for line in shown.splitlines())
    env = server.env()
    for key in (dify.SECRET_KEY, "DB_PASSWORD", "CELERY_BROKER_URL", "CONSOLE_WEB_URL", "ENDPOINT_URL_TEMPLATE"):
        assert inside[key] == env[key], key
    assert inside["CHECK_UPDATE_URL"] == ""
    assert inside["HOSTED_FETCH_APP_TEMPLATES_MODE"] == "builtin"
    assert env["ENDPOINT_URL_TEMPLATE"] == f"{server.url}/e/{{hook_id}}"


def test_one_container_migrates_and_the_others_wait_for_it(server: Server) -> None:
    names = [name for name in server.containers() if "api" in name or "worker" in name]
    logs = {name: server.run("sh", "-c", f"{server.engine} logs {name} 2>&1").stdout for name in names}
    assert {name for name, text in logs.items() if "Running migrations" in text} == {server.container("api")}
    assert "dify-installer: 3 migrations to do" in logs[server.container("api")]
    others = {name: text for name, text in logs.items() if name != server.container("api")}
    assert others
    # The stand-in ends where a migration is missing.
    assert all(text.count("begins with the database at 0003") == 1 for text in others.values()), others


def test_what_is_compiled_is_kept_where_nobody_else_may_write(server: Server) -> None:
    mode = server.run("stat", "-c", "%a %U", f"{server.folder}/compiled").stdout.split()
    assert mode == ["700", server.user]
    (folder,) = server.run("ls", f"{server.folder}/compiled").stdout.split()
    assert COMPILED.items() <= environment(server, "api").items()
    found = server.run("find", f"{server.folder}/compiled/{folder}", "-name", "*.pyc").stdout.split()
    assert any("flask" in name for name in found)


def environment(server: Server, service: str) -> dict[str, str]:
    """Return the environment of a service's container."""
    shown = server.run(server.engine, "exec", server.container(service), "env").stdout
    return dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)


def test_upstreams_file_is_kept_and_compose_works_as_people_type_it(server: Server) -> None:
    names = set(server.run("ls", "-A", f"{server.folder}/docker").stdout.split())
    assert {"docker-compose.yaml", ".env", ".env.example"} <= names
    if server.engine == "podman":
        assert "podman-compose version 1.6.0" in server.run("podman-compose", "--version").stdout
        assert "dify-compose.yaml" in names
        program = server.run("cat", f"{server.folder}/podman-compose/bin/podman-compose").stdout
        assert "from compose_program import main" in program
        return
    before = server.containers()
    typed = server.run("sh", "-c", f"cd {server.folder}/docker && docker compose -p dify up -d --pull never")
    assert typed.returncode == 0, typed.stderr
    assert server.containers() == before


def test_the_same_command_again_changes_nothing(server: Server) -> None:
    containers, env = server.containers(), server.env()
    # Another locale of the login must not recreate containers.
    result = server.installer(*server.arguments(), env={"LANG": "ko_KR.UTF-8", "LOG_LEVEL": "DEBUG"})
    assert result.returncode == 0, result.stderr
    assert "run already" in result.stderr
    assert "the archive is not read" in result.stderr
    assert "load images" not in result.stderr
    assert server.containers() == containers
    assert server.env() == env


def test_status_tells_how_it_is(server: Server) -> None:
    good = server.installer("status", "--json")
    assert good.returncode == 0, good.stdout
    glance = json.loads(good.stdout)["overview"]
    assert (glance["url"], glance["folder"], glance["changed"]) == (server.url, server.folder, [])
    services = {each["name"]: each for each in glance["services"]}
    assert services["api"]["state"] in ("healthy", "running")
    assert services["init_permissions"]["state"] == "done"
    assert not any(each["reason"] for each in services.values())
    # What PostgreSQL has written belongs to an ID that is not ours, without root.
    assert glance["data_bytes"]["db"] > 20_000_000
    server.run(server.engine, "stop", "--time", "1", server.container("worker"))
    broken = server.installer("status")
    assert broken.returncode == 6
    assert "worker: exited" in broken.stdout
    assert re.search(r"^worker +exited", broken.stdout, re.MULTILINE)


def test_logs_come_in_their_order_and_without_secrets(server: Server) -> None:
    password = server.env()["REDIS_PASSWORD"]
    leak = f"echo the password is {password} > /proc/1/fd/1"
    server.run(server.engine, "exec", server.container("web"), "sh", "-c", leak)
    shown = server.installer("logs", "--since", "1h")
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert {"db_postgres", "web", "weaviate"} <= {line.split()[0] for line in lines}
    times = [line.split()[1] for line in lines]
    assert times == sorted(times)
    assert "the password is ********" in shown.stdout
    assert password not in shown.stdout
    assert len(server.installer("logs", "web", "--lines", "1").stdout.splitlines()) == 1
    unknown = server.installer("logs", "wbe")
    assert unknown.returncode == 2
    assert "its services are" in unknown.stderr


def test_restart_takes_what_needs_the_service_along_and_nothing_else(server: Server) -> None:
    before = started(server)
    done = server.installer("restart", "sandbox")
    assert done.returncode == 0, done.stderr
    now = started(server)
    # A test before has stopped the worker.
    anew = {name for name in before if now[name] != before[name]}
    assert server.container("sandbox") in anew
    assert server.container("db_postgres") not in anew
    assert server.get("/console/api/setup").returncode == 0


def started(server: Server) -> dict[str, str]:
    """Return when each container was started."""
    names = list(server.containers())
    shown = server.run(server.engine, "inspect", "--format", "{{.Name}} {{.State.StartedAt}}", *names)
    return {line.split(" ", 1)[0].lstrip("/"): line.split(" ", 1)[1] for line in shown.stdout.splitlines()}


def test_a_second_run_repairs(server: Server) -> None:
    server.run(server.engine, "rm", "--force", server.container("web"))
    server.install()
    assert server.installer("status").returncode == 0


def test_what_the_api_needs_is_started_while_other_images_are_loaded(server: Server) -> None:
    if server.engine == "docker":
        # It loads them all at once.
        return
    before = masks.secret_values(server.env())
    server.run("sh", "-c", "podman rm --force --all --time 0; podman rmi --force --all")
    # podman-compose is there already, so that nothing but the images is waited for.
    server.install()
    log = server.run("sh", "-c", f"cat $(ls {server.folder}/logs/install-*.log | tail -1)").stdout.splitlines()
    (ahead,) = (line for line in log if re.search(r"podman-compose .* up --detach .*\bredis\b", line))
    loaded = [line for line in log if "podman pull" in line]
    assert begin(ahead) < end(loaded[-1])
    assert server.installer("status").returncode == 0
    assert masks.secret_values(server.env()) == before


def end(line: str) -> float:
    """Return when a command of the log had ended, in seconds since the epoch."""
    return datetime.datetime.strptime(line[:23], "%Y-%m-%d %H:%M:%S,%f").astimezone().timestamp()


def begin(line: str) -> float:
    """Return when it had begun."""
    return end(line) - float(line.partition("seconds=")[2].split()[0])


def test_a_setting_of_env_reaches_the_containers_and_secrets_stay(server: Server) -> None:
    before, ran = masks.secret_values(server.env()), server.containers()
    since = server.run("date", "+%s").stdout.strip()
    server.install("--set", "LOG_LEVEL=WARNING")
    if server.engine == "podman":
        # podman-compose would end them all at the same time.
        shown = ["podman", "events", "--stream=false", "--since", since, "--filter", "event=died"]
        ended = server.run(*shown, "--format", "{{.Name}}").stdout.split()
        assert ended.index(server.container("nginx")) < ended.index(server.container("api"))
    assert (
        server.run(server.engine, "exec", server.container("api"), "printenv", "LOG_LEVEL").stdout.strip() == "WARNING"
    )
    assert masks.secret_values(server.env()) == before
    # What has no part in that setting, and needs nothing that has, goes on as it is.
    same = {name for name, identity in server.containers().items() if ran.get(name) == identity}
    assert {server.container(name) for name in ("db_postgres", "redis", "sandbox", "web")} <= same
    assert server.container("api") not in same
    assert server.machine.exists(f"{server.folder}/docker/.env.before")


@pytest.mark.feature("three reboots, a power failure", "works; a systemd unit of ours, for users with linger")
@pytest.mark.parametrize("how", ["reboot", "power failure"])
def test_the_stack_comes_back_after(server: Server, how: str) -> None:
    env = server.env()
    # The other journeys differ in nothing that matters here: once is enough for them.
    times = 3 if (how, server.engine, server.user) == ("reboot", "podman", "root") else 1
    # Nothing of what was compiled is needed, nor has to be whole.
    spoil = HALVES if how == "power failure" else REMOVED
    server.machine.run(spoil.format(folder=server.folder))
    for _ in range(times):
        server.machine.kill() if how == "power failure" else server.machine.poweroff()
        server.machine.boot()
        server.await_healthy()
    assert server.env() == env
    if how == "power failure" or server.engine == "podman":
        # docker starts the containers before we can mend the folder that it makes.
        assert server.machine.run(f"find {server.folder}/compiled -name '*.pyc' -size +1 -print -quit").stdout
