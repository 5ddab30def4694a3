"""The running stack: starts and stops it with podman-compose or docker compose, and says how its containers are."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping

from installer.core import digest, errors, files, layout
from installer.core.console import Console
from installer.core.runner import Result
from installer.engine.engine import Container, Engine
from installer.release import compose, dify

STOP_SECONDS = 300.0
RELOAD_SECONDS = 60.0
LOGS_SECONDS = 30.0
# Between two looks; also how often a health check is asked for ahead of its time. A look takes 0.1 s of a processor.
POLL_SECONDS = 0.5
HEALTHCHECK_SECONDS = 30.0
LOG_LINES = 15
NOT_STARTED = ("not created", "created", "initialized")
# What is said when a container cannot be started because another one, that it needs, has ended and has not
# been started again yet, or is unhealthy (podman 4 and 5, libpod/container_graph.go and container_internal.go;
# docker compose, pkg/compose/convergence.go).
DEPENDENCY_IS_DOWN = ("not found in input list", "are not started", "dependency failed to start")
# A container that has been restarted counts as up again after this long.
STEADY_SECONDS = 10.0

# What compose needs of our environment. No more: both composes let any variable of the environment
# win over `.env` (podman_compose.py 1.6.0, `_parse_compose_file`; docker's documents, "Environment
# variables precedence"), so that a login with LANG=ko_KR.UTF-8 would change, and recreate, containers
# that systemd had started without it.
ENVIRONMENT = (
    *("PATH", "HOME", "USER", "LOGNAME", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "TMPDIR"),
    *("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "DOCKER_CERT_PATH", "DOCKER_TLS_VERIFY"),
)


def list_containers(engine: Engine) -> list[Container]:
    """Return the containers of our project, stopped ones too. Raises CommandFailed."""
    return engine.containers(layout.COMPOSE_PROJECT)


def find_one_shots(document: compose.Document) -> set[str]:
    """Return the services that are to end with success, because another one waits for that."""
    return {
        name
        for service in document["services"].values()
        for name, options in compose.dependencies(service).items()
        if options.get("condition") == "service_completed_successfully"
    }


def find_unready(document: compose.Document, found: list[Container], now: float) -> dict[str, str]:
    """Return the services that are not as they should be, with the reason in a word or two."""
    ends = find_one_shots(document)
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
    place: layout.Installation, document: compose.Document, deadline: float, engine: Engine, console: Console
) -> bool:
    """Start what does not run, in the order of the dependencies, and wait until all services are ready.

    Returns False when there was nothing to do. `deadline` is a time.monotonic(): podman-compose itself
    waits for a healthy dependency without a limit. Raises NotHealthy with the last log lines of the
    services at fault, CommandFailed when compose fails.
    """
    if _as_configured(place, document, list_containers(engine), engine):
        return False
    while not (result := _compose_up(place, document, deadline, engine, console)).ok:
        if not any(words in result.stderr for words in DEPENDENCY_IS_DOWN):
            raise engine.runner.failure(result, f"look at the log in {place.logs}; the same command goes on from here")
        _look(document, deadline, engine, console)
        time.sleep(POLL_SECONDS)
    files.write(place.applied, _applied(place, list_containers(engine), engine), mode=0o600)
    refresh_proxy(document, engine)
    return True


def _compose_up(
    place: layout.Installation, document: compose.Document, deadline: float, engine: Engine, console: Console
) -> Result:
    """Run compose's `up`, and wait for the services when it has succeeded. Raises NotHealthy."""
    never_pull = ["--pull", "never"] if engine.name == "docker" else []
    command = [*_compose(place, engine), "up", "--detach", *never_pull]
    limited = engine.runner.only(ENVIRONMENT)
    with tempfile.TemporaryFile() as output:
        started = time.monotonic()
        with limited.started(command, cwd=place.project, stdout=output, stderr=output) as child:
            while (status := child.poll()) is None or (
                status == 0 and find_unready(document, list_containers(engine), time.time())
            ):
                _look(document, deadline, engine, console)
                time.sleep(POLL_SECONDS)
        console.waiting("")
        output.seek(0)
        return limited.ended(command, status, output.read(), time.monotonic() - started)


def _as_configured(
    place: layout.Installation, document: compose.Document, found: list[Container], engine: Engine
) -> bool:
    """Tell whether all services are ready, in the containers that we last started with these very settings."""
    if find_unready(document, found, time.time()):
        return False
    return place.applied.is_file() and place.applied.read_text("utf-8") == _applied(place, found, engine)


