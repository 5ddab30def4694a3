"""docker, with the compose plugin that the host has."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from installer.core import layout
from installer.engine.base import (
    LIST_SECONDS,
    PULL_SECONDS,
    VERSION_SECONDS,
    Access,
    Container,
    Description,
    Engine,
    Processes,
    Stored,
    Version,
    bare,
    of_project,
    parse_version,
    read_labels,
)
from installer.release import compose, render

# The first docker that has `start_interval`; docker compose refuses a file with it before an older one.
START_INTERVAL = (25, 0)


@dataclass(frozen=True, slots=True)
class Docker(Engine):
    """docker's client, whose daemon is the system's or, rootless, a user's."""

    name = "docker"
    separator = "-"
    storage_setting = ("`data-root` in daemon.json", "`data-root` in daemon.json")
    # `docker load` unpacks the whole archive beside its storage first.
    storage_factor = 2.1
    # It unpacks first and compares then (moby, image/tarexport/load.go).
    proves_layers = False
    mounts_stores = False
    needs_podman_compose = False
    # docker compose, pkg/compose/convergence.go, `mustRecreate`.
    compose_replaces = True
    # What docker publishes goes past firewalld.
    asks_firewall = False
    # Its daemon keeps them, root's alone (moby, container/container.go: config.v2.json, 0600).
    databases = ()
    temporary = None
    _json_form = "{{json .}}"

    def containers(self, project: str | None = None) -> list[Container]:
        """Return the containers of a compose project, or all, stopped ones too. Raises CommandFailed."""
        command = ["ps", "--all", "--quiet", "--no-trunc", *of_project(project)]
        ids = self.run(command, timeout=LIST_SECONDS).stdout.split()
        return [read_container(entry) for entry in self._inspected(["container", "inspect"], ids)]

    def images(self) -> list[Stored]:
        """Return the images that the engine has. Raises CommandFailed."""
        return [
            Stored(
                id=bare(entry["Id"]),
                names=frozenset(compose.full_reference(name) for name in entry.get("RepoTags") or ()),
                layers=tuple(map(bare, entry["RootFS"].get("Layers") or ())),
            )
            for entry in self._image_entries()
        ]

    def compose_version(self) -> Version | None:
        """Return the version of docker compose, the plugin."""
        result = self.run(["compose", "version", "--short"], timeout=VERSION_SECONDS, check=False)
        return parse_version(result.stdout) if result.ok else None

    def written_file(self, place: layout.Installation) -> Path:
        """Return the additions to upstream's file."""
        return place.override

    def render_file(self, upstream: compose.Document, choice: render.Choice) -> str:
        """Return the additions to upstream's file."""
        return render.override(upstream, choice)

    def services_of(self, upstream: compose.Document, choice: render.Choice) -> compose.Document:
        """Return what docker compose makes of upstream's file and our additions."""
        return render.with_additions(upstream, choice)

    def running_document(self, place: layout.Installation, choice: render.Choice) -> compose.Document:
        """Return what docker compose makes of the files. Raises BundleDamaged."""
        return render.with_additions(compose.load(place.upstream_compose), choice)

    def up_options(self) -> list[str]:
        """Return the options that keep docker compose from asking a registry."""
        return ["--pull", "never"]

    def find_stuck(self, containers: Sequence[Container]) -> list[Container]:
        """Return none: docker's daemon ends what it has begun to stop, and restarts what supervises containers."""
        return []

    def mend_start(self, said: str) -> bool:
        """Do nothing: docker's daemon goes on with what its client has begun."""
        return False

    def hasten_health(self, container: Container) -> None:
        """Do nothing: docker has no command for that; see `starts_checks_early`."""

    def starts_checks_early(self, version: Version | None) -> bool:
        """Tell whether this docker knows `start_interval`."""
        return (version or ()) >= START_INTERVAL

    def spooled_images(self, version: Version | None) -> int:
        """Return 0: docker unpacks within its storage."""
        return 0

    def untag_others(self, reference: str, others: Iterable[str]) -> None:
        """Do nothing: in docker's storage a name means one image."""

    def pull(self, name: str, access: Access) -> None:
        """Pull an image by HOST/REPOSITORY@DIGEST; it is the daemon that trusts. Raises CommandFailed."""
        host = name.partition("/")[0]
        trusts = f"the daemon trusts the authority in /etc/docker/certs.d/{host}/ca.crt"
        remedy = f"{trusts}, and speaks http with what `insecure-registries` in daemon.json names"
        options: list[str] = []
        if access.login is not None:
            # With another configuration the client would not know which daemon is meant.
            asked = ["context", "inspect", "--format", "{{.Endpoints.docker.Host}}"]
            daemon = self.run(asked, timeout=VERSION_SECONDS).stdout.strip()
            options = ["--config", str(access.login.parent), "--host", daemon]
        self.run([*options, "pull", "--quiet", name], timeout=PULL_SECONDS, remedy=remedy)

    def internal_subnets(self, project: str) -> list[str]:
        """Return none: docker lets its networks past firewalld."""
        return []

    def as_owner(self, command: Sequence[str]) -> list[str]:
        """Have the command as it is: what belongs to root is root's to read, and nobody becomes root here."""
        return list(command)

    def find_processes(self, owner: int) -> Processes:
        """Return what docker's daemon says: it is one for all users. Raises CommandFailed."""
        ids = self.run(["ps", "--quiet", "--no-trunc", *of_project(layout.COMPOSE_PROJECT)], timeout=LIST_SECONDS)
        found = self._inspected(["container", "inspect"], ids.stdout.split())
        running = {str(each["Name"]).removeprefix("/"): int(each["State"]["Pid"]) for each in found}
        return Processes(
            containers={name: process for name, process in running.items() if process}, bridges=(os.getpid(),)
        )

    def removal_prefix(self, root: bool) -> str:
        """Return how a user becomes root: the daemon has made the data as root."""
        return "" if root else "sudo "

    def _described(self, answer: Mapping[str, Any]) -> Description:
        root = answer.get("DockerRootDir")
        # As "name=selinux": docker confines containers only if its daemon is told to (`selinux-enabled`).
        options = {option.partition(",")[0] for option in answer.get("SecurityOptions") or ()}
        return Description(
            graph_root=Path(root) if root else None,
            rootless="name=rootless" in options,
            labels="name=selinux" in options,
        )

    def _silent(self, problem: str) -> Description:
        return Description(problem=problem)

    def _compose_program(self, place: layout.Installation) -> list[str]:
        return ["docker", "compose"]

    def _compose_files(self, place: layout.Installation) -> list[Path]:
        return [place.upstream_compose, place.override]


