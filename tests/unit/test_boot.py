"""Taking the systemd unit away again; that it starts and stops the stack is shown end to end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from installer.core import errors, layout, lock
from installer.core.runner import Runner
from installer.system import boot_unit


def program(folder: Path, name: str, script: str = "") -> Runner:
    """Make a program that notes how it is called, and return a runner that finds it."""
    path = folder / name
    path.write_text(f'#!/bin/sh\necho "$*" >> "{folder}/called"\n{script}\n')
    path.chmod(0o755)
    return Runner({"PATH": f"{folder}:{os.environ['PATH']}"})


def called(folder: Path) -> list[str]:
    path = folder / "called"
    return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the unit lies in these tests."""
    path = tmp_path / layout.UNIT
    monkeypatch.setattr(boot_unit, "unit_path", lambda _root: path)
    return path


def written(place: layout.Installation, unit: Path, runner: Runner) -> None:
    place.bin.mkdir(parents=True)
    place.executable.touch()
    boot_unit.enable(place, lock.Held(None), runner)
    wants = unit.parent / f"{boot_unit._target(os.geteuid() == 0)}.wants"
    wants.mkdir()
    (wants / layout.UNIT).symlink_to(unit)


def test_the_unit_is_stopped_without_its_stop_command_that_would_want_the_lock(tmp_path: Path, unit: Path) -> None:
    script = f'case "$*" in *stop*) cp {unit} {tmp_path}/when-stopped;; esac'
    runner = program(tmp_path, "systemctl", script)
    place = layout.Installation(tmp_path / "dify")
    written(place, unit, runner)
    assert "ExecStop=" in unit.read_text()
    assert boot_unit.disable(place, runner) == f"{unit} is removed"
    stopped = (tmp_path / "when-stopped").read_text()
    assert "ExecStop=" not in stopped
    assert "KillMode=process" in stopped
    assert not unit.exists()
    assert not list(tmp_path.glob("*.wants/*"))
    assert boot_unit.disable(place, runner) == "no unit"


def test_without_systemd_the_unit_goes_all_the_same(tmp_path: Path, unit: Path) -> None:
    runner = Runner({"PATH": str(tmp_path)})
    place = layout.Installation(tmp_path / "dify")
    written(place, unit, runner)
    boot_unit.disable(place, runner)
    assert not unit.exists()
    assert not list(tmp_path.glob("*.wants/*"))


def test_the_unit_of_another_installation_stays(tmp_path: Path, unit: Path) -> None:
    runner = program(tmp_path, "systemctl")
    written(layout.Installation(tmp_path / "dify"), unit, runner)
    before = called(tmp_path)
    assert "stays" in boot_unit.disable(layout.Installation(tmp_path / "dif"), runner)
    assert unit.exists()
    assert called(tmp_path) == before


@pytest.mark.parametrize(
    ("shown", "since"),
    [
        ("ActiveState=activating\nInactiveExitTimestamp=Thu 1970-01-01 00:01:40 UTC", 100.0),
        ("ActiveState=active\nInactiveExitTimestamp=Thu 1970-01-01 00:01:40 UTC", None),
        ("ActiveState=activating\nInactiveExitTimestamp=n/a", None),
        ("", None),
    ],
)
def test_a_unit_that_starts_tells_since_when(tmp_path: Path, shown: str, since: float | None) -> None:
    runner = program(tmp_path, "systemctl", f"echo '{shown}'")
    assert boot_unit.starting_since(runner) == since


@pytest.mark.parametrize("content", [b"", bytes(range(256))])
def test_a_unit_with_any_bytes_in_it_is_written_again_and_is_nobodys_at_the_end(
    tmp_path: Path, unit: Path, content: bytes
) -> None:
    runner = program(tmp_path, "systemctl")
    place = layout.Installation(tmp_path / "dify")
    unit.write_bytes(content)
    assert "stays" in boot_unit.disable(place, runner)
    assert unit.read_bytes() == content
    written(place, unit, runner)
    assert unit.read_text() == boot_unit.unit_text(place)


def test_a_folder_in_the_units_place_is_told(tmp_path: Path, unit: Path) -> None:
    unit.mkdir()
    with pytest.raises(errors.CommandFailed, match=r"dify\.service cannot be written: Is a directory"):
        written(layout.Installation(tmp_path / "dify"), unit, program(tmp_path, "systemctl"))
