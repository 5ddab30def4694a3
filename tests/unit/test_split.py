"""A backup in numbered files: standard tools read them, a bad one is named, and they count as one backup."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from installer.backup import file, split
from installer.commands import backup, export
from installer.core import console, errors
from tests.unit.test_backup import HEAD, read, told

NAME = f"{backup.PREFIX}server-1.tar.zst"
# What does not get smaller.
CONTENT = os.urandom(11_500_000)


def write(path: Path, content: bytes = CONTENT) -> Path:
    with file.writing(path, HEAD, split.SMALLEST) as writer:
        writer.add("settings", [b"a=1"], told)
        writer.add("files/app", [content], told)
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("stick") / NAME)


@pytest.fixture
def made(written: Path, tmp_path: Path) -> Path:
    shutil.copytree(written.parent, tmp_path / "stick")
    return tmp_path / "stick" / NAME


def test_all_files_are_read_by_any_of_their_names(written: Path) -> None:
    found = split.find(written)
    assert [path.name for path in found[:2]] == [f"{backup.PREFIX}server-1.{number}.tar.zst" for number in (1, 2)]
    assert len(found) == 11
    assert {path.stat().st_size for path in found[:-1]} == {split.SMALLEST - 1}
    assert {path.stat().st_mode & 0o777 for path in written.parent.iterdir()} == {0o600}
    for name in (written, found[0], found[4]):
        assert split.find(name) == found
        assert read(name) == {"settings": b"a=1", "files/app": CONTENT}


def test_standard_tools_read_and_prove_them(written: Path) -> None:
    script = f"cat $(ls -v {NAME.replace('.tar', '.*.tar')}) | zstd -dc | tar -xO files/app | sha256sum"
    script += f"; sha256sum --check --quiet {NAME}{split.LIST} && echo proved"
    done = subprocess.run(["sh", "-c", script], cwd=written.parent, capture_output=True, text=True, check=True)
    _, parts = file.verify(written, told)
    assert done.stdout.split() == [parts[1].sha256, "-", "proved"]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:500] + bytes([content[500] ^ 4]) + content[501:])


def exchange(path: Path) -> None:
    other = path.with_name(path.name.replace(".7.", ".6.").replace(".1.", ".2.").replace(".11.", ".10."))
    shutil.copyfile(other, path)


@pytest.mark.parametrize("number", [1, 7, 11])
@pytest.mark.parametrize("harm", [cut, empty, flip, exchange, Path.unlink])
def test_one_that_is_missing_short_or_damaged_is_named(made: Path, number: int, harm: Callable[[Path], object]) -> None:
    bad = split.numbered(made, number)
    harm(bad)
    with pytest.raises(errors.BackupRefused) as refused:
        file.prove(made, console.Console(silent=True))
    assert refused.value.message.endswith(f": {bad.name}")


def test_a_disk_that_gives_no_bytes_is_named(made: Path) -> None:
    bad = split.numbered(made, 3)
    bad.unlink()
    # Reading it at its begin is an input/output error, to root as well.
    bad.symlink_to("/proc/self/mem")
    with pytest.raises(errors.BackupRefused, match=bad.name):
        file.verify(made, told)


def test_without_the_list_it_is_said_which_one_is_missing(made: Path) -> None:
    split.listing(made).unlink()
    with pytest.raises(errors.BackupRefused, match="the list of the files") as refused:
        file.verify(made, told)
    assert "cat $(ls -v" in refused.value.remedy
    with pytest.raises(errors.BackupRefused, match="is no backup, or is not as it was written") as refused:
        file.verify(split.first(made), told)
    assert split.listing(made).name in refused.value.remedy


@pytest.mark.parametrize("text", ["", "nonsense\n", "0" * 64 + "  ../../etc/passwd\n", "\xff", "0" * 64 + "  x\n\n"])
def test_a_list_that_is_none_is_refused(made: Path, text: str) -> None:
    split.listing(made).write_text(text, "latin-1")
    with pytest.raises(errors.BackupRefused, match=r"\.sha256 (is not the list|cannot be read)"):
        file.verify(made, told)


def test_a_whole_file_whose_name_ends_in_a_number_stays_alone(tmp_path: Path) -> None:
    for number in (1, 2):
        with file.writing(tmp_path / f"mine.{number}", HEAD) as writer:
            writer.add("settings", [str(number).encode()], told)
    assert split.find(tmp_path / "mine.2") == (tmp_path / "mine.2",)
    assert read(tmp_path / "mine.2") == {"settings": b"2"}


def test_a_failure_while_they_are_written_leaves_none(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), file.writing(tmp_path / NAME, HEAD, split.SMALLEST) as writer:
        # The compressor holds some of it back.
        for _ in range(4):
            writer.add("files/app", [CONTENT], told)
        assert len(names(tmp_path)) > 5
        raise RuntimeError
    assert names(tmp_path) == []


def test_what_is_there_is_never_written_over(made: Path) -> None:
    with pytest.raises(errors.UsageError, match="exists already"):
        backup.choose_path(made, backup.PREFIX, encrypted=False)
    split.first(made).unlink()
    with pytest.raises(errors.UsageError, match="exists already"):
        backup.choose_path(made, backup.PREFIX, encrypted=False)


def test_all_files_of_a_backup_count_as_one(tmp_path: Path) -> None:
    made = [write(tmp_path / f"{backup.PREFIX}{number}.tar.zst", CONTENT[:2_000_000]) for number in range(4)]
    with file.writing(tmp_path / f"{backup.PREFIX}4.tar.zst", HEAD) as writer:
        writer.add("settings", [b"a=1"], told)
    for number, path in enumerate(made):
        os.utime(split.listing(path), (number, number))
    # A removal that was interrupted goes on; a list that names others is not followed.
    split.numbered(made[0], 2).unlink()
    split.listing(made[1]).write_text("0" * 64 + "  precious\n")
    (tmp_path / "precious").touch()
    kept = [name for name in names(tmp_path) if name.startswith((f"{backup.PREFIX}1", f"{backup.PREFIX}3", "precious"))]
    newest = tmp_path / f"{backup.PREFIX}4.tar.zst"
    assert backup.remove_old(newest, 2, HEAD, []) == [made[2].name, made[0].name]
    assert names(tmp_path) == sorted([*kept, newest.name])


@pytest.mark.parametrize(("largest", "at_most"), [(1000, 5000), (split.SMALLEST, 901 * split.SMALLEST)])
def test_files_that_are_too_small_are_refused(largest: int, at_most: int) -> None:
    with pytest.raises(errors.UsageError, match="would be too many") as refused:
        split.require_possible(largest, at_most)
    assert "1.0 MiB" in refused.value.remedy
    split.require_possible(split.SMALLEST, 900 * split.SMALLEST)


def test_a_pipe_is_not_cut() -> None:
    with pytest.raises(errors.UsageError, match="a pipe is not cut"):
        export._choose_path(export.Asked(target=export.STANDARD_OUTPUT, largest=split.SMALLEST))


@pytest.mark.parametrize(("text", "count"), [("4G", 4 << 30), ("700m", 700 << 20), ("1GiB", 1 << 30), (" 512 ", 512)])
def test_a_size_is_read(text: str, count: int) -> None:
    assert console.read_size(text) == count


@pytest.mark.parametrize("text", ["", "0", "-1", "4X", "1.5G", "G"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(errors.UsageError, match="is not a valid size"):
        console.read_size(text)