def _applied(place: layout.Installation, found: list[Container], engine: Engine) -> str:
    """Return what stands for the settings and the containers made from them: compose need not be asked to compare."""
    read = [place.env, place.upstream_compose, place.override if engine.name == "docker" else place.compose]
    made = sorted(f"{container.name} {container.created}" for container in found)
    return "\n".join([*(digest.hash_file(path) for path in read), *made])


def _look(document: compose.Document, deadline: float, engine: Engine, console: Console) -> None:
    """Tell what is being waited for; give up at the deadline or when a one-shot service has failed."""
    found = list_containers(engine)
    waiting = find_unready(document, found, time.time())
    console.waiting(_in_words(waiting))
    ends = find_one_shots(document)
    failed = [each for each in found if each.service in ends and each.state == "exited" and each.exit_code]
    if failed or time.monotonic() > deadline:
        console.waiting("")
        raise not_healthy(waiting, found, engine)
    for container in found:
        if engine.name == "podman" and container.state == "running" and container.health in ("starting", "unhealthy"):
            # podman asks every 30 s unless the file says otherwise; what is ready need not wait for that.
            engine.run(["healthcheck", "run", container.name], timeout=HEALTHCHECK_SECONDS, check=False)


def _in_words(waiting: Mapping[str, str]) -> str:
    """Name what has been started and is not ready; count what has not been started."""
    later = [name for name, reason in waiting.items() if reason in NOT_STARTED]
    words = [f"{name} ({reason})" for name, reason in waiting.items() if reason not in NOT_STARTED]
    if later:
        words.append(f"{len(later)} more to start")
    return ", ".join(words)


def not_healthy(waiting: Mapping[str, str], found: list[Container], engine: Engine) -> errors.NotHealthy:
    """Make the error that names the services at fault and quotes the end of their logs."""
    lines = ["the stack is not healthy: " + ", ".join(f"{name} ({reason})" for name, reason in waiting.items())]
    for container in found:
        if container.service in waiting and container.state != "created":
            lines += [f"the last lines of {container.name}:", *_last_lines(container, engine)]
    logs = engine.logs(container.name for container in found if container.service in waiting)
    return errors.NotHealthy(
        "\n".join(lines),
        f"mend the cause (a wrong value in .env?), then run the same command again; more with {logs}; "
        "a slow machine may only need a longer --timeout",
    )


def _last_lines(container: Container, engine: Engine) -> list[str]:
    result = engine.run(["logs", "--tail", str(LOG_LINES), container.name], timeout=LOGS_SECONDS, check=False)
    lines = engine.runner.masked(result.stdout + result.stderr).splitlines()[-LOG_LINES:]
    return [f"    {line}" for line in lines] or ["    (no output)"]


def refresh_proxy(document: compose.Document, engine: Engine) -> None:
    """Let nginx look its upstreams up again when one of them has started after it.

    nginx looks names up once, and the other container may have a new address.
    """
    started = {container.service: container for container in list_containers(engine)}
    proxy = started.get(dify.PROXY)
    behind = [started[name].started for name in dify.PROXIED if name in started and name in document["services"]]
    if proxy is not None and behind and max(behind) > proxy.started:
        reload_proxy(engine)


def reload_proxy(engine: Engine) -> None:
    """Let nginx read its configuration, names and certificate again. Raises CommandFailed.

    `podman restart` would refuse: a container that nginx requires, through others, has ended as it
    should (init_permissions; podman 5.4.2, "some dependencies of container … are not started").
    """
    for container in list_containers(engine):
        if container.service == dify.PROXY:
            engine.run(["exec", container.name, "nginx", "-s", "reload"], timeout=RELOAD_SECONDS)


def stop(place: layout.Installation, engine: Engine) -> None:
    """Stop all containers, in reverse order; they remain. Raises CommandFailed."""
    command = [*_compose(place, engine), "stop"]
    engine.runner.only(ENVIRONMENT).run(command, timeout=STOP_SECONDS, cwd=place.project)


def _compose(place: layout.Installation, engine: Engine) -> list[str]:
    """Return how compose is called: for docker with upstream's file and our additions, for podman with ours."""
    if engine.name == "docker":
        program, documents = ["docker", "compose"], [place.upstream_compose, place.override]
    else:
        program, documents = [str(place.podman_compose)], [place.compose]
    named = [part for document in documents for part in ("--file", str(document))]
    return [*program, "--project-name", layout.COMPOSE_PROJECT, *named, "--env-file", str(place.env)]
