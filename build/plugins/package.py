"""Reads a plugin's package (.difypkg) and says whether a plugin daemon can install it."""

from __future__ import annotations

import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from build.failure import BuildError
from installer.bundle import manifest
from installer.core.console import size

SUFFIX = ".difypkg"
MANIFEST = "manifest.yaml"
REQUIREMENTS = "requirements.txt"
# The plugin daemon's own rules (plugin daemon 0.5.2, plugin_declaration.go, PluginNameRegex and AuthorRegex).
AUTHOR = re.compile(r"[a-z0-9_-]{1,64}")
NAME = re.compile(r"[a-z0-9_-]{1,128}")
VERSION = re.compile(r"\d{1,4}(\.\d{1,4}){2}(-\w{1,16})?")
LARGEST_TEXT = 1024 * 1024
# From this version on the daemon also takes pyproject.toml (setup_python_environment.go of 0.5.3).
TAKES_PYPROJECT = (0, 5, 3)


@dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """A package; `unpacked` are the bytes of its files, `requirements` the text of its list, None where it has none."""

    path: Path
    author: str
    name: str
    version: str
    architectures: tuple[str, ...]
    minimum_dify: str
    requirements: str | None
    unpacked: int

    @property
    def plugin(self) -> str:
        return f"{self.author}/{self.name}"

    @property
    def identity(self) -> str:
        return f"{self.plugin}:{self.version}"

    @property
    def file_name(self) -> str:
        """The name of the package in a bundle."""
        return f"{self.author}-{self.name}_{self.version}{SUFFIX}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Daemon:
    """What installs plugins on the server: the plugin daemon of a release of Dify, `image` its full reference.

    `largest` is the size, in bytes, that a package may have unpacked (PLUGIN_MAX_PACKAGE_SIZE).
    """

    image: str
    dify: str
    architecture: manifest.Architecture
    largest: int

    @property
    def version(self) -> tuple[int, ...]:
        """The version in the tag of its image, `0.5.2-local`; the newest there is where the tag has none."""
        found = re.match(r"(\d+)\.(\d+)\.(\d+)", self.image.rpartition(":")[2])
        return tuple(map(int, found.groups())) if found else (9999,)


def read(path: Path) -> Package:
    """Read a package. Raises BuildError when it is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if len(set(names)) != len(names):
                raise BuildError(f"{path} holds two files of one name", "take the package from its author again")
            described = yaml.safe_load(_text(archive, MANIFEST))
            requirements = _text(archive, REQUIREMENTS) if REQUIREMENTS in names else None
            unpacked = sum(entry.file_size for entry in archive.infolist())
        return _described(path, described, requirements, unpacked)
    except (OSError, zipfile.BadZipFile, KeyError, TypeError, ValueError, yaml.YAMLError) as error:
        raise BuildError(
            f"{path} is not a plugin package: {error}", f"give a {SUFFIX} file, as Dify's marketplace offers them"
        ) from error


def _text(archive: zipfile.ZipFile, name: str) -> str:
    with archive.open(name) as file:
        data = file.read(LARGEST_TEXT + 1)
    if len(data) > LARGEST_TEXT:
        raise ValueError(f"{name} is larger than {size(LARGEST_TEXT)}")
    return data.decode()


def _described(path: Path, described: Any, requirements: str | None, unpacked: int) -> Package:
    meta = described["meta"]
    for key, rule in (("author", AUTHOR), ("name", NAME), ("version", VERSION)):
        if not rule.fullmatch(str(described[key])):
            raise ValueError(f"{described[key]!r} is not a valid {key}")
    return Package(
        path=path,
        author=str(described["author"]),
        name=str(described["name"]),
        version=str(described["version"]),
        architectures=tuple(map(str, meta["arch"])),
        minimum_dify=str(meta.get("minimum_dify_version") or ""),
        requirements=requirements,
        unpacked=unpacked,
    )


def find_obstacle(package: Package, daemon: Daemon) -> str:
    """Return in words why this daemon cannot install a package; nothing when it can."""
    if package.requirements is None:
        later = "" if daemon.version < TAKES_PYPROJECT else ", and this installer does not pack it"
        return f"it has no {REQUIREMENTS}: it needs a later plugin daemon than {daemon.image.rpartition(':')[2]}{later}"
    if package.minimum_dify and as_numbers(package.minimum_dify) > as_numbers(daemon.dify):
        return f"it needs Dify {package.minimum_dify} or later, this is {daemon.dify}"
    if daemon.architecture not in package.architectures:
        return f"it is for {', '.join(package.architectures) or 'no architecture'}, the server is {daemon.architecture}"
    if package.unpacked > daemon.largest:
        return f"it is {size(package.unpacked)} unpacked, the daemon takes {size(daemon.largest)} at most"
    return ""


def as_numbers(version: str) -> tuple[int, ...]:
    """Return the numbers of a version, to compare by."""
    return tuple(int(number) for number in re.findall(r"\d+", version.partition("-")[0]))
