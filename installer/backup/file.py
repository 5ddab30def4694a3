"""The file of a backup: a tar of pieces, compressed by zstd, that standard tools open.

    zstd -d < FILE | tar -x            gives backup.json, PART/000001, PART/000002, …, parts.json
    cat database/dify/* | psql …       puts the pieces of a part together again

One that is encrypted is opened before: `age -d -i KEY FILE | zstd -d | tar -x`.

`backup.json` comes first and tells what the file is. A part is the output of one program, cut into pieces, since a
tar wants to know the size of what is still being written. `parts.json` comes last and has the bytes and the SHA-256
of each part: a file without it was cut short.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import itertools
import json
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import zstandard

from installer.backup import encryption, split
from installer.core import errors, files
from installer.core.console import Console

FORMAT = 1
KIND = "dify-backup"
HEAD, PARTS = "backup.json", "parts.json"
# What is held in memory at a time.
PIECE_BYTES = 8 * 1024 * 1024
# zstd's own default: 0.3 of the size of text at some hundred MB/s a core.
LEVEL = 3
# A head or a list of parts that is larger is no such file.
LARGEST_JSON = 64 * 1024 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """What a backup is of."""

    dify: str
    installer: str
    made: str  # RFC 3339, in UTC
    host: str
    folder: str  # of the installation
    url: str
    vector_store: str
    database: str
    left_out: tuple[str, ...]  # what is not in it, in words
    store_version: str = ""  # of the vector store, as its image's tag says
    database_at: str = ""  # where the rows are, in words, if the database is not ours: they are not in it
    ours: bool = True  # of an installation of ours; else its settings are another's, and are carried over by key


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A part of a backup; `counts` says how many there are of what it holds, as in {"public.apps": 12}."""

    name: str
    bytes: int
    sha256: str
    counts: Mapping[str, int]


def in_pieces(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield what a stream gives, to its end."""
    return iter(lambda: stream.read(PIECE_BYTES), b"")


class Writer:
    """Adds parts to a backup; `written` are those that it has."""

    def __init__(self, archive: tarfile.TarFile) -> None:
        self._archive = archive
        self.written: list[Part] = []

    def add(self, name: str, pieces: Iterable[bytes], advance: Callable[[int], object]) -> None:
        """Add a part, whose pieces fit into memory; `advance` is told of the bytes. Raises CommandFailed (disk)."""
        hashed, size = hashlib.sha256(), 0
        for number, piece in enumerate(filter(None, pieces), 1):
            self.member(f"{name}/{number:06}", piece)
            hashed.update(piece)
            size += len(piece)
            advance(len(piece))
        self.written.append(Part(name=name, bytes=size, sha256=hashed.hexdigest(), counts={}))

    def count(self, counts: Mapping[str, int]) -> None:
        """Say how many there are of what the part holds that was added last: known once it has been read."""
        self.written[-1] = dataclasses.replace(self.written[-1], counts=dict(counts))

    def member(self, name: str, content: bytes) -> None:
        """Add a member of the tar; the same content gives the same bytes."""
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode = len(content), 0o600
        self._archive.addfile(entry, io.BytesIO(content))


@contextlib.contextmanager
def writing(path: Path, head: Head, largest: int | None = None, recipients: Sequence[str] = ()) -> Iterator[Writer]:
    """Write a backup to `path`, 0600, which it becomes when the block ends well. Raises CommandFailed (disk).

    With `largest`, it becomes numbered files of less than so many bytes. With `recipients`, public keys, it is
    encrypted for them. An error of the block says that there is no such file then.
    """
    opened = split.writing(path, largest) if largest else files.replacing(path, mode=0o600)
    try:
        with opened as target, streaming(target, head, recipients) as writer:
            yield writer
    except errors.InstallerError as error:
        if str(path) not in error.message:
            error.message = f"{path} was not written: {error.message}"
        raise


@contextlib.contextmanager
def streaming(target: IO[bytes], head: Head, recipients: Sequence[str] = ()) -> Iterator[Writer]:
    """Write a backup into a stream; one that ends too soon lacks its list of parts, by which a reader knows it."""
    compressor = zstandard.ZstdCompressor(level=LEVEL, threads=os.cpu_count() or 1, write_checksum=True)
    sealed = encryption.encrypting(target, recipients) if recipients else contextlib.nullcontext(target)
    with (
        sealed as opened,
        compressor.stream_writer(opened, closefd=False) as packed,
        tarfile.open(mode="w|", fileobj=packed, format=tarfile.PAX_FORMAT) as archive,
    ):
        writer = Writer(archive)
        writer.member(HEAD, _json({"format": FORMAT, "kind": KIND, **dataclasses.asdict(head)}))
        yield writer
        writer.member(PARTS, _json({"parts": [dataclasses.asdict(part) for part in writer.written]}))


def _json(fields: Mapping[str, Any]) -> bytes:
    return (json.dumps(fields, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


class Reader:
    """Gives what a backup holds, in its order; each byte is proved by the time that the last part has been read."""

    def __init__(self, path: Path, archive: tarfile.TarFile) -> None:
        self._path = path
        self._members = ((entry, archive) for entry in archive)
        self._read: dict[str, tuple[int, str]] = {}
        self.head = self._head()
        self.parts: tuple[Part, ...] = ()
        self._ended = False

    def __iter__(self) -> Iterator[tuple[str, Iterator[bytes]]]:
        """Give each part's name and its pieces; pieces that nobody takes are read all the same."""
        for name, group in itertools.groupby(self._members, key=lambda member: member[0].name.rpartition("/")[0]):
            if name:
                pieces = self._pieces(name, group)
                yield name, pieces
                for _ in pieces:
                    pass
            else:
                self.parts, self._ended = self._listed(*next(group)), True
        if not self._ended:
            raise self.damaged("its end is missing")
        # An empty part has no pieces.
        if {part.name: (part.bytes, part.sha256) for part in self.parts if part.bytes} != self._read:
            raise self.damaged("a part is not what was written")

    def _pieces(self, name: str, group: Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]) -> Iterator[bytes]:
        hashed, size = hashlib.sha256(), 0
        for entry, archive in group:
            piece = _content(entry, archive)
            hashed.update(piece)
            size += len(piece)
            yield piece
        self._read[name] = (size, hashed.hexdigest())

    def _head(self) -> Head:
        entry, archive = next(self._members, (None, None))
        fields = self._fields(entry, archive, HEAD)
        if fields.get("kind") != KIND:
            raise self.damaged("it is no backup of ours")
        if not isinstance(fields.get("format"), int) or fields["format"] > FORMAT:
            raise errors.BackupRefused(
                f"{self._path} is of a later version of dify-installer", "use that version to read it"
            )
        try:
            known = [field.name for field in dataclasses.fields(Head)]
            values = {name: fields[name] for name in known if name in fields}
            return Head(**{**values, "left_out": tuple(values["left_out"])})
        except (KeyError, TypeError) as error:
            raise self.damaged("its first entry is incomplete") from error

    def _listed(self, entry: tarfile.TarInfo, archive: tarfile.TarFile) -> tuple[Part, ...]:
        try:
            return tuple(Part(**each) for each in self._fields(entry, archive, PARTS)["parts"])
        except (KeyError, TypeError) as error:
            raise self.damaged("its list of parts makes no sense") from error

    def _fields(self, entry: tarfile.TarInfo | None, archive: tarfile.TarFile | None, name: str) -> dict[str, Any]:
        if entry is None or archive is None or entry.name != name or entry.size > LARGEST_JSON:
            raise self.damaged(f"it has no {name} where that belongs")
        try:
            fields = json.loads(_content(entry, archive))
        except ValueError as error:
            raise self.damaged(f"its {name} makes no sense") from error
        return fields if isinstance(fields, dict) else {}

    def damaged(self, why: str) -> errors.BackupRefused:
        """Make the error that says what is wrong with the file."""
        return errors.BackupRefused(
            f"{self._path} is not as it was written: {why}", "take another copy of it, or an older backup"
        )


