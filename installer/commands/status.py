"""Looks at an installation without changing it."""

from __future__ import annotations

import time

from installer.bundle import verify
from installer.checks import checklist, front_door, others, starting
from installer.commands import overview
from installer.commands.overview import Overview
from installer.core import layout
from installer.core.finding import Finding
from installer.engine.base import Engine
from installer.release import settings
from installer.stack import project, state
from installer.system import boot_unit


def look(place: layout.Installation, engine: Engine) -> tuple[Overview, list[Finding]]:
    """Return an installation at a glance and its checklist; while it starts, what does not answer yet is a warning.

    Raises CommandFailed when there is none or the engine fails.
    """
    document = project.read_installed(place, engine)
    bundle = verify.check_embedded(layout.bundled(""))
    env = settings.load(place)
    found = state.list_containers(engine)
    glance = overview.look(place, document, env, bundle, found, engine)
    front = front_door.front_door(place, env.url, bundle.dify, engine)
    probe = layout.bundled(layout.PROBE)
    checked = checklist.run_checks(document, found, front, probe, engine)
    checked += others.check(env.resolved, found, probe, engine)
    now = time.time()
    since = boot_unit.starting_since(engine.runner) or state.starting_since(
        document, found, now, starting.LIMIT_SECONDS
    )
    return glance, starting.judge_as_starting(checked, since, now) if since else checked
