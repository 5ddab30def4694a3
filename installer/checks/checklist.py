"""The checklist of the report and of `status`: the finished installation as a user would meet it."""

from __future__ import annotations

import time
from pathlib import Path

from installer.checks import front_door, inside
from installer.core.finding import Finding
from installer.engine.base import Container, Engine
from installer.release import compose
from installer.stack import state


def run_checks(
    document: compose.Document, found: list[Container], front: front_door.FrontDoor, probe: Path, engine: Engine
) -> list[Finding]:
    """Return the checklist: containers, front door, inner services."""
    return [
        check_containers(document, found, time.time()),
        *front_door.check_console(front),
        *inside.check_inner_services(document, found, probe, engine),
    ]


def check_containers(document: compose.Document, found: list[Container], now: float) -> Finding:
    """Check that every service is up, as compose's `ps` would show it."""
    waiting = state.find_unready(document, found, now)
    if waiting:
        seen = ", ".join(f"{name}: {reason}" for name, reason in waiting.items())
        return Finding(check="containers up", level="error", seen=seen, remedy="run the same command again: it repairs")
    return Finding(check="containers up", level="ok", seen=f"{len(document['services'])} services as they should be")
