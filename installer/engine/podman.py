"""podman, rootful and rootless, with the podman-compose that we bring."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from installer.core import layout
from installer.engine.base import (
    LIST_SECONDS,
    PULL_SECONDS,
    Access,
    Container,
    Description,
    Engine,
    Processes,
    Stored,
    Version,
    bare,
    of_project,
    read_labels,
)
from installer.release import compose, render

HEALTHCHECK_SECONDS = 30.0
TAG_SECONDS = 60.0
PULL_REMEDY = "the same command goes on where this one ended; without a registry, leave out --from-registry"

HALF_STARTED = re.compile(r'unable to start container "([0-9a-f]{64})": .*already exists')

# Two loads at a time are faster on podman 4 alone: podman 5 extracts one layer at a time (docs/decisions/002).
ONE_AT_A_TIME = (5, 0)


@dataclass(frozen=True, slots=True)
class Podman(Engine):
    """podman; each user has one of his own, root's is the system's."""

    name = "podman"
    separator = "_"
    storage_setting = (
        "`graphroot` in /etc/containers/storage.conf",
        "`graphroot` in ~/.config/containers/storage.conf",
    )
    storage_factor = 1.1
    proves_layers = True
    mounts_stores = True
    needs_podman_compose = True
    # podman-compose compares its part of the file alone, and ends all that it replaces at the same time
    # (podman_compose.py 1.6.0, `config_hash` and `compose_down`).
    compose_replaces = False
    asks_firewall = True
    # SQLite's since podman 4.8, BoltDB's before (podman, libpod/sqlite_state.go and libpod/boltdb_state.go).
    databases = ("db.sql", "libpod/db.sql", "libpod/bolt_state.db")
    # Where podman spools besides TMPDIR, which we point into a folder of ours.
    temporary = Path("/var/tmp")
    _json_form = "json"

    def containers(self, project: str | None = None) -> list[Container]:
        """Return the containers of a compose project, or all, stopped ones too. Raises CommandFailed."""
        command = ["ps", "--all", "--no-trunc", "--format", "json", *of_project(project)]
        return [
            read_container(entry) for entry in json.loads(self.run(command, timeout=LIST_SECONDS).stdout or "[]") or []
        ]

    def images(self) -> list[Stored]:
        """Return the images that the engine has. Raises CommandFailed."""
        listed = self.run(["images", "--no-trunc", "--format", "json"], timeout=LIST_SECONDS).stdout
        read = (
            Stored(
                id=bare(entry["Id"]),
                names=frozenset(entry.get("Names") or ()),
                read_only=bool(entry.get("ReadOnly")),
            )
            for entry in json.loads(listed or "[]") or []
        )
        # An image with two names is listed twice, each time with both (4.6 to 5.6).
        return list(dict.fromkeys(read))

    def compose_version(self) -> Version | None:
        """Return None: podman-compose comes with us."""
        return None

    def written_file(self, place: layout.Installation) -> Path:
        """Return the file that podman-compose reads, all of which is rendered by us."""
        return place.compose

    def render_file(self, upstream: compose.Document, choice: render.Choice) -> str:
        """Return podman-compose's file."""
        return render.render(upstream, choice)

    def services_of(self, upstream: compose.Document, choice: render.Choice) -> compose.Document:
        """Return what podman-compose's file says."""
        text = render.render(upstream, choice)
        document: compose.Document = yaml.load(text, Loader=yaml.CSafeLoader)
        return document

    def running_document(self, place: layout.Installation, choice: render.Choice) -> compose.Document:
        """Return what podman-compose's file says. Raises BundleDamaged."""
        return compose.load(place.compose)

    def up_options(self) -> list[str]:
        """Return nothing: that no image is pulled stands in the file."""
        return []

    def find_stuck(self, containers: Sequence[Container]) -> list[Container]:
        """Return those "stopping" or "removing", and those that run without their monitor. Raises CommandFailed.

        A `podman stop` or `podman rm` that was killed leaves such a state, which `podman start` refuses. Without its
        monitor a container counts as running for ever (podman 5.4: "conmon exited prematurely", once it is stopped).
        """
        running = [each.name for each in containers if each.state == "running"]
        form = "{{.Name}} {{.State.ConmonPid}}"
        listed = (
            self.run(["inspect", "--type", "container", "--format", form, *running], timeout=LIST_SECONDS, check=False)
            if running
            else None
        )
        monitors = dict(line.split() for line in listed.stdout.splitlines() if len(line.split()) == 2) if listed else {}
        lost = {name for name, number in monitors.items() if not _is_monitor(int(number))}
        return [each for each in containers if each.state in ("stopping", "removing") or each.name in lost]

    def mend_start(self, said: str) -> bool:
        """Delete from the OCI runtime the containers that it has already, and that podman does not know to be there.

        A `podman start` that is killed leaves such a one, and each later one fails ("container … already exists", seen
        with podman 5.4.2 and crun; runc says it, too). podman keeps its own container.
        """
        begun = dict.fromkeys(HALF_STARTED.findall(said))
        if not begun:
            return False
        form = ["info", "--format", "{{.Host.OCIRuntime.Path}}"]
        runtime = self.run(form, timeout=LIST_SECONDS).stdout.strip()
        for container in begun:
            self.runner.run([runtime, "delete", "--force", container], timeout=LIST_SECONDS, check=False)
        return True

    def hasten_health(self, container: Container) -> None:
        """Run the health check now: podman asks every 30 s unless the file says otherwise."""
        self.run(["healthcheck", "run", container.name], timeout=HEALTHCHECK_SECONDS, check=False)

    def starts_checks_early(self, version: Version | None) -> bool:
        """Return False: podman-compose does not know `start_interval`, and `hasten_health` serves."""
        return False

    def spooled_images(self, version: Version | None) -> int:
        """Return two for a podman before 5, or an unknown one, which loads two images at a time; else one."""
        return 2 if (version or ()) < ONE_AT_A_TIME else 1

    def untag_others(self, reference: str, others: Iterable[str]) -> None:
        """Untag them: podman prefers an image of its own storage to one of that name in a mounted store (4.3)."""
        for other in others:
            self.run(["untag", other, reference], timeout=TAG_SECONDS, check=False)

    def pull(self, name: str, access: Access) -> None:
        """Pull an image by HOST/REPOSITORY@DIGEST. Raises CommandFailed."""
        login = ["--authfile", str(access.login)] if access.login else []
        trust = ["--cert-dir", str(access.certificates)] if access.certificates else []
        plain = ["--tls-verify=false"] if access.plain_http else []
        self.run(["pull", "--quiet", *login, *trust, *plain, name], timeout=PULL_SECONDS, remedy=PULL_REMEDY)

    def internal_subnets(self, project: str) -> list[str]:
        """Return the subnets of the project's internal networks; none when podman does not say."""
        command = ["network", "ls", "--format", "json", *of_project(project)]
        result = self.run(command, timeout=LIST_SECONDS, check=False)
        networks = json.loads(result.stdout or "[]") if result.ok else []
        return [each["subnet"] for network in networks or [] if network.get("internal") for each in network["subnets"]]

    def as_owner(self, command: Sequence[str]) -> list[str]:
        """Become root among one's own subordinate IDs, unless one is root already."""
        return list(command) if os.geteuid() == 0 else [self.name, "unshare", *command]

    def find_processes(self, owner: int) -> Processes:
        """Read them from /proc: root's podman knows nothing of a user's containers.

        Each has a monitor, conmon, that has its name; the bridges are where aardvark-dns answers, of root with the
        host's own.
        """
        monitors: dict[int, str] = {}
        children: dict[int, int] = {}
        bridges = [os.getpid()]
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError, ValueError):
                # "12 (conmon) S 1 …": number, name, state and parent (proc(5), /proc/pid/stat).
                before, _, behind = (folder / "stat").read_text().rpartition(")")
                number, program, parent = int(folder.name), before.partition("(")[2], int(behind.split()[1])
                children.setdefault(parent, number)
                if program not in ("conmon", "aardvark-dns") or folder.stat().st_uid != owner:
                    continue
                if program == "aardvark-dns":
                    bridges.append(number)
                elif name := _monitored((folder / "cmdline").read_bytes().decode(errors="replace").split("\0")):
                    monitors[number] = name
        ours = layout.COMPOSE_PROJECT + self.separator
        return Processes(
            containers={
                name: children[number]
                for number, name in monitors.items()
                if number in children and name.startswith(ours)
            },
            bridges=tuple(bridges),
        )

    def removal_prefix(self, root: bool) -> str:
        """Return how a user becomes root among his own subordinate IDs."""
        return "" if root else "podman unshare "

    def _described(self, answer: Mapping[str, Any]) -> Description:
        host, root = answer.get("host") or {}, (answer.get("store") or {}).get("graphRoot")
        return Description(
            graph_root=Path(root) if root else None,
            network_backend=str(host.get("networkBackend", "")),
            rootless=os.geteuid() != 0,
            # podman labels wherever SELinux is on.
            labels=True,
        )

    def _silent(self, problem: str) -> Description:
        return Description(problem=problem, rootless=os.geteuid() != 0)

    def _compose_program(self, place: layout.Installation) -> list[str]:
        return [str(place.podman_compose)]

    def _compose_files(self, place: layout.Installation) -> list[Path]:
        return [place.compose]


