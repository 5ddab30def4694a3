"""Saves images into one archive or several, the same bytes for the same images whatever engine saved them.

The format is the one of `docker save` that `docker load`, `podman load` and `podman pull
docker-archive:` all read: a tar with each layer as `<SHA-256>.tar`, each configuration as
`<image ID>.json`, and `manifest.json`. A layer that several images share is there once (docs/decisions/001).

An image is never cut: with a limit, the next file begins with the next image. A layer that an earlier
file has, or the base of a differential bundle, is an empty member in its place: podman and docker skip
a layer that they have before they read it (podman 4.3 and 5.4, docker 26), and refuse the image if they do not.

Layers are stored as they are, or compressed with zstd, which podman reads, and docker from 23 on.

A layer is hashed while it streams from the engine into the archive, and its header, which
needs that hash, is written afterwards: nothing is copied twice.

podman saves all images at once that are there by then: a layer that ten of them share leaves its store once (35 s
became 3 for the sample's ten images, podman 4.3, one run each). docker orders what it saves together by name, so
that each image is saved alone: the same images give the same bytes. Images that the last build's archive has come from
there, and not from podman.
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import json
import posixpath
import shutil
import tarfile
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import zstandard

from build.failure import BuildError
from build.images import Pulled
from installer.bundle import manifest
from installer.core import digest, files, layout
from installer.core.console import Bar, Console, size
from installer.core.runner import Runner

BLOCK = tarfile.BLOCKSIZE
GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
# With several threads the bytes do not depend on their number (docs/decisions/006).
ZSTD_LEVEL = 3
# Configurations and the engine's own manifest are small; anything larger in their place is no archive.
LARGEST_JSON = 16 * 1024 * 1024
# What the end of an archive may take: its manifest.json and two empty blocks.
LARGEST_END = 256 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Cut:
    """How the images are spread: at most `largest` bytes a file (None: one file), without the layers of `base`."""

    largest: int | None = None
    base: frozenset[str] = frozenset()
    compression: manifest.Compression = "none"


@dataclass(slots=True)
class Writer:
    """An archive while it grows: `layers` are the sizes of those that it has, `elsewhere` those that others have.

    `absent` are layers that have an empty member here, since they are elsewhere. `configs` are the configurations by
    their SHA-256. They come after the layers of all images, so that it does not matter which were saved together.
    """

    folder: Path
    file: IO[bytes]
    elsewhere: AbstractSet[str]
    compression: manifest.Compression = "none"
    layers: dict[str, int] = field(default_factory=dict)
    absent: set[str] = field(default_factory=set)
    configs: dict[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stored:
    """A layer's bytes in an archive: which file, from where on, how many, and how many it has uncompressed."""

    path: Path
    offset: int
    length: int
    plain: int


@dataclass(frozen=True, slots=True)
class Earlier:
    """What proved archives of the last build hold: images by ID, configurations by the same, layers by diff ID."""

    images: Mapping[str, manifest.Image] = field(default_factory=dict)
    configs: Mapping[str, bytes] = field(default_factory=dict)
    layers: Mapping[str, Stored] = field(default_factory=dict)


NOTHING = Earlier()


@dataclass(frozen=True, slots=True)
class Saved:
    """An archive that was written, the images in it, in the order of its manifest.json, and its layers' sizes."""

    path: Path
    images: tuple[manifest.Image, ...]
    layers: dict[str, int]
    compression: manifest.Compression = "none"


def earlier(bundle: manifest.Manifest, folder: Path) -> Earlier:
    """Return what the archives of a bundle in `folder`, which have been proved, hold. Raises OSError, TarError."""
    configs: dict[str, bytes] = {}
    layers: dict[str, Stored] = {}
    for described in bundle.archives:
        path = folder / described.name
        with tarfile.open(path, mode="r:") as archive:
            for member in archive:
                name, _, kind = member.name.rpartition(".")
                content = archive.extractfile(member)
                if kind == "json" and content is not None:
                    configs[name] = content.read()
                elif name in described.layers:
                    layers[name] = Stored(path, member.offset_data, member.size, described.layers[name])
    return Earlier({image.id: image for image in bundle.images}, configs, layers)


