"""Looks at an installation without changing it."""

from __future__ import annotations

import time

from installer.bundle import verify
from installer.checks import checklist, front_door, starting
from installer.core import layout
from installer.core.finding import Finding
from installer.engine.base import Engine
from installer.release import settings
from installer.stack import project, state
from installer.system import boot_unit


def check_installation(place: layout.Installation, engine: Engine) -> list[Finding]:
    """Return the checklist of an installation; while it starts, what does not answer yet is a warning.

    Raises CommandFailed when there is none or the engine fails.
    """
    document = project.read_installed(place, engine)
    bundle = verify.check_embedded(layout.bundled(""))
    url = settings.load(place).url
    found = state.list_containers(engine)
    front = front_door.front_door(place, url, bundle.dify, engine)
    checked = checklist.run_checks(document, found, front, layout.bundled(layout.PROBE), engine)
    now = time.time()
    since = boot_unit.starting_since(engine.runner) or state.starting_since(
        document, found, now, starting.LIMIT_SECONDS
    )
    return starting.judge_as_starting(checked, since, now) if since else checked
