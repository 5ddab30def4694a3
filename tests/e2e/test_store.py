"""The image store: mounted instead of loaded, back after a reboot, gone after an uninstallation, refused if damaged."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path

import pytest

from build import store as build_store
from installer.bundle import manifest
from installer.core import layout
from installer.core.console import Console
from installer.core.runner import Runner
from installer.images import mounted_store, storage_conf
from tests.e2e.conftest import MachineMaker
from tests.e2e.server import Server
from tests.e2e.test_refusals import flip
from tests.target import bundle as bundles
from tests.target import machine as machines
from tests.target.bundle import Bundle
from tests.target.registry import Registry

CONF = "/etc/containers/storage.conf"
# What podman does on this machine without a file, and an administrator's comment.
THEIRS = "# An administrator's.\n" + storage_conf.default(
    "overlay", "/var/lib/containers/storage", "/run/containers/storage"
)
# The host lets nobody set a loop device up; a real one may forbid squashfs (CIS, "Ensure squashfs is disabled").
NO_LOOPS = "for device in /dev/loop*; do umount $device && rm -f $device; done"


def build(name: str, sample: Bundle, registry: Registry, work: Path) -> Bundle:
    """Build the sample with a store."""
    made = dataclasses.replace(sample, name=name, folder=work / f"dist-{name}", payload=work / f"payload-{name}")
    command = bundles.command(made, work, "--store")
    with registry:
        bundles.publish(sample.checkout, registry, work)
        subprocess.run(command, cwd=bundles.ROOT, env=bundles.environment(registry), check=True)
    return made


@pytest.fixture(scope="module")
def stored(sample: Bundle, registry: Registry, work: Path) -> Bundle:
    return build("stored", sample, registry, work)


def server(new_machine: MachineMaker, bundle: Bundle) -> Server:
    """Return a server with the executable and the store, but no archive."""
    made = Server(new_machine(), bundle, images=False)
    made.put(bundle.folder / layout.STORE, layout.STORE)
    return made


def changes(where: Server) -> str:
    """Return what is on the host of a store: its mount, its unit, the configuration."""
    command = f"grep squashfs /proc/mounts; ls /etc/systemd/system | grep stores; cat {CONF}; ls /opt/dify/stores"
    return where.run("sh", "-c", f"{command} 2>/dev/null").stdout


def test_the_same_images_give_the_same_store(
    sample: Bundle, stored: Bundle, registry: Registry, tmp_path: Path
) -> None:
    assert stored.archive.read_bytes() == sample.archive.read_bytes()
    # podman has a limit for some of the paths that it is given.
    work = tmp_path / "a checkout may lie as deep as its owner likes" / "build"
    work.mkdir(parents=True)
    described = manifest.loads((stored.folder / layout.MANIFEST).read_bytes())
    runner = Runner(env=bundles.environment(registry))
    again = build_store.make([stored.archive], described.images, tmp_path, work, runner, Console(silent=True))
    assert again == described.store
    assert (tmp_path / layout.STORE).read_bytes() == (stored.folder / layout.STORE).read_bytes()


@pytest.mark.feature("rootful podman, a bundle built with STORE=1", "works; the images are mounted, not loaded")
def test_the_life_of_a_store(new_machine: MachineMaker, stored: Bundle) -> None:
    where = server(new_machine, stored)
    where.machine.path(CONF).write_text(THEIRS)
    result = where.install()
    assert "10 mounted, 0 there already" in result.stderr
    # Nothing was loaded: podman's own storage has no image, and nothing was spooled.
    assert where.run("podman", "images", "--quiet", "--filter", "readonly=false").stdout == ""
    assert THEIRS.splitlines()[0] in changes(where)

    again = where.install()
    assert "0 loaded, 10 there already" in again.stderr
    assert "copy images" not in again.stderr

    # The other users' podman does not know of it.
    where.machine.login()
    others = where.machine.run("podman images --quiet", user=machines.USER)
    assert others.stdout == ""

    for end in (where.machine.poweroff, where.machine.kill):
        end()
        where.machine.boot()
        where.await_healthy()

    # A mount that failed is mended, from the copy in the install folder; so is what a killed run left of its proof.
    left = f"podman create --name {mounted_store.PROOF} --network none docker.io/library/nginx:1-sample"
    where.run("sh", "-c", f"podman rm --force --all --time 0; {left}; systemctl stop 'opt-dify-stores-*.mount'")
    assert "Created" in where.run("podman", "ps", "--all", "--filter", f"name={mounted_store.PROOF}").stdout
    where.run("rm", layout.STORE)
    assert "10 mounted" in where.install().stderr
    assert mounted_store.PROOF not in where.run("podman", "ps", "--all").stdout

    removed = where.installer("uninstall")
    assert removed.returncode == 0, removed.stderr
    assert changes(where).replace("additionalimagestores = []", "").split() == f"{THEIRS}[storage.options]".split()


@pytest.fixture(scope="class")
def where(new_machine: MachineMaker, stored: Bundle) -> Server:
    """A server with the store and nothing else, for the class below."""
    return server(new_machine, stored)


class TestRefused:
    @pytest.mark.parametrize("position", [0.0, 0.5, 0.999999])
    def test_a_flipped_bit(self, where: Server, stored: Bundle, position: float) -> None:
        path = where.machine.path(f"/root/{layout.STORE}")
        flip(path, int(path.stat().st_size * position))
        result = where.installer(*where.arguments())
        assert result.returncode == 3
        assert f"{layout.STORE} is changed: bytes" in result.stderr
        assert changes(where) == ""
        assert where.installer("verify").returncode == 3
        where.put(stored.folder / layout.STORE, layout.STORE)
        assert where.installer("verify").returncode == 0

    @pytest.mark.feature(
        "a host that mounts no squashfs (CIS forbids it)", "works; the images are loaded from the archive"
    )
    def test_a_host_that_mounts_none_loads_the_archive(self, where: Server, stored: Bundle) -> None:
        where.run("sh", "-c", NO_LOOPS)
        lacking = where.installer(*where.arguments())
        assert lacking.returncode == 3
        assert f"copy {layout.IMAGES} beside the executable" in lacking.stderr
        assert changes(where) == ""
        where.put(stored.archive, layout.IMAGES)
        result = where.install()
        assert "this host does not mount the image store" in result.stderr
        assert "10 loaded, 0 there already" in result.stderr
        assert changes(where) == ""


def test_without_root_the_archive_serves(new_machine: MachineMaker, stored: Bundle) -> None:
    where = Server(new_machine(), stored, machines.USER)
    where.put(stored.folder / layout.STORE, layout.STORE)
    result = where.install()
    assert "10 loaded" in result.stderr
    assert where.run("cat", "/proc/mounts").stdout.count("squashfs") == 0
