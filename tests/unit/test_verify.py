from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from installer import digest, errors, layout, manifest, verify
from installer.console import Console
from tests.unit.test_manifest import EXAMPLE

QUIET = Console(silent=True)


def staged(folder: Path) -> manifest.Manifest:
    """Lay a payload of two files and its manifest into `folder`."""
    files = []
    for name, text in (("docker/a", "one"), ("wheels/b.whl", "two")):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        files.append(manifest.File(path=name, size=len(text), sha256=digest.of_bytes(text.encode()), executable=False))
    bundle = dataclasses.replace(EXAMPLE, files=tuple(files))
    (folder / layout.MANIFEST).write_bytes(manifest.dumps(bundle))
    return bundle


def test_an_untouched_payload_verifies(tmp_path: Path) -> None:
    bundle = staged(tmp_path)
    assert verify.embedded(tmp_path) == bundle


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    staged(tmp_path)
    (tmp_path / "docker/a").write_text("One")
    (tmp_path / "wheels/b.whl").unlink()
    (tmp_path / "wheels/c.whl").write_text("extra")
    with pytest.raises(errors.BundleDamaged) as caught:
        verify.embedded(tmp_path)
    for fault in ("docker/a is changed", "wheels/b.whl is missing", "wheels/c.whl is extra"):
        assert fault in caught.value.message


def archived(path: Path, data: bytes, chunk_bytes: int = 10) -> manifest.Archive:
    path.write_bytes(data)
    return manifest.Archive(
        name=path.name,
        size=len(data),
        sha256=digest.of_file(path),
        chunk_bytes=chunk_bytes,
        chunks=tuple(digest.of_chunks(path, chunk_bytes)),
        layers={},
    )


@pytest.mark.parametrize("size", [0, 1, 9, 10, 11, 100, 105])
def test_an_untouched_archive_verifies(tmp_path: Path, size: int) -> None:
    path = tmp_path / "images.tar"
    verify.archive(path, archived(path, bytes(range(size))), QUIET)


@pytest.mark.parametrize("position", [0, 9, 10, 57, 104])
def test_a_flipped_byte_is_found_and_its_place_named(tmp_path: Path, position: int) -> None:
    path = tmp_path / "images.tar"
    expected = archived(path, bytes(105))
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    start = position // 10 * 10
    with pytest.raises(errors.BundleDamaged, match=f"bytes {start} to {min(start + 10, 105)} "):
        verify.archive(path, expected, QUIET)


def test_a_truncated_a_longer_and_a_missing_archive_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "images.tar"
    expected = archived(path, bytes(100))
    for size, word in ((99, "truncated"), (101, "too long")):
        path.write_bytes(bytes(size))
        with pytest.raises(errors.BundleDamaged, match=word):
            verify.archive(path, expected, QUIET)
    path.unlink()
    with pytest.raises(errors.BundleDamaged, match="cannot be read"):
        verify.archive(path, expected, QUIET)
