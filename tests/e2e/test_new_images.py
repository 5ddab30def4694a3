"""A rebuilt bundle with the same names: what is new runs afterwards, and what it replaces is gone."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import MachineMaker
from tests.e2e.server import Server
from tests.target import bundle as bundles
from tests.target.bundle import Bundle
from tests.target.registry import Registry


@pytest.fixture(scope="module")
def mended(registry: Registry, work: Path) -> Bundle:
    """The sample with one more layer in the image of the web page."""
    layer = work / "images" / "mended.tar"
    with tarfile.open(layer, "w") as archive:
        archive.addfile(tarfile.TarInfo("mended"))
    with registry:
        return bundles.make("mended", bundles.SAMPLE, registry, work, {"web": [layer]})


@pytest.fixture(scope="module")
def server(lasting_machine: MachineMaker, sample: Bundle) -> Server:
    made = Server(lasting_machine(), sample)
    made.install()
    return made


def inspect(server: Server, service: str) -> dict[str, Any]:
    shown = server.run("podman", "inspect", server.container(service)).stdout
    found: dict[str, Any] = json.loads(shown)[0]
    return found


@pytest.mark.feature("a rebuilt bundle with the same image names", "works; containers of new images are replaced")
def test_a_new_image_of_the_same_name_runs_and_the_old_one_is_gone(server: Server, mended: Bundle) -> None:
    before, database = inspect(server, "web"), inspect(server, "db_postgres")
    server.put(mended.executable, "dify-installer", mode=0o755)
    server.put(mended.archive, "dify-images.tar")
    planned = server.installer(*server.arguments(), "--dry-run").stdout
    assert "replaced by new images, with what depends on them: web" in planned
    server.install()
    after = inspect(server, "web")
    assert after["ImageName"] == before["ImageName"]
    assert after["Image"] != before["Image"]
    assert server.run("podman", "exec", server.container("web"), "test", "-e", "/mended").returncode == 0
    assert server.run("podman", "image", "exists", before["Image"]).returncode == 1
    assert inspect(server, "db_postgres")["Id"] == database["Id"]
    assert server.installer("status").returncode == 0


def test_the_same_bundle_again_changes_nothing(server: Server) -> None:
    before = server.containers()
    assert "run already" in server.install().stderr
    assert server.containers() == before


def test_what_somebody_else_has_named_stays(server: Server, sample: Bundle) -> None:
    theirs = inspect(server, "web")["Image"]
    server.run("podman", "tag", theirs, "localhost/theirs:1")
    server.put(sample.executable, "dify-installer", mode=0o755)
    server.put(sample.archive, "dify-images.tar")
    server.install()
    assert inspect(server, "web")["Image"] != theirs
    assert server.run("podman", "image", "exists", "localhost/theirs:1").returncode == 0
    assert server.installer("uninstall").returncode == 0
    assert server.run("podman", "images", "--format", "{{.Repository}}:{{.Tag}}").stdout.split() == [
        "localhost/theirs:1"
    ]
    assert not server.machine.exists("/opt/dify/images.json")
