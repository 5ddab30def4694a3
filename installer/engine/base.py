"""The one protocol of a container engine: what is asked of podman and of docker, and how they differ.

Their command lines agree but for lists. What differs is a method or a fact of the class here, so that no other
module asks for the engine's name.
"""

from __future__ import annotations

import abc
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from installer.core import layout
from installer.core.runner import Result, Runner
from installer.release import compose, render

Name = Literal["podman", "docker"]
NAMES: tuple[Name, ...] = get_args(Name)
Version = tuple[int, ...]

LIST_SECONDS = 120.0
# States of containers with processes (podman, libpod/define/containerstate.go; docker, container/state.go).
ALIVE = ("running", "paused", "stopping", "restarting")
INFO_SECONDS = 60.0
VERSION_SECONDS = 20.0
# An image of 10 GiB over a slow line.
PULL_SECONDS = 7200.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Container:
    """A container of a compose project, stopped or not; without one, `project` and `service` are empty."""

    project: str
    service: str
    folder: str  # where its project lies
    name: str
    image: str
    image_id: str = ""
    state: str
    health: str  # healthy, starting, unhealthy or, without a check, empty
    exit_code: int
    restarts: int
    created: int  # seconds since the epoch
    started: int  # seconds since the epoch, 0 for never
    ports: tuple[int, ...] = ()  # TCP ports on the host

    @property
    def is_alive(self) -> bool:
        """Whether it has processes, and holds its ports; a container that is being stopped still does."""
        return self.state in ALIVE


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspected:
    """What a container was made with: folders of the host by where it sees them, and its environment, with secrets."""

    mounts: Mapping[str, Path]
    environment: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """An image in the engine's storage; `layers` are diff IDs, empty where the list does not tell them.

    `read_only` is one of an additional image store of podman's.
    """

    id: str
    names: frozenset[str]
    layers: tuple[str, ...] = ()
    read_only: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Access:
    """What a registry wants: a file with a login named config.json, a folder of authorities, whether it speaks http."""

    login: Path | None
    certificates: Path | None
    plain_http: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Description:
    """What an engine says of itself (`podman info`, `docker info`)."""

    problem: str = ""  # why it does not answer, empty when it does
    graph_root: Path | None = None  # where it keeps its images
    network_backend: str = ""
    rootless: bool = False  # it has no more rights than a user
    labels: bool = False  # it has SELinux confine its containers, where SELinux is on


@dataclass(frozen=True, kw_only=True, slots=True)
class Processes:
    """Processes in whose network namespaces there is something of the stack, and whose container each is."""

    containers: Mapping[str, int]  # by the container's name
    bridges: tuple[int, ...]

    @property
    def all(self) -> set[int]:
        """All of them."""
        return {*self.containers.values(), *self.bridges}


