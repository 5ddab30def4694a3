"""The command `plugins`: what the workspace has, what is added to it and removed."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from installer.bundle import manifest
from installer.checks.inside import find_container
from installer.cluster import plugins as wheels
from installer.commands import status_cluster, workspace
from installer.core import errors, layout
from installer.core.console import Console
from installer.images import plugins as carried
from installer.release import dify
from installer.workspace import plugins
from installer.workspace.client import Client

PACKAGE = ".difypkg"


def add(
    client: Client,
    given: Sequence[Path],
    place: layout.Installation,
    containers: workspace.Containers,
    console: Console,
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
    return workspace.bring(client, packages, containers, console)


def add_to_cluster(
    client: Client,
    given: Sequence[Path],
    cluster: status_cluster.Cluster,
    archive: Path,
    console: Console,
) -> list[plugins.Brought]:
    """Install packages on a cluster, or those that the bundle brings; their wheels go into the daemon's claim before.

    Raises WorkspaceFailed, UsageError and BundleDamaged as `add` does, CommandFailed where the pod does not take them.
    """
    with tempfile.TemporaryDirectory(prefix="dify-installer-") as folder:
        place = layout.Installation(Path(folder))
        packages, others, described = list[Path](), list[manifest.File](), list[manifest.Plugins]()
        if not given:
            wheels.lay_down(cluster.bundle, archive, place)
            described += [cluster.bundle.plugins] if cluster.bundle.plugins is not None else []
        for path in given:
            if path.suffix == PACKAGE:
                packages.append(path)
            else:
                described.append(carried.add_bundle(path, place).plugins)
        for each in described:
            packages += [place.plugins / package.file.path for package in each.packages]
            others += each.others
        if others:
            wheels.send(place.plugins, others, _daemon(cluster), cluster.pods, console)
        return workspace.bring(client, packages, cluster.containers, console)


def _daemon(cluster: status_cluster.Cluster) -> str:
    """Return the pod of the plugin daemon. Raises CommandFailed where none runs."""
    pod = find_container(dify.MODEL_CALLER, cluster.containers())
    if pod is None:
        raise errors.CommandFailed(
            "no pod of the plugin daemon runs", f"see why: dify-installer status --kubernetes {cluster.folder}"
        )
    return pod


def as_list(found: Sequence[plugins.Plugin | plugins.Brought]) -> list[dict[str, Any]]:
    """Return plugins for a machine."""
    return [dataclasses.asdict(each) for each in found]


def as_text(found: Sequence[plugins.Plugin]) -> str:
    """Return plugins for people, one a line."""
    return "\n".join(f"{each.name:<48}{each.version:<12}{each.source}" for each in found) or "no plugin is installed"
