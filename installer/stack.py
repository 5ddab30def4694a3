"""The running stack: starts and stops it with podman-compose and says how its containers are."""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from installer import compose, dify, errors, layout
from installer.command import Result, Runner
from installer.console import Console

LIST_SECONDS = 60.0
STOP_SECONDS = 300.0
RELOAD_SECONDS = 60.0
LOGS_SECONDS = 30.0
# Between two looks; also how often a health check is asked for ahead of its time.
POLL_SECONDS = 1.0
HEALTHCHECK_SECONDS = 30.0
LOG_LINES = 15
NOT_STARTED = ("not created", "created", "initialized")
# What podman says when a container cannot be started because another one, that it needs, has ended and
# has not been started again yet (libpod/container_graph.go and container_internal.go, podman 4 and 5).
DEPENDENCY_IS_DOWN = ("not found in input list", "are not started")
# A container that has been restarted counts as up again after this long.
STEADY_SECONDS = 10.0

# What podman-compose needs of our environment. No more: it lets any variable of the environment
# win over `.env` (podman_compose.py 1.6.0, `_parse_compose_file`), so that a login with
# LANG=ko_KR.UTF-8 would change, and recreate, containers that systemd had started without it.
ENVIRONMENT = ("PATH", "HOME", "USER", "LOGNAME", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "TMPDIR")


@dataclass(frozen=True, kw_only=True, slots=True)
class Container:
    """A container of our project; `health` is healthy, starting, unhealthy or, without a check, empty.

    `created` and `started` are in seconds since the epoch.
    """

    service: str
    name: str
    state: str
    health: str
    exit_code: int
    restarts: int
    created: int
    started: int


def containers(runner: Runner) -> list[Container]:
    """Return the containers of our project, stopped ones too. Raises CommandFailed."""
    command = ["podman", "ps", "--all", "--format", "json"]
    command += ["--filter", f"label={layout.PROJECT_LABEL}={layout.COMPOSE_PROJECT}"]
    result = runner.run(command, timeout=LIST_SECONDS)
    return [_container(entry) for entry in json.loads(result.stdout or "[]") or []]


def _container(entry: Mapping[str, Any]) -> Container:
    health = re.search(r"\((healthy|unhealthy|starting)\)", str(entry.get("Status", "")))
    return Container(
        service=str((entry.get("Labels") or {}).get(layout.SERVICE_LABEL, "")),
        name=str(entry["Names"][0]),
        state=str(entry.get("State", "")),
        health=health.group(1) if health else "",
        exit_code=int(entry.get("ExitCode") or 0),
        restarts=int(entry.get("Restarts") or 0),
        created=int(entry.get("Created") or 0),
        started=int(entry.get("StartedAt") or 0),
    )


def one_shots(document: compose.Document) -> set[str]:
    """Return the services that are to end with success, because another one waits for that."""
    return {
        name
        for service in document["services"].values()
        for name, options in compose.dependencies(service).items()
        if options.get("condition") == "service_completed_successfully"
    }


def unready(document: compose.Document, found: list[Container], now: float) -> dict[str, str]:
    """Return the services that are not as they should be, with the reason in a word or two."""
    ends = one_shots(document)
    by_service = {container.service: container for container in found}
    reasons = {name: _reason(by_service.get(name), name in ends, now) for name in document["services"]}
    return {name: reason for name, reason in reasons.items() if reason}


def _reason(container: Container | None, ends: bool, now: float) -> str:
    if container is None:
        return "not created"
    if ends:
        return "" if container.state == "exited" and container.exit_code == 0 else _state(container)
    if container.state != "running" or container.health not in ("", "healthy"):
        return _state(container)
    if container.restarts and not container.health and now - container.started < STEADY_SECONDS:
        return f"restarted {container.restarts} times"
    return ""


def _state(container: Container) -> str:
    if container.state == "exited":
        return f"exited with status {container.exit_code}"
    return container.health or container.state


def up(
    place: layout.Installation, document: compose.Document, deadline: float, runner: Runner, console: Console
) -> bool:
    """Start what does not run, in the order of the dependencies, and wait until all services are ready.

    Returns False when there was nothing to do. `deadline` is a time.monotonic(): podman-compose itself
    waits for a healthy dependency without a limit. Raises NotHealthy with the last log lines of the
    services at fault, CommandFailed when podman-compose fails.
    """
    if _as_configured(place, document, containers(runner)):
        return False
    while not (result := _podman_compose_up(place, document, deadline, runner, console)).ok:
        if not any(words in result.stderr for words in DEPENDENCY_IS_DOWN):
            raise runner.failure(result, f"look at the log in {place.logs}; the same command goes on from here")
        _look(document, deadline, runner, console)
        time.sleep(POLL_SECONDS)
    refresh_proxy(document, runner)
    return True


