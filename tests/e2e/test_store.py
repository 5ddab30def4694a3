"""The image store: mounted or unpacked instead of loaded, there after a reboot, gone in the end, refused if damaged."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from build import store as build_store
from build.compiled import Compiled
from installer.bundle import manifest
from installer.core import layout
from installer.core.console import Console
from installer.core.runner import Runner
from installer.images import image_store, storage_conf
from tests.e2e.conftest import MachineMaker
from tests.e2e.server import Server
from tests.e2e.test_backup import FILL, HASH, printed, psql
from tests.e2e.test_refusals import flip
from tests.e2e.test_upgrade import image_ids, versions
from tests.target import bundle as bundles
from tests.target import machine as machines
from tests.target import newer as releases
from tests.target.bundle import Bundle
from tests.target.newer import NEW, OLD
from tests.target.registry import Registry

CONFS = {
    "root": "/etc/containers/storage.conf",
    machines.USER: f"/home/{machines.USER}/.config/containers/storage.conf",
}
CONF = CONFS["root"]
# What podman does on this machine without a file, and an administrator's comment.
THEIRS = "# An administrator's.\n" + storage_conf.default(
    "overlay", "/var/lib/containers/storage", "/run/containers/storage"
)
API, NGINX = "docker.io/difysample/api:", "docker.io/library/nginx:1-sample"
# Compiles what the api reads in, as the build does: the image and its ID are given, and the folder.
COMPILE = """
import sys
from pathlib import Path
from build import compiled
from installer.core.console import Console
from installer.core.runner import Runner

