"""Copies the plugins out of the image that carries them, into the install folder.

What others have put there stays, and so do the wheels of an earlier bundle: the environment of a plugin that is
installed may be made from them again.
"""

from __future__ import annotations

import contextlib
import tarfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from installer.bundle import manifest
from installer.core import digest, errors, files, layout
from installer.engine.base import Engine
from installer.images import inventory

# A container that is made to copy from, and never started.
CARRIER = "dify-installer-plugins"
ENGINE_SECONDS = 120.0
# A wheel is read into memory; the largest on PyPI are of GPU libraries, which no plugin may bring (50 MB).
LARGEST_FILE = 1024 * 1024 * 1024
_REMEDY = "copy the bundle again; its image is loaded anew once this one is removed"


def needed_images(bundle: manifest.Manifest, place: layout.Installation) -> tuple[manifest.Image, ...]:
    """Return the images that the engine has to have: not the plugins' once they lie in the install folder.

    No container uses that one: somebody's `podman image prune --all` takes it away.
    """
    if bundle.plugins is None or find_missing(bundle, place):
        return bundle.images
    return tuple(image for image in bundle.images if image.reference != bundle.plugins.image)


def find_missing(bundle: manifest.Manifest, place: layout.Installation) -> list[manifest.File]:
    """Return the files of the plugins that the install folder lacks, or has otherwise."""
    if bundle.plugins is None:
        return []
    return [file for file in bundle.plugins.files if not _is_there(place.plugins / file.path, file)]


def _is_there(path: Path, file: manifest.File) -> bool:
    try:
        return path.stat().st_size == file.size and digest.hash_file(path) == file.sha256
    except OSError:
        return False


def lay_down(bundle: manifest.Manifest, place: layout.Installation, engine: Engine) -> int:
    """Copy what is missing and return how many files that was.

    Raises CommandFailed when the engine or the disk fails, BundleDamaged when the image holds something else.
    """
    missing = {file.path: file for file in find_missing(bundle, place)}
    number = len(missing)
    if not missing:
        return 0
    assert bundle.plugins is not None
    for path, content in _contents(bundle, set(missing), engine):
        file = missing.pop(path)
        if digest.hash_bytes(content) != file.sha256:
            raise errors.BundleDamaged(f"{path} in {bundle.plugins.image} is not what was built", _REMEDY)
        target = place.plugins / path
        files.folder(target.parent)
        files.write(target, content)
    if missing:
        raise errors.BundleDamaged(f"{bundle.plugins.image} does not hold {min(missing)}", _REMEDY)
    return number


def read_bundle(path: Path) -> manifest.PluginBundle:
    """Return what a file of plugins (`python -m build plugin`) says of itself, each of its files compared with that.

    Raises BundleDamaged.
    """
    try:
        with tarfile.open(path) as archive:
            described = manifest.loads_plugin_bundle(_member(archive, layout.MANIFEST))
            for file in described.plugins.files:
                if digest.hash_bytes(_member(archive, file.path)) != file.sha256:
                    raise errors.BundleDamaged(f"{file.path} in {path} is not what was built", "copy the file again")
    except (OSError, tarfile.TarError, KeyError) as error:
        raise errors.BundleDamaged(
            f"{path} is not a whole file of plugins: {error}",
            "copy it again; `python -m build plugin` makes one on the connected machine",
        ) from error
    return described


def add_bundle(path: Path, place: layout.Installation) -> manifest.PluginBundle:
    """Put what a file of plugins brings into the install folder; return what that is. Raises BundleDamaged."""
    described = read_bundle(path)
    with tarfile.open(path) as archive:
        for file in described.plugins.files:
            target = place.plugins / file.path
            if not _is_there(target, file):
                files.folder(target.parent)
                files.write(target, _member(archive, file.path))
    return described


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    """Return the content of a file. Raises KeyError when it is not there."""
    member = archive.getmember(name)
    content = archive.extractfile(member) if member.size <= LARGEST_FILE else None
    if content is None:
        raise KeyError(f"{name} is not a file")
    return content.read()


def _contents(bundle: manifest.Manifest, wanted: Collection[str], engine: Engine) -> Iterator[tuple[str, bytes]]:
    """Give the wanted files of the image, by their path below `layout.PLUGINS_INSIDE`."""
    assert bundle.plugins is not None
    image = next(each for each in bundle.images if each.reference == bundle.plugins.image)
    stored = inventory.find_stored(image, engine.images())
    if stored is None:
        raise errors.CommandFailed(f"{engine.name} does not have {image.reference}", "run the same command again")
    folder = layout.PLUGINS_INSIDE.removeprefix("/")
    with _carrier(stored.id, engine):
        command = [engine.name, "cp", f"{CARRIER}:{layout.PLUGINS_INSIDE}", "-"]
        with engine.runner.started(command, text=False) as child:
            assert child.stdout is not None
            stream: Any = child.stdout
            with tarfile.open(fileobj=stream, mode="r|") as archive:
                for member in archive:
                    path = member.name.removeprefix("./").removeprefix(f"{folder}/")
                    content = archive.extractfile(member) if path in wanted and member.size <= LARGEST_FILE else None
                    if content is not None:
                        yield path, content.read()


@contextlib.contextmanager
def _carrier(identity: str, engine: Engine) -> Iterator[None]:
    """Have a container of the image, not started; one that a killed run has left is removed first."""
    remove = ["rm", "--force", CARRIER]
    engine.run(remove, timeout=ENGINE_SECONDS, check=False)
    engine.run(["create", "--name", CARRIER, "--network", "none", identity], timeout=ENGINE_SECONDS)
    try:
        yield
    finally:
        engine.run(remove, timeout=ENGINE_SECONDS, check=False)
