"""The archive from what engines print: podman's form, old docker's with links, new docker's with blobs."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import itertools
import json
import os
import tarfile
import threading
from concurrent.futures import Future
from pathlib import Path

import pytest
import zstandard

from build import archive, images, source
from build.failure import BuildError
from installer.bundle import manifest, verify
from installer.core.console import Console
from installer.core.runner import Runner
from tests.unit.test_manifest import EXAMPLE

QUIET = Console(silent=True)


def layer(text: str) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        info = tarfile.TarInfo(text)
        info.size = len(text)
        tar.addfile(info, io.BytesIO(text.encode()))
    return data.getvalue()


def config(layers: list[bytes]) -> bytes:
    ids = [f"sha256:{hashlib.sha256(each).hexdigest()}" for each in layers]
    return json.dumps({"architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": ids}}).encode()


def saved(path: Path, form: str, layers: list[bytes]) -> None:
    """Write what an engine's `save` prints for one image."""
    members: list[tuple[str, bytes | str]] = []
    names = []
    for number, each in enumerate(layers):
        sha = hashlib.sha256(each).hexdigest()
        if form == "podman":
            names.append(f"{sha}.tar")
            members += [
                (f"{sha}.tar", each),
                (f"{number:064}/layer.tar", f"../{sha}.tar"),
                (f"{number:064}/VERSION", b"1.0"),
            ]
        elif form == "old docker":
            names.append(f"{number:064}/layer.tar")
            first = layers.index(each)
            members.append((names[-1], each if first == number else f"../{first:064}/layer.tar"))
        else:
            names.append(f"blobs/sha256/{sha}")
            members.append((names[-1], each))
    described = config(layers)
    name = f"{hashlib.sha256(described).hexdigest()}.json"
    members += [(name, described), ("oci-layout", b'{"imageLayoutVersion": "1.0.0"}')]
    members.append(("manifest.json", json.dumps([{"Config": name, "RepoTags": ["x"], "Layers": names}]).encode()))
    with tarfile.open(path, "w") as tar:
        for member, content in dict(members).items():
            info = tarfile.TarInfo(member)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def engine(folder: Path) -> Runner:
    """Return a runner in which `docker save NAME` prints folder/NAME: a real program, a made-up engine."""
    program = folder / "docker"
    program.write_text(f'#!/bin/sh\nfor last; do :; done\ncat "{folder}/$last" || exit 1\n')
    program.chmod(0o755)
    return Runner({**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"})


def together(folder: Path, contents: dict[str, list[bytes]]) -> Runner:
    """Return a runner in which `podman save NAME…` prints a file of all these images, a shared layer once."""
    names = list(contents)
    for begin, end in itertools.combinations(range(len(names) + 1), 2):
        members: dict[str, bytes] = {}
        entries = []
        for name in names[begin:end]:
            described = config(contents[name])
            files = [f"{sha(each)}.tar" for each in contents[name]]
            members |= dict(zip(files, contents[name], strict=True))
            members[f"{sha(described)}.json"] = described
            entries.append({"Config": f"{sha(described)}.json", "RepoTags": [name], "Layers": files})
        members["manifest.json"] = json.dumps(entries).encode()
        with tarfile.open(folder / "+".join(names[begin:end]), "w") as tar:
            for member, content in members.items():
                info = tarfile.TarInfo(member)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    program = folder / "podman"
    program.write_text(
        f'#!/bin/sh\nshift 4; name=$(IFS=+; echo "$*"); echo "$name" >>"{folder}/asked"; cat "{folder}/$name"\n'
    )
    program.chmod(0o755)
    return Runner({**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"})


def pulled(name: str, identity: str = "") -> Future[images.Pulled]:
    job: Future[images.Pulled] = Future()
    job.set_result(images.Pulled(reference=name, id=identity, digest="sha256:d", size=10, created=""))
    return job


def save(folder: Path, names: list[str]) -> tuple[bytes, list[manifest.Image]]:
    (part,) = parts(folder, names, archive.Cut())
    return part.path.read_bytes(), list(part.images)


def parts(folder: Path, names: list[str], cut: archive.Cut) -> list[archive.Saved]:
    return archive.save([pulled(name) for name in names], folder, cut, str(folder / "docker"), engine(folder), QUIET)


def test_every_engines_form_gives_the_same_bytes(tmp_path: Path) -> None:
    layers = [layer("base"), layer("top"), layer("base")]
    results = []
    for form in ("podman", "old docker", "new docker"):
        folder = tmp_path / form
        folder.mkdir()
        saved(folder / "one", form, layers)
        saved(folder / "two", form, [layers[0], layer("other")])
        results.append(save(folder, ["one", "two"]))
    assert results[0] == results[1] == results[2]
    data, described = results[0]
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        names = tar.getnames()
        assert names[-1] == "manifest.json"
        assert len([name for name in names if name.endswith(".tar")]) == 3
        for image in described:
            content = tar.extractfile(f"{image.id}.json")
            assert content is not None and hashlib.sha256(content.read()).hexdigest() == image.id
    assert [len(image.layers) for image in described] == [3, 2]


def test_podman_saves_together_what_is_there_and_the_bytes_are_the_same(tmp_path: Path) -> None:
    base, contents = layer("base"), {}
    for name in ("a", "b", "c"):
        contents[name] = [base, layer(name)]
    runner = together(tmp_path, contents)
    all_there = [pulled(name) for name in contents]
    (first,) = archive.save(all_there, tmp_path, archive.Cut(), "podman", runner, QUIET)
    assert (tmp_path / "asked").read_text() == "a+b+c\n"
    whole = first.path.read_bytes()
    assert [(image.reference, image.index) for image in first.images] == [("a", 0), ("b", 1), ("c", 2)]
    (tmp_path / "asked").unlink()
    late: Future[images.Pulled] = Future()
    arrives = threading.Timer(1, late.set_result, (pulled("b").result(),))
    arrives.start()
    some_there = [all_there[0], late, all_there[2]]
    (second,) = archive.save(some_there, tmp_path, archive.Cut(), "podman", runner, QUIET)
    assert (tmp_path / "asked").read_text() == "a\nb+c\n"
    assert second.path.read_bytes() == whole
    assert second.images == first.images


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_what_the_last_archive_has_is_not_saved_again(tmp_path: Path, compression: manifest.Compression) -> None:
    base = layer("base")
    contents = {"a": [base, layer("a")], "b": [base, layer("b")], "c": [layer("c"), base]}
    runner = together(tmp_path, contents)
    jobs = [pulled(name, sha(config(layers))) for name, layers in contents.items()]
    cut = archive.Cut(compression=compression)
    (first,) = archive.save(jobs, tmp_path, cut, "podman", runner, QUIET)
    described = dataclasses.replace(EXAMPLE, archives=(archive.describe(first, QUIET),), images=first.images)
    before = archive.earlier(described, tmp_path)
    whole = first.path.read_bytes()
    (again,) = archive.save(jobs, tmp_path, cut, "podman", runner, QUIET, before)
    assert (tmp_path / "asked").read_text() == "a+b+c\n"
    assert (again.path.read_bytes(), again.images, again.layers) == (whole, first.images, first.layers)

    # One that has changed is saved alone, and all is as if none had been there.
    contents["b"] = [base, layer("new")]
    runner = together(tmp_path, contents)
    jobs[1] = pulled("b", sha(config(contents["b"])))
    (mixed,) = archive.save(jobs, tmp_path, cut, "podman", runner, QUIET, before)
    assert (tmp_path / "asked").read_text() == "a+b+c\nb\n"
    bytes_mixed = mixed.path.read_bytes()
    (fresh,) = archive.save(jobs, tmp_path, cut, "podman", runner, QUIET)
    assert (fresh.path.read_bytes(), fresh.images) == (bytes_mixed, mixed.images)


def test_an_image_that_could_not_be_pulled_fails_after_those_before_it(tmp_path: Path) -> None:
    runner = together(tmp_path, {"a": [layer("a")]})
    failed: Future[images.Pulled] = Future()
    failed.set_exception(BuildError("b cannot be pulled"))
    with pytest.raises(BuildError, match="b cannot be pulled"):
        archive.save([pulled("a"), failed], tmp_path, archive.Cut(), "podman", runner, QUIET)
    assert (tmp_path / "asked").read_text() == "a\n"
    assert not (tmp_path / "dify-images.tar").exists()


def test_a_layer_that_is_not_the_configurations_is_refused(tmp_path: Path) -> None:
    saved(tmp_path / "one", "podman", [layer("base")])
    data = (tmp_path / "one").read_bytes()
    (tmp_path / "one").write_bytes(data.replace(b"base\0\0", b"bast\0\0", 2))
    with pytest.raises(BuildError, match="not those of its configuration"):
        save(tmp_path, ["one"])
    assert not (tmp_path / "dify-images.tar").exists()


def test_an_engine_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="cannot be saved"):
        save(tmp_path, ["no-such-image"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["docker"]


def contents(path: Path) -> dict[str, int]:
    """Return the sizes of an archive's members by name."""
    with tarfile.open(path) as tar:
        return {member.name: member.size for member in tar}


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_file_ends_before_the_image_that_would_make_it_too_large(tmp_path: Path) -> None:
    base, one, two = layer("base"), layer("one"), layer("two")
    for name, layers in (("one", [base, one]), ("two", [base, two]), ("three", [one])):
        saved(tmp_path / name, "podman", layers)
    (tmp_path / "dify-images.9.tar").write_text("of an earlier build")
    whole = parts(tmp_path, ["one", "two", "three"], archive.Cut())[0].path.stat().st_size
    first, second = parts(tmp_path, ["one", "two", "three"], archive.Cut(largest=whole + archive.LARGEST_END - 4096))
    assert sorted(path.name for path in tmp_path.glob("*.tar")) == ["dify-images.1.tar", "dify-images.2.tar"]
    placed = [(image.reference, image.archive, image.index) for part in (first, second) for image in part.images]
    assert placed == [("one", 0, 0), ("two", 1, 0), ("three", 1, 1)]
    # What the first file has is an empty member in the second.
    assert {name: size for name, size in contents(second.path).items() if name.endswith(".tar")} == {
        f"{sha(base)}.tar": 0,
        f"{sha(two)}.tar": len(two),
        f"{sha(one)}.tar": 0,
    }
    assert first.layers == {sha(base): len(base), sha(one): len(one)}
    assert second.layers == {sha(two): len(two)}


def test_an_image_that_is_too_large_alone_is_named(tmp_path: Path) -> None:
    saved(tmp_path / "one", "podman", [layer("base")])
    with pytest.raises(BuildError, match="one alone is larger than"):
        parts(tmp_path, ["one"], archive.Cut(largest=archive.LARGEST_END))
    assert not list(tmp_path.glob("*.tar"))


def test_layers_of_the_base_are_left_out(tmp_path: Path) -> None:
    base, one = layer("base"), layer("one")
    saved(tmp_path / "one", "podman", [base, one])
    (part,) = parts(tmp_path, ["one"], archive.Cut(base=frozenset({sha(base)})))
    assert contents(part.path)[f"{sha(base)}.tar"] == 0
    assert part.layers == {sha(one): len(one)}
    assert part.images[0].layers == (sha(base), sha(one))
    assert part.images[0].size == len(one)


def test_compressed_layers_are_named_and_counted_by_what_is_in_them(tmp_path: Path) -> None:
    layers = [layer("x" * 50), layer("y" * 50)]
    saved(tmp_path / "one", "podman", layers)
    (plain,) = parts(tmp_path, ["one"], archive.Cut())
    (packed,) = parts(tmp_path, ["one"], archive.Cut(compression="zstd"))
    assert packed.layers == plain.layers
    assert packed.images == plain.images
    verify.check_index(packed.path, archive.describe(packed, QUIET), packed.images)
    with tarfile.open(packed.path) as tar:
        for each in layers:
            member = tar.extractfile(f"{hashlib.sha256(each).hexdigest()}.tar")
            assert member is not None
            data = member.read()
            assert len(data) < len(each) // 4
            assert zstandard.ZstdDecompressor().decompressobj().decompress(data) == each


def test_private_files_and_data_stay_out_of_a_bundle(tmp_path: Path) -> None:
    wanted = [".env.example", "docker-compose.yaml", "nginx/nginx.conf.template", "volumes/sandbox/conf/config.yaml"]
    private = [".env", "nginx/ssl/dify.key", "nginx/ssl/dify.crt", "volumes/db/data/pgdata/PG_VERSION"]
    for name in wanted + private:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    assert [path.as_posix() for path in source.project_files(tmp_path)] == sorted(wanted)
    before = source.tree_hash(tmp_path)
    (tmp_path / ".env").write_text("changed")
    assert source.tree_hash(tmp_path) == before
    (tmp_path / wanted[0]).write_text("changed")
    assert source.tree_hash(tmp_path) != before
