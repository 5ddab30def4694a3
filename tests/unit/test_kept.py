from __future__ import annotations

import dataclasses
import tarfile
from concurrent.futures import Future
from pathlib import Path

import pytest

from build import archive, images, kept
from build.compiled import Compiled
from installer.bundle import manifest
from installer.core import digest
from installer.core.console import Console
from tests.unit.test_manifest import EXAMPLE

QUIET = Console(silent=True)
PULLED = images.Pulled(reference="a:1", id="1", digest="", size=1, created="")


def job(image: images.Pulled) -> Future[images.Pulled]:
    done: Future[images.Pulled] = Future()
    done.set_result(image)
    return done


@pytest.fixture
def bundle(tmp_path: Path) -> manifest.Manifest:
    """A manifest, and the archive that it describes."""
    path = tmp_path / "dify-images.tar"
    path.write_bytes(bytes(range(100)))
    chunks = tuple(digest.hash_chunks(path, 64))
    described = manifest.Archive(
        name=path.name,
        size=100,
        sha256=digest.hash_file(path),
        chunk_bytes=64,
        chunks=chunks,
        layers={},
        compression="none",
    )
    return dataclasses.replace(EXAMPLE, archives=(described,))


def test_archives_are_taken_again_if_they_are_whole_and_of_the_same_things(
    tmp_path: Path, bundle: manifest.Manifest
) -> None:
    state = tmp_path / "state"
    cut = archive.Cut()
    assert kept.archives(state, [job(PULLED)], cut, tmp_path, QUIET) is None
    kept.note_archives(state, [job(PULLED)], cut, bundle)
    assert kept.archives(state, [job(PULLED)], cut, tmp_path, QUIET) == bundle
    assert kept.archives(state, [job(dataclasses.replace(PULLED, id="2"))], cut, tmp_path, QUIET) is None
    (tmp_path / "dify-images.tar").write_bytes(bytes(100))
    assert kept.archives(state, [job(PULLED)], cut, tmp_path, QUIET) is None
    (tmp_path / "dify-images.tar").unlink()
    assert kept.archives(state, [job(PULLED)], cut, tmp_path, QUIET) is None


def test_images_are_taken_from_archives_that_are_whole_and_of_the_same_form(
    tmp_path: Path, bundle: manifest.Manifest
) -> None:
    state, cut = tmp_path / "state", archive.Cut()
    assert kept.images(state, cut, tmp_path, QUIET) == archive.NOTHING
    path = tmp_path / "dify-images.tar"
    with tarfile.open(path, "w"):
        pass
    described = dataclasses.replace(
        bundle.archives[0], size=path.stat().st_size, chunks=tuple(digest.hash_chunks(path, 64))
    )
    kept.note_archives(state, [job(PULLED)], cut, dataclasses.replace(bundle, archives=(described,)))
    assert kept.images(state, cut, tmp_path, QUIET).images.keys() == {image.id for image in bundle.images}
    assert kept.images(state, archive.Cut(compression="zstd"), tmp_path, QUIET) == archive.NOTHING
    path.write_bytes(b"x" * path.stat().st_size)
    assert kept.images(state, cut, tmp_path, QUIET) == archive.NOTHING


def test_the_key_follows_images_and_cut() -> None:
    keys = {
        kept.archives_key(pulled, cut)
        for pulled in ([PULLED], [dataclasses.replace(PULLED, id="2")])
        for cut in (archive.Cut(), archive.Cut(largest=9), archive.Cut(base=frozenset({"x"})))
    }
    assert len(keys) == 6


def test_so_many_executables_are_kept(tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.write_text("x")
    for number in range(kept.EXECUTABLES + 2):
        kept.keep_executable(made, f"{number:064}", tmp_path)
    assert len(list(tmp_path.glob("frozen-*"))) == kept.EXECUTABLES
    found = kept.executable(f"{kept.EXECUTABLES + 1:064}", tmp_path)
    assert found is not None and found.read_text() == "x"
    assert kept.executable("f" * 64, tmp_path) is None


def test_without_an_earlier_archive_no_image_is_waited_for(tmp_path: Path) -> None:
    never: Future[images.Pulled] = Future()
    assert kept.archives(tmp_path / "state", [never], archive.Cut(), tmp_path, QUIET) is None


def test_the_store_is_taken_again_if_it_is_whole_and_of_the_same_things(
    tmp_path: Path, bundle: manifest.Manifest
) -> None:
    state, path = tmp_path / "state", tmp_path / "dify-images.squashfs"
    path.write_bytes(bytes(range(100)))
    described = archive.hashed(path, QUIET)
    made = Compiled("a" * 64, tmp_path / "compiled-of-it/compiled")
    assert kept.image_store(state, bundle.archives, made, tmp_path, QUIET) is None
    kept.note_image_store(state, bundle.archives, made, described)
    assert kept.image_store(state, bundle.archives, made, tmp_path, QUIET) == described
    others = (dataclasses.replace(bundle.archives[0], sha256="1" * 64),)
    assert kept.image_store(state, others, made, tmp_path, QUIET) is None
    assert kept.image_store(state, bundle.archives, None, tmp_path, QUIET) is None
    path.write_bytes(bytes(100))
    assert kept.image_store(state, bundle.archives, made, tmp_path, QUIET) is None


def test_an_analysis_is_kept_until_the_code_is_another_one(tmp_path: Path) -> None:
    for number in range(kept.ANALYSES + 2):
        with kept.analysis(f"{number:064}"[::-1], tmp_path) as folder:
            (folder / "found").write_text(str(number))
    assert len(list(tmp_path.glob("analysis-*"))) == kept.ANALYSES
    with kept.analysis(f"{kept.ANALYSES + 1:064}"[::-1], tmp_path) as folder:
        assert (folder / "found").read_text() == str(kept.ANALYSES + 1)


def test_what_a_build_has_left_half_done_is_no_analysis(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), kept.analysis("1" * 64, tmp_path) as folder:
        (folder / "found").write_text("half")
        raise KeyboardInterrupt
    with kept.analysis("1" * 64, tmp_path) as folder:
        assert list(folder.iterdir()) == []
