"""Where a store is unpacked, what of it is taken up again, and how podman comes to read it."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest

from installer.core import digest, errors, layout, marker
from installer.core.console import Console
from installer.engine.podman import Podman
from installer.images import image_store, storage_conf, unpacked_store
from installer.images.image_store import Store
from tests.unit.hosts import GOOD
from tests.unit.test_boot import called, program
from tests.unit.test_manifest import EXAMPLE
from tests.unit.test_unpack import STORE

PODMAN = """\
case "$1" in
info) cat {folder}/info;;
images) cat {folder}/images;;
mount) echo {folder}/mounted;;
unshare) shift; exec "$@";;
esac
"""


@pytest.fixture
def place(tmp_path: Path) -> layout.Installation:
    made = layout.Installation(tmp_path / "dify")
    made.folder.mkdir()
    marker.write(made, marker.Inventory())
    return made


@pytest.fixture
def engine(tmp_path: Path) -> Podman:
    """A podman whose storage is in the same folder, and has the images of the bundle."""
    store = {"graphDriverName": "overlay", "graphRoot": f"{tmp_path}/graph", "runRoot": "/run/x", "configFile": "/no"}
    (tmp_path / "graph").mkdir()
    (tmp_path / "mounted/usr").mkdir(parents=True)
    (tmp_path / "info").write_text(json.dumps({"store": store}))
    (tmp_path / "images").write_text(json.dumps([{"Id": EXAMPLE.images[0].id, "Names": [EXAMPLE.images[0].reference]}]))
    return Podman(program(tmp_path, "podman", PODMAN.format(folder=tmp_path)))


def test_a_store_is_in_the_install_folder_where_podmans_storage_is_on_the_same_disk(
    place: layout.Installation, tmp_path: Path
) -> None:
    graph = tmp_path / "graph"
    assert unpacked_store._choose_folder(place, graph) == place.stores
    graph.mkdir()
    assert unpacked_store._choose_folder(place, graph) == place.stores
    assert marker.recorded(place).stores == ""


def test_elsewhere_it_is_in_podmans_storage_and_the_marker_tells(place: layout.Installation, tmp_path: Path) -> None:
    other = Path("/proc")
    assert other.stat().st_dev != tmp_path.stat().st_dev
    folder = unpacked_store._choose_folder(place, other)
    assert folder.parent == other
    assert marker.recorded(place).stores == str(folder)
    there = tmp_path / "there"
    (there / ("0" * 12)).mkdir(parents=True)
    marker.record_stores(place, there)
    assert image_store.list_stores(place) == [Store(there, "0" * 12)]
    assert EXAMPLE.store is not None
    assert image_store.store_of(place, EXAMPLE.store) == Store(there, "0" * 12)


def test_what_was_begun_in_this_boot_is_taken_up_and_nothing_else(
    place: layout.Installation, engine: Podman, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    boot = tmp_path / "boot"
    boot.write_text("first\n")
    monkeypatch.setattr(image_store, "BOOT_ID", boot)
    store = Store(place.stores, "0" * 12)
    unpacked_store._begin(store, 1, engine, GOOD)
    written = store.tree / "overlay"
    written.mkdir()
    unpacked_store._begin(store, 1, engine, GOOD)
    assert written.exists()
    assert not store.is_unpacked
    boot.write_text("second\n")
    unpacked_store._begin(store, 1, engine, GOOD)
    assert not written.exists()
    assert store.note.read_text() == "second"


def test_what_is_unpacked_serves_before_the_disk_has_it_and_not_after_a_power_failure(
    place: layout.Installation, engine: Podman, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store = whole(place)
    store.note.write_text(image_store.boot_id() + image_store.UNPACKED)
    image_store.require_none_lost(place)
    assert store.is_unpacked
    with pytest.raises(KeyboardInterrupt), unpacked_store.on_disk(place, engine, Console(silent=True)):
        raise KeyboardInterrupt
    assert store.state() == "unpacked"
    with pytest.raises(errors.NotHealthy), unpacked_store.on_disk(place, engine, Console(silent=True)):
        assert store.state() == "unpacked"
        raise errors.NotHealthy("the api does not answer")
    assert not store.note.exists()

    boot = tmp_path / "boot"
    boot.write_text("next\n")
    store.note.write_text(image_store.boot_id() + image_store.UNPACKED)
    monkeypatch.setattr(image_store, "BOOT_ID", boot)
    assert store.state() == "lost"
    assert not store.is_unpacked
    with pytest.raises(errors.CommandFailed, match="the host went down before its disk had all") as refused:
        image_store.require_none_lost(place)
    assert "run the installer again" in refused.value.remedy
    with unpacked_store.on_disk(place, engine, Console(silent=True)):
        pass
    assert store.state() == "lost"
    image_store.remove_lost(place, engine)
    assert not store.tree.exists()


def test_without_room_nothing_is_begun(place: layout.Installation, engine: Podman) -> None:
    store = Store(place.stores, "0" * 12)
    with pytest.raises(errors.CommandFailed, match="once it is unpacked, and .* are free"):
        unpacked_store._begin(store, 10**18, engine, GOOD)
    assert not store.tree.exists()


def whole(place: layout.Installation) -> Store:
    """Return a store that an earlier run has unpacked."""
    assert EXAMPLE.store is not None
    store = image_store.store_of(place, EXAMPLE.store)
    (store.tree / "overlay-images").mkdir(parents=True)
    (store.tree / "overlay-images/images.json").write_text(json.dumps([{"id": EXAMPLE.images[0].id}]))
    return store


@pytest.mark.parametrize("user", [0, 1000])
def test_the_podman_of_each_user_is_told_of_it_once_it_has_proved_itself(
    place: layout.Installation, engine: Podman, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: int
) -> None:
    store = whole(place)
    assert image_store.find_offered(EXAMPLE, tmp_path, place, EXAMPLE.images, engine) == store.tree
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setattr(marker, "recorded", lambda _place: marker.Inventory())
    monkeypatch.setattr(image_store, "CONFIG", tmp_path / "roots.conf")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    unpacked_store.bring(store.tree, EXAMPLE, place, engine, GOOD, Console(silent=True))
    configuration = image_store.config_path()
    assert configuration == (tmp_path / "config/containers/storage.conf" if user else tmp_path / "roots.conf")
    text = configuration.read_text()
    assert str(store.tree) in text
    # A user's runroot is another one in each kind of session.
    assert ("runroot" in text) == (user == 0)
    assert f"rm --force {image_store.PROOF}" in called(tmp_path)
    image_store.remove(store, engine)
    assert not configuration.exists()
    assert not store.tree.exists()


def test_a_store_that_does_not_prove_itself_goes_again(
    place: layout.Installation, engine: Podman, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_store, "config_path", lambda: tmp_path / "storage.conf")
    store = whole(place)
    (tmp_path / "images").write_text("[]")
    with pytest.raises(errors.CommandFailed, match="does not have"):
        unpacked_store.bring(store.tree, EXAMPLE, place, engine, GOOD, Console(silent=True))
    assert not store.tree.exists()
    assert not (tmp_path / "storage.conf").exists()


def test_damage_is_told_by_where_it_is(
    place: layout.Installation, engine: Podman, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_store, "config_path", lambda: tmp_path / "storage.conf")
    data = bytearray(STORE.read_bytes())
    chunks = tuple(digest.hash_bytes(bytes(data[start : start + 1000])) for start in range(0, len(data), 1000))
    assert EXAMPLE.store is not None
    described = dataclasses.replace(EXAMPLE.store, size=len(data), chunk_bytes=1000, chunks=chunks)
    bundle = dataclasses.replace(EXAMPLE, store=described)
    data[2500] ^= 1
    source = tmp_path / layout.STORE
    source.write_bytes(data)
    with pytest.raises(errors.BundleDamaged, match="changed: bytes 2000 to 3000"):
        unpacked_store.bring(source, bundle, place, engine, GOOD, Console(silent=True))
    assert image_store.list_stores(place) == []


def test_what_mounts_for_a_user_is_named_where_podman_has_found_it_by_itself() -> None:
    text = storage_conf.default("overlay", "/home/me/storage", None, "/usr/bin/fuse-overlayfs")
    assert 'mount_program = "/usr/bin/fuse-overlayfs"' in text
    assert storage_conf.remove(storage_conf.add(storage_conf.marked(text), Path("/s")), Path("/s")) is None
