"""Bundles of another shape: several archives for media, and only what a base bundle lacks; and the second build."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from installer.bundle import manifest
from installer.core import layout
from installer.engine.base import Name
from tests.e2e.conftest import MachineMaker
from tests.e2e.server import Server
from tests.target import bundle as bundles
from tests.target.bundle import Bundle
from tests.target.registry import Registry


def build(name: str, sample: Bundle, registry: Registry, work: Path, *options: str) -> tuple[Bundle, str]:
    """Build a bundle of the sample's images; return it and what the build printed."""
    made = Bundle(name=name, folder=work / f"dist-{name}", checkout=sample.checkout, payload=work / f"payload-{name}")
    command = bundles.command(made, work, *options)
    with registry:
        bundles.publish(sample.checkout, registry, work)
        done = subprocess.run(
            command, cwd=bundles.ROOT, env=bundles.environment(registry), capture_output=True, text=True, check=True
        )
    return made, done.stdout + done.stderr


@pytest.fixture(scope="module")
def split(sample: Bundle, registry: Registry, work: Path) -> Bundle:
    """The sample in two archives: the limit is a little below the size of the whole."""
    largest = sample.archive.stat().st_size - 1_000_000
    return build("split", sample, registry, work, "--split", str(largest))[0]


@pytest.fixture(scope="module")
def differential(sample: Bundle, registry: Registry, work: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle on top of one that is the sample without its api."""
    base = json.loads((sample.folder / layout.MANIFEST).read_text())
    base["images"] = [image for image in base["images"] if "/api:" not in image["reference"]]
    path = tmp_path_factory.mktemp("base") / "manifest.json"
    path.write_text(json.dumps(base))
    return build("differential", sample, registry, work, "--base", str(path))[0]


@pytest.fixture(scope="module")
def compressed(sample: Bundle, registry: Registry, work: Path) -> Bundle:
    return build("compressed", sample, registry, work, "--compress")[0]


def archives(bundle: Bundle) -> list[Path]:
    return sorted(bundle.folder.glob("dify-images*.tar"))


def server(new_machine: MachineMaker, bundle: Bundle, engine: Name = "podman") -> Server:
    """Return a machine with the executable and all archives of a bundle."""
    made = Server(new_machine(engine), bundle, images=False, engine=engine)
    for path in archives(bundle):
        made.put(path, path.name)
    return made


@pytest.mark.parametrize("engine", ["podman", "docker"])
def test_parts_are_installed_as_they_are(new_machine: MachineMaker, split: Bundle, engine: Name) -> None:
    assert [path.name for path in archives(split)] == ["dify-images.1.tar", "dify-images.2.tar"]
    sums = subprocess.run(["sha256sum", "--check", "SHA256SUMS"], cwd=split.folder, capture_output=True, text=True)
    assert sums.stdout.count("OK") == 3
    where = server(new_machine, split, engine)
    result = where.install()
    assert "dify-images.1.tar, dify-images.2.tar are as built" in result.stderr
    assert where.installer("status").returncode == 0


def test_a_part_that_is_damaged_or_missing_is_named(new_machine: MachineMaker, split: Bundle) -> None:
    where = server(new_machine, split)
    part = where.machine.path("/root/dify-images.2.tar")
    with part.open("r+b") as file:
        file.seek(part.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))
    damaged = where.installer(*where.arguments())
    assert damaged.returncode == 3
    assert "dify-images.2.tar is changed" in damaged.stderr
    part.unlink()
    missing = where.installer("verify")
    assert missing.returncode == 3
    assert "dify-images.2.tar cannot be read" in missing.stderr


def test_a_differential_bundle_needs_its_base_and_says_so(
    new_machine: MachineMaker, sample: Bundle, differential: Bundle
) -> None:
    assert differential.archive.stat().st_size < sample.archive.stat().st_size // 100
    where = server(new_machine, differential)
    for command in (where.arguments(), ["preflight", *where.arguments()]):
        refused = where.installer(*command)
        assert refused.returncode == 4
        assert "holds only what another one lacks (Dify 0.1.0" in refused.stdout + refused.stderr
    assert not where.machine.exists("/opt/dify")
    where.put(sample.archive, "base.tar")
    where.run("sh", "-c", "podman load --quiet --input base.tar && podman rmi $(podman images -q '*/*/api')")
    result = where.install()
    assert "1 loaded, 9 there already" in result.stderr
    assert where.installer("status").returncode == 0


def test_a_second_build_writes_nothing_anew_and_gives_the_same_bytes(
    sample: Bundle, split: Bundle, registry: Registry, work: Path
) -> None:
    before = {path.name: (path.stat().st_ino, path.read_bytes()) for path in split.folder.iterdir()}
    largest = sample.archive.stat().st_size - 1_000_000
    _, printed = build("split", sample, registry, work, "--split", str(largest))
    after = {path.name: (path.stat().st_ino, path.read_bytes()) for path in split.folder.iterdir()}
    assert {name: data for name, (_, data) in before.items()} == {name: data for name, (_, data) in after.items()}
    assert "the archive of the last build is kept" in printed
    for path in archives(split):
        assert before[path.name][0] == after[path.name][0]
    bundle = manifest.loads((split.folder / layout.MANIFEST).read_bytes())
    assert [archive.name for archive in bundle.archives] == [path.name for path in archives(split)]


@pytest.mark.parametrize("engine", ["podman", "docker"])
def test_compressed_layers_are_loaded(
    new_machine: MachineMaker, compressed: Bundle, sample: Bundle, engine: Name
) -> None:
    assert compressed.archive.stat().st_size < sample.archive.stat().st_size // 2
    where = server(new_machine, compressed, engine)
    assert "10 loaded" in where.install().stderr
    assert where.installer("status").returncode == 0