def _is_monitor(number: int) -> bool:
    """Tell whether this process is a conmon; 0 stands for one that podman does not know of."""
    try:
        return number == 0 or "conmon" in Path(f"/proc/{number}/comm").read_text()
    except OSError:
        return False


def _monitored(words: Sequence[str]) -> str:
    """Return the name of the container that a conmon is for (conmon(8), `--name`); empty for what runs in one."""
    if "-n" not in words[:-1] or {"-e", "--exec-attach"} & set(words):
        return ""
    return words[words.index("-n") + 1]


def read_container(entry: Mapping[str, Any]) -> Container:
    """Read an entry of `podman ps --format json`."""
    health = re.search(r"\((healthy|unhealthy|starting)\)", str(entry.get("Status", "")))
    published = entry.get("Ports") or ()
    return Container(
        **read_labels(entry.get("Labels")),
        name=str(entry["Names"][0]),
        image=str(entry.get("Image", "")),
        image_id=bare(str(entry.get("ImageID", ""))),
        state=str(entry.get("State", "")),
        health=health.group(1) if health else "",
        exit_code=int(entry.get("ExitCode") or 0),
        restarts=int(entry.get("Restarts") or 0),
        created=int(entry.get("Created") or 0),
        # "Never" is the year 1, a negative number (4.6 to 5.6).
        started=max(0, int(entry.get("StartedAt") or 0)),
        ports=tuple(
            port["host_port"] + offset
            for port in published
            if port.get("protocol", "tcp") == "tcp"
            for offset in range(port.get("range") or 1)
        ),
    )
