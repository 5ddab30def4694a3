"""What is seen of a host, and what an installation wants of it: facts, no judgement.

What cannot be found out is None, and stops nothing.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from installer.bundle import manifest
from installer.engine.base import Name, Version
from installer.host.ownership import Ownership, Passed


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What a run wants of the host; sizes are in bytes."""

    folder: Path
    address: str | None
    ports: Mapping[str, int]  # those on the host, by name
    architecture: manifest.Architecture
    largest_image_bytes: int
    missing_bytes: int  # of the images that are still to be loaded
    store_bytes: int = 0  # of an image store, which is copied into the install folder where the host mounts it
    unpacked_bytes: int = 0  # of the same, unpacked where the engine keeps its images, where it does not
    kept_bytes: int = 0  # of the installation, of which an upgrade makes a copy beside it
    compressed: bool = False  # whether layers to be loaded are, with zstd
    not_before: datetime.datetime | None  # a time that has certainly passed
    firewall: bool = True  # whether ports may be opened in firewalld
    api_image: str = ""  # the name, without its tag, of the image by which another Dify is known
    install_podman: bool = False  # whether podman may be installed


@dataclass(frozen=True, kw_only=True, slots=True)
class Python:
    """An interpreter of the host."""

    path: Path
    version: Version
    has_venv: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Space:
    """Room for one purpose: `device` tells file systems apart, `options` are its mount options."""

    purpose: str
    path: Path
    free: int
    device: int
    kind: str
    options: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Listener:
    """Who holds a TCP port; `ours` when it is a container of this installation."""

    port: int
    holder: str
    ours: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class SystemFacts:
    """The operating system and the machine."""

    os_id: str
    os_like: tuple[str, ...]
    os_version: str
    os_name: str
    architecture: str
    cpus: int
    memory: int | None  # bytes
    now: datetime.datetime
    selinux: Literal["enforcing", "permissive", "disabled"]
    container_selinux: bool | None  # whether the policy for containers is installed
    pythons: tuple[Python, ...]
    dnf: bool
    squashfs: bool  # the kernel has it, or may load it


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineFacts:
    """The container engine, as it is on this host."""

    name: Name
    version: Version | None  # None where the program is missing
    problem: str  # why `podman info` or `docker info` fails, empty when it does not
    compose_version: Version | None  # of the compose that the host has to bring
    emulated: bool  # `docker` is podman under another name
    rootless: bool  # the engine has no more rights than a user
    labels: bool  # SELinux confines its containers
    network_backend: str
    needs_podman_compose: bool
    asks_firewall: bool
    storage_setting: str  # where a person says where images are kept
    storage_factor: float  # loading takes so much of an image's size in the storage
    spooled_images: int  # so many images at a time lie in a temporary folder of ours
    open_database: Path | None  # where it keeps the containers' settings, if every local user can read that


@dataclass(frozen=True, kw_only=True, slots=True)
class RoomFacts:
    """File systems: for the images, the install folder, and the engine's temporary files."""

    storage: Space | None
    install: Space | None
    temporary: Space | None


@dataclass(frozen=True, kw_only=True, slots=True)
class InstallationFacts:
    """What is in the install folder, and whose Dify runs here."""

    folder_exists: bool
    folder_writable: bool
    ownership: Ownership
    links: tuple[Path, ...]  # folders in it that are links, where we would write
    passed: tuple[Passed, ...]  # the folders on the way to it, and itself
    has_env: bool
    has_data: bool
    conflicting: tuple[str, ...]  # containers of our project's name from another folder
    other_dify: tuple[str, ...]  # those of a Dify of another name, with the folder where it lies


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkFacts:
    """Ports, addresses and the firewall."""

    listeners: tuple[Listener, ...] | None
    low_port: int  # the first that a user may open
    addresses: tuple[str, ...] | None
    firewalld: bool
    open_ports: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class UserFacts:
    """Who runs us, and what that user has."""

    name: str
    uid: int
    root: bool
    subuid: bool
    subgid: bool
    linger: bool
    session: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Host:
    """All that was seen, by subject."""

    system: SystemFacts
    engine: EngineFacts
    room: RoomFacts
    installation: InstallationFacts
    network: NetworkFacts
    user: UserFacts

    @property
    def mounts_stores(self) -> bool:
        """Whether an image store can be mounted, as far as that is known before it is tried."""
        return self.user.root and self.system.squashfs
