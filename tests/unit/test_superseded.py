"""Which images are ours to remove, once no bundle wants them any more."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection
from pathlib import Path

import pytest

from installer.core import layout
from installer.engine.base import Stored
from installer.engine.podman import Podman
from installer.images import inventory, superseded
from installer.stack import state
from tests.unit.test_boot import called, program
from tests.unit.test_manifest import EXAMPLE
from tests.unit.test_stack import container


def stored(identity: str, names: Collection[str] = (), layers: tuple[str, ...] = ()) -> Stored:
    return Stored(id=identity, names=frozenset(names), layers=layers)


RECORD = {name: frozenset({"docker.io/library/nginx:latest"}) for name in ("old", "new")}


@pytest.mark.parametrize(
    ("found", "goes"),
    [
        (stored("old"), True),
        (stored("old", {"docker.io/library/nginx:latest"}), True),
        (stored("old", {"localhost/theirs:1"}), False),
        (stored("old", {"docker.io/library/nginx:latest", "localhost/theirs:1"}), False),
        (stored("new", {"docker.io/library/nginx:latest"}), False),
        (stored("theirs"), False),
    ],
)
def test_what_we_loaded_and_nobody_named_or_wants_goes(found: Stored, goes: bool) -> None:
    assert superseded.find_superseded(RECORD, {"new"}, [found]) == ([found] if goes else [])


@pytest.mark.parametrize("content", ["", "[]", "{", '{"images": 5}', '{"images": [{"id": "x"}]}', "\x00"])
def test_a_record_that_cannot_be_read_removes_nothing(tmp_path: Path, content: str) -> None:
    place = layout.Installation(tmp_path)
    place.loaded_images.write_text(content)
    assert superseded.read(place) == {}
    assert superseded.remove_superseded(place, EXAMPLE.images, Podman(program(tmp_path, "podman"))) == 0
    assert called(tmp_path) == []


def test_images_are_remembered_and_forgotten_once_they_are_gone(tmp_path: Path) -> None:
    place, image = layout.Installation(tmp_path), EXAMPLE.images[0]
    old = "f" * 64
    superseded.remember(place, [image])
    assert superseded.read(place) == {image.id: {image.reference}}
    superseded._write(place, {each: frozenset({image.reference}) for each in (image.id, old)})
    listing = f'echo \'[{{"Id": "{image.id}", "Names": ["{image.reference}"]}}'
    script = f"""
    case "$1" in
    images) {listing}'; [ -f "{tmp_path}/gone" ] || echo ', {{"Id": "{old}", "Names": []}}'; echo ']';;
    rmi) touch "{tmp_path}/gone";;
    esac"""
    podman = Podman(program(tmp_path, "podman", script))
    assert superseded.remove_superseded(place, [image], podman) == 1
    assert [line for line in called(tmp_path) if line.startswith("rmi")] == [f"rmi {old}"]
    assert superseded.read(place) == {image.id: {image.reference}}
    # After the last one the record goes as well.
    superseded._write(place, {})
    assert not place.loaded_images.exists()


def test_what_runs_is_compared_with_what_the_engine_has_for_it() -> None:
    image = EXAMPLE.images[0]
    document = {"services": {"api": {"image": image.reference}, "other": {"image": "docker.io/library/other:1"}}}
    of_its_own = stored("f" * 64, {image.reference}, image.layers)
    assert inventory.find_ids(document, {}, EXAMPLE.images, [of_its_own]) == {"api": of_its_own.id}
    assert inventory.find_ids(document, {}, EXAMPLE.images, []) == {}


def test_a_container_of_another_image_is_outdated() -> None:
    running = dataclasses.replace(container("api", "running"), image_id="a")
    assert state.find_outdated([running], {"api": "a"}) == []
    assert state.find_outdated([running], {"api": "b"}) == ["api"]
    assert state.find_outdated([running], {}) == []


def test_what_somebody_else_has_named_is_theirs_from_then_on(tmp_path: Path) -> None:
    place, image = layout.Installation(tmp_path), EXAMPLE.images[0]
    superseded.remember(place, [image])
    listed = f'[{{"Id": "{image.id}", "Names": ["localhost/theirs:1"]}}]'
    podman = Podman(program(tmp_path, "podman", f"echo '{listed}'"))
    assert superseded.remove_superseded(place, (), podman) == 0
    assert not [line for line in called(tmp_path) if line.startswith("rmi")]
    assert not place.loaded_images.exists()


def test_a_name_that_we_gave_as_well_does_not_make_it_somebody_elses(tmp_path: Path) -> None:
    place, image = layout.Installation(tmp_path), EXAMPLE.images[0]
    newer = dataclasses.replace(image, reference=f"{image.reference}-new")
    superseded.remember(place, [image])
    both = stored(image.id, {image.reference, newer.reference}, image.layers)
    assert superseded.find_superseded(superseded.read(place), (), [both]) == []
    # What was not ours before is not ours now.
    theirs = dataclasses.replace(image, id="e" * 64, layers=())
    superseded.remember_names(place, [newer, theirs], [both, stored(theirs.id, {theirs.reference})])
    assert superseded.read(place) == {image.id: both.names}
    assert superseded.find_superseded(superseded.read(place), (), [both]) == [both]
    listed = json.dumps([{"Id": image.id, "Names": sorted(both.names)}])
    podman = Podman(program(tmp_path, "podman", f"""case "$1" in images) echo '{listed}';; esac"""))
    superseded.rename(place, {}, [image], podman)
    assert [line for line in called(tmp_path) if line.startswith("rmi")] == [f"rmi {newer.reference}"]
    assert superseded.read(place) == {image.id: {image.reference}}


def test_the_name_that_an_older_version_gave_is_taken_from_an_image_that_is_still_wanted(tmp_path: Path) -> None:
    place, image = layout.Installation(tmp_path), EXAMPLE.images[0]
    old = f"{image.reference}-old"
    superseded._write(place, {image.id: frozenset({old})})
    names = json.dumps([image.reference, old, "localhost/theirs:1"])
    script = f"""case "$1" in images) echo '[{{"Id": "{image.id}", "Names": {names}}}]';; esac"""
    superseded.rename(place, {old: image.id}, [image], Podman(program(tmp_path, "podman", script)))
    assert [line for line in called(tmp_path) if line.startswith("rmi")] == [f"rmi {old}"]
    assert superseded.read(place) == {image.id: {image.reference}}
