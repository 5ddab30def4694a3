"""Bundles of any size, made of the sample's: filler images are added, which the installer loads like all others.

Their layers are cut from the ballast, an endless row of its files in which small and large ones are mixed alike, so
that bundles differ in size and number alone. A byte costs one write: a layer goes from the ballast into the archive.
"""

from __future__ import annotations

import dataclasses
import heapq
import io
import itertools
import json
import operator
import random
import shutil
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from build import archive
from installer.bundle import manifest
from installer.core import digest, files, layout
from installer.core.console import Console
from tests.target.bundle import Bundle

# Layers of a filler image: so many have the large ones of the sample with ballast.
LAYERS = 4
# Small files stay together when the ballast is mixed, so that a layer has folders with several files in them.
TOGETHER = 64
LARGE_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class _File:
    """A file, or a part of one, inside a tar of the ballast."""

    tar: Path
    name: str
    offset: int
    size: int


class Ballast:
    """An endless row of files, cut into layers; a file that a layer has no room for goes on in the next one."""

    def __init__(self, tars: Iterable[Path]) -> None:
        found = [file for tar in tars for file in _files(tar)]
        large = _shuffled([file for file in found if file.size >= LARGE_BYTES], together=1)
        small = _shuffled([file for file in found if file.size < LARGE_BYTES], together=TOGETHER)
        spread = heapq.merge(_spread(large), _spread(small), key=operator.itemgetter(0))
        self._row = itertools.cycle([file for _, file in spread])
        self._rest = next(self._row)

    def layer(self, label: str, size: int) -> io.RawIOBase:
        """Return a layer of this size; its label, a small file at its beginning, makes it unlike any other."""
        return _Stream(self._blocks(label, size))

    def _blocks(self, label: str, size: int) -> Iterator[bytes]:
        left = size - 2 * archive.BLOCK
        yield archive.header("label", len(label)) + label.encode().ljust(archive.BLOCK, b"\0")
        left -= 2 * archive.BLOCK
        while left > 0:
            for block in _member(self._next(left)):
                yield block
                left -= len(block)
        yield bytes(2 * archive.BLOCK)

    def _next(self, most: int) -> _File:
        """Return the next file of the row, of at most so many bytes; the rest of it comes next."""
        file = self._rest
        if file.size <= most:
            self._rest = next(self._row)
            return file
        self._rest = dataclasses.replace(file, offset=file.offset + most, size=file.size - most)
        return dataclasses.replace(file, size=most)


class _Stream(io.RawIOBase):
    """A stream of blocks that are made while it is read."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        # An empty block would be the end.
        self._blocks = filter(None, blocks)
        self._block = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._block = self._block or memoryview(next(self._blocks, b""))
        length = min(len(buffer), len(self._block))
        buffer[:length] = self._block[:length]
        self._block = self._block[length:]
        return length


def _files(tar: Path) -> list[_File]:
    """Return a tar's files, in a folder of its name: several services have the same ones."""
    with tarfile.open(tar) as members:
        return [_File(tar, f"{tar.stem}/{member.name}", member.offset_data, member.size) for member in members]


def _shuffled(found: list[_File], together: int) -> list[_File]:
    runs = [found[start : start + together] for start in range(0, len(found), together)]
    random.Random(0).shuffle(runs)
    return [file for run in runs for file in run]


def _spread(found: list[_File]) -> Iterator[tuple[float, _File]]:
    """Give each file with its place between 0 and 1, by the bytes before it."""
    before, total = 0, sum(file.size for file in found)
    for file in found:
        yield before / total, file
        before += file.size


def _member(file: _File) -> Iterator[bytes]:
    yield archive.header(file.name, file.size)
    with file.tar.open("rb", buffering=0) as tar:
        tar.seek(file.offset)
        for start in range(0, file.size, digest.BLOCK_BYTES):
            yield tar.read(min(digest.BLOCK_BYTES, file.size - start))
    yield bytes(-file.size % archive.BLOCK)


def add(sample: Bundle, count: int, size: int, ballast: Ballast, folder: Path) -> Bundle:
    """Return the sample's bundle with `count` filler images, its archive of `size` bytes, below `folder`.

    It has no executable yet: that is frozen with its payload.
    """
    bundle = dataclasses.replace(sample, folder=folder / "bundle", payload=folder / "payload")
    files.folder(bundle.folder)
    shutil.copytree(sample.payload, bundle.payload)
    before = manifest.loads((sample.folder / layout.MANIFEST).read_bytes())
    saved = _save(sample, before, count, size, ballast, bundle.archive)
    described = archive.describe(saved, Console())
    after = dataclasses.replace(before, images=saved.images, archives=(described,))
    files.write(bundle.payload / layout.MANIFEST, manifest.dumps(after))
    return bundle


def _save(
    sample: Bundle, before: manifest.Manifest, count: int, size: int, ballast: Ballast, path: Path
) -> archive.Saved:
    """Write the archive: what the sample's has, the filler images, and a manifest.json of all."""
    (own,) = before.archives
    with path.open("wb") as file:
        writer = archive.Writer(path.parent, file, frozenset(), layers=dict(own.layers))
        with sample.archive.open("rb") as source:
            shutil.copyfileobj(source, file)
        file.seek(_end(sample.archive))
        file.truncate()
        each = (size - file.tell()) // (count * LAYERS)
        images = [*before.images]
        for number in range(count):
            images.append(_add_image(writer, f"filler-{number + 1}", each, len(images), ballast))
        archive.finish(writer, images)
    return archive.Saved(path, tuple(images), writer.layers)


def _end(path: Path) -> int:
    """Return where the images of an archive end: manifest.json is the last member."""
    with tarfile.open(path) as members:
        return members.getmember("manifest.json").offset


def _add_image(writer: archive.Writer, name: str, layer_bytes: int, index: int, ballast: Ballast) -> manifest.Image:
    labels = [f"{name} {number}" for number in range(LAYERS)]
    layers = tuple(archive.add_layer(writer, ballast.layer(label, layer_bytes)) for label in labels)
    return manifest.Image(
        reference=f"docker.io/difysample/{name}:0.1.0",
        id=archive.add_config(writer, _config(layers)),
        digest="",
        size=sum(writer.layers[layer] for layer in layers),
        layers=layers,
        archive=0,
        index=index,
    )


def _config(layers: Iterable[str]) -> bytes:
    top = {
        "architecture": "amd64",
        "os": "linux",
        "created": "2026-01-01T00:00:00Z",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer}" for layer in layers]},
        "history": [{"created": "2026-01-01T00:00:00Z", "created_by": "filler"} for _ in layers],
    }
    return json.dumps(top, sort_keys=True).encode()
