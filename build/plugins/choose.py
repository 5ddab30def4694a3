"""Turns what was asked for (names, files, folders) into packages that are proved and can be installed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import rsa

from build.failure import BuildError
from build.plugins import marketplace, package, signature
from build.plugins.package import Daemon, Package
from installer.bundle.manifest import Signer
from installer.core import errors, files

NONE = "none"
NAME = re.compile(r"([a-z0-9_-]+/[a-z0-9_-]+)(?::(\S+))?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """`plugins` are `AUTHOR/NAME[:VERSION]`, package files or folders of them; `owner` is the owner's private key."""

    plugins: tuple[str, ...]
    marketplace: str = marketplace.URL
    owner: rsa.RSAPrivateKey | None = None


@dataclass(frozen=True, slots=True)
class Chosen:
    """A package, and whose signature proves it."""

    package: Package
    signer: Signer


def choose(wanted: Wanted, daemon: Daemon, kept: Path) -> list[Chosen]:
    """Return the packages, sorted; what is fetched or signed is kept in the folder `kept`.

    Raises UsageError for what names no plugin; BuildError for one that cannot be had, is not signed by somebody whom
    the server will trust, or that the daemon cannot install.
    """
    chosen: dict[str, Chosen] = {}
    for each in _packages(wanted, daemon, kept):
        one = _proved(each, wanted, kept)
        if (before := chosen.get(one.package.plugin)) and before.package.version != one.package.version:
            raise errors.UsageError(
                f"{one.package.plugin} is wanted twice: {before.package.version} and {one.package.version}",
                "a workspace has one version of a plugin: name one",
            )
        chosen[one.package.plugin] = one
    return [chosen[plugin] for plugin in sorted(chosen)]


def _packages(wanted: Wanted, daemon: Daemon, kept: Path) -> Iterator[Package]:
    for text in wanted.plugins:
        path = Path(text)
        if path.is_dir():
            found = sorted(path.glob(f"*{package.SUFFIX}"))
            if not found:
                raise errors.UsageError(f"the folder {path} holds no {package.SUFFIX} file")
            yield from (_installable(package.read(each), daemon) for each in found)
        elif text.endswith(package.SUFFIX):
            yield _installable(package.read(path), daemon)
        elif (named := NAME.fullmatch(text)) is not None:
            yield _offered(named[1], named[2], wanted.marketplace, daemon, kept)
        else:
            raise errors.UsageError(
                f"{text!r} is not a valid plugin",
                f"write AUTHOR/NAME, AUTHOR/NAME:VERSION, a {package.SUFFIX} file, a folder of them, or {NONE}",
            )


def _installable(found: Package, daemon: Daemon) -> Package:
    if obstacle := package.find_obstacle(found, daemon):
        raise BuildError(f"{found.identity} cannot be installed: {obstacle}", "take another version, or leave it out")
    return found


def _offered(plugin: str, version: str | None, url: str, daemon: Daemon, kept: Path) -> Package:
    """Fetch a version, or else the newest that the daemon can install. Raises BuildError."""
    if version is None:
        newest, obstacles = _newest(plugin, url, daemon, kept)
        if newest is None:
            raise BuildError(f"no version of {plugin} can be installed: {obstacles}", "leave it out")
        return newest
    found = package.read(marketplace.fetch(plugin, version, url, kept))
    if found.identity != f"{plugin}:{version}":
        raise BuildError(f"{url} gave {found.identity} for {plugin}:{version}", "ask its owner, or take another mirror")
    if obstacle := package.find_obstacle(found, daemon):
        newest, _ = _newest(plugin, url, daemon, kept)
        remedy = f"the newest that works is {newest.version}: name that" if newest else "no version works: leave it out"
        raise BuildError(f"{found.identity} cannot be installed: {obstacle}", remedy)
    return found


def _newest(plugin: str, url: str, daemon: Daemon, kept: Path) -> tuple[Package | None, str]:
    """Return the newest version that the daemon can install; where there is none, in words why."""
    obstacle = "the marketplace offers none"
    for version in marketplace.list_versions(plugin, url):
        found = package.read(marketplace.fetch(plugin, version, url, kept))
        if not (obstacle := package.find_obstacle(found, daemon)):
            return found, ""
    return None, obstacle


def _proved(found: Package, wanted: Wanted, kept: Path) -> Chosen:
    """Return a package with its signer; one that nobody has signed is signed by the owner. Raises BuildError."""
    keys: dict[str, rsa.RSAPublicKey] = {"Dify": signature.dify_key()}
    if wanted.owner is not None:
        keys["owner"] = wanted.owner.public_key()
    signer = signature.find_signer(found.path, keys)
    if signer == "Dify":
        return Chosen(found, "Dify")
    if signer == "owner":
        return Chosen(found, "owner")
    if wanted.owner is None or _is_from(found, kept):
        raise BuildError(
            f"{found.identity} ({found.path}) is not signed by Dify, or was changed since",
            "take it from the marketplace again; a package of your own is signed with the key of your installation: "
            "--plugin-key FILE, which `openssl genrsa -out FILE 4096` makes",
        )
    target = kept / f"owner-{found.file_name}"
    files.folder(kept)
    signature.sign(found.path, wanted.owner, target)
    return Chosen(package.read(target), "owner")


def _is_from(found: Package, kept: Path) -> bool:
    """Tell whether a package was fetched: such a one must be Dify's."""
    return found.path.parent == kept


def identities(chosen: Iterable[Chosen]) -> str:
    """Return, for people, which plugins these are."""
    return ", ".join(each.package.identity for each in chosen)
