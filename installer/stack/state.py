"""How the containers of the stack are, and which services are not as they should be."""

from __future__ import annotations

import os
from collections.abc import Mapping

from installer.core import errors, layout
from installer.engine.base import Container, Engine
from installer.release import compose

LOGS_SECONDS = 30.0
LOG_LINES = 15
NOT_STARTED = ("not created", "created", "initialized")
# A container that has been restarted counts as up again after this long.
STEADY_SECONDS = 10.0


def list_containers(engine: Engine) -> list[Container]:
    """Return the containers of our project, stopped ones too. Raises CommandFailed."""
    return engine.containers(layout.COMPOSE_PROJECT)


def list_ours(place: layout.Installation, engine: Engine) -> list[Container]:
    """Return those of them that were started from this installation's folder. Raises CommandFailed."""
    folders = {str(place.project), os.path.realpath(place.project)}
    return [each for each in list_containers(engine) if each.folder in folders]


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


def find_outdated(found: list[Container], images: Mapping[str, str]) -> list[str]:
    """Return the services whose container runs another image than the one of `images` (service -> ID)."""
    return [
        each.service for each in found if each.service in images and each.image_id not in ("", images[each.service])
    ]


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


def starting_since(document: compose.Document, found: list[Container], now: float, limit: float) -> float | None:
    """Return when the start began that is still on its way, in seconds since the epoch; None when none is.

    It is on its way while nothing has failed and the youngest container is not older than `limit` seconds: what is
    not ready is starting, or has been created and waits for that.
    """
    started = [each.started for each in found if each.state == "running" and each.service in document["services"]]
    if not started or now - max(started) > limit:
        return None
    reasons = find_unready(document, found, now).values()
    if not all(reason in ("starting", "created", "initialized", "running") for reason in reasons):
        return None
    return min(begun for begun in started if now - begun <= limit)


def in_words(waiting: Mapping[str, str]) -> str:
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
    logs = engine.log_commands(container.name for container in found if container.service in waiting)
    return errors.NotHealthy(
        "\n".join(lines),
        f"fix the cause (a wrong value in .env?), then run the same command again; more with {logs}; "
        "a slow machine may only need a longer --timeout",
    )


def _last_lines(container: Container, engine: Engine) -> list[str]:
    result = engine.run(["logs", "--tail", str(LOG_LINES), container.name], timeout=LOGS_SECONDS, check=False)
    lines = engine.runner.mask(result.stdout + result.stderr).splitlines()[-LOG_LINES:]
    return [f"    {line}" for line in lines] or ["    (no output)"]