reference, identity, work = sys.argv[1:]
assert compiled.make(reference, identity, "amd64", "podman", Path(work), Runner(), Console())
"""
# A host that forbids squashfs (CIS, "Ensure squashfs is disabled") has a kernel without it.
NO_SQUASHFS = "grep -v squashfs /proc/filesystems > /run/filesystems && mount --bind /run/filesystems /proc/filesystems"


def build(name: str, sample: Bundle, registry: Registry, work: Path, images: str = "both") -> Bundle:
    """Build the sample with a store, and with an archive or without."""
    made = dataclasses.replace(sample, name=name, folder=work / f"dist-{name}", payload=work / f"payload-{name}")
    command = bundles.command(made, work, "--images", images)
    with registry:
        bundles.publish(sample.checkout, registry, work)
        bundles.build(command, registry, work)
    return made


@pytest.fixture(scope="module")
def stored(sample: Bundle, registry: Registry, work: Path) -> Bundle:
    return build("stored", sample, registry, work)


def server(new_machine: MachineMaker, bundle: Bundle, user: str = "root") -> Server:
    """Return a server with the executable and the store, but no archive."""
    made = Server(new_machine(), bundle, user, images=False)
    made.put(bundle.folder / layout.STORE, layout.STORE)
    return made


def changes(where: Server) -> str:
    """Return what is on the host of a store: its mount, its unit, the configuration, its folder."""
    command = f"grep squashfs /proc/mounts; ls /etc/systemd/system | grep stores; cat {CONFS[where.user]}"
    return where.run("sh", "-c", f"{command} 2>/dev/null; ls {where.folder}/stores 2>/dev/null").stdout


def tree_of(where: Server) -> Path:
    """Return where the one store that was unpacked is, seen from this host."""
    (found,) = where.machine.path(f"{where.folder}/stores").iterdir()
    return found


def times(tree: Path) -> dict[str, int]:
    """Return the files that there are and when each was written last, or linked: nobody can set that."""
    files = (path for path in tree.rglob("*") if path.is_file() and not path.is_symlink())
    return {str(path.relative_to(tree)): path.stat().st_ctime_ns for path in files}


def compiled_of_the_build(where: Server) -> set[str]:
    """Return the compiled files that are those of the build still: they are ours, and not the containers' user's."""
    owner = where.run("id", "--user").stdout.strip()
    found = where.run("find", f"{where.folder}/compiled", "-user", owner, "-name", "*.pyc", "-printf", "%f\\n")
    return {name.split(".")[0] for name in found.stdout.split()}


def test_the_same_images_give_the_same_store(
    sample: Bundle, stored: Bundle, registry: Registry, tmp_path: Path
) -> None:
    assert stored.archive.read_bytes() == sample.archive.read_bytes()
    # podman has a limit for some of the paths that it is given.
    work = tmp_path / "a checkout may lie as deep as its owner likes" / "build"
    work.mkdir(parents=True)
    described = manifest.loads((stored.folder / layout.MANIFEST).read_bytes())
    runner = Runner(env=bundles.environment(registry))
    api = next(image for image in described.images if image.reference.startswith(API))
    bundles.build([sys.executable, "-c", COMPILE, api.reference, api.id, str(work)], registry, work)
    (folder,) = work.glob(f"compiled-*/{layout.COMPILED}")
    again = build_store.make(
        [stored.archive], described.images, Compiled(api.id, folder), tmp_path, work, runner, Console(silent=True)
    )
    assert again == described.store
    assert (tmp_path / layout.STORE).read_bytes() == (stored.folder / layout.STORE).read_bytes()


def test_a_bundle_with_a_store_needs_no_archive(stored: Bundle, registry: Registry, work: Path) -> None:
    alone = build("alone", stored, registry, work, "store")
    names = {path.name for path in alone.folder.iterdir()}
    assert names == {layout.EXECUTABLE, layout.STORE, layout.CHECKSUMS, layout.MANIFEST}
    assert (alone.folder / layout.STORE).read_bytes() == (stored.folder / layout.STORE).read_bytes()
    # An archive that is made later fits.
    assert (alone.folder / layout.MANIFEST).read_bytes() == (stored.folder / layout.MANIFEST).read_bytes()
    listed = [line.split()[1] for line in alone.checksums.read_text().splitlines()]
    assert listed == [layout.EXECUTABLE, layout.STORE]


@pytest.mark.feature("rootful podman, a bundle with an image store", "works; the images are mounted, not loaded")
def test_the_life_of_a_store(new_machine: MachineMaker, stored: Bundle) -> None:
    where = server(new_machine, stored)
    where.machine.path(CONF).write_text(THEIRS)
    result = where.install()
    assert "10 mounted, 0 there already" in result.stderr
    assert {"backing", "as_large"} <= compiled_of_the_build(where)
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
    left = f"podman create --name {image_store.PROOF} --network none docker.io/library/nginx:1-sample"
    where.run("sh", "-c", f"podman rm --force --all --time 0; {left}; systemctl stop 'opt-dify-stores-*.mount'")
    assert "Created" in where.run("podman", "ps", "--all", "--filter", f"name={image_store.PROOF}").stdout
    where.run("rm", layout.STORE)
    assert "10 mounted" in where.install().stderr
    assert image_store.PROOF not in where.run("podman", "ps", "--all").stdout

    removed = where.installer("uninstall")
    assert removed.returncode == 0, removed.stderr
    assert changes(where).replace("additionalimagestores = []", "").split() == f"{THEIRS}[storage.options]".split()


@pytest.fixture(scope="class")
def where(lasting_machine: MachineMaker, stored: Bundle) -> Iterator[Server]:
    """A server with the store and nothing else, for the class below."""
    with server(lasting_machine, stored) as made:
        yield made


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
        "a host that neither mounts nor reads an image store", "works; the images are loaded from the archive"
    )
    def test_where_podman_is_configured_by_a_variable_the_archive_serves(self, where: Server, stored: Bundle) -> None:
        where.machine.path(CONF).write_text(THEIRS)
        env = {"CONTAINERS_STORAGE_CONF": CONF}
        lacking = where.installer(*where.arguments(), env=env)
        assert lacking.returncode == 3
        assert f"copy {layout.IMAGES} beside the executable" in lacking.stderr
        assert changes(where).strip() == THEIRS.strip()
        where.put(stored.archive, layout.IMAGES)
        result = where.install("--no-boot", env=env)
        assert "podman's storage is not of the usual kind" in result.stderr
        assert "10 loaded, 0 there already" in result.stderr
        assert changes(where).strip() == THEIRS.strip()


def live(where: Server, theirs: str) -> None:
    """Install from the store, unpacked, again and again, and uninstall: the life of one that is not mounted."""
    configuration = where.machine.path(CONFS[where.user])
    where.run("mkdir", "--parents", str(Path(CONFS[where.user]).parent))
    where.run("sh", "-c", f"cat > {CONFS[where.user]} <<'END'\n{theirs}END")
    result = where.install()
    assert "10 unpacked, 0 there already" in result.stderr
    assert {"backing", "as_large"} <= compiled_of_the_build(where)
    assert where.run("podman", "images", "--quiet", "--filter", "readonly=false").stdout == ""
    assert "squashfs" not in where.run("cat", "/proc/mounts").stdout
    tree = tree_of(where)
    before = times(tree)

    again = where.install()
    assert "0 loaded, 10 there already" in again.stderr
    assert times(tree) == before

    for end in (where.machine.poweroff, where.machine.kill):
        end()
        where.machine.boot()
        where.await_healthy()

    # Half of it is there, as a run leaves it that was killed: what is whole stays as it is.
    large = [tree / name for name in sorted(before, key=lambda name: (tree / name).stat().st_size)[-2:]]
    names = {str(path.relative_to(tree)) for path in large}
    spoil(where, tree, theirs, "/proc/sys/kernel/random/boot_id", f"truncate --size 1000 {large[0]}; rm {large[1]}")
    assert "10 unpacked" in where.install().stderr
    after = times(tree)
    assert after.keys() == before.keys()
    changed = {name for name, time in after.items() if before[name] != time}
    assert names <= changed
    assert len(changed) < len(after) / 10, changed

    # One of another boot may not have reached the disk: nothing of it is taken.
    if where.user == "root":
        where.run("sh", "-c", machines.NO_LOOPS)
    spoil(where, tree, theirs, "/proc/sys/kernel/random/uuid", "true")
    assert "10 unpacked" in where.install().stderr
    new = times(tree)
    assert new.keys() == before.keys()
    assert not [name for name, time in new.items() if after[name] == time]

    removed = where.installer("uninstall")
    assert removed.returncode == 0, removed.stderr
    assert not tree.exists()
    assert configuration.read_text().replace("additionalimagestores = []\n", "").split() in (
        theirs.split(),
        f"{theirs}[storage.options]".split(),
    )


def spoil(where: Server, tree: Path, theirs: str, boot: str, command: str) -> None:
    """Leave a store as a run that was killed in this boot does, or in another one, and no container."""
    where.installer("stop")
    where.run("podman", "rm", "--all", "--force", "--time", "0")
    inside = f"/{tree.relative_to(where.machine.root)}"
    text = command.replace(str(tree), inside)
    own = [] if where.user == "root" else ["podman", "unshare"]
    done = where.run(*own, "sh", "-c", f"{text} && cat {boot} > {inside}/{image_store.NOTE}")
    assert done.returncode == 0, done.stderr
    where.run("sh", "-c", f"cat > {CONFS[where.user]} <<'END'\n{theirs}END")


@pytest.mark.feature("rootful podman, a host that mounts no squashfs (CIS forbids it)", "works; the store is unpacked")
def test_a_host_that_mounts_none_unpacks_the_store(new_machine: MachineMaker, stored: Bundle) -> None:
    where = server(new_machine, stored)
    where.run("sh", "-c", machines.NO_LOOPS)
    live(where, THEIRS)


@pytest.mark.feature("rootless podman, a bundle with an image store", "works; the store is unpacked, the user's own")
def test_without_root_the_store_is_unpacked(new_machine: MachineMaker, stored: Bundle) -> None:
    where = server(new_machine, stored, machines.USER)
    live(where, '# Mine.\n[storage]\ndriver = "overlay"\n')


@pytest.mark.feature(
    "a power failure while the disk writes the image store", "`start` says so, the same command mends it"
)
@pytest.mark.parametrize("user", ["root", machines.USER])
def test_what_a_killed_run_has_started_ends_and_is_taken_up(
    new_machine: MachineMaker, stored: Bundle, user: str
) -> None:
    where = server(new_machine, stored, user)
    where.machine.run(NO_SQUASHFS)
    running = where.start()
    begun = where.machine.path(f"{where.folder}/stores")
    while not list(begun.glob(f"*/{image_store.NOTE}")):
        assert running.poll() is None
    where.run("pkill", "-KILL", "--full", "dify-installer --ip")
    running.wait()
    where.machine.run(f"until ! pgrep --full {layout.UNPACK[:-1]}[e]; do sleep 0.1; done", timeout=30)
    assert list(begun.glob(f"*/{image_store.NOTE}"))
    assert where.run("podman", "images", "--quiet").stdout == ""

    # Taken up, and the host goes down as Dify is to start: nobody knows what its disk has.
    running = where.start()
    configuration = where.machine.path(CONFS[user])
    while not (configuration.exists() and f"{where.folder}/stores" in configuration.read_text()):
        assert running.poll() is None
    where.machine.kill()
    running.wait()
    where.machine.boot()
    where.machine.run(NO_SQUASHFS)
    if user != "root":
        where.machine.login(user)
    assert where.run("podman", "images", "--quiet").stdout != ""
    refused = where.installer("start")
    assert refused.returncode != 0
    assert "the host went down before its disk had all of Dify's images" in refused.stderr
    assert "10 unpacked" in where.install().stderr
    assert not list(begun.glob(f"*/{image_store.NOTE}"))
    removed = where.installer("uninstall")
    assert removed.returncode == 0, removed.stderr
    assert changes(where) == ""


def test_a_storage_on_a_disk_of_its_own_has_the_store(new_machine: MachineMaker, stored: Bundle) -> None:
    where = server(new_machine, stored)
    where.run("sh", "-c", f"{NO_SQUASHFS}; mount -t tmpfs tmpfs /var/lib/containers")
    assert "10 unpacked" in where.install("--no-boot").stderr
    folder = "/var/lib/containers/storage/dify-installer-*"
    assert len(where.run("sh", "-c", f"ls -d {folder}/*/overlay").stdout.split()) == 1
    assert changes(where).count("dify-installer-") == 1
    assert not where.machine.path(f"{where.folder}/stores").exists()
    assert "0 loaded, 10 there already" in where.install("--no-boot").stderr

    # An image of somebody else is made of layers of the store: both stay.
    image = "docker.io/library/nginx:1-sample"
    where.run("sh", "-c", f"podman create --name left {image} && podman commit left mine:1 && podman rm left")
    kept = where.installer("uninstall")
    assert kept.returncode == 0, kept.stderr
    assert "in use by others, and left: /var/lib/containers/storage/dify-installer-" in kept.stderr
    shown = where.run("podman", "run", "--rm", "--network", "none", "mine:1", "nginx", "-v")
    assert shown.returncode == 0, shown.stderr
    where.run("podman", "rmi", "mine:1")
    assert where.installer("uninstall").returncode == 0
    assert where.run("sh", "-c", f"ls -d {folder}").stdout == ""
    assert changes(where) == ""


@pytest.mark.parametrize("position", [0.0, 0.5, 0.999999])
def test_a_flipped_bit_is_found_while_it_is_unpacked(
    new_machine: MachineMaker, stored: Bundle, position: float
) -> None:
    where = server(new_machine, stored, machines.USER)
    path = where.machine.path(f"{where.home}/{layout.STORE}")
    flip(path, int(path.stat().st_size * position))
    result = where.installer(*where.arguments())
    assert result.returncode == 3
    assert f"{layout.STORE} is changed: bytes" in result.stderr
    assert changes(where) == ""


@pytest.fixture(scope="module")
def later(stored: Bundle, registry: Registry, work: Path) -> Bundle:
    """The sample's next release with a store."""
    made = releases.make(registry, work, "stored-later", ["--images", "store"])
    before, after = (
        {image.reference: image.id for image in manifest.loads((each.folder / layout.MANIFEST).read_bytes()).images}
        for each in (stored, made)
    )
    # One name means an image of each.
    assert before[NGINX] != after[NGINX]
    return made


