"""Starts the stack with podman-compose or docker compose."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from installer.core import layout
from installer.core.console import Console
from installer.core.runner import Result
from installer.engine.base import Container, Engine
from installer.release import compose, dify, settings
from installer.stack import applied, stopping
from installer.stack.state import (
    find_one_shots,
    find_outdated,
    find_unready,
    in_words,
    list_containers,
    not_healthy,
)

RELOAD_SECONDS = 60.0
ALONE_SECONDS = 180.0
# Between two looks; also how often a health check is asked for ahead of its time (docs/decisions/012).
POLL_SECONDS = 0.5
# What is said when a container cannot be started because another one, that it needs, has ended and has not
# been started again yet, or is unhealthy (podman 4 and 5, libpod/container_graph.go and container_internal.go;
# docker compose, pkg/compose/convergence.go).
DEPENDENCY_IS_DOWN = ("not found in input list", "are not started", "dependency failed to start")
# What is said when a compose that was killed has left a podman behind, which goes on to remove a container.
GONE_MEANWHILE = ("no such container",)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to run: the services, the settings that their variables expand to, and the image IDs by service."""

    document: compose.Document
    variables: Mapping[str, str]
    images: Mapping[str, str]


def up(place: layout.Installation, wanted: Wanted, deadline: float, engine: Engine, console: Console) -> bool:
    """Start what does not run, in the order of the dependencies, and wait until all services are ready.

    What runs another image, or with other settings, is replaced. Returns False when there was nothing to do.
    `deadline` is a time.monotonic(): podman-compose itself waits for a healthy dependency without a limit. Raises
    NotHealthy with the last log lines of the services at fault, CommandFailed when compose fails.
    """
    document = wanted.document
    stopping.finish_stuck(place, document, engine, console)
    found = list_containers(engine)
    outdated = find_outdated(found, wanted.images)
    if not outdated and _as_configured(place, document, found, engine):
        return False
    if not engine.compose_replaces:
        _take_away(place, wanted, outdated, found, engine, console)
    while not (result := _compose_up(place, document, deadline, engine, console)).ok:
        mended = engine.mend_start(result.stderr)
        if not mended and not any(words in result.stderr for words in (*DEPENDENCY_IS_DOWN, *GONE_MEANWHILE)):
            raise engine.runner.failure(result, f"look at the log in {place.logs}; the same command goes on from here")
        _look(document, deadline, engine, console)
        time.sleep(POLL_SECONDS)
    applied.write(place, document, wanted.variables, list_containers(engine), engine)
    refresh_proxy(document, engine)
    return True


def up_alone(place: layout.Installation, service: str, document: compose.Document, engine: Engine) -> None:
    """Start one service that needs no other, and wait until it is ready. Raises CommandFailed, NotHealthy."""
    alone: compose.Document = {**document, "services": {service: document["services"][service]}}
    start_some(place, [service], engine)
    deadline = time.monotonic() + ALONE_SECONDS
    while waiting := find_unready(alone, found := list_containers(engine), time.time()):
        if time.monotonic() > deadline:
            raise not_healthy(waiting, found, engine)
        hasten(found, engine)
        time.sleep(POLL_SECONDS)


def start_some(place: layout.Installation, services: Sequence[str], engine: Engine) -> None:
    """Start services, and what they need that does not run. Raises CommandFailed."""
    command = [*engine.compose_command(place), "up", "--detach", *engine.up_options(), *services]
    limited = engine.runner.only(settings.NOT_FROM_ENV)
    result = limited.run(command, timeout=ALONE_SECONDS, cwd=place.project, check=False)
    if not result.ok and engine.mend_start(result.stderr):
        result = limited.run(command, timeout=ALONE_SECONDS, cwd=place.project, check=False)
    if not result.ok:
        raise engine.runner.failure(result, f"look at the log in {place.logs}; the same command goes on from here")


def hasten(found: Iterable[Container], engine: Engine) -> None:
    """Ask for the health of what runs and is not healthy yet, ahead of its time."""
    for container in found:
        if container.state == "running" and container.health in ("starting", "unhealthy"):
            engine.hasten_health(container)


def _take_away(
    place: layout.Installation,
    wanted: Wanted,
    outdated: list[str],
    found: list[Container],
    engine: Engine,
    console: Console,
) -> None:
    """End what is to be replaced, each container before those that it needs; compose then makes them anew."""
    changed = applied.find_changed(place, wanted.document, wanted.variables, found)
    for services, reason in ((outdated, "whose images are new"), (changed, "whose settings are new")):
        if services:
            console.waiting(f"the end of {', '.join(services)}, {reason}")
            stopping.remove(place, services, wanted.document, engine)
            console.waiting("")


def _compose_up(
    place: layout.Installation, document: compose.Document, deadline: float, engine: Engine, console: Console
) -> Result:
    """Run compose's `up`, and wait for the services when it has succeeded. Raises NotHealthy."""
    command = [*engine.compose_command(place), "up", "--detach", *engine.up_options()]
    limited = engine.runner.only(settings.NOT_FROM_ENV)
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
    return applied.is_current(place, found, engine)


def _look(document: compose.Document, deadline: float, engine: Engine, console: Console) -> None:
    """Tell what is being waited for; give up at the deadline or when a one-shot service has failed."""
    found = list_containers(engine)
    waiting = find_unready(document, found, time.time())
    console.waiting(in_words(waiting))
    ends = find_one_shots(document)
    failed = [each for each in found if each.service in ends and each.state == "exited" and each.exit_code]
    if failed or time.monotonic() > deadline:
        console.waiting("")
        raise not_healthy(waiting, found, engine)
    hasten(found, engine)


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
