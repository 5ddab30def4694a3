"""A host that is as it should be, for tests that change one fact of it."""

from __future__ import annotations

import dataclasses
import datetime
from pathlib import Path
from typing import Any

from installer.engine.docker import Docker
from installer.engine.podman import Podman
from installer.host.facts import (
    EngineFacts,
    Host,
    InstallationFacts,
    Listener,
    NetworkFacts,
    Python,
    RoomFacts,
    Space,
    SystemFacts,
    UserFacts,
    Wanted,
)
from installer.host.ownership import Ownership, Passed

GIB = 1024**3
NOW = datetime.datetime(2026, 6, 1, tzinfo=datetime.UTC)

WANTED = Wanted(
    folder=Path("/opt/dify"),
    address="10.0.0.5",
    ports={"http": 80, "https": 443, "plugin debugging": 5003},
    architecture="amd64",
    largest_image_bytes=2 * GIB,
    missing_bytes=4 * GIB,
    not_before=NOW - datetime.timedelta(days=30),
)


def space(purpose: str, path: str, free: float, device: int = 1, kind: str = "xfs", options: str = "rw") -> Space:
    return Space(
        purpose=purpose,
        path=Path(path),
        free=int(free * GIB),
        device=device,
        kind=kind,
        options=tuple(options.split(",")),
    )


GOOD = Host(
    system=SystemFacts(
        os_id="rhel",
        os_like=("fedora",),
        os_version="9.6",
        os_name="Red Hat Enterprise Linux 9.6 (Plow)",
        architecture="amd64",
        cpus=2,
        memory=int(3.7 * GIB),
        now=NOW,
        selinux="enforcing",
        container_selinux=True,
        pythons=(Python(path=Path("/usr/bin/python3"), version=(3, 9), has_venv=True),),
        dnf=True,
        squashfs=True,
    ),
    engine=EngineFacts(
        name="podman",
        version=(5, 4, 2),
        problem="",
        compose_version=None,
        emulated=False,
        rootless=False,
        labels=True,
        network_backend="netavark",
        needs_podman_compose=True,
        asks_firewall=True,
        storage_setting=Podman.storage_setting[0],
        storage_factor=Podman.storage_factor,
        spooled_images=1,
        open_database=None,
    ),
    room=RoomFacts(
        storage=space("images", "/var/lib/containers/storage", 100),
        install=space("the install folder", "/opt/dify", 100),
        temporary=space("the engine's temporary files", "/var/tmp", 100),
    ),
    installation=InstallationFacts(
        folder_exists=False,
        folder_writable=True,
        ownership=Ownership("new"),
        links=(),
        passed=(Passed(path=Path("/"), uid=0, owner="root", mode=0o755, private_group=True),),
        has_env=False,
        has_data=False,
        conflicting=(),
        other_dify=(),
    ),
    network=NetworkFacts(
        listeners=(Listener(port=22, holder="sshd (process 1)", ours=False),),
        low_port=1024,
        addresses=("127.0.0.1", "10.0.0.5"),
        firewalld=False,
        open_ports=(),
    ),
    user=UserFacts(name="root", uid=0, root=True, subuid=True, subgid=True, linger=True, session=True),
)
# "name" is the user's; the engine's facts that are called as others' are, begin with "engine_".
ROOTLESS: dict[str, Any] = {
    "root": False,
    "rootless": True,
    "name": "dify",
    "uid": 1000,
    "storage_setting": Podman.storage_setting[1],
}
HIGH = {"http": 8080, "https": 8443, "plugin debugging": 5003}


def changed(host: Host, **facts: Any) -> Host:
    """Return a host of which these facts are others, whatever their subject."""
    groups: dict[str, dict[str, Any]] = {}
    for name, value in facts.items():
        group, field = _place(host, name)
        groups.setdefault(group, {})[field] = value
    parts = {group: dataclasses.replace(getattr(host, group), **values) for group, values in groups.items()}
    return dataclasses.replace(host, **parts)


def _place(host: Host, name: str) -> tuple[str, str]:
    if name.startswith("engine_"):
        return "engine", name.removeprefix("engine_")
    order = ("user", "system", "engine", "room", "installation", "network")
    return next((group, name) for group in order if hasattr(getattr(host, group), name))


DOCKER = changed(
    GOOD,
    engine_name="docker",
    engine_version=(26, 1, 5),
    compose_version=(2, 26, 1),
    labels=False,
    network_backend="",
    needs_podman_compose=False,
    asks_firewall=False,
    storage_setting=Docker.storage_setting[0],
    storage_factor=Docker.storage_factor,
    spooled_images=0,
)
