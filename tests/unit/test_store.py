"""Which images are mounted, and which stores stay."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from build import archive, bundle
from build import store as build_store
from build.failure import BuildError
from installer.bundle import manifest
from installer.core import errors, layout
from installer.core.console import Console
from installer.core.runner import Runner
from installer.engine.base import Name
from installer.engine.choose import ENGINES
from installer.engine.podman import Podman
from installer.images import image_store, inventory, mounted_store
from tests.unit.hosts import GOOD, changed
from tests.unit.test_boot import called, program
from tests.unit.test_manifest import EXAMPLE


@pytest.mark.parametrize(
    ("engine", "missing", "copied", "offered"),
    [
        ("podman", True, True, True),
        ("podman", True, False, False),
        ("podman", False, True, False),
        ("docker", True, True, False),
    ],
)
def test_the_store_is_for_a_podman_that_lacks_images(
    tmp_path: Path, engine: Name, missing: bool, copied: bool, offered: bool
) -> None:
    beside = tmp_path / layout.STORE
    if copied:
        beside.touch()
    lacking = EXAMPLE.images if missing else ()
    place = layout.Installation(tmp_path / "dify")
    found = image_store.find_offered(EXAMPLE, tmp_path, place, lacking, ENGINES[engine](Runner()))
    assert found == (beside if offered else None)


def test_the_installations_own_copy_serves_when_the_bundle_is_gone(tmp_path: Path) -> None:
    place = layout.Installation(tmp_path / "dify")
    assert EXAMPLE.store is not None
    own = image_store.store_of(place, EXAMPLE.store).file
    own.parent.mkdir(parents=True)
    own.touch()
    assert image_store.find_offered(EXAMPLE, tmp_path, place, EXAMPLE.images, Podman(Runner())) == own


def stored(place: layout.Installation, name: str, image: str) -> image_store.Store:
    made = image_store.Store(place.stores, name)
    (made.tree / "overlay-images").mkdir(parents=True)
    (made.tree / "overlay-images/images.json").write_text(json.dumps([{"id": image}]))
    made.file.touch()
    return made


@pytest.mark.parametrize(
    ("state", "started", "stays"),
    [
        ("running", 2000, False),
        ("exited", 500, False),
        ("created", -62135596800, False),
        ("running", 500, True),
        ("paused", 500, True),
    ],
    ids=["began since", "ended", "never began", "began before", "began before and is paused"],
)
def test_an_image_that_two_stores_have_is_needed_of_the_older_one_by_what_began_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, started: int, stays: bool
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(image_store, "CONFIG", tmp_path / "storage.conf")
    monkeypatch.setattr(image_store, "UNITS", tmp_path)
    image_store.CONFIG.write_text("")
    os.utime(image_store.CONFIG, (1000, 1000))
    place = layout.Installation(tmp_path / "dify")
    kept = manifest.BigFile(name="x", size=1, sha256="0" * 64, chunk_bytes=1, chunks=())
    current, older = stored(place, "0" * 12, "a"), stored(place, "1" * 12, "a")
    program(tmp_path, "systemctl")
    program(tmp_path, "systemd-escape", "echo unit.mount")
    listed = [{"Names": ["one"], "ImageID": "a", "State": state, "StartedAt": started}]
    (tmp_path / "listed").write_text(json.dumps(listed))
    engine = Podman(program(tmp_path, "podman", f"[ $1 != ps ] || cat {tmp_path}/listed"))
    assert image_store.retire(place, kept, engine) == ([current, older] if stays else [current])


def test_only_stores_that_no_container_or_image_needs_are_retired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(image_store, "CONFIG", tmp_path / "storage.conf")
    monkeypatch.setattr(image_store, "UNITS", tmp_path)
    place = layout.Installation(tmp_path / "dify")
    kept = manifest.BigFile(name="x", size=1, sha256="0" * 64, chunk_bytes=1, chunks=())
    current, used, unused = (
        stored(place, name, image) for name, image in (("0" * 12, "a"), ("1" * 12, "b"), ("2" * 12, "c"))
    )
    beneath = stored(place, "3" * 12, "d")
    (beneath.tree / "overlay-layers").mkdir()
    (beneath.tree / "overlay-layers/layers.json").write_text(json.dumps([{"id": "x", "diff-digest": "sha256:b"}]))
    program(tmp_path, "systemctl")
    program(tmp_path, "systemd-escape", "echo unit.mount")
    (tmp_path / "listed").write_text(
        json.dumps([{"Names": ["one"], "ImageID": "b", "State": "running", "StartedAt": 5}])
    )
    engine = Podman(program(tmp_path, "podman", f"[ $1 != ps ] && echo sha256:b || cat {tmp_path}/listed"))
    # An image that somebody has built or loaded may be made of layers that are in a store.
    assert image_store.retire(place, kept, engine) == [current, used, beneath]
    assert not unused.file.exists()
    assert not unused.tree.exists()
    assert used.file.exists()
    assert called(tmp_path) == [
        "ps --all --no-trunc --format json",
        "image ls --all --quiet --no-trunc --filter readonly=false",
        "image inspect --format {{range .RootFS.Layers}}{{.}} {{end}} sha256:b",
        f"--path --suffix=mount {unused.tree}",
        "disable --now unit.mount",
        "daemon-reload",
    ]


def test_where_the_policy_gives_no_label_the_store_is_mounted_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mounted_store, "UNITS", tmp_path)
    program(tmp_path, "systemd-escape", "echo unit.mount")
    runner = program(tmp_path, "systemctl", f'[ "$1" != start ] || ! grep -q context= {tmp_path}/unit.mount')
    made = stored(layout.Installation(tmp_path / "dify"), "0" * 12, "a")
    monkeypatch.setattr(Path, "is_mount", lambda _self: True)
    assert mounted_store._mount(made, changed(GOOD, labels=True), Podman(runner)) == "unit.mount"
    # systemd reads a new unit by itself, a changed one only when it is told to.
    assert called(tmp_path)[1:] == ["start unit.mount", "daemon-reload", "start unit.mount"]


def test_half_a_copy_of_a_killed_run_is_removed(tmp_path: Path) -> None:
    place = layout.Installation(tmp_path / "dify")
    place.stores.mkdir(parents=True)
    half = place.stores / f".{'0' * 12}.squashfs.x1y2"
    half.touch()
    image_store.clear(place)
    assert not place.stores.exists()
    image_store.clear(place)
    whole = stored(place, "0" * 12, "a")
    half.touch()
    image_store.clear(place)
    assert not half.exists()
    assert whole.file.exists()


def test_an_older_image_of_the_same_tag_loses_it_to_the_mounted_one(tmp_path: Path) -> None:
    (image,) = EXAMPLE.images
    listed = [
        {"Id": "1" * 64, "Names": [image.reference, "mine:1"]},
        {"Id": image.id, "Names": [image.reference], "ReadOnly": True},
        # That of the version before: the way back finds it by its name.
        {"Id": "2" * 64, "Names": [image.reference], "ReadOnly": True},
    ]
    (tmp_path / "listed").write_text(json.dumps(listed))
    engine = Podman(program(tmp_path, "podman", f"cat {tmp_path}/listed"))
    inventory.tag(EXAMPLE.images, engine)
    assert called(tmp_path)[1:] == [f"untag {'1' * 64} {image.reference}"]


@pytest.mark.parametrize(
    ("asked", "largest", "compression"),
    [("archive", 4096, "zstd"), ("both", 4096, "zstd"), ("both", None, "none"), ("store", None, "none")],
)
def test_what_was_asked_for_holds_the_images(
    monkeypatch: pytest.MonkeyPatch, asked: bundle.Images, largest: int | None, compression: manifest.Compression
) -> None:
    monkeypatch.setattr(build_store, "find_obstacle", lambda _differential: None)
    cut = archive.Cut(largest=largest, base=frozenset(), compression=compression)
    assert bundle._choose_images(asked, cut, "podman", Console(silent=True)) == asked


@pytest.mark.parametrize(
    ("program", "obstacle", "changed", "chosen"),
    [
        ("podman", None, {}, "store"),
        ("docker", None, {}, "archive"),
        ("podman", BuildError("no root", "build as root"), {}, "archive"),
        ("podman", None, {"largest": 4096}, "archive"),
        ("podman", None, {"compression": "zstd"}, "archive"),
        ("podman", None, {"base": frozenset(["1" * 64])}, "archive"),
    ],
)
def test_what_nobody_asked_for_is_a_store_where_it_serves(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    program: str,
    obstacle: BuildError | None,
    changed: dict[str, Any],
    chosen: str,
) -> None:
    monkeypatch.setattr(build_store, "find_obstacle", lambda _differential: obstacle)
    cut = archive.Cut(**{"largest": None, "base": frozenset(), "compression": "none", **changed})
    assert bundle._choose_images(None, cut, program, Console()) == chosen
    told = capsys.readouterr().err
    assert bool(told) is not bool(changed)
    assert "build as root" in told or obstacle is None


@pytest.mark.parametrize(("asked", "largest"), [("store", 4096), ("store", None), ("both", None)])
def test_a_store_that_cannot_be_made_is_refused(
    monkeypatch: pytest.MonkeyPatch, asked: bundle.Images, largest: int | None
) -> None:
    monkeypatch.setattr(build_store, "find_obstacle", lambda _differential: BuildError("no root"))
    cut = archive.Cut(largest=largest, base=frozenset(), compression="none")
    with pytest.raises(errors.InstallerError, match="no root|are for archives"):
        bundle._choose_images(asked, cut, "podman", Console(silent=True))
