"""The host's container engine, podman or docker: which one, and what differs in what they answer.

Their command lines agree but for lists; the few other differences stand where they matter
(`images.load`, `stack.up`).
"""

from __future__ import annotations

import contextlib
import datetime
import json
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from installer.core import errors, layout
from installer.core.runner import Result, Runner
from installer.release import compose

Name = Literal["podman", "docker"]
NAMES: tuple[Name, ...] = get_args(Name)

LIST_SECONDS = 120.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Container:
    """A container of a compose project, stopped or not; without one, `project` and `service` are empty.

    `folder` is where its project lies; `health` is healthy, starting, unhealthy or, without a check,
    empty; `created` and `started` are in seconds since the epoch; `ports` are those on the host.
    """

    project: str
    service: str
    folder: str
    name: str
    image: str
    state: str
    health: str
    exit_code: int
    restarts: int
    created: int
    started: int
    ports: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """An image in the engine's storage; `layers` are diff IDs, empty where the list does not tell them."""

    id: str
    names: frozenset[str]
    layers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine and how it is called."""

    name: Name
    runner: Runner

    def run(
        self,
        arguments: Sequence[str],
        *,
        timeout: float,
        env: Mapping[str, str] | None = None,
        input: str | None = None,
        check: bool = True,
    ) -> Result:
        """Run a command of the engine; as `Runner.run`, which see."""
        return self.runner.run([self.name, *arguments], timeout=timeout, env=env, input=input, check=check)

    def container(self, service: str) -> str:
        """Return the name that compose gives to the container of a service of ours."""
        return (
            f"{layout.COMPOSE_PROJECT}_{service}_1"
            if self.name == "podman"
            else f"{layout.COMPOSE_PROJECT}-{service}-1"
        )

    def logs(self, names: Iterable[str]) -> str:
        """Return, for people, the commands that show these containers' logs: docker takes one at a time."""
        return ", ".join(f"`{self.name} logs {name}`" for name in names)

    def containers(self, project: str | None = None) -> list[Container]:
        """Return the containers of a compose project, or all, stopped ones too. Raises CommandFailed."""
        only = ["--filter", f"label={layout.PROJECT_LABEL}={project}"] if project else []
        if self.name == "podman":
            listed = self.run(["ps", "--all", "--format", "json", *only], timeout=LIST_SECONDS).stdout
            return [_of_podman(entry) for entry in json.loads(listed or "[]") or []]
        ids = self.run(["ps", "--all", "--quiet", "--no-trunc", *only], timeout=LIST_SECONDS).stdout.split()
        return [_of_docker(entry) for entry in self._inspected(["container", "inspect"], ids)]

    def networks(self, project: str) -> list[str]:
        """Return the names of the networks of a compose project. Raises CommandFailed."""
        return self._names("network", project)

    def volumes(self, project: str) -> list[str]:
        """Return the names of the volumes of a compose project, in the engine's own storage. Raises CommandFailed."""
        return self._names("volume", project)

    def _names(self, kind: str, project: str) -> list[str]:
        only = ["--filter", f"label={layout.PROJECT_LABEL}={project}"]
        return self.run([kind, "ls", "--format", "{{.Name}}", *only], timeout=LIST_SECONDS).stdout.split()

    def images(self) -> list[Stored]:
        """Return the images that the engine has. Raises CommandFailed."""
        if self.name == "podman":
            listed = self.run(["images", "--no-trunc", "--format", "json"], timeout=LIST_SECONDS).stdout
            return [
                Stored(id=_bare(entry["Id"]), names=frozenset(entry.get("Names") or ()))
                for entry in json.loads(listed or "[]") or []
            ]
        return [
            Stored(
                id=_bare(entry["Id"]),
                names=frozenset(compose.full_reference(name) for name in entry.get("RepoTags") or ()),
                layers=tuple(map(_bare, entry["RootFS"].get("Layers") or ())),
            )
            for entry in self._image_entries()
        ]

    def layers(self) -> set[str]:
        """Return the diff IDs of all layers of all images that the engine has. Raises CommandFailed."""
        return {_bare(layer) for entry in self._image_entries() for layer in entry["RootFS"].get("Layers") or ()}

    def _image_entries(self) -> list[dict[str, Any]]:
        ids = self.run(["image", "ls", "--quiet", "--no-trunc"], timeout=LIST_SECONDS).stdout.split()
        return self._inspected(["image", "inspect"], sorted(set(ids)))

    def _inspected(self, command: list[str], ids: list[str]) -> list[dict[str, Any]]:
        """Inspect objects; one that has gone in the meantime is left out."""
        if not ids:
            return []
        result = self.run([*command, *ids], timeout=LIST_SECONDS, check=False)
        try:
            found: list[dict[str, Any]] = json.loads(result.stdout)
        except ValueError:
            raise self.runner.failure(result) from None
        return found