@dataclass(frozen=True, slots=True)
class Engine(abc.ABC):
    """An engine and how it is called."""

    runner: Runner

    name: ClassVar[Name]
    # Between the parts of a container's name: dify_api_1 or dify-api-1.
    separator: ClassVar[str]
    # Where a person says where images are kept: for root, and for a user.
    storage_setting: ClassVar[tuple[str, str]]
    # Loading an image takes so much of its size in the storage (measured).
    storage_factor: ClassVar[float]
    # Whether it hashes each layer against the image's configuration before it unpacks it.
    proves_layers: ClassVar[bool]
    # Whether it can use a folder of images that it did not load itself (containers-storage.conf(5)).
    mounts_stores: ClassVar[bool]
    # Whether its compose is podman-compose, which comes with us.
    needs_podman_compose: ClassVar[bool]
    # Whether its compose replaces a container when the name of its image means another one, and replaces what has
    # changed one by one, with nothing ended before what needs it.
    compose_replaces: ClassVar[bool]
    # Whether what it publishes has to be let in by firewalld as well.
    asks_firewall: ClassVar[bool]
    # Below the folder where it keeps its images: files with the settings of its containers, secrets included.
    databases: ClassVar[tuple[str, ...]]
    # A folder besides the storage where it writes while it works, or None.
    temporary: ClassVar[Path | None]

    def run(
        self,
        arguments: Sequence[str],
        *,
        timeout: float,
        env: Mapping[str, str] | None = None,
        input: str | None = None,
        check: bool = True,
        remedy: str = "",
    ) -> Result:
        """Run a command of the engine; as `Runner.run`, which see."""
        command = [self.name, *arguments]
        return self.runner.run(command, timeout=timeout, env=env, input=input, check=check, remedy=remedy)

    def execute(self, container: str, command: Sequence[str], *, timeout: float, input: str) -> Result:
        """Run a program in a running container, with `input` on its standard input; a failure is a result, too."""
        return self.run(["exec", "--interactive", container, *command], timeout=timeout, input=input, check=False)

    def container_name(self, service: str) -> str:
        """Return the name that compose gives to the container of a service of ours."""
        return self.separator.join((layout.COMPOSE_PROJECT, service, "1"))

    def log_commands(self, names: Iterable[str]) -> str:
        """Return, for people, the commands that show these containers' logs: docker takes one at a time."""
        return ", ".join(f"`{self.name} logs {name}`" for name in names)

    def version(self) -> tuple[Version | None, str]:
        """Return the version, None where the program is missing, and the text that it stands in."""
        result = self.runner.run([self.name, "--version"], timeout=VERSION_SECONDS, check=False)
        text = result.stdout if result.ok else ""
        return parse_version(text), text

    def describe(self) -> Description:
        """Ask the engine what it is like; one that does not answer is a Description with a problem."""
        result = self.run(["info", "--format", self._json_form], timeout=INFO_SECONDS, check=False)
        # docker's client answers something even when its daemon does not run.
        try:
            answer = json.loads(result.stdout)
        except ValueError:
            answer = {}
        problem = "; ".join(answer.get("ServerErrors") or ()) if isinstance(answer, dict) else ""
        if not result.ok or problem or not isinstance(answer, dict) or not answer:
            words = problem or self.runner.mask(result.last_words) or f"status {result.status}"
            return self._silent(words)
        return self._described(answer)

    def networks(self, project: str) -> list[str]:
        """Return the names of the networks of a compose project. Raises CommandFailed."""
        return self._names("network", project)

    def volumes(self, project: str) -> list[str]:
        """Return the names of the volumes of a compose project, in the engine's own storage. Raises CommandFailed."""
        return self._names("volume", project)

    def layers(self) -> set[str]:
        """Return the diff IDs of all layers of all images that the engine has. Raises CommandFailed."""
        return {bare(layer) for entry in self._image_entries() for layer in entry["RootFS"].get("Layers") or ()}

    def compose_command(self, place: layout.Installation) -> list[str]:
        """Return how compose is called for an installation: the program, the project, its files and its settings."""
        named = [part for document in self._compose_files(place) for part in ("--file", str(document))]
        project = ["--project-name", layout.COMPOSE_PROJECT]
        return [*self._compose_program(place), *project, *named, "--env-file", str(place.env)]

    def inspect(self, container: str) -> Inspected:
        """Return where a container's folders lie on this host, and its environment. Raises CommandFailed."""
        (entry,) = self._inspected(["container", "inspect"], [container])
        environment = (each.partition("=") for each in entry["Config"].get("Env") or ())
        return Inspected(
            mounts={str(each["Destination"]): Path(each["Source"]) for each in entry.get("Mounts") or ()},
            environment={name: value for name, _, value in environment},
        )

    @abc.abstractmethod
    def containers(self, project: str | None = None) -> list[Container]:
        """Return the containers of a compose project, or all, stopped ones too. Raises CommandFailed."""

    @abc.abstractmethod
    def images(self) -> list[Stored]:
        """Return the images that the engine has. Raises CommandFailed."""

    @abc.abstractmethod
    def compose_version(self) -> Version | None:
        """Return the version of the compose that the host has to bring, None where it has none or need not."""

    @abc.abstractmethod
    def written_file(self, place: layout.Installation) -> Path:
        """Return the compose file of an installation that we write: by it an installation is known."""

    @abc.abstractmethod
    def render_file(self, upstream: compose.Document, choice: render.Choice) -> str:
        """Return the text of `written_file`. Raises BundleDamaged for an upstream file that makes no sense."""

    @abc.abstractmethod
    def services_of(self, upstream: compose.Document, choice: render.Choice) -> compose.Document:
        """Return the document of the services that run."""

    @abc.abstractmethod
    def running_document(self, place: layout.Installation, choice: render.Choice) -> compose.Document:
        """Return the document of the services of an installation. Raises BundleDamaged, OSError."""

    @abc.abstractmethod
    def up_options(self) -> list[str]:
        """Return what `compose up` has to be told besides."""

    @abc.abstractmethod
    def find_stuck(self, containers: Sequence[Container]) -> list[Container]:
        """Return those that neither run as they should nor can be started until they have been stopped."""

    @abc.abstractmethod
    def mend_start(self, said: str) -> bool:
        """Mend what a start that was killed has left, by what the next one `said`; tell whether there was anything."""

    @abc.abstractmethod
    def hasten_health(self, container: Container) -> None:
        """Have a health check asked ahead of its time, where the engine has a command for that."""

    @abc.abstractmethod
    def starts_checks_early(self, version: Version | None) -> bool:
        """Tell whether the compose file can ask for more frequent health checks while a container starts."""

    @abc.abstractmethod
    def spooled_images(self, version: Version | None) -> int:
        """Return how many images at a time lie in a temporary folder of ours while they are loaded."""

    @abc.abstractmethod
    def untag_others(self, reference: str, others: Iterable[str]) -> None:
        """Take a name away from other images, by ID, where a name may mean two."""

    @abc.abstractmethod
    def pull(self, name: str, access: Access) -> None:
        """Pull an image by HOST/REPOSITORY@DIGEST. Raises CommandFailed."""

    @abc.abstractmethod
    def internal_subnets(self, project: str) -> list[str]:
        """Return the subnets of a project's networks that lead nowhere outside, where a firewall has to know them."""

    @abc.abstractmethod
    def as_owner(self, command: Sequence[str]) -> list[str]:
        """Return the command line that runs a program of the host as the owner of what the containers wrote."""

    @abc.abstractmethod
    def find_processes(self, owner: int) -> Processes:
        """Return a process of each container of our project that runs, of the user with this ID; root asks."""

    @abc.abstractmethod
    def removal_prefix(self, root: bool) -> str:
        """Return what a user writes before `rm` to remove the containers' data, with a blank behind it."""

    _json_form: ClassVar[str]

    @abc.abstractmethod
    def _described(self, answer: Mapping[str, Any]) -> Description: ...

    @abc.abstractmethod
    def _silent(self, problem: str) -> Description: ...

    @abc.abstractmethod
    def _compose_program(self, place: layout.Installation) -> list[str]: ...

    @abc.abstractmethod
    def _compose_files(self, place: layout.Installation) -> list[Path]: ...

    def _names(self, kind: str, project: str) -> list[str]:
        return self.run(
            [kind, "ls", "--format", "{{.Name}}", *of_project(project)], timeout=LIST_SECONDS
        ).stdout.split()

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


def parse_version(text: str) -> Version | None:
    """Return the first dotted number in a text."""
    found = re.search(r"(\d+(?:\.\d+)+)", text)
    return tuple(int(part) for part in found.group(1).split(".")) if found else None


def of_project(project: str | None) -> list[str]:
    """Return the options that restrict a list to a compose project; without one there are none."""
    return ["--filter", f"label={layout.PROJECT_LABEL}={project}"] if project else []


def bare(digest: str) -> str:
    """Return an ID without the name of its hash."""
    return digest.removeprefix("sha256:")


def read_labels(labels: Mapping[str, str] | None) -> dict[str, str]:
    """Return project, service and folder of a container from its labels, as `Container` wants them."""
    found = labels or {}
    return {
        "project": str(found.get(layout.PROJECT_LABEL, "")),
        "service": str(found.get(layout.SERVICE_LABEL, "")),
        "folder": str(found.get(layout.FOLDER_LABEL, "")),
    }
