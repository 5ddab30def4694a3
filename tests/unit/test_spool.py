from __future__ import annotations

from pathlib import Path

from installer.core import layout
from installer.images import spool


def test_a_small_image_goes_into_memory_and_is_cleared(tmp_path: Path) -> None:
    place = layout.Installation(tmp_path / "dify")
    folder = spool.prepare(place, 1, memory=tmp_path)
    assert folder == spool.in_memory(place, tmp_path)
    assert folder.stat().st_mode & 0o777 == 0o700
    (folder / "left").write_text("by a run that was killed")
    assert list(spool.prepare(place, 1, memory=tmp_path).iterdir()) == []
    spool.clear(place, tmp_path)
    assert not folder.exists()


def test_what_does_not_fit_into_memory_goes_onto_the_disk(tmp_path: Path) -> None:
    place = layout.Installation(tmp_path / "dify")
    assert spool.prepare(place, 2**60, memory=tmp_path) == place.spool
    assert spool.prepare(place, 1, memory=tmp_path / "no-such-folder") == place.spool
    spool.clear(place, tmp_path)
    assert not place.spool.exists()


def test_a_link_that_somebody_has_laid_there_is_not_followed(tmp_path: Path) -> None:
    place = layout.Installation(tmp_path / "dify")
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/file").touch()
    spool.in_memory(place, tmp_path).symlink_to(tmp_path / "precious")
    assert spool.prepare(place, 1, memory=tmp_path) == place.spool
    spool.clear(place, tmp_path)
    assert (tmp_path / "precious/file").exists()