def find(asked: Name | None, place: layout.Installation, runner: Runner) -> Engine:
    """Return the engine that runs an installation; for a new one that asked for, else podman, else docker.

    Raises UsageError when another engine than the installation's is asked for: data and images are with that one.
    """
    used = used_by(place)
    if asked and used and asked != used:
        raise errors.UsageError(
            f"the installation in {place.folder} is run by {used}, not {asked}",
            f"leave out --runtime, or install into another folder with --dir and other ports beside {used}'s",
        )
    only_docker = _is_there("docker", runner) and not _is_there("podman", runner)
    return Engine(asked or used or ("docker" if only_docker else "podman"), runner)


def used_by(place: layout.Installation) -> Name | None:
    """Return the engine that an installation is for, by the compose file that we wrote for it."""
    with contextlib.suppress(OSError):
        if place.override.is_file():
            return "docker"
        if place.compose.is_file():
            return "podman"
    return None


def _is_there(name: str, runner: Runner) -> bool:
    return shutil.which(name, path=runner.env.get("PATH")) is not None


def _bare(digest: str) -> str:
    return digest.removeprefix("sha256:")


def _of_podman(entry: Mapping[str, Any]) -> Container:
    """Read an entry of `podman ps --format json`."""
    health = re.search(r"\((healthy|unhealthy|starting)\)", str(entry.get("Status", "")))
    published = entry.get("Ports") or ()
    return Container(
        **_labels(entry.get("Labels")),
        name=str(entry["Names"][0]),
        image=str(entry.get("Image", "")),
        state=str(entry.get("State", "")),
        health=health.group(1) if health else "",
        exit_code=int(entry.get("ExitCode") or 0),
        restarts=int(entry.get("Restarts") or 0),
        created=int(entry.get("Created") or 0),
        started=int(entry.get("StartedAt") or 0),
        ports=tuple(port["host_port"] + offset for port in published for offset in range(port.get("range") or 1)),
    )


def _of_docker(entry: Mapping[str, Any]) -> Container:
    """Read an entry of `docker container inspect`."""
    state, published = entry["State"], entry.get("NetworkSettings", {}).get("Ports") or {}
    return Container(
        **_labels(entry["Config"].get("Labels")),
        name=str(entry["Name"]).removeprefix("/"),
        image=str(entry["Config"].get("Image", "")),
        state=str(state["Status"]),
        health=str((state.get("Health") or {}).get("Status", "")).replace("none", ""),
        exit_code=int(state["ExitCode"]),
        restarts=int(entry.get("RestartCount") or 0),
        created=_seconds(entry["Created"]),
        started=_seconds(state["StartedAt"]),
        # IPv4 and IPv6 each have an entry.
        ports=tuple(sorted({int(each["HostPort"]) for bound in published.values() for each in bound or ()})),
    )


def _labels(labels: Mapping[str, str] | None) -> dict[str, str]:
    found = labels or {}
    return {
        "project": str(found.get(layout.PROJECT_LABEL, "")),
        "service": str(found.get(layout.SERVICE_LABEL, "")),
        "folder": str(found.get(layout.FOLDER_LABEL, "")),
    }


def _seconds(text: str) -> int:
    """Return docker's time, as 2026-01-31T12:00:00.123456789Z, in seconds; 0 for its "never", the year 1."""
    moment = datetime.datetime.fromisoformat(text[:19]).replace(tzinfo=datetime.UTC)
    return max(0, int(moment.timestamp()))
