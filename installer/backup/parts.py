"""The parts of a backup, each with the name that says where it belongs: settings, databases, folders of files."""

from __future__ import annotations

import io
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from installer.backup import data, file, vectors
from installer.backup.database import Snapshot
from installer.engine.base import Engine

# `settings` is a tar; `database/NAME` is SQL; `files/FOLDER` is the tar of that folder below `volumes/`.
SETTINGS, DATABASE, FILES = "settings", "database/", "files/"
# Of a database's files on the disk, so much is in its dump at most, compressed (measured with Dify's tables: 0.1).
DUMP_SHARE = 0.25

Advance = Callable[[int], object]


def add_settings(writer: file.Writer, contents: Mapping[str, bytes]) -> None:
    """Add files by their names below the install folder, as in docker/.env."""
    made = io.BytesIO()
    with tarfile.open(mode="w", fileobj=made) as archive:
        for name, content in contents.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o600
            archive.addfile(entry, io.BytesIO(content))
    writer.add(SETTINGS, [made.getvalue()], lambda _: None)
    writer.count({"files": len(contents)})


def read_settings(packed: bytes) -> dict[str, bytes]:
    """Return what `add_settings` has added."""
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        return {entry.name: (archive.extractfile(entry) or io.BytesIO()).read() for entry in archive if entry.isfile()}


def add_database(writer: file.Writer, snapshot: Snapshot, advance: Advance) -> None:
    """Add the dump of a snapshot, and its rows. Raises CommandFailed."""
    with snapshot.dump() as pieces:
        writer.add(f"{DATABASE}{snapshot.database.name}", pieces, advance)
    writer.count(snapshot.rows)


def add_folder(writer: file.Writer, name: str, source: Path, engine: Engine, advance: Advance) -> None:
    """Add a folder that belongs to `volumes/name`, and how many files it has. Raises CommandFailed."""
    with tempfile.NamedTemporaryFile("rb") as index:
        with data.packed(source, engine, Path(index.name)) as stream:
            writer.add(f"{FILES}{name}", file.in_pieces(stream), advance)
        # What is counted is what was read: people go on writing.
        files = sum(not line.rstrip(b"\n").endswith(b"/") for line in index)
    writer.count({name: files})


def add_vectors(writer: file.Writer, counted: Mapping[str, int] | None) -> None:
    """Add what the vector store holds by classes, if that is known: it has no bytes of its own."""
    if counted is not None:
        writer.add(vectors.PART, (), lambda _: None)
        writer.count(counted)


def of_files(name: str) -> str | None:
    """Return the folder below `volumes/` that a part belongs to, or None for another part."""
    folder = name.removeprefix(FILES)
    return folder if folder != name and folder and ".." not in Path(folder).parts and folder[0] != "/" else None
