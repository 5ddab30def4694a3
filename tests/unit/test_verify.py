from __future__ import annotations

import dataclasses
import io
import tarfile
from pathlib import Path

import pytest

from installer.bundle import manifest, verify
from installer.core import digest, errors, layout
from installer.core.console import Console
from tests.unit.test_manifest import EXAMPLE

QUIET = Console(silent=True)


def staged(folder: Path) -> manifest.Manifest:
    """Lay a payload of two files and its manifest into `folder`."""
    files = []
    for name, text in (("docker/a", "one"), ("wheels/b.whl", "two")):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        files.append(
            manifest.File(path=name, size=len(text), sha256=digest.hash_bytes(text.encode()), executable=False)
        )
    bundle = dataclasses.replace(EXAMPLE, files=tuple(files))
    (folder / layout.MANIFEST).write_bytes(manifest.dumps(bundle))
    return bundle


def test_an_untouched_payload_verifies(tmp_path: Path) -> None:
    bundle = staged(tmp_path)
    assert verify.check_embedded(tmp_path) == bundle


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    staged(tmp_path)
    (tmp_path / "docker/a").write_text("One")
    (tmp_path / "wheels/b.whl").unlink()
    (tmp_path / "wheels/c.whl").write_text("extra")
    with pytest.raises(errors.BundleDamaged) as caught:
        verify.check_embedded(tmp_path)
    for fault in ("docker/a is changed", "wheels/b.whl is missing", "wheels/c.whl is extra"):
        assert fault in caught.value.message


def archived(path: Path, data: bytes, chunk_bytes: int = 10) -> manifest.Archive:
    path.write_bytes(data)
    return manifest.Archive(
        name=path.name,
        size=len(data),
        sha256=digest.hash_file(path),
        chunk_bytes=chunk_bytes,
        chunks=tuple(digest.hash_chunks(path, chunk_bytes)),
        layers={},
        compression="none",
    )


@pytest.mark.parametrize("size", [0, 1, 9, 10, 11, 100, 105])
def test_an_untouched_archive_verifies(tmp_path: Path, size: int) -> None:
    path = tmp_path / "images.tar"
    verify.check_file(path, archived(path, bytes(range(size))), QUIET)


@pytest.mark.parametrize("position", [0, 9, 10, 57, 104])
def test_a_flipped_byte_is_found_and_its_place_named(tmp_path: Path, position: int) -> None:
    path = tmp_path / "images.tar"
    expected = archived(path, bytes(105))
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    start = position // 10 * 10
    with pytest.raises(errors.BundleDamaged, match=f"bytes {start} to {min(start + 10, 105)} "):
        verify.check_file(path, expected, QUIET)


def test_a_truncated_a_longer_and_a_missing_archive_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "images.tar"
    expected = archived(path, bytes(100))
    for size, word in ((99, "truncated"), (101, "too long")):
        path.write_bytes(bytes(size))
        with pytest.raises(errors.BundleDamaged, match=word):
            verify.check_file(path, expected, QUIET)
    path.unlink()
    with pytest.raises(errors.BundleDamaged, match="cannot be read"):
        verify.check_file(path, expected, QUIET)


LAYER = b"the files of a layer" * 100
CONFIG = b'{"rootfs": {}}'
IMAGE = manifest.Image(
    reference="docker.io/library/one:1",
    id=digest.hash_bytes(CONFIG),
    digest="",
    size=len(LAYER),
    layers=(digest.hash_bytes(LAYER),),
    archive=0,
    index=0,
)
MEMBERS = {
    f"{IMAGE.layers[0]}.tar": LAYER,
    f"{IMAGE.id}.json": CONFIG,
    layout.ARCHIVE_INDEX: manifest.archive_index([IMAGE]),
}


def tarred(path: Path, members: dict[str, bytes]) -> manifest.Archive:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return archived(path, path.read_bytes(), 1000)


def test_the_index_of_an_untouched_archive_verifies(tmp_path: Path) -> None:
    path = tmp_path / "images.tar"
    verify.check_index(path, tarred(path, MEMBERS), [IMAGE])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({f"{IMAGE.id}.json": CONFIG.replace(b"{}", b"[]")}, f"{IMAGE.id}.json is not what was built"),
        ({layout.ARCHIVE_INDEX: b"[]"}, "manifest.json is not what was built"),
        ({"another.tar": b""}, "'another.tar' does not belong into it"),
    ],
)
def test_a_change_outside_the_layers_is_found(tmp_path: Path, change: dict[str, bytes], told: str) -> None:
    path = tmp_path / "images.tar"
    with pytest.raises(errors.BundleDamaged) as caught:
        verify.check_index(path, tarred(path, MEMBERS | change), [IMAGE])
    assert told in caught.value.message


@pytest.mark.parametrize("name", MEMBERS)
def test_a_missing_member_is_found(tmp_path: Path, name: str) -> None:
    path = tmp_path / "images.tar"
    expected = tarred(path, {each: content for each, content in MEMBERS.items() if each != name})
    with pytest.raises(errors.BundleDamaged) as caught:
        verify.check_index(path, expected, [IMAGE])
    assert f"{name} is missing" in caught.value.message


def test_a_link_in_place_of_a_layer_is_found(tmp_path: Path) -> None:
    path = tmp_path / "images.tar"
    with tarfile.open(path, "w") as tar:
        for name in MEMBERS:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/shadow"
            tar.addfile(info)
    with pytest.raises(errors.BundleDamaged):
        verify.check_index(path, archived(path, path.read_bytes(), 1000), [IMAGE])


@pytest.mark.parametrize("position", range(0, 5 * 512, 61))
def test_no_bit_of_a_header_can_be_flipped(tmp_path: Path, position: int) -> None:
    """Where the flip is in a layer's content, podman finds it; everywhere else we do."""
    path = tmp_path / "images.tar"
    expected = tarred(path, MEMBERS)
    data = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        inside = any(
            member.offset_data <= position < member.offset_data + member.size
            for member in tar
            if member.name.endswith(".tar")
        )
    data[position] ^= 1
    path.write_bytes(data)
    if inside:
        verify.check_index(path, expected, [IMAGE])
    else:
        with pytest.raises(errors.BundleDamaged):
            verify.check_index(path, expected, [IMAGE])
