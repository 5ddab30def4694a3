"""The plugins of a bundle: packages that are chosen and proved get their wheels, and both are packed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import rsa

from build.images import Pulled
from build.plugins import carrier, choose, signature, wheelhouse
from build.plugins.choose import Chosen
from build.plugins.package import Daemon
from installer.bundle import manifest
from installer.core import digest, files, layout
from installer.core.console import Console, size
from installer.core.runner import Runner


@dataclass(frozen=True, slots=True)
class Gathered:
    """What the plugins of a bundle are, and the content of each of their files, by its path."""

    described: manifest.Plugins
    contents: Mapping[str, bytes]


def gather(
    chosen: Sequence[Chosen],
    owner: rsa.RSAPrivateKey | None,
    daemon: Daemon,
    identity: str,
    program: str,
    kept: Path,
    runner: Runner,
    console: Console,
) -> Gathered:
    """Return packages and wheels; what is slow to make is kept in the folder `kept`.

    `identity` is the ID of the daemon's image, which the engine has. Raises BuildError for wheels that cannot be had.
    """
    packages = [each.package for each in chosen]
    wheels = wheelhouse.collect(packages, daemon, identity, program, kept, runner, console)
    contents = {f"{layout.PACKAGES}/{each.package.file_name}": each.package.path.read_bytes() for each in chosen}
    contents |= {f"{layout.WHEELS}/{wheel.name}": wheel.read_bytes() for wheel in wheels}
    if owner is not None:
        contents[layout.OWNER_KEY] = signature.public_pem(owner.public_key())
    total = size(sum(map(len, contents.values())))
    console.line(f"plugins  {choose.identities(chosen)}; with {len(wheels)} wheels {total}")
    return Gathered(describe(chosen, contents), contents)


def describe(chosen: Sequence[Chosen], contents: Mapping[str, bytes]) -> manifest.Plugins:
    """Return what the manifest says of packages, and of the other files among these contents (path -> content)."""
    listed = {
        path: manifest.File(path=path, size=len(content), sha256=digest.hash_bytes(content), executable=False)
        for path, content in sorted(contents.items())
    }
    packages = tuple(
        manifest.Plugin(
            identity=each.package.identity,
            signer=each.signer,
            file=listed.pop(f"{layout.PACKAGES}/{each.package.file_name}"),
        )
        for each in chosen
    )
    return manifest.Plugins(image="", packages=packages, others=tuple(listed.values()))


def as_file(gathered: Gathered, daemon: Daemon, output: Path) -> None:
    """Write the file of plugins for an installation that is there. Raises CommandFailed when it cannot be written."""
    described = manifest.PluginBundle(
        format=manifest.FORMAT,
        dify=daemon.dify,
        daemon=daemon.image,
        architecture=daemon.architecture,
        plugins=gathered.described,
    )
    with files.replacing(output) as file:
        carrier.write_tar(file, {layout.MANIFEST: manifest.dumps(described), **gathered.contents})


def as_image(gathered: Gathered, daemon: Daemon, program: str, work: Path, runner: Runner) -> Pulled:
    """Put the files into an image of the engine's. Raises BuildError."""
    return carrier.make(gathered.contents, daemon.architecture, program, work, runner)
