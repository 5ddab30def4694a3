"""The hosts of `make bench`: an engine and its user, and what is typed there, by us and by hand."""

from __future__ import annotations

from dataclasses import dataclass

from installer.core import layout
from installer.engine.base import Name
from tests.bench.target import BUNDLE
from tests.e2e.server import FOLDERS, HOMES, PORTS, URLS
from tests.target import machine as machines

UPDATED = "/srv/updated"


@dataclass(frozen=True, slots=True)
class Host:
    """An engine and who uses it; `disks` are the file systems of its own, as `target.booted` wants them."""

    name: str
    engine: Name
    user: str
    disks: dict[str, str]

    @property
    def folder(self) -> str:
        """Where Dify is installed."""
        return FOLDERS[self.user]

    @property
    def url(self) -> str:
        """What Dify answers once it has started."""
        return f"{URLS[self.user]}/console/api/setup"

    @property
    def answers(self) -> str:
        """What ends once Dify answers."""
        return f"until curl --silent --fail --output /dev/null {self.url}; do sleep 0.5; done"

    def install(self, bundle: str = BUNDLE) -> str:
        """Return our command."""
        options = ["--ip", machines.ADDRESS, *PORTS[self.user], "--runtime", self.engine]
        return f"cd {bundle} && ./dify-installer {' '.join(options)}"

    @property
    def compose(self) -> str:
        """What begins each call of compose by hand."""
        if self.engine == "docker":
            files = f"--file {layout.COMPOSE_FILE} --file docker-compose.override.yaml"
            return f"cd {self.folder}/docker && docker compose --project-name dify {files}"
        # As it comes: ours begins with a module that makes it faster (docs/decisions/034).
        program = "./../podman-compose/bin/python -m podman_compose"
        return f"cd {self.folder}/docker && {program} --project-name dify --file dify-compose.yaml"

    @property
    def rendered(self) -> str:
        """The file that holds what we add to upstream's, in the install folder."""
        return "docker/docker-compose.override.yaml" if self.engine == "docker" else "docker/dify-compose.yaml"

    def load(self, bundle: str = BUNDLE) -> dict[str, str]:
        """Return, by their names, the commands that verify and load by hand."""
        return {
            "sha256sum -c": f"cd {bundle} && sha256sum -c SHA256SUMS",
            f"{self.engine} load": f"{self.engine} load --quiet --input {bundle}/{layout.IMAGES}",
        }


ROOTFUL = Host(
    "podman, rootful",
    "podman",
    "root",
    {"graph root": "var/lib/containers", "/var/tmp": "var/tmp", "install folder": "opt"},
)
ROOTLESS = Host(
    "podman, rootless",
    "podman",
    machines.USER,
    {"graph root": HOMES[machines.USER].lstrip("/"), "/var/tmp": "var/tmp"},
)
DOCKER = Host("docker", "docker", "root", {"graph root": "var/lib/docker", "/var/tmp": "var/tmp"})
