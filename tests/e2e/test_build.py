"""The build: what it makes, that it makes it twice, and what it says when it cannot."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from installer.bundle import manifest
from installer.core import layout
from tests.target import bundle as bundles
from tests.target.bundle import Bundle
from tests.target.docker import Docker
from tests.target.registry import Registry


def build(bundle: Bundle, work: Path, registry: Registry, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the build as a person would and return how it went."""
    return subprocess.run(
        bundles.command(bundle, work, *options),
        cwd=bundles.ROOT,
        env=bundles.environment(registry),
        capture_output=True,
        text=True,
    )


def images_of(source: str, *options: str) -> list[str]:
    """Return what `python -m build images` prints."""
    command = [sys.executable, "-m", "build", "images", "--source", source, *options]
    shown = subprocess.run(command, cwd=bundles.ROOT, capture_output=True, text=True, check=True)
    return shown.stdout.splitlines()


def read_manifest(bundle: Bundle) -> manifest.Manifest:
    return manifest.loads((bundle.payload / layout.MANIFEST).read_bytes())


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_bundle_is_three_files_with_their_hashes_and_its_manifest(sample: Bundle) -> None:
    names = ["SHA256SUMS", "dify-images.tar", "dify-installer", "manifest.json"]
    assert sorted(path.name for path in sample.folder.iterdir()) == names
    checked = subprocess.run(["sha256sum", "--check", "SHA256SUMS"], cwd=sample.folder, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr


def test_the_manifest_describes_all_of_it(sample: Bundle, published: Registry) -> None:
    described = read_manifest(sample)
    assert described.archives[0].sha256 == sha256(sample.archive)
    assert {image.reference for image in described.images} == set(images_of(str(sample.checkout)))
    names = {file.path for file in described.files}
    assert {"docker/docker-compose.yaml", "docker/.env.example", "podman-compose.lock", "probe.py"} <= names
    for minor in range(9, 15):
        assert any(re.search(rf"PyYAML.*-cp3{minor}-.*manylinux.*x86_64", name, re.IGNORECASE) for name in names), minor
    assert any(name.startswith("wheels/pip-") for name in names)
    assert not any(name.endswith("/.env") for name in names)
    for image in described.images:
        command = ["podman", "image", "inspect", image.reference]
        environment = bundles.environment(published)
        shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        (inspected,) = json.loads(shown.stdout)
        assert inspected["Id"] == image.id
        assert image.digest.startswith("sha256:")


def test_the_executable_prints_the_licences_of_all_that_it_carries(sample: Bundle) -> None:
    shown = subprocess.run([str(sample.executable), "licenses"], capture_output=True, text=True, check=True).stdout
    assert "\npodman-compose 1.6.0: GPL-2.0-only\n" in shown
    assert "GNU GENERAL PUBLIC LICENSE" in shown
    for name in ("CPython", "cryptography", "dify-installer", "pip", "pyinstaller", "PyYAML"):
        assert re.search(rf"^{name} [0-9.]+: ", shown, re.MULTILINE), name


def test_the_archive_holds_each_layer_once(sample: Bundle) -> None:
    with tarfile.open(sample.archive) as archive:
        names = [member.name for member in archive]
        assert all(member.mtime == 0 for member in archive)
    assert len(names) == len(set(names))
    layers = {layer for image in read_manifest(sample).images for layer in image.layers}
    assert {name.removesuffix(".tar") for name in names if name.endswith(".tar")} == layers


def test_docker_takes_the_archive(sample: Bundle, work: Path) -> None:
    with Docker(work / "docker") as docker:
        subprocess.run([*docker.command, "load", "--input", str(sample.archive)], check=True, capture_output=True)
        for image in read_manifest(sample).images:
            shown = subprocess.run(
                [*docker.command, "image", "inspect", image.reference], capture_output=True, check=True
            )
            assert json.loads(shown.stdout)[0]["Id"] == f"sha256:{image.id}"


def test_podman_load_takes_the_archive(sample: Bundle, work: Path, run_root: Path) -> None:
    store = work / "podman"
    podman = ["podman", "--root", str(store / "root"), "--runroot", str(run_root)]
    subprocess.run([*podman, "load", "--input", str(sample.archive)], check=True, capture_output=True)
    shown = subprocess.run([*podman, "images", "--no-trunc", "--quiet"], check=True, capture_output=True, text=True)
    assert {line.removeprefix("sha256:") for line in shown.stdout.split()} == {
        image.id for image in read_manifest(sample).images
    }
    subprocess.run(
        ["podman", "unshare", "rm", "-rf", str(store)] if os.geteuid() else ["rm", "-rf", str(store)], check=True
    )


def test_the_same_inputs_give_the_same_bytes_and_nothing_is_pulled_twice(
    sample: Bundle, published: Registry, tmp_path: Path
) -> None:
    again = dataclasses.replace(sample, folder=tmp_path / "dist", payload=tmp_path / "payload")
    result = build(again, tmp_path, published)
    assert result.returncode == 0, result.stderr
    assert not any(line.startswith("pull ") for line in result.stderr.splitlines())
    for name in (layout.EXECUTABLE, layout.IMAGES, layout.CHECKSUMS):
        assert sha256(again.folder / name) == sha256(sample.folder / name), name
    assert "./dify-installer --ip" in result.stderr


def without_output(bundle: Bundle, tmp_path: Path) -> Bundle:
    return dataclasses.replace(bundle, folder=tmp_path / "dist", payload=tmp_path / "payload")


def test_an_image_that_is_not_to_be_had(sample: Bundle, published: Registry, work: Path, tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    shutil.copytree(sample.checkout, checkout)
    path = checkout / "docker/docker-compose.yaml"
    path.write_text(path.read_text().replace("difysample/web:0.1.0", "difysample/no-such-image:9"))
    result = build(dataclasses.replace(without_output(sample, tmp_path), checkout=checkout), work, published)
    assert result.returncode == 5
    assert "docker.io/difysample/no-such-image:9 cannot be pulled" in result.stderr
    assert list((tmp_path / "dist").iterdir()) == []


def test_a_full_disk_leaves_no_half_written_file(
    sample: Bundle, published: Registry, work: Path, tmp_path: Path
) -> None:
    small = tmp_path / "dist"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=50m", "none", str(small)], check=True)
    try:
        result = build(without_output(sample, tmp_path), work, published)
        assert result.returncode == 5
        assert "the image archive needs about" in result.stderr
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_another_architecture_is_refused_here(sample: Bundle, published: Registry, work: Path, tmp_path: Path) -> None:
    result = build(without_output(sample, tmp_path), work, published, "--arch", "arm64")
    assert result.returncode == 5
    assert "build on an arm64 machine" in result.stderr


def test_a_folder_a_tarball_and_a_git_tag_are_one_release(sample: Bundle, tmp_path: Path) -> None:
    expected = images_of(str(sample.checkout))
    tarball = tmp_path / "release.tar.gz"
    with tarfile.open(tarball, "w:gz") as archive:
        archive.add(sample.checkout, "release-1")
    assert images_of(str(tarball), "--work", str(tmp_path / "work")) == expected
    repository = tmp_path / "repository"
    shutil.copytree(sample.checkout, repository)
    git = ["git", "-C", str(repository), "-c", "user.name=test", "-c", "user.email=test@example.org"]
    for arguments in (
        ["init", "--quiet"],
        ["add", "--all"],
        ["commit", "--quiet", "--message=release"],
        ["tag", "1.0"],
    ):
        subprocess.run([*git, *arguments], check=True)
    options = ["--tag", "1.0", "--work", str(tmp_path / "work")]
    assert images_of(f"file://{repository}", *options) == expected


def test_a_tag_that_is_not_there(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "--quiet", str(tmp_path / "repository")], check=True)
    command = [sys.executable, "-m", "build", "images", "--source", f"file://{tmp_path}/repository", "--tag", "9"]
    result = subprocess.run(
        [*command, "--work", str(tmp_path / "work")], cwd=bundles.ROOT, capture_output=True, text=True
    )
    assert result.returncode == 5
    assert "cannot be cloned at 9" in result.stderr


def test_choices_change_the_images(sample: Bundle) -> None:
    chosen = images_of(str(sample.checkout), "--vector-store", "qdrant", "--db", "mysql")
    assert "docker.io/library/qdrant:1-sample" in chosen
    assert "docker.io/library/mysql:8-sample" in chosen
    assert not any("weaviate" in name or "postgres" in name for name in chosen)

    more = images_of(str(sample.checkout), "--profile", "qdrant")
    assert set(more) == {*images_of(str(sample.checkout)), "docker.io/library/qdrant:1-sample"}


@pytest.mark.parametrize(
    "choice", [["--vector-store", "no-such-store"], ["--vector-store", "couchbase"], ["--profile", "no-such-profile"]]
)
def test_a_choice_that_cannot_be(sample: Bundle, choice: list[str]) -> None:
    command = [sys.executable, "-m", "build", "images", "--source", str(sample.checkout), *choice]
    assert subprocess.run(command, cwd=bundles.ROOT, capture_output=True).returncode == 2