def save(
    pulled: Sequence[Future[Pulled]],
    folder: Path,
    cut: Cut,
    program: str,
    runner: Runner,
    console: Console,
    before: Earlier = NOTHING,
) -> list[Saved]:
    """Write the archives into `folder`, each image once it is pulled, and return what each archive holds.

    `before` is what need not be saved again. Archives of an earlier build are removed. Raises BuildError when an image
    cannot be pulled, the engine fails, the disk is full, or an image alone is larger than a file may be.
    """
    parts: list[Saved] = []
    elsewhere = set(cut.base)
    waiting = list(pulled)
    with console.progress("save images", len(pulled), unit="images") as bar:
        while waiting:
            path = folder / part_name(len(parts) if cut.largest else None)
            with files.replacing(path) as file:
                writer = Writer(folder, file, elsewhere, cut.compression)
                images = _fill(writer, waiting, len(parts), cut.largest, program, runner, bar, before)
            parts.append(Saved(path, tuple(images), writer.layers, cut.compression))
            elsewhere |= set(writer.layers)
            waiting = waiting[len(images) :]
    remove(folder, {part.path for part in parts})
    return parts


def remove(folder: Path, kept: Collection[Path] = ()) -> None:
    """Remove the archives of an earlier build from a folder."""
    for stale in set(folder.glob(part_name(None).replace(".tar", "*.tar"))) - set(kept):
        stale.unlink()


def part_name(number: int | None) -> str:
    """Return the name of the only archive, or of a numbered one, counted from 0: dify-images.1.tar is the first."""
    return layout.IMAGES if number is None else layout.IMAGES.replace(".tar", f".{number + 1}.tar")


def _fill(
    writer: Writer,
    waiting: list[Future[Pulled]],
    number: int,
    largest: int | None,
    program: str,
    runner: Runner,
    bar: Bar,
    before: Earlier,
) -> list[manifest.Image]:
    """Write images into an archive until one more would make it too large; finish it and return them."""
    images: list[manifest.Image] = []
    together = program == "podman" and largest is None
    while len(images) < len(waiting):
        group = [waiting[len(images)].result()]
        _require_space(writer.folder, group[0].size)
        if together and _has(before, group[0].id, writer):
            images.append(_taken(group[0], before, writer, number, len(images)))
            bar.update(1)
            continue
        if together:
            group = _ready(waiting[len(images) :], before, writer)
        state = writer.file.tell(), dict(writer.layers), set(writer.absent), dict(writer.configs)
        saved = _save(group, writer, number, len(images), program, runner)
        length = writer.file.tell() + sum(map(_member_length, writer.configs.values())) + LARGEST_END
        if largest is not None and length > largest:
            if not images:
                alone = size(length)
                raise BuildError(
                    f"{group[0].reference} alone is larger than {size(largest)}: {alone}",
                    "an image is never cut: allow larger files with --split",
                )
            position, writer.layers, writer.absent, writer.configs = state
            writer.file.seek(position)
            writer.file.truncate()
            break
        images += saved
        bar.update(len(saved))
    finish(writer, images)
    return images


def _ready(waiting: Sequence[Future[Pulled]], before: Earlier, writer: Writer) -> list[Pulled]:
    """Wait for the first image, and return it with those after it that have been pulled by then and are to be saved.

    One that failed is waited for in its turn. One whose reference is a digest has no name in what an engine saves.
    """
    group = [waiting[0].result()]
    for job in waiting[1:]:
        if "@" in group[-1].reference or not job.done() or job.exception() or "@" in job.result().reference:
            break
        if _has(before, job.result().id, writer):
            break
        group.append(job.result())
    return group


def _has(before: Earlier, identity: str, writer: Writer) -> bool:
    """Tell whether an image can be had from the archives of the last build, together with what this one has."""
    image = before.images.get(identity)
    if image is None or identity not in before.configs:
        return False
    return set(image.layers) <= before.layers.keys() | writer.layers.keys() | writer.elsewhere


def _taken(image: Pulled, before: Earlier, writer: Writer, number: int, index: int) -> manifest.Image:
    """Append an image from the archives of the last build, as podman would have: layers in the order of their IDs."""
    digests = before.images[image.id].layers
    for layer in dict.fromkeys(digests):
        if layer in writer.layers:
            continue
        if layer in writer.elsewhere:
            _note_absent(writer, layer)
            continue
        stored = before.layers[layer]
        writer.file.write(header(f"{layer}.tar", stored.length))
        _copy(stored, writer.file)
        writer.file.write(bytes(-stored.length % BLOCK))
        writer.layers[layer] = stored.plain
    add_config(writer, before.configs[image.id])
    return _described(image, image.id, digests, writer, number, index)


def finish(writer: Writer, images: Sequence[manifest.Image]) -> None:
    """End an archive with the configurations and its manifest.json, which names these images in their order."""
    for identity, config in writer.configs.items():
        _add(writer.file, f"{identity}.json", config)
    _add(writer.file, layout.ARCHIVE_INDEX, manifest.archive_index(images))
    writer.file.write(bytes(2 * BLOCK))


