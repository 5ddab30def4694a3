"""Whose an install folder is, who else could change it, and that only what we made ever goes."""

from __future__ import annotations

import dataclasses
import grp
import os
import subprocess
import tempfile
from pathlib import Path
from typing import get_args

import pytest

from installer.commands import uninstall
from installer.core import errors, layout, logfile, marker
from installer.core.runner import Runner
from installer.engine import podman_compose
from installer.engine.podman import Podman
from installer.host import judge, observe, ownership
from installer.host.ownership import Ownership, Passed
from installer.release import render
from tests.unit.hosts import GOOD, ROOTLESS, WANTED, changed
from tests.unit.test_boot import program

ALICE = 1001


@pytest.fixture
def place(tmp_path: Path) -> layout.Installation:
    return layout.Installation(tmp_path / "dify")


def put(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def kind(place: layout.Installation) -> str:
    return ownership.find_ownership(place).kind


def test_a_folder_is_ours_by_the_marker_alone(place: layout.Installation) -> None:
    assert kind(place) == "new"
    place.folder.mkdir()
    (place.folder / "lost+found").mkdir()
    put(place.folder / ".dify-installer.json.0a1b2c3d.dify-installer-tmp")
    assert kind(place) == "new"
    put(place.folder / "bin/somebody-elses")
    assert ownership.find_ownership(place) == Ownership("foreign", ("bin",))
    marker.write(place, marker.Inventory())
    assert kind(place) == "ours"
    assert place.marker.stat().st_mode & 0o777 == 0o644


def test_the_marker_of_somebody_else_or_of_a_later_version_is_not_ours(
    place: layout.Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(place.marker, '{"format": 2, "kind": "dify-installer"}')
    assert kind(place) == "later"
    with pytest.raises(errors.UsageError, match="later version"):
        uninstall._engine_of(place, Runner())
    marker.write(place, marker.Inventory())
    monkeypatch.setattr(os, "geteuid", lambda: place.marker.stat().st_uid + 1)
    assert kind(place) == "another user's"


@pytest.mark.parametrize("text", ["", "\x00\x01", "[]", '{"format": 1}', '{"format": 1, "kind": "other", "rules": []}'])
def test_a_marker_that_cannot_be_read_is_written_anew_where_the_rest_is_ours(
    place: layout.Installation, text: str
) -> None:
    put(place.marker, text)
    assert kind(place) == "new"
    put(place.folder / "notes")
    assert kind(place) == "foreign"
    host = changed(GOOD, ownership=ownership.find_ownership(place))
    (found,) = [each for each in judge.judge(host, WANTED) if each.check == "folder"]
    assert "cannot be read" in found.seen
    assert marker.EMPTY in found.remedy
    put(place.env)
    put(place.compose, render.HEADER)
    ownership.claim(place)
    assert kind(place) == "ours"


def test_the_marker_that_a_person_is_told_to_write_is_one(place: layout.Installation) -> None:
    put(place.marker, f"{marker.EMPTY}\n")
    assert marker.read(place) == marker.Inventory()


def test_a_link_in_the_markers_place_is_not_read(place: layout.Installation, tmp_path: Path) -> None:
    marker.write(layout.Installation(tmp_path), marker.Inventory())
    place.folder.mkdir()
    place.marker.symlink_to(tmp_path / layout.MARKER)
    assert marker.read(place) is None


@pytest.mark.parametrize("header", [render.HEADER, render.OVERRIDE_HEADER])
def test_an_installation_of_an_earlier_version_is_recognised_and_marked(
    place: layout.Installation, header: str
) -> None:
    put(place.compose if header == render.HEADER else place.override, f"{header}services: {{}}\n")
    assert kind(place) == "foreign"
    put(place.env, "A=b\n")
    assert kind(place) == "earlier"
    put(place.venv / "pyvenv.cfg")
    place.bin.mkdir()
    place.podman_compose.symlink_to(place.venv / "bin/podman-compose")
    ownership.claim(place)
    assert kind(place) == "ours"
    assert marker.owns_venv(place)


def test_the_compose_file_of_somebody_else_makes_no_installation_of_ours(place: layout.Installation) -> None:
    put(place.env)
    put(place.compose, "services: {}\n")
    assert kind(place) == "foreign"


def test_a_full_folder_is_refused_with_what_is_in_it() -> None:
    names = ("a", "b", "c", "d", "e", "f", "g")
    host = changed(GOOD, ownership=Ownership("foreign", names), folder_exists=True)
    (found,) = [each for each in judge.judge(host, WANTED) if each.check == "folder"]
    assert found.level == "error"
    assert "holds a, b, c, d, e and 2 more" in found.seen
    assert "--dir /opt/dify/dify" in found.remedy


def test_a_link_in_the_install_folder_is_refused_before_anything_is_changed(place: layout.Installation) -> None:
    place.project.mkdir(parents=True)
    place.volumes.symlink_to("/mnt")
    assert ownership.list_links(place) == [place.volumes]
    host = changed(GOOD, links=(place.volumes,))
    (found,) = [each for each in judge.judge(host, WANTED) if each.check == "folder"]
    assert "mount --bind" in found.remedy


def passed(path: str, uid: int = 0, mode: int = 0o755, private: bool = True) -> Passed:
    return Passed(path=Path(path), uid=uid, owner="somebody", mode=mode, private_group=private)


@pytest.mark.parametrize(
    ("each", "root", "user"),
    [
        (passed("/home"), True, True),
        (passed("/home/alice", ALICE), False, False),
        (passed("/home/dify", 1000), False, True),
        (passed("/home/dify/x", 1000, 0o775), False, True),
        (passed("/home/dify/x", 1000, 0o775, private=False), False, False),
        (passed("/data", mode=0o775, private=False), False, False),
        (passed("/data", mode=0o775), True, True),
        (passed("/data", mode=0o757), False, False),
        (passed("/tmp", mode=0o1777, private=False), False, True),
        (passed("/opt/dify", mode=0o1777, private=False), False, False),
    ],
)
def test_who_may_change_a_folder_on_the_way(each: Passed, root: bool, user: bool) -> None:
    for good, facts in ((root, {}), (user, ROOTLESS)):
        host = changed(GOOD, **facts, passed=(each,))
        levels = {found.level for found in judge.judge(host, WANTED) if found.check == "folder"}
        assert levels == ({"ok"} if good else {"error"})


def test_every_folder_and_every_link_on_the_way_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "disk/deep").mkdir(parents=True)
    (tmp_path / "first").symlink_to("second")
    (tmp_path / "second").symlink_to(tmp_path / "disk/deep/../deep")
    seen = [each.path for each in ownership.list_passed(tmp_path / "first/dify/new")]
    assert seen[0] == Path("/")
    assert seen[-2:] == [tmp_path / "disk", tmp_path / "disk/deep"]
    assert tmp_path in seen


def test_a_shared_group_is_not_private(tmp_path: Path) -> None:
    """Root's group has no other member on the hosts where this runs; a group without a name has who knows whom."""
    assert ownership._is_private(0, 0)
    assert not ownership._is_private(4_000_000, 0)


def test_a_group_that_a_directory_gives_to_all_is_not_private_even_if_it_lists_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, private in (("domain users", False), ("root", True)):
        entry = grp.struct_group((name, "x", 4_000_000, []))
        monkeypatch.setattr(grp, "getgrgid", lambda _gid, entry=entry: entry)
        assert ownership._is_private(4_000_000, 0) is private


FOREIGN = ("tmp/backup.sql", "bin/my-script", "logs/install-other-1.log", "stores/theirs", "docker/notes")


@pytest.fixture
def shared(place: layout.Installation) -> layout.Installation:
    """An installation of ours in whose folders others have put files since."""
    ownership.claim(place)
    put(place.executable)
    put(place.logs / "install-20260101-000000.log")
    put(place.env)
    for name in FOREIGN:
        put(place.folder / name, "theirs")
    return place


def test_uninstall_leaves_and_names_what_others_have_put_among_ours(
    shared: layout.Installation, tmp_path: Path
) -> None:
    put(shared.venv / "notes", "theirs")
    engine = Podman(program(tmp_path, "podman"))
    uninstall._remove_programs(shared, engine)
    uninstall._remove_own_files(shared)
    lines = uninstall._kept(shared, [], engine, shared.logs / "x")
    for name in (*FOREIGN, "podman-compose/notes"):
        assert (shared.folder / name).read_text() == "theirs"
    assert not shared.executable.exists()
    named = next(line for line in lines if "not made by dify-installer" in line)
    for name in ("tmp", "bin/my-script", "logs/install-other-1.log", "stores/theirs", "docker/notes", "podman-compose"):
        assert str(shared.folder / name) in named
    command = lines[-1].partition("for good: ")[2]
    subprocess.run(["sh", "-c", command], check=True)
    left = {str(path.relative_to(shared.folder)) for path in shared.folder.rglob("*") if path.is_file()}
    assert left == {*FOREIGN, "podman-compose/notes"}


def test_the_folder_goes_as_one_where_all_in_it_is_ours(place: layout.Installation) -> None:
    ownership.claim(place)
    put(place.env)
    put(place.project / ".env.before")
    put(place.compose)
    put(place.project / "nginx/conf.d/default.conf.template.before")
    assert ownership.list_foreign(place) == []
    assert ownership.list_own(place) == [place.folder]


def test_only_an_environment_that_we_made_makes_way_for_a_new_one(place: layout.Installation) -> None:
    ownership.claim(place)
    put(place.venv / "pyvenv.cfg")
    with pytest.raises(errors.CommandFailed, match="was not made by dify-installer"):
        podman_compose._make_way(place)
    assert (place.venv / "pyvenv.cfg").exists()
    marker.record_venv(place)
    podman_compose._make_way(place)
    assert not place.venv.exists()
    # Half an environment, of a run that was killed; and a folder that somebody else has put in its place.
    (place.venv / "lib/python3.9").mkdir(parents=True)
    podman_compose._make_way(place)
    put(place.venv / "notes")
    with pytest.raises(errors.CommandFailed, match="was not made by"):
        podman_compose._make_way(place)


def test_only_logs_of_ours_are_pruned(tmp_path: Path) -> None:
    names = {f"install-2026010{day % 10}-0000{day:02}.log" for day in range(logfile.KEPT + 5)}
    for name in (*names, *(f"install-other-{number}.log" for number in range(25))):
        put(tmp_path / name)
    logfile.write_to(logfile.begin(), tmp_path)
    assert len(list(tmp_path.glob("install-other-*.log"))) == 25
    assert len([path for path in tmp_path.iterdir() if logfile.NAME.fullmatch(path.name)]) == logfile.KEPT


@pytest.mark.parametrize("command", get_args(logfile.Command))
def test_the_log_of_each_command_is_ours(tmp_path: Path, command: logfile.Command) -> None:
    path = logfile.write_to(logfile.begin(), tmp_path, command)
    assert logfile.NAME.fullmatch(path.name)


def test_what_every_local_user_can_read_of_podmans_database_is_told() -> None:
    # pytest's own folder is closed to others.
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        database, engine = put(Path(name) / "db.sql"), Podman(Runner())
        for folder, file, told in ((0o755, 0o644, True), (0o700, 0o644, False), (0o755, 0o600, False)):
            Path(name).chmod(folder)
            database.chmod(file)
            assert observe._open_database(engine, Path(name)) == (database if told else None)
    host = changed(GOOD, open_database=Path("/var/lib/containers/storage/libpod/bolt_state.db"))
    (found,) = [each for each in judge.judge(host, WANTED) if each.check == "database"]
    assert found.level == "warning"
    assert "chmod 0700 /var/lib/containers/storage`" in found.remedy


def test_the_inventory_survives_its_file(place: layout.Installation) -> None:
    ownership.claim(place)
    rule = marker.Rule("public", "port", "80/tcp")
    marker.record_rules(place, [rule])
    marker.record_venv(place)
    assert marker.read(place) == dataclasses.replace(marker.Inventory(), venv=True, rules=(rule,))


def test_the_report_is_ours_in_both_of_its_forms(place: layout.Installation) -> None:
    ownership.claim(place)
    for path in (place.report, place.report_page, place.folder / "other.html"):
        put(path)
    assert ownership.list_foreign(place) == [place.folder / "other.html"]
    assert {place.report, place.report_page} <= set(ownership.list_own(place))
