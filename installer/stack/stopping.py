"""Ends containers: in the reverse order of their dependencies, and those that a start cannot bring on."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor

from installer.core import errors, layout
from installer.core.console import Console
from installer.core.runner import Result
from installer.engine.base import Container, Engine
from installer.release import compose, dify
from installer.stack import state

# The engine's own work besides the waiting: taking the network and the mounts of a container away.
MARGIN_SECONDS = 60.0
REMOVE_SECONDS = 300.0


def stop_levels(document: compose.Document) -> list[list[str]]:
    """Return the services in the order of stopping: those of a level need none of the levels before it."""
    needed = {name: set(compose.dependencies(service)) for name, service in document["services"].items()}
    levels: list[list[str]] = []
    while needed:
        others = {name for dependencies in needed.values() for name in dependencies}
        # In a circle nobody is the first; compose itself refuses one.
        level = [name for name in needed if name not in others] or list(needed)
        levels.append(level)
        needed = {name: dependencies for name, dependencies in needed.items() if name not in level}
    return levels


def grace(services: Iterable[str]) -> int:
    """Return the seconds within which all of these services end, or are killed."""
    return max((dify.STOP_SECONDS.get(name, dify.DEFAULT_STOP_SECONDS) for name in services), default=0)


def longest_stop(document: compose.Document) -> float:
    """Return the seconds after which `stop` has certainly ended."""
    return sum(grace(level) + MARGIN_SECONDS / 4 for level in stop_levels(document))


def stop(
    place: layout.Installation, document: compose.Document, engine: Engine, only: Collection[str] | None = None
) -> None:
    """Stop the containers of all services, or of some, each before those that it needs; they remain.

    Raises CommandFailed when one does not end.
    """
    found = [each for each in state.list_ours(place, engine) if only is None or each.service in only]
    levels = stop_levels(document)
    known = {name for level in levels for name in level}
    for level in [[each.service for each in found if each.service not in known], *levels]:
        _stop_together([each for each in found if each.service in level and each.is_alive], engine)


def _stop_together(containers: list[Container], engine: Engine) -> None:
    """Stop containers at the same time, each within its own. Raises CommandFailed when one is still there afterwards.

    The status says little: podman fails for a container whose monitor is gone, and has stopped it.
    """
    if not containers:
        return
    names: dict[int, list[str]] = {}
    for each in containers:
        names.setdefault(grace([each.service]), []).append(each.name)

    def stop_within(seconds: int) -> Result:
        command = ["stop", "-t", str(seconds), *names[seconds]]
        return engine.run(command, timeout=seconds + MARGIN_SECONDS, check=False)

    with ThreadPoolExecutor(len(names)) as pool:
        failed = [result for result in pool.map(stop_within, names) if not result.ok]
    if not failed or not (left := _alive(containers, engine)):
        return
    engine.run(["kill", *left], timeout=MARGIN_SECONDS, check=False)
    if left := _alive(containers, engine):
        raise engine.runner.failure(
            failed[0], f"look why they do not end: {', '.join(left)}; then run the same command again"
        )


def _alive(containers: Iterable[Container], engine: Engine) -> list[str]:
    names = {each.name for each in containers}
    return [each.name for each in state.list_containers(engine) if each.name in names and each.is_alive]


def finish_stuck(place: layout.Installation, document: compose.Document, engine: Engine, console: Console) -> list[str]:
    """End the containers that neither run as they should nor can be started; return their services.

    A `stop` that was interrupted leaves them in the state "stopping", a `rm` in "removing"; without its monitor
    (conmon) a container goes on, but has no output and no published port, and nobody would notice its end.
    """
    found = state.list_ours(place, engine)
    stuck = engine.find_stuck(found)
    if stuck:
        console.waiting(f"the end of {', '.join(each.service for each in stuck)}")
        stop(place, document, engine, {each.service for each in stuck})
        if half := [each.name for each in stuck if each.state == "removing"]:
            engine.run(["rm", "--force", *half], timeout=REMOVE_SECONDS)
        console.waiting("")
    return [each.service for each in stuck]


def remove(place: layout.Installation, services: Collection[str], document: compose.Document, engine: Engine) -> None:
    """Stop and remove the containers of these services and of all that need them, for compose to make them anew.

    Raises CommandFailed.
    """
    concerned = with_dependents(services, document)
    stop(place, document, engine, concerned)
    # podman removes no container that another one requires: those that need others go first.
    for level in stop_levels(document):
        names = [
            each.name for each in state.list_ours(place, engine) if each.service in level and each.service in concerned
        ]
        if names:
            # What is unnamed among an image's volumes is the container's own: nothing would mount it again.
            engine.run(["rm", "--force", "--volumes", *names], timeout=REMOVE_SECONDS)


def remove_all(place: layout.Installation, document: compose.Document, engine: Engine) -> list[str]:
    """Stop our containers in their order and remove them, whatever services they are of; return their names.

    Raises CommandFailed when one stays.
    """
    names = _names(place, engine)
    if not names:
        return []
    with contextlib.suppress(errors.CommandFailed):
        # What does not end in its time is removed all the same.
        stop(place, document, engine)
    left = names
    while left:
        # podman removes no container that another one requires, not even together with that: only the last of each
        # chain. Its --depend would take somebody else's with them.
        # The unnamed volumes of an image are the container's own, nothing would ever mount them again; named ones stay.
        result = engine.run(["rm", "--force", "--volumes", *left], timeout=REMOVE_SECONDS, check=False)
        before, left = left, _names(place, engine)
        if len(left) == len(before):
            raise engine.runner.failure(result, "remove what needs them, then run the same command again")
    return names


def _names(place: layout.Installation, engine: Engine) -> list[str]:
    return [each.name for each in state.list_ours(place, engine)]


def with_dependents(services: Collection[str], document: compose.Document) -> set[str]:
    """Return these services and all that need one of them, directly or through others."""
    concerned: set[str] = set()
    added = set(services)
    while added:
        concerned |= added
        added = {
            name
            for name, service in document["services"].items()
            if name not in concerned and concerned & set(compose.dependencies(service))
        }
    return concerned
