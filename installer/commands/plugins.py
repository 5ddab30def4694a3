"""The command `plugins`: what the workspace has, what is added to it and removed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from installer.commands import workspace
from installer.core import layout
from installer.core.console import Console
from installer.engine.base import Engine
from installer.images import plugins as carried
from installer.workspace import plugins
from installer.workspace.client import Client

PACKAGE = ".difypkg"


def add(
    client: Client, given: Sequence[Path], place: layout.Installation, engine: Engine, console: Console
) -> list[plugins.Brought]:
    """Install packages, and those of files that `python -m build plugin` has made, with their wheels.

    Raises WorkspaceFailed, UsageError for what is no package and BundleDamaged for what is no such file.
    """
    packages: list[Path] = []
    for path in given:
        if path.suffix == PACKAGE:
            packages.append(path)
        else:
            described = carried.add_bundle(path, place)
            packages += [place.plugins / each.file.path for each in described.plugins.packages]
    return workspace.bring(client, packages, engine, console)


def as_list(found: Sequence[plugins.Plugin | plugins.Brought]) -> list[dict[str, Any]]:
    """Return plugins for a machine."""
    return [dataclasses.asdict(each) for each in found]


def as_text(found: Sequence[plugins.Plugin]) -> str:
    """Return plugins for people, one a line."""
    return "\n".join(f"{each.name:<48}{each.version:<12}{each.source}" for each in found) or "no plugin is installed"
