"""Looks at an installation without changing it."""

from __future__ import annotations

from installer.bundle import verify
from installer.checks import checklist, front_door
from installer.core import layout
from installer.core.finding import Finding
from installer.engine.base import Engine
from installer.release import settings
from installer.stack import project, state


def check_installation(place: layout.Installation, engine: Engine) -> list[Finding]:
    """Return the checklist of an installation. Raises CommandFailed when there is none or the engine fails."""
    document = project.read_installed(place, engine)
    bundle = verify.check_embedded(layout.bundled(""))
    url = settings.load(place).url
    found = state.list_containers(engine)
    front = front_door.front_door(place, url, bundle.dify, engine)
    return checklist.run_checks(document, found, front, layout.bundled(layout.PROBE), engine)