def read_container(entry: Mapping[str, Any]) -> Container:
    """Read an entry of `docker container inspect`."""
    state, published = entry["State"], entry.get("NetworkSettings", {}).get("Ports") or {}
    return Container(
        **read_labels(entry["Config"].get("Labels")),
        name=str(entry["Name"]).removeprefix("/"),
        image=str(entry["Config"].get("Image", "")),
        image_id=bare(str(entry.get("Image", ""))),
        state=str(state["Status"]),
        health=str((state.get("Health") or {}).get("Status", "")).replace("none", ""),
        exit_code=int(state["ExitCode"]),
        restarts=int(entry.get("RestartCount") or 0),
        created=_seconds(entry["Created"]),
        started=_seconds(state["StartedAt"]),
        # IPv4 and IPv6 each have an entry.
        ports=tuple(
            sorted(
                {
                    int(each["HostPort"])
                    for port, bound in published.items()
                    if port.endswith("/tcp")
                    for each in bound or ()
                }
            )
        ),
    )


def _seconds(text: str) -> int:
    """Return docker's time, as 2026-01-31T12:00:00.123456789Z, in seconds; 0 for its "never", the year 1."""
    moment = datetime.datetime.fromisoformat(text[:19]).replace(tzinfo=datetime.UTC)
    return max(0, int(moment.timestamp()))
