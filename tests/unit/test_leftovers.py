"""What killed runs leave is taken away by the next one, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from installer.core import files, layout
from installer.images import image_store
from installer.system import boot_unit, leftovers, own_copy


def unpacked(parent: Path, name: str) -> Path:
    """Make what the bootloader has unpacked of a bundle of ours."""
    folder = parent / f"_MEI{name}"
    (folder / "payload").mkdir(parents=True)
    (folder / "payload" / layout.PROBE).touch()
    # The kernel's clock for files ticks some hundred times a second.
    before = max((path.stat().st_ctime_ns for path in parent.iterdir() if path != folder), default=0)
    while folder.stat().st_ctime_ns <= before:
        folder.chmod(0o700)
    return folder


def test_the_temporaries_of_all_that_we_write_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_store, "UNITS", tmp_path / "units")
    monkeypatch.setattr(image_store, "CONFIG", tmp_path / "containers/storage.conf")
    monkeypatch.setattr(boot_unit, "unit_path", lambda _root: tmp_path / "own/dify.service")
    monkeypatch.setattr(own_copy, "path_folder", lambda: tmp_path / "path")
    place = layout.Installation(tmp_path / "dify")
    spots = [
        *(place.env, place.marker, place.executable, place.key, place.ca_bundle, place.report),
        *(tmp_path / "units/x.mount", tmp_path / "containers/storage.conf", tmp_path / "own/dify.service"),
    ]
    for spot in spots:
        spot.parent.mkdir(parents=True, exist_ok=True)
        spot.with_name(f".{spot.name}.0a1b2c3d{files.TEMPORARY}").touch()
        spot.touch()
    leftovers.remove_leftovers(place)
    assert list(tmp_path.rglob(f"*{files.TEMPORARY}")) == []
    assert all(spot.exists() for spot in spots)


def test_unpacked_folders_of_killed_runs_go(tmp_path: Path) -> None:
    left, running = unpacked(tmp_path, "old"), unpacked(tmp_path, "running")
    assert leftovers.remove_unpacked(running, [tmp_path]) == [left]
    assert [path.name for path in tmp_path.iterdir()] == [running.name]


def test_an_unpacked_folder_that_is_newer_of_another_program_or_in_use_stays(tmp_path: Path) -> None:
    other = tmp_path / "_MEIother"
    (other / "payload").mkdir(parents=True)
    (tmp_path / "target").mkdir()
    (tmp_path / "_MEIlink").symlink_to("target")
    used = unpacked(tmp_path, "used")
    library = used / "library"
    library.write_bytes(b"x" * 4096)
    program = f"import mmap; f = open({str(library)!r}, 'rb'); m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ); "
    user = subprocess.Popen(
        [sys.executable, "-c", program + "print('mapped', flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert user.stdout is not None
    assert user.stdout.readline() == "mapped\n"
    running = unpacked(tmp_path, "running")
    newer = unpacked(tmp_path, "newer")
    assert leftovers.remove_unpacked(running, [tmp_path]) == []
    user.kill()
    user.communicate()
    assert leftovers.remove_unpacked(running, [tmp_path]) == [used]
    assert newer.exists()
    assert other.exists()
