"""Reads layers out of the archives by offset, proves them, and packs them on the way; nothing is unpacked to a disk."""

from __future__ import annotations

import hashlib
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import zstandard

from installer.bundle import manifest, verify
from installer.core import digest, errors, files
from installer.images.load import Part
from installer.registry.forms import Form

# docs/decisions/022: a higher level costs three times the time for a tenth of the bytes.
GZIP_LEVEL = 1
ZSTD_LEVEL = 3
# zlib's number for a gzip header, which it writes without a time.
GZIP_WINDOW = 16 + zlib.MAX_WBITS

Advance = Callable[[int], object]


@dataclass(frozen=True, slots=True)
class Stored:
    """A layer in an archive: where its bytes are, how they are stored, and its size without compression."""

    archive: Path
    offset: int
    length: int
    compression: manifest.Compression
    size: int


@dataclass(frozen=True, slots=True)
class Contents:
    """What the archives hold: layers by diff ID, configurations by image ID."""

    layers: dict[str, Stored]
    configs: dict[str, bytes]


def find(parts: Sequence[Part], bundle: manifest.Manifest) -> Contents:
    """Verify the archives but for the content of their layers, and return what is in them. Raises BundleDamaged."""
    contents = Contents({}, {})
    for part in parts:
        verify.check_index(part.path, part.archive, [image for image in bundle.images if image.archive == part.number])
        with tarfile.open(part.path, "r:") as archive:
            for member in archive:
                name, _, kind = member.name.rpartition(".")
                # Of a layer that is elsewhere there is an empty member.
                if kind == "tar" and name in part.archive.layers:
                    contents.layers[name] = Stored(
                        part.path,
                        member.offset_data,
                        member.size,
                        part.archive.compression,
                        part.archive.layers[name],
                    )
                elif kind == "json" and (text := archive.extractfile(member)) is not None:
                    contents.configs[name] = text.read()
    return contents


def packed(layer: str, stored: Stored, form: Form, advance: Advance) -> Iterator[bytes]:
    """Give a layer's bytes as they are to be sent; the same layer gives the same bytes.

    Raises BundleDamaged before the last of them when the layer is not the one with this diff ID: who waits for the end
    before he commits what he has been given commits nothing that is damaged. `advance` is told of the layer's bytes.
    """
    packer: Any = None
    if form == "gzip":
        packer = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, GZIP_WINDOW)
    elif form == "zstd":
        packer = zstandard.ZstdCompressor(level=ZSTD_LEVEL).compressobj()
    for block in _proved(layer, stored):
        advance(len(block))
        if data := packer.compress(block) if packer else block:
            yield data
    if packer:
        yield packer.flush()


def _proved(layer: str, stored: Stored) -> Iterator[bytes]:
    """Give a layer's own bytes. Raises BundleDamaged at their end when they are not those of the diff ID."""
    found = hashlib.sha256()
    size = 0
    try:
        with files.reading(stored.archive) as file:
            file.seek(stored.offset)
            for block in _plain(_within(file, stored.length), stored.compression):
                found.update(block)
                size += len(block)
                if size > stored.size:
                    break
                yield block
    except (OSError, zstandard.ZstdError) as error:
        raise _damaged(layer, stored, str(error)) from error
    if size != stored.size or found.hexdigest() != layer:
        raise _damaged(layer, stored, "its bytes are not those that were built")


def _within(file: IO[bytes], left: int) -> Iterator[bytes]:
    while left > 0 and (block := file.read(min(digest.BLOCK_BYTES, left))):
        left -= len(block)
        yield block


def _plain(blocks: Iterable[bytes], compression: manifest.Compression) -> Iterator[bytes]:
    if compression == "none":
        yield from blocks
        return
    # What a block of an archive holds is a few times its size: memory does not grow with the layer.
    unpack = zstandard.ZstdDecompressor().decompressobj()
    for block in blocks:
        for start in range(0, len(block), digest.BLOCK_BYTES // 16):
            if data := unpack.decompress(block[start : start + digest.BLOCK_BYTES // 16]):
                yield data


def _damaged(layer: str, stored: Stored, how: str) -> errors.BundleDamaged:
    return errors.BundleDamaged(
        f"{stored.archive} is changed: the layer {layer[:12]} at byte {stored.offset}: {how}; it was not sent",
        verify.COPY_AGAIN,
    )