def describe(saved: Saved, console: Console) -> manifest.Archive:
    """Return what an archive is, for the manifest."""
    return manifest.Archive(
        **dataclasses.asdict(hashed(saved.path, console)), layers=saved.layers, compression=saved.compression
    )


def hashed(path: Path, console: Console, chunk_bytes: int = digest.CHUNK_BYTES) -> manifest.BigFile:
    """Return a file's size and hashes: the whole, for people, and the chunks, for the installer."""
    total = path.stat().st_size
    with console.progress(f"hash {path.name}", total) as bar, ThreadPoolExecutor(1) as beside:
        whole = beside.submit(digest.hash_file, path)
        chunks = tuple(digest.hash_chunks(path, chunk_bytes, bar.update))
        sha256 = whole.result()
    return manifest.BigFile(name=path.name, size=total, sha256=sha256, chunk_bytes=chunk_bytes, chunks=chunks)


def _require_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise BuildError(
            f"{folder} has {size(free)} free, the image archive needs about {size(needed)} for its next image",
            "make room, or write elsewhere with --output",
        )


def _save(
    group: Sequence[Pulled], writer: Writer, number: int, index: int, program: str, runner: Runner
) -> list[manifest.Image]:
    """Append images that the engine saves together; the first is to be number `index` in the archive `number`."""
    layers: dict[str, str] = {}
    texts: dict[str, bytes] = {}
    links: dict[str, str] = {}
    references = [image.reference for image in group]
    with _saving(references, program, runner) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            name = posixpath.normpath(member.name)
            content = archive.extractfile(member) if member.isfile() else None
            if member.issym() or member.islnk():
                base = posixpath.dirname(name) if member.issym() else ""
                links[name] = posixpath.normpath(posixpath.join(base, member.linkname))
            elif content is not None and _is_layer(content, member, texts, name):
                layers[name] = add_layer(writer, _Rejoined(texts.pop(name), content))
    saved: list[manifest.Image] = []
    for image in group:
        entry = _entry(image.reference, texts, len(group) == 1)
        identity, digests = _matched(image, entry, writer, layers, texts, links)
        saved.append(_described(image, identity, digests, writer, number, index + len(saved)))
    return saved


def _copy(stored: Stored, target: IO[bytes]) -> None:
    left = stored.length
    with stored.path.open("rb") as source:
        source.seek(stored.offset)
        while left and (block := source.read(min(left, digest.BLOCK_BYTES))):
            target.write(block)
            left -= len(block)
    if left:
        raise BuildError(f"{stored.path} has become shorter while it was read", "build again")


def _described(
    image: Pulled, identity: str, digests: tuple[str, ...], writer: Writer, number: int, index: int
) -> manifest.Image:
    return manifest.Image(
        reference=image.reference,
        id=identity,
        digest=image.digest,
        size=sum(writer.layers.get(layer, 0) for layer in digests),
        layers=digests,
        archive=number,
        index=index,
    )


def _entry(reference: str, texts: dict[str, bytes], alone: bool) -> Any:
    """Return what the engine's own manifest.json says of an image. Raises BuildError where it does not name it."""
    try:
        entries = json.loads(texts["manifest.json"])
        (entry,) = entries if alone else [each for each in entries if reference in (each["RepoTags"] or ())]
    except (KeyError, ValueError, TypeError) as error:
        raise BuildError(
            f"{reference} was saved in a form that we do not know: {error!r}", "build with another engine: --engine"
        ) from error
    return entry


def _is_layer(content: IO[bytes], member: tarfile.TarInfo, texts: dict[str, bytes], name: str) -> bool:
    """Read the first block of a member into `texts`; what begins as JSON is read whole and is no layer."""
    head = content.read(BLOCK)
    texts[name] = head
    if head[:1] in (b"{", b"[") and not head.startswith(b"ustar", 257) and member.size <= LARGEST_JSON:
        texts[name] = head + content.read()
        return False
    return member.size >= BLOCK


class _Rejoined(io.RawIOBase):
    """A stream whose beginning has been read already."""

    def __init__(self, head: bytes, rest: IO[bytes]) -> None:
        self._head, self._rest = head, rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._head[: len(buffer)] if self._head else self._rest.read(len(buffer))
        self._head = self._head[len(buffer) :]
        buffer[: len(data)] = data
        return len(data)


