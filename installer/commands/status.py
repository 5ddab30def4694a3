"""Looks at an installation without changing it."""

from __future__ import annotations

import dataclasses

from installer.bundle import manifest, verify
from installer.checks import checklist
from installer.commands import report
from installer.core import layout
from installer.engine.engine import Engine
from installer.release import dify
from installer.stack import project, stack


def look(place: layout.Installation, engine: Engine) -> list[checklist.Check]:
    """Return the checklist of an installation. Raises CommandFailed when there is none or podman fails."""
    document = project.read_installed(place, engine)
    bundle: manifest.Manifest = verify.check_embedded(layout.bundled(""))
    url = project.read_variables(place)[dify.ADDRESS_KEY]
    found = stack.list_containers(engine)
    front = checklist.front_door(place, url, bundle.dify, engine)
    return checklist.run_checks(document, found, front, layout.bundled(layout.PROBE), engine)


def as_text(checked: list[checklist.Check]) -> str:
    """Return the checklist for people."""
    return "\n".join(f"{report.MARKS[check.level]} {check.name}: {check.seen}" for check in checked)


def as_list(checked: list[checklist.Check]) -> list[dict[str, str]]:
    """Return the checklist for a machine."""
    return [dataclasses.asdict(check) for check in checked]
