from __future__ import annotations

import json
from typing import Any

import pytest

from installer.bundle import manifest
from installer.core import errors

SHA = "0" * 64

EXAMPLE = manifest.Manifest(
    format=manifest.FORMAT,
    installer="0.1.0",
    dify="1.11.3",
    source="a folder",
    commit="tree:" + SHA,
    architecture="amd64",
    newest_image="2026-01-01T00:00:00Z",
    variables={"VECTOR_STORE": "weaviate"},
    files=(manifest.File(path="docker/.env.example", size=3, sha256=SHA, executable=False),),
    images=(manifest.Image(reference="docker.io/a/b:1", id=SHA, digest="", size=7, layers=(SHA,), archive=0, index=0),),
    archives=(
        manifest.Archive(
            name="dify-images.tar",
            size=9,
            sha256=SHA,
            chunk_bytes=8,
            chunks=(SHA, SHA),
            layers={SHA: 7},
            compression="none",
        ),
    ),
    store=manifest.BigFile(name="dify-images.squashfs", size=9, sha256=SHA, chunk_bytes=8, chunks=(SHA, SHA)),
    base="",
    plugins=manifest.Plugins(
        image="localhost/dify-installer-plugins:1",
        packages=(
            manifest.Plugin(
                identity="a/b:1.0.0",
                signer="owner",
                file=manifest.File(path="packages/a-b_1.0.0.difypkg", size=3, sha256=SHA, executable=False),
            ),
        ),
        others=(manifest.File(path="wheels/c.whl", size=3, sha256=SHA, executable=False),),
    ),
)


def test_what_is_written_is_read() -> None:
    assert manifest.loads(manifest.dumps(EXAMPLE)) == EXAMPLE


def test_the_bytes_are_canonical() -> None:
    data = manifest.dumps(EXAMPLE)
    assert data == manifest.dumps(manifest.loads(data))
    assert list(json.loads(data)) == sorted(json.loads(data))


def changed(path: list[str | int], value: object) -> bytes:
    top: Any = json.loads(manifest.dumps(EXAMPLE))
    place = top
    for step in path[:-1]:
        place = place[step]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return json.dumps(top).encode()


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (["dify"], None, "dify is missing"),
        (["extra"], 1, "extra is unknown"),
        (["images", 0, "id"], "abc", r"images\[0\].id is not a valid SHA-256"),
        (["images", 0, "size"], -1, r"images\[0\].size"),
        (["images", 0, "size"], True, r"images\[0\].size"),
        (["files", 0, "path"], "../etc/passwd", r"files\[0\].path"),
        (["files", 0, "path"], "/etc/passwd", r"files\[0\].path"),
        (["archives", 0, "chunks"], [SHA], r"archives\[0\].chunks do not cover"),
        (["archives", 0, "layers"], {"x": 1}, r"archives\[0\].layers is not a valid SHA-256"),
        (["archives", 0, "name"], "../x", r"archives\[0\].name"),
        (["architecture"], "s390x", "architecture is unknown"),
        (["variables"], {"A": 1}, "variables.A"),
        (["format"], 99, "format 99"),
    ],
)
def test_a_fault_is_named_with_its_place(path: list[str | int], value: object, named: str) -> None:
    with pytest.raises(errors.BundleDamaged, match=named):
        manifest.loads(changed(path, value))


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"{", b"\xff"])
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(errors.BundleDamaged):
        manifest.loads(data)