@pytest.mark.parametrize("user", ["root", machines.USER])
def test_an_upgrade_and_the_way_back_have_a_store_each(
    new_machine: MachineMaker, stored: Bundle, later: Bundle, user: str
) -> None:
    where = server(new_machine, stored, user)
    where.install()
    psql(where, FILL)
    before, ran = psql(where, HASH), image_ids(where)
    where.put(later.executable, layout.EXECUTABLE, mode=0o755)
    where.put(later.folder / layout.STORE, layout.STORE)
    said = where.install().stderr
    assert ("mounted" if user == "root" else "unpacked") in said
    assert versions(where) == {NEW}
    assert len(names_of_stores(where)) == 2

    # What is kept for the way back outlives a reboot.
    where.machine.reboot()
    where.await_healthy()
    printed(where, "rollback")
    assert versions(where) == {OLD}
    assert (psql(where, HASH), image_ids(where)) == (before, ran)
    assert len(names_of_stores(where)) == 1

    # Forward again, and for good.
    where.put(later.folder / layout.STORE, layout.STORE)
    where.install()
    assert where.installer("prune").returncode == 0
    assert versions(where) == {NEW}
    # The database's image is in both stores, and is read from the one that is left.
    assert len(names_of_stores(where)) == 1
    where.machine.reboot()
    where.await_healthy()
    removed = where.installer("uninstall")
    assert removed.returncode == 0, removed.stderr
    assert changes(where) == ""


def names_of_stores(where: Server) -> set[str]:
    """Return the names of the stores in the install folder, and require that storage.conf names the same."""
    listed = where.run("sh", "-c", f"ls {where.folder}/stores").stdout.split()
    there = {name.removesuffix(".squashfs") for name in listed}
    named = where.run("sh", "-c", f"cat {CONFS[where.user]}").stdout
    assert there == set(re.findall(r"stores/([0-9a-f]{12})", named))
    return there
