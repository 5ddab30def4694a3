"""Looks at an installation without changing it."""

from __future__ import annotations

import dataclasses

from installer import checks, dify, layout, manifest, project, report, stack, verify
from installer.engine import Engine


def look(place: layout.Installation, engine: Engine) -> list[checks.Check]:
    """Return the checklist of an installation. Raises CommandFailed when there is none or podman fails."""
    document = project.installed(place, engine)
    bundle: manifest.Manifest = verify.embedded(layout.bundled(""))
    url = project.variables(place)[dify.ADDRESS_KEY]
    found = stack.containers(engine)
    front = checks.front_door(place, url, bundle.dify, engine)
    return checks.all_checks(document, found, front, layout.bundled(layout.PROBE), engine)


def as_text(checked: list[checks.Check]) -> str:
    """Return the checklist for people."""
    return "\n".join(f"{report.MARKS[check.level]} {check.name}: {check.seen}" for check in checked)


def as_list(checked: list[checks.Check]) -> list[dict[str, str]]:
    """Return the checklist for a machine."""
    return [dataclasses.asdict(check) for check in checked]
