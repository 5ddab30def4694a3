"""Files are replaced where they are meant to be, as they were, and failures name what failed."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from installer.bundle import manifest
from installer.core import digest, errors, files, layout
from installer.core.console import Console
from installer.images import image_store, mounted_store

KILLED = """
import os, signal
from pathlib import Path
from installer.core import files
with files.replacing(Path({path!r})) as file:
    file.write(b"SECRET_KEY=x")
    file.flush()
    print("written", flush=True)
    input()
"""


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    """An install folder of ours, beside what is not."""
    folder = tmp_path / "dify"
    files.folder(folder)
    files.write(folder / layout.MARKER, "{}")
    (tmp_path / "precious").mkdir()
    return folder


def test_nothing_is_written_through_a_link_in_the_install_folder(ours: Path, tmp_path: Path) -> None:
    (ours / "docker").symlink_to(tmp_path / "precious")
    for name in ("docker/.env", "docker/below/.env"):
        with pytest.raises(errors.CommandFailed, match="symbolic link"):
            files.write(ours / name, "secret")
    for name in ("docker", "docker/volumes"):
        with pytest.raises(errors.CommandFailed, match="symbolic link"):
            files.folder(ours / name)
    assert list((tmp_path / "precious").iterdir()) == []


def test_a_link_in_a_files_place_is_replaced_and_not_followed(ours: Path, tmp_path: Path) -> None:
    target = tmp_path / "precious/file"
    target.write_text("theirs")
    (ours / "file").symlink_to(target)
    files.write(ours / "file", "ours")
    assert target.read_text() == "theirs"
    assert (ours / "file").read_text() == "ours"
    assert not (ours / "file").is_symlink()


def test_a_container_cannot_hide_a_link_behind_a_marker_of_its_own(ours: Path, tmp_path: Path) -> None:
    inner = ours / "docker/volumes/sandbox"
    files.folder(inner)
    (inner / layout.MARKER).touch()
    (inner.parent / "link").symlink_to(tmp_path / "precious")
    (tmp_path / "precious" / layout.MARKER).touch()
    with pytest.raises(errors.CommandFailed, match="symbolic link"):
        files.write(inner.parent / "link/config.yaml", "")


def test_links_outside_of_the_install_folder_are_the_administrators(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "link").symlink_to("etc")
    files.write(tmp_path / "link/unit", "x")
    files.folder(tmp_path / "link/new/deep")
    assert (tmp_path / "etc/unit").read_text() == "x"
    assert (tmp_path / "etc/new/deep").is_dir()


def test_only_a_folder_that_was_made_gets_a_mode(ours: Path) -> None:
    files.folder(ours / "a", mode=0o700)
    files.folder(ours / "a/b", mode=0o755)
    assert (ours / "a").stat().st_mode & 0o777 == 0o700
    assert (ours / "a/b").stat().st_mode & 0o777 == 0o755


def test_a_folder_in_the_files_place_is_told_as_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "report.json").mkdir()
    with pytest.raises(errors.CommandFailed, match="Is a directory") as told:
        files.write(tmp_path / "report.json", "")
    assert "move it away" in told.value.remedy
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_a_source_that_cannot_be_read_is_not_blamed_on_the_target(tmp_path: Path) -> None:
    with pytest.raises(errors.CommandFailed, match="missing cannot be read"), files.reading(tmp_path / "missing"):
        pass
    with pytest.raises(IsADirectoryError), files.replacing(tmp_path / "target") as target:
        target.write(tmp_path.read_bytes())
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_with_what_helps(tmp_path: Path) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    target = files._Target(full, tmp_path / "x", tmp_path / "target")
    with pytest.raises(errors.CommandFailed, match=r"target cannot be written: No space left") as told:
        target.write(b"x")
    target.close()
    assert "make room" in told.value.remedy


def test_an_administrators_file_keeps_its_owner_mode_attributes_and_place(tmp_path: Path) -> None:
    real, link = tmp_path / "real.conf", tmp_path / "storage.conf"
    real.write_text("before")
    real.chmod(0o640)
    os.setxattr(real, "user.note", b"kept")
    if os.geteuid() == 0:
        os.chown(real, 12, 34)
    before = real.stat()
    link.symlink_to("real.conf")
    files.rewrite(link, "after")
    assert link.is_symlink()
    assert real.read_text() == "after"
    after = real.stat()
    assert (after.st_uid, after.st_gid, after.st_mode) == (before.st_uid, before.st_gid, before.st_mode)
    assert os.getxattr(real, "user.note") == b"kept"
    files.rewrite(tmp_path / "new.conf", "new")
    assert (tmp_path / "new.conf").stat().st_mode & 0o777 == 0o644


def test_what_a_killed_run_was_writing_is_removed_and_what_a_living_one_writes_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = subprocess.Popen(
        [sys.executable, "-c", KILLED.format(path=str(tmp_path / ".env"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert run.stdout is not None
    assert run.stdout.readline() == "written\n"
    (left,) = tmp_path.iterdir()
    assert files.remove_temporaries(tmp_path) == []
    run.kill()
    run.communicate()
    (tmp_path / ".x.dify-installer-tmp.not").touch()
    (tmp_path / f"x{files.TEMPORARY}").touch()
    with monkeypatch.context() as others:
        others.setattr(os, "geteuid", lambda: left.stat().st_uid + 1)
        assert files.remove_temporaries(tmp_path) == []
    assert files.remove_temporaries(tmp_path) == [left]
    assert len(list(tmp_path.iterdir())) == 2
    assert files.remove_temporaries(tmp_path / "no-such-folder") == []


def test_the_clone_of_a_store_is_verified_and_not_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = b"good" * 1000, b"badd" * 1000
    source = tmp_path / "dify-images.squashfs"
    described = manifest.BigFile(
        name=source.name,
        size=len(good),
        sha256=digest.hash_bytes(good),
        chunk_bytes=len(good),
        chunks=(digest.hash_bytes(good),),
    )
    store = image_store.Store(tmp_path / "stores", "0" * 12)

    def clone(target: int, _request: int, _original: int) -> None:
        os.write(target, bad)

    source.write_bytes(good)
    with monkeypatch.context() as sharing:
        sharing.setattr(fcntl, "ioctl", clone)
        with pytest.raises(errors.BundleDamaged):
            mounted_store._copy(source, store, described, Console(silent=True))
    assert list(store.folder.iterdir()) == []
    mounted_store._copy(source, store, described, Console(silent=True))
    assert store.file.read_bytes() == good
    with pytest.raises(errors.CommandFailed, match="nothing cannot be read"):
        mounted_store._copy(tmp_path / "nothing", store, described, Console(silent=True))