def _podman_compose_up(
    place: layout.Installation, document: compose.Document, deadline: float, runner: Runner, console: Console
) -> Result:
    """Run `podman-compose up`, and wait for the services when it has succeeded. Raises NotHealthy."""
    command = [*_podman_compose(place), "up", "--detach"]
    limited = runner.only(ENVIRONMENT)
    with tempfile.TemporaryFile() as output:
        started = time.monotonic()
        with limited.started(command, cwd=place.project, stdout=output, stderr=output) as child:
            while (status := child.poll()) is None or (
                status == 0 and unready(document, containers(runner), time.time())
            ):
                _look(document, deadline, runner, console)
                time.sleep(POLL_SECONDS)
        console.waiting("")
        output.seek(0)
        return limited.ended(command, status, output.read(), time.monotonic() - started)


def _as_configured(place: layout.Installation, document: compose.Document, found: list[Container]) -> bool:
    """Tell whether all services are ready and were made from the settings that are there now.

    A container that is older than `.env` or the compose file may differ from them: podman-compose compares.
    """
    if unready(document, found, time.time()):
        return False
    # In whole seconds, as podman tells when a container was made.
    written = int(max(place.env.stat().st_mtime, place.compose.stat().st_mtime))
    return all(container.created >= written for container in found if container.service in document["services"])


def _look(document: compose.Document, deadline: float, runner: Runner, console: Console) -> None:
    """Tell what is being waited for; give up at the deadline or when a one-shot service has failed."""
    found = containers(runner)
    waiting = unready(document, found, time.time())
    console.waiting(_in_words(waiting))
    ends = one_shots(document)
    failed = [each for each in found if each.service in ends and each.state == "exited" and each.exit_code]
    if failed or time.monotonic() > deadline:
        console.waiting("")
        raise not_healthy(waiting, found, runner)
    for container in found:
        if container.state == "running" and container.health in ("starting", "unhealthy"):
            # podman asks every 30 s unless the file says otherwise; what is ready need not wait for that.
            runner.run(["podman", "healthcheck", "run", container.name], timeout=HEALTHCHECK_SECONDS, check=False)


def _in_words(waiting: Mapping[str, str]) -> str:
    """Name what has been started and is not ready; count what has not been started."""
    later = [name for name, reason in waiting.items() if reason in NOT_STARTED]
    words = [f"{name} ({reason})" for name, reason in waiting.items() if reason not in NOT_STARTED]
    if later:
        words.append(f"{len(later)} more to start")
    return ", ".join(words)


def not_healthy(waiting: Mapping[str, str], found: list[Container], runner: Runner) -> errors.NotHealthy:
    """Make the error that names the services at fault and quotes the end of their logs."""
    lines = ["the stack is not healthy: " + ", ".join(f"{name} ({reason})" for name, reason in waiting.items())]
    for container in found:
        if container.service in waiting and container.state != "created":
            lines += [f"the last lines of {container.name}:", *_last_lines(container, runner)]
    names = " ".join(container.name for container in found if container.service in waiting)
    return errors.NotHealthy(
        "\n".join(lines),
        f"mend the cause (a wrong value in .env?), then run the same command again; more with `podman logs {names}`; "
        "a slow machine may only need a longer --timeout",
    )


def _last_lines(container: Container, runner: Runner) -> list[str]:
    command = ["podman", "logs", "--tail", str(LOG_LINES), container.name]
    result = runner.run(command, timeout=LOGS_SECONDS, check=False)
    lines = runner.masked(result.stdout + result.stderr).splitlines()[-LOG_LINES:]
    return [f"    {line}" for line in lines] or ["    (no output)"]


def refresh_proxy(document: compose.Document, runner: Runner) -> None:
    """Let nginx look its upstreams up again when one of them has started after it.

    nginx looks names up once, and the other container may have a new address.
    """
    started = {container.service: container for container in containers(runner)}
    proxy = started.get(dify.PROXY)
    behind = [started[name].started for name in dify.PROXIED if name in started and name in document["services"]]
    if proxy is not None and behind and max(behind) > proxy.started:
        reload_proxy(runner)


def reload_proxy(runner: Runner) -> None:
    """Let nginx read its configuration, names and certificate again. Raises CommandFailed.

    `podman restart` would refuse: a container that nginx requires, through others, has ended as it
    should (init_permissions; podman 5.4.2, "some dependencies of container … are not started").
    """
    for container in containers(runner):
        if container.service == dify.PROXY:
            runner.run(["podman", "exec", container.name, "nginx", "-s", "reload"], timeout=RELOAD_SECONDS)


def stop(place: layout.Installation, runner: Runner) -> None:
    """Stop all containers, in reverse order; they remain. Raises CommandFailed."""
    command = [*_podman_compose(place), "stop"]
    runner.only(ENVIRONMENT).run(command, timeout=STOP_SECONDS, cwd=place.project)


def _podman_compose(place: layout.Installation) -> list[str]:
    files = ["--file", str(place.compose), "--env-file", str(place.env)]
    return [str(place.podman_compose), "--project-name", layout.COMPOSE_PROJECT, *files]