def add_layer(writer: Writer, raw: io.RawIOBase) -> str:
    """Append a layer unless the archive has it or it is elsewhere; return the SHA-256 of what it is uncompressed."""
    stream = io.BufferedReader(raw, digest.BLOCK_BYTES)
    magic = stream.peek(4)[:4]
    if magic == ZSTD_MAGIC:
        raise BuildError("the engine saves layers compressed with zstd", "build with --engine podman")
    plain: Any = gzip.GzipFile(fileobj=stream) if magic.startswith(GZIP_MAGIC) else stream
    start = writer.file.tell()
    writer.file.seek(start + BLOCK)
    total = hashlib.sha256()
    length = 0
    with _stored(writer) as target:
        while block := plain.read(digest.BLOCK_BYTES):
            target.write(block)
            total.update(block)
            length += len(block)
    stored = writer.file.tell() - start - BLOCK
    name = total.hexdigest()
    if name in writer.layers or name in writer.elsewhere:
        writer.file.seek(start)
        writer.file.truncate()
        if name in writer.elsewhere:
            _note_absent(writer, name)
        return name
    writer.file.write(bytes(-stored % BLOCK))
    end = writer.file.tell()
    writer.file.seek(start)
    writer.file.write(header(f"{name}.tar", stored))
    writer.file.seek(end)
    writer.layers[name] = length
    return name


def _note_absent(writer: Writer, name: str) -> None:
    if name not in writer.absent:
        _add(writer.file, f"{name}.tar", b"")
        writer.absent.add(name)


@contextmanager
def _stored(writer: Writer) -> Iterator[IO[bytes]]:
    """Give what a layer is written to: the archive's file, or a compressor before it."""
    if writer.compression == "none":
        yield writer.file
        return
    compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL, threads=-1)
    with compressor.stream_writer(writer.file, closefd=False) as stream:
        yield stream


def _matched(
    image: Pulled, entry: Any, writer: Writer, layers: dict[str, str], texts: dict[str, bytes], links: dict[str, str]
) -> tuple[str, tuple[str, ...]]:
    """Match what the engine saved with its own manifest, write the configuration; return the ID and the layers."""
    try:
        config = texts[posixpath.normpath(entry["Config"])]
        names = [posixpath.normpath(name) for name in entry["Layers"]]
        digests = tuple(layers[links.get(name, name)] for name in names)
        diff_ids = tuple(text.removeprefix("sha256:") for text in json.loads(config)["rootfs"]["diff_ids"])
    except (KeyError, ValueError, TypeError) as error:
        raise BuildError(f"{image.reference} was saved in a form that we do not know: {error!r}") from error
    if digests != diff_ids:
        raise BuildError(
            f"the layers that were saved of {image.reference} are not those of its configuration",
            "remove the image from the engine and pull it again: its store is damaged",
        )
    return add_config(writer, config), digests


def add_config(writer: Writer, config: bytes) -> str:
    """Note a configuration, which the archive's end will have; return its SHA-256, which is the image's ID."""
    identity = digest.hash_bytes(config)
    writer.configs.setdefault(identity, config)
    return identity


@contextmanager
def _saving(references: Sequence[str], program: str, runner: Runner) -> Iterator[IO[bytes]]:
    """Run the engine's `save` and give its output; raise BuildError when it fails."""
    form = ["--format", "docker-archive", "--multi-image-archive"] if program == "podman" else []
    command = [program, "save", *form, *references]
    with tempfile.TemporaryFile() as complaints, runner.started(command, stderr=complaints, text=False) as child:
        assert child.stdout is not None
        stream: Any = child.stdout
        try:
            yield stream
        except tarfile.TarError as error:
            raise _not_saved(references, complaints) from error
        # The end of the archive may come before the end of the stream.
        while stream.read(digest.BLOCK_BYTES):
            pass
        if child.wait() != 0:
            raise _not_saved(references, complaints)


def _not_saved(references: Sequence[str], complaints: IO[bytes]) -> BuildError:
    complaints.seek(0)
    words = complaints.read().decode(errors="replace").strip()
    return BuildError(
        f"{', '.join(references)} cannot be saved: {words}",
        "look at the engine's store and at the space in its temporary folder",
    )


def _add(file: IO[bytes], name: str, data: bytes) -> None:
    file.write(header(name, len(data)) + data + bytes(-len(data) % BLOCK))


def _member_length(data: bytes) -> int:
    return BLOCK + len(data) + -len(data) % BLOCK


def header(name: str, length: int) -> bytes:
    """Return a tar header without a time, an owner or anything else that differs between two builds."""
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = length, 0o444, 0
    return info.tobuf(tarfile.GNU_FORMAT)
