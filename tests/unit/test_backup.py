"""The file of a backup: what is written is read, and nothing else is ever taken for it."""

from __future__ import annotations

import io
import json
import os
import resource
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from installer.backup import database, exchange, file
from installer.backup.postgresql import Postgresql
from installer.core import errors, layout
from installer.engine.podman import Podman
from tests.unit.test_boot import program

HEAD = file.Head(
    dify="1.11.3",
    installer="0.1.0",
    made="2026-01-31T18:00:00Z",
    host="server",
    folder="/opt/dify",
    url="http://10.0.0.5",
    vector_store="weaviate",
    database="postgresql",
    left_out=("images",),
)


def told(_: int) -> None: ...


def write(path: Path, **parts: bytes) -> Path:
    path.unlink(missing_ok=True)
    with file.writing(path, HEAD) as writer:
        for name, content in parts.items():
            writer.add(name, file.in_pieces(io.BytesIO(content)), told)
            writer.count({"things": len(content)})
    return path


def read(path: Path) -> dict[str, bytes]:
    with file.reading(path) as reader:
        return {name: b"".join(pieces) for name, pieces in reader}


def test_what_was_written_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file, "PIECE_BYTES", 1000)
    parts = {"settings": b"a=1", "database": bytes(range(256)) * 50, "empty": b"", "files": b"x"}
    path = write(tmp_path / "b", **parts)
    assert read(path) == {name: content for name, content in parts.items() if content}
    head, found = file.verify(path, told)
    assert head == HEAD
    assert {part.name: (part.bytes, part.counts) for part in found} == {
        name: (len(content), {"things": len(content)}) for name, content in parts.items()
    }
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_failure_while_it_is_written_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), file.writing(tmp_path / "b", HEAD) as writer:
        writer.add("settings", [b"a"], told)
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_an_error_says_that_there_is_no_file(tmp_path: Path) -> None:
    path = tmp_path / "b"
    with pytest.raises(errors.CommandFailed) as failed, file.writing(path, HEAD):
        raise errors.CommandFailed("the database has stopped")
    assert failed.value.message == f"{path} was not written: the database has stopped"
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_is_told_once_and_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "b"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(errors.CommandFailed) as failed, file.writing(path, HEAD) as writer:
            writer.add("files/app", [os.urandom(1_000_000)], told)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert failed.value.message == f"{path} cannot be written: File too large"
    assert list(tmp_path.iterdir()) == []


DATABASE = Postgresql(container="dify_db_1", user="postgres", name="dify")


def podman(folder: Path, state: str, started: float, asked: str) -> Podman:
    """A podman with a database in this state since then, which answers a question so."""
    entry = {"Names": ["dify_db_1"], "State": state, "ExitCode": 137, "StartedAt": int(started)}
    (folder / "list").write_text(json.dumps([entry]))
    script = f'case "$1" in ps) exec cat "{folder}/list";; exec) {asked};; esac'
    return Podman(program(folder, "podman", script))


@pytest.mark.parametrize(
    ("state", "started", "asked", "told"),
    [
        ("running", 0, "echo 1", "pg_dump: no such table"),
        ("exited", 0, "exit 125", "dify_db_1, the database, has stopped in the middle (exited, status 137)"),
        ("running", 1e12, "echo 1", "has stopped in the middle"),
        ("running", 0, "echo 'the database system is in recovery mode' >&2; exit 2", "has stopped in the middle"),
    ],
    ids=["goes on", "has ended", "began anew", "recovers"],
)
def test_a_database_that_has_stopped_is_told_as_that(
    tmp_path: Path, state: str, started: float, asked: str, told: str
) -> None:
    engine = podman(tmp_path, state, started, asked)
    with pytest.raises(errors.CommandFailed) as failed, database.telling_of_its_end(DATABASE, engine):
        raise errors.CommandFailed("pg_dump: no such table")
    assert told in failed.value.message


def test_the_note_of_a_restore_goes_when_the_disk_has_all(tmp_path: Path) -> None:
    place = layout.Installation(tmp_path / "dify")
    place.volumes.mkdir(parents=True)
    place.restoring.write_text("{}")
    # The real one would show nothing; this one tells whether the note was there still.
    runner = program(tmp_path, "sync", f'test -e "{place.restoring}" && echo there >> "{tmp_path}/log"')
    exchange.end(place, HEAD, Podman(runner))
    assert not place.restoring.exists()
    assert exchange.last_restored(place) == exchange.identity(HEAD)
    assert (tmp_path / "log").read_text() == "there\n"


@given(place=st.integers(0, 10**6), bit=st.integers(0, 7), cut=st.booleans())
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
def test_a_changed_bit_or_a_cut_is_never_taken(tmp_path: Path, place: int, bit: int, cut: bool) -> None:
    path = write(tmp_path / "b", settings=b"a=1", database=bytes(range(256)) * 20, files=b"x" * 3000)
    good, content = path.read_bytes(), read(path)
    place %= len(good)
    changed = bytes([good[place] ^ (1 << bit)])
    path.write_bytes(good[:place] if cut else good[:place] + changed + good[place + 1 :])
    try:
        found = read(path)
    except errors.BackupRefused:
        return
    # A bit that says nothing of the content, as one that asks for the checksum.
    assert found == content


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x28\xb5\x2f\xfd", b"x" * 5000])
def test_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "b").write_bytes(content)
    with pytest.raises(errors.BackupRefused):
        file.verify(tmp_path / "b", told)
    with pytest.raises(errors.BackupRefused, match="there is no file"):
        file.verify(tmp_path / "missing", told)


def test_a_later_format_is_told_as_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file, "FORMAT", 2)
    path = write(tmp_path / "b", settings=b"a")
    monkeypatch.setattr(file, "FORMAT", 1)
    with pytest.raises(errors.BackupRefused, match="later version"):
        file.verify(path, told)


@pytest.mark.parametrize("note", ["", "{}", '{"kept": "../etc"}', '{"kept": "volumes.before-1/../x"}', "[1]"])
def test_a_note_that_names_no_folder_of_ours_is_not_followed(tmp_path: Path, note: str) -> None:
    place = layout.Installation(tmp_path)
    place.restoring.write_text(note)
    with pytest.raises(errors.CommandFailed, match="is damaged"):
        exchange._kept(place)
