"""Uninstalling where a machine is not needed to show it: whose it is, what goes and what is left to others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from installer.commands import uninstall
from installer.core import errors, layout, marker
from installer.core.runner import Runner
from installer.engine import podman_compose
from installer.engine.base import Name
from installer.engine.choose import ENGINES
from installer.engine.podman import Podman
from tests.unit.test_boot import called, program
from tests.unit.test_manifest import EXAMPLE


@pytest.mark.parametrize(("target", "goes"), [("dify/bin/podman-compose", True), ("other/podman-compose", False)])
def test_only_our_own_link_is_taken_off_the_path(tmp_path: Path, target: str, goes: bool) -> None:
    link = tmp_path / "podman-compose"
    link.symlink_to(tmp_path / target)
    place = layout.Installation(tmp_path / "dify")
    assert podman_compose.unlink(place, tmp_path) == (link if goes else None)
    assert link.is_symlink() is not goes


def test_somebody_elses_program_stays_on_the_path(tmp_path: Path) -> None:
    (tmp_path / "podman-compose").write_text("")
    assert podman_compose.unlink(layout.Installation(tmp_path / "dify"), tmp_path) is None
    assert (tmp_path / "podman-compose").exists()


def test_no_installation_and_another_users_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = layout.Installation(tmp_path)
    with pytest.raises(errors.UsageError, match="there is no installation"):
        uninstall._engine_of(place, Runner())
    marker.write(place, marker.Inventory())
    place.project.mkdir()
    place.override.touch()
    assert uninstall._engine_of(place, Runner()).name == "docker"
    monkeypatch.setattr(os, "geteuid", lambda: place.marker.stat().st_uid + 1)
    with pytest.raises(errors.UsageError, match="belongs to another user"):
        uninstall._engine_of(place, Runner())


LABELS = '{"com.docker.compose.project": "dify", "FOLDER": "DIR"}'
LISTED = f'{{"Names": ["NAME"], "State": "running", "Created": 1, "Labels": {LABELS}}}'


def container(name: str, folder: Path) -> str:
    return LISTED.replace("NAME", name).replace("FOLDER", layout.FOLDER_LABEL).replace("DIR", str(folder))


def test_containers_that_others_require_go_after_them_and_those_of_another_folder_never(tmp_path: Path) -> None:
    place = layout.Installation(tmp_path / "dify")
    other, db, api = container("other", tmp_path), container("db", place.project), container("api", place.project)
    # Each removal takes only the last of a chain.
    for number, left in enumerate(([other, db, api], [other, db], [other])):
        (tmp_path / f"list{number}").write_text(f"[{', '.join(left)}]")
    script = f"cd {tmp_path}; n=$(grep -c '^rm ' called); case $1 in ps) cat list$n;; rm) exit 125;; esac"
    engine = Podman(program(tmp_path, "podman", script))
    assert uninstall._remove_containers(place, engine) == "2 stopped and removed"
    # There is no compose file that tells their order.
    acted = [line for line in called(tmp_path) if not line.startswith("ps ")]
    assert acted == ["stop -t 10 db api", "rm --force --volumes db api", "rm --force --volumes db"]
    assert uninstall._remove_networks(engine) == "left to containers that are not ours: other"


def test_a_container_that_cannot_be_removed_is_an_error(tmp_path: Path) -> None:
    place = layout.Installation(tmp_path / "dify")
    listed = container("db", place.project)
    script = f"case $1 in ps) echo '[{listed}]';; rm) echo busy >&2; exit 125;; esac"
    with pytest.raises(errors.CommandFailed, match="busy"):
        uninstall._remove_containers(place, Podman(program(tmp_path, "podman", script)))


@pytest.mark.parametrize(
    ("names", "removed"),
    [
        ("['REFERENCE']", ["rmi REFERENCE"]),
        ("['REFERENCE', 'localhost/theirs:1']", ["rmi REFERENCE"]),
        ("[]", ["rmi ID"]),
        ("['localhost/theirs:1']", []),
    ],
)
def test_an_image_goes_by_our_name_and_never_by_somebody_elses(tmp_path: Path, names: str, removed: list[str]) -> None:
    image = EXAMPLE.images[0]

    def filled(text: str) -> str:
        return text.replace("REFERENCE", image.reference).replace("ID", image.id)

    listed = f'[{{"Id": "{image.id}", "Names": {filled(names)}}}]'.replace("'", '"')
    engine = Podman(program(tmp_path, "podman", f"[ $1 = images ] && echo '{listed}'; exit 0"))
    said = uninstall._remove_images(layout.Installation(tmp_path), EXAMPLE, engine)
    assert [line for line in called(tmp_path) if line.startswith("rmi")] == [filled(each) for each in removed]
    assert said == f"0 removed; in use by others, and left: {image.reference}"


@pytest.mark.parametrize(
    ("engine", "uid", "command"),
    [
        ("podman", 0, "rm -rf '/srv/a b'"),
        ("podman", 1000, "podman unshare rm -rf '/srv/a b'"),
        ("docker", 1000, "sudo rm -rf '/srv/a b'"),
    ],
)
def test_the_command_that_removes_the_rest_can(
    monkeypatch: pytest.MonkeyPatch, engine: Name, uid: int, command: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    place, log = layout.Installation(Path("/srv/a b")), Path("/srv/a b/logs/x.log")
    used = ENGINES[engine](Runner())
    assert uninstall._kept(place, [], used, log)[-1].endswith(f": {command}")
    with_volumes = uninstall._kept(place, ["dify_qdrant_data"], used, log)
    assert with_volumes[-1].endswith(f": {command} && {engine} volume rm dify_qdrant_data")
