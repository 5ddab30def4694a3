"""What a backup of another Dify brings: which can be taken, which settings go on, what a psql from before can read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from installer.backup import arrival, file, parts, postgresql
from installer.backup.arrival import Arrival
from installer.bundle import verify
from installer.core import errors, layout
from installer.release import dify_store, envfile
from tests.unit.test_backup import HEAD

EXAMPLE = "SECRET_KEY=sk-public\nDB_PASSWORD=public\nLOG_LEVEL=INFO\nEXPOSE_NGINX_PORT=80\nVECTOR_STORE=weaviate\n"
THEIRS = f"{EXAMPLE}GONE_NOW=x\nDB_HOST=db\n"
COMPOSE = {"services": {"weaviate": {"image": "docker.io/store/weaviate:1.27.0", "profiles": ["weaviate"]}}}
NEWER = ("ours", "store_version")
VARIABLES = {"VECTOR_STORE": "weaviate", "DB_TYPE": "postgresql"}


@pytest.fixture(autouse=True)
def bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundle that brings Dify 1.11.3."""

    class Bundle:
        dify = "1.11.3"

    monkeypatch.setattr(verify, "check_embedded", lambda _: Bundle)


def made(env: str, head: Mapping[str, object] | None = None, *, without_vectors: bool = False) -> Arrival:
    values = {"dify": "1.9.2", "store_version": "1.27.0", "ours": False, **(head or {})}
    contents = {arrival.ENV: env.encode(), arrival.EXAMPLE: THEIRS.encode()}
    return Arrival(
        path=Path("export.tar.zst"),
        head=replace(HEAD, **values),  # type: ignore[arg-type]
        contents=contents,
        without_vectors=without_vectors,
    )


def test_choices_and_the_secret_key_go_on_and_nothing_that_is_this_bundles() -> None:
    changes = {"SECRET_KEY": "sk-own", "DB_PASSWORD": "theirs", "LOG_LEVEL": "DEBUG", "EXPOSE_NGINX_PORT": "8080"}
    changes |= {"VECTOR_STORE": "qdrant", "GONE_NOW": "y", "CONSOLE_WEB_URL": "http://old", "OWN": "1"}
    env = envfile.edit(THEIRS, changes)
    found = arrival.carried(made(env), EXAMPLE)
    assert found.values == {"SECRET_KEY": "sk-own", "LOG_LEVEL": "DEBUG", "OWN": "1"}
    assert found.gone == ("GONE_NOW",)
    words = " ".join(arrival.in_words(found, made(env)))
    assert "LOG_LEVEL" in words
    assert "GONE_NOW" in words
    assert "sk-own" not in words


def test_a_public_secret_key_does_not_go_on_and_that_is_said() -> None:
    found = arrival.carried(made(THEIRS), EXAMPLE)
    assert "SECRET_KEY" not in found.values
    assert any("public default" in each for each in arrival.in_words(found, made(THEIRS)))


def test_without_their_example_ours_tells_what_was_chosen() -> None:
    found = arrival.carried(replace(made(THEIRS), contents={arrival.ENV: b"SECRET_KEY=k\nLOG_LEVEL=INFO\n"}), EXAMPLE)
    assert found.values == {"SECRET_KEY": "k"}


@pytest.mark.parametrize("version", ["1.9.0", "1.9.2", "1.10.1", "1.11.3"])
def test_older_ones_from_1_9_on_are_taken(version: str) -> None:
    arrival.require_suitable(made(THEIRS, {"dify": version}), VARIABLES, COMPOSE)


@pytest.mark.parametrize(
    ("head", "words"),
    [
        ({"dify": "1.12.0"}, "do not go back"),
        ({"dify": "1.8.1"}, "from 1.9"),
        ({"dify": "main"}, "from 1.9"),
        ({"vector_store": "qdrant"}, "VECTOR_STORE=qdrant"),
        ({"database": "mysql"}, "DB=mysql"),
        ({"store_version": "1.19.0"}, "dify#27291"),
        ({"store_version": "1.30.1"}, "older weaviate 1.27.0"),
    ],
)
def test_what_cannot_be_taken_is_said_with_the_way_out(head: dict[str, object], words: str) -> None:
    with pytest.raises(errors.BackupRefused) as refused:
        arrival.require_suitable(made(THEIRS, head), VARIABLES, COMPOSE)
    assert words in f"{refused.value.message} {refused.value.remedy}"


@pytest.mark.parametrize("head", [{"vector_store": "qdrant"}, {"store_version": "1.19.0"}])
def test_without_the_vectors_it_is_taken(head: dict[str, object]) -> None:
    arrival.require_suitable(made(THEIRS, head, without_vectors=True), VARIABLES, COMPOSE)
    with pytest.raises(errors.BackupRefused):
        arrival.require_suitable(made(THEIRS, {"database": "mysql"}, without_vectors=True), VARIABLES, COMPOSE)


def test_settings_are_read_from_the_first_part_alone(tmp_path: Path) -> None:
    with file.writing(tmp_path / "b", HEAD) as writer:
        parts.add_settings(writer, {arrival.ENV: b"A=1\n"})
        writer.add("database/dify", [b"x" * 1000], lambda _: None)
    read = arrival.read(tmp_path / "b")
    assert (read.head, read.env) == (HEAD, "A=1\n")
    assert "A=1" not in repr(read)


def test_a_file_from_before_the_newer_fields_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = file._json
    monkeypatch.setattr(file, "_json", lambda all_of: whole({k: v for k, v in all_of.items() if k not in NEWER}))
    with file.writing(tmp_path / "b", HEAD):
        pass
    assert arrival.read(tmp_path / "b").head.ours


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_a_dump_is_read_by_a_psql_from_before(size: int) -> None:
    text = (
        b"--\n\\restrict Abc123\nCOPY t FROM stdin;\n\\\\restrict x\nrestrict y\n\\.\nLAST \\restrict z\n"
        b"\\unrestrict Abc123\nend"
    )
    pieces = [text[place : place + size] for place in range(0, len(text), size)]
    wanted = text.replace(b"\n\\restrict Abc123\n", b"\n").replace(b"\\unrestrict Abc123\n", b"")
    assert b"".join(postgresql.readable(pieces)) == wanted


@pytest.mark.parametrize(
    ("name", "folder"), [("files/app/storage", "app/storage"), ("files", None), ("files/../x", None), ("other", None)]
)
def test_a_part_tells_its_folder_and_none_outside(name: str, folder: str | None) -> None:
    assert parts.of_files(name) == folder


def test_the_version_of_a_store_is_its_images_tag() -> None:
    assert dify_store.find_version(COMPOSE, VARIABLES) == "1.27.0"
    assert dify_store.version_of("host:5000/qdrant:v1.8.3") == "1.8.3"
    assert dify_store.version_of("host:5000/qdrant") == ""


def test_the_oldest_version_of_a_store_has_a_remedy() -> None:
    assert dify_store.OLDEST.keys() == dify_store.REMEDIES.keys()
    assert layout.ENV_EXAMPLE in arrival.EXAMPLE