def _content(entry: tarfile.TarInfo, archive: tarfile.TarFile) -> bytes:
    file = archive.extractfile(entry)
    return file.read() if file is not None else b""


def _untold(_: int) -> None: ...


@contextlib.contextmanager
def reading(path: Path, advance: Callable[[int], object] = _untold, identity: Path | None = None) -> Iterator[Reader]:
    """Read a backup from its begin to its end; `advance` is told of the file's bytes.

    `path` is its file, or of numbered ones any, or their common name; `identity` is the file of the private key for an
    encrypted one. Raises BackupRefused when it is damaged or something else, and names which of the numbered ones that
    is; UsageError for a key that cannot be used.
    """
    found = split.find(path)
    try:
        with _opened(path, found, advance, identity) as reader:
            yield reader
    except errors.BackupRefused as error:
        if damaged := split.find_damaged(path):
            names = ", ".join(each.name for each in damaged)
            raise errors.BackupRefused(
                f"of the {len(found)} files of the backup these are not as they were written: {names}",
                "take another copy of them, or an older backup",
            ) from error
        if len(found) == 1 and split.common(path) != path:
            error.remedy += f"; if it is one of several: their list, {split.listing(split.common(path))}, is missing"
        raise


def read_head(path: Path) -> Head:
    """Return what a backup says of itself, which is in its first file alone. Raises BackupRefused.

    One that is encrypted tells nothing.
    """
    with _opened(path, (split.first(path),), _untold, None) as reader:
        return reader.head


@contextlib.contextmanager
def _opened(
    path: Path, found: Sequence[Path], advance: Callable[[int], object], identity: Path | None
) -> Iterator[Reader]:
    try:
        with (
            split.joined(found, advance) as file,
            _clear(file, found[0], identity) as clear,
            zstandard.ZstdDecompressor().stream_reader(clear) as packed,
            tarfile.open(mode="r|", fileobj=packed) as archive,
        ):
            yield Reader(path, archive)
    except OSError as error:
        raise errors.BackupRefused(f"{path} cannot be read: {error.strerror}", "check the path and the disk") from error
    except (tarfile.TarError, zstandard.ZstdError, EOFError) as error:
        raise errors.BackupRefused(
            f"{path} is no backup, or is not as it was written: {error}", "take another copy of it, or an older backup"
        ) from error


def _clear(file: IO[bytes], first: Path, identity: Path | None) -> contextlib.AbstractContextManager[IO[bytes]]:
    """Give a backup's bytes as they were before they were encrypted, if they were."""
    if encryption.is_encrypted(first):
        return encryption.decrypting(file, first, identity)
    return contextlib.nullcontext(file)


def verify(path: Path, advance: Callable[[int], object], identity: Path | None = None) -> tuple[Head, tuple[Part, ...]]:
    """Read all of a backup and return what it holds; `advance` is told of the file's bytes. Raises as `reading`."""
    with reading(path, advance, identity) as reader:
        for _, pieces in reader:
            for _ in pieces:
                pass
        return reader.head, reader.parts


def prove(path: Path, console: Console, identity: Path | None = None) -> tuple[Head, tuple[Part, ...]]:
    """Read all of a backup, tell how far that is, and return what it holds. Raises as `reading` does."""
    with console.progress(f"read {path.name}", split.measure(split.find(path))) as bar:
        return verify(path, bar.update, identity)
