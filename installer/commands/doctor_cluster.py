"""Packs for a support desk what it takes to help with what runs on a cluster."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from installer.cluster import kubectl, running
from installer.commands import doctor, overview, status_cluster
from installer.commands.overview import Overview
from installer.commands.status_cluster import Cluster
from installer.core import finding, layout
from installer.core.finding import Finding

# What a support desk asks first. None of these kinds holds a secret.
ASKED = ("pods", "events", "deployments", "statefulsets", "jobs", "persistentvolumeclaims", "ingresses", "services")


def pack(cluster: Cluster, glance: Overview, found: Sequence[Finding], path: Path) -> list[str]:
    """Write logs, states, versions and settings to `path`, a tar.gz, 0600, without a secret; return what is in it.

    Raises CommandFailed (disk), UsageError when there is such a file.
    """
    doctor.require_new(path)
    runner = cluster.pods.runner
    runner.hide(doctor.own_secrets(layout.Installation(cluster.folder)))
    return doctor.write(path, _texts(cluster, glance, found), runner)


def _texts(cluster: Cluster, glance: Overview, found: Sequence[Finding]) -> Iterator[tuple[str, str]]:
    """Give what is packed, by its name; secrets are masked by whoever packs."""
    told = {"overview": overview.as_fields(glance), "findings": finding.as_list(found)}
    yield "doctor.json", json.dumps(told, indent=1, ensure_ascii=False)
    text = status_cluster.as_text(glance, cluster.wanted.namespace, time.time())
    yield "doctor.txt", f"{text}\n{finding.as_text(found)}"
    example = (layout.bundled(layout.PROJECT) / layout.ENV_EXAMPLE).read_text("utf-8")
    yield "settings.txt", doctor.shown_settings(cluster.env, example)
    yield "manifests.json", (cluster.folder / "manifests.json").read_text("utf-8", "replace")
    for kind in ASKED:
        yield f"cluster/{kind}.txt", _kubectl(cluster, "get", kind, "--output=wide")
    yield "cluster/pods.yaml", _kubectl(cluster, "get", "pods", "--output=yaml")
    pods = kubectl.list_all(cluster.pods.runner, "pods", "--namespace", cluster.wanted.namespace)
    for pod in pods or ():
        name = pod["metadata"]["name"]
        log = ("logs", name, "--all-containers", "--prefix", "--timestamps", f"--tail={doctor.LOG_LINES}")
        yield f"pods/{name}.log", _kubectl(cluster, *log)
        if running.restarts(pod):
            yield f"pods/{name}.before.log", _kubectl(cluster, *log, "--previous")


def _kubectl(cluster: Cluster, *arguments: str) -> str:
    """Return all that kubectl says, also where it fails."""
    command = ["kubectl", "--namespace", cluster.wanted.namespace, *arguments]
    result = cluster.pods.runner.run(command, timeout=doctor.LOG_SECONDS, check=False)
    return result.stdout + result.stderr
