"""The ground that the other tests stand on: the target machine, the stand-in images, the registry."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import MachineMaker
from tests.target import bundle as bundles
from tests.target import machine as machines
from tests.target.machine import Machine
from tests.target.registry import Registry

IMAGE = "docker.io/difysample/web:0.1.0"
USERS = ["root", machines.USER]
# A test that boots a machine and is killed before it can clean up.
KILLED = """
import pathlib, sys, time
from tests.target.machine import Machine
Machine(pathlib.Path(sys.argv[1])).boot()
print("up", flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def archive(work: Path, registry: Registry, tmp_path_factory: pytest.TempPathFactory, run_root: Path) -> Path:
    """An archive with one image, pulled by its public name from our registry into a store of its own."""
    folder = tmp_path_factory.mktemp("podman")
    podman = ["podman", "--root", f"{folder}/store", "--runroot", str(run_root)]
    with registry:
        bundles.publish(bundles.checkout("target", bundles.SAMPLE, work), registry, work)
        environment = bundles.environment(registry)
        subprocess.run([*podman, "pull", "--quiet", IMAGE], check=True, env=environment)
    subprocess.run([*podman, "save", "--quiet", "--output", f"{folder}/image.tar", IMAGE], check=True)
    subprocess.run([*podman, "rmi", "--all"], check=True)
    return folder / "image.tar"


@pytest.fixture(scope="module")
def machine(lasting_machine: MachineMaker, archive: Path) -> Machine:
    """A machine with the archive at /srv, and with a session for the user without root."""
    made = lasting_machine()
    made.push(archive, "/srv/image.tar", mode=0o644)
    made.login()
    return made


def await_output(machine: Machine, command: str, wanted: str, user: str = "root", seconds: float = 30) -> None:
    """Wait until a command prints `wanted`."""
    deadline = time.monotonic() + seconds
    while (shown := machine.run(command, user=user, check=False)).stdout.strip() != wanted:
        assert time.monotonic() < deadline, f"{command}: {shown.stdout}{shown.stderr}"
        time.sleep(0.2)


def test_it_is_air_gapped_and_looks_like_rhel(machine: Machine) -> None:
    assert 'VERSION_ID="9.6"' in machine.read("/etc/os-release")
    assert machine.run("ip route").stdout.startswith(f"{machines.ADDRESS.rpartition('.')[0]}.0/24 dev lan0")
    assert "default" not in machine.run("ip route; ip -6 route").stdout
    assert machine.run("command -v pip pip3", check=False).stdout == ""
    assert machine.run("systemctl is-active firewalld", check=False).stdout.strip() == "inactive"
    assert not machine.exists(f"/var/lib/systemd/linger/{machines.USER}")


def test_logind_hears_commands_from_inside(machine: Machine) -> None:
    """It asks for the group of who calls, and knows none that lies outside of the machine's."""
    machine.run(f"loginctl enable-linger {machines.USER}; loginctl disable-linger {machines.USER}")


@pytest.mark.parametrize("user", USERS)
def test_an_image_loads_by_its_place_in_the_archive(machine: Machine, user: str) -> None:
    loaded = machine.run("podman pull --quiet docker-archive:/srv/image.tar:@0", user=user).stdout.strip()
    machine.run(f"podman tag {loaded} {IMAGE}", user=user)
    assert loaded in machine.run("podman images --quiet --no-trunc", user=user).stdout


@pytest.mark.parametrize(("user", "port"), list(zip(USERS, (8080, 8081), strict=True)))
def test_containers_do_what_the_stack_needs(machine: Machine, user: str, port: int) -> None:
    """A bind mount, a published port, names on a network, exec, and health checks that a timer asks."""
    health = "--health-cmd 'curl --silent --fail http://localhost:3000/' --health-interval 1s"
    machine.run("mkdir -p data && echo mounted > data/file && podman network create net", user=user)
    options = f"--network net --volume ./data:/data --publish {port}:3000 {health}"
    machine.run(f"podman run --detach --name web {options} {IMAGE}", user=user)
    machine.run(f"podman run --detach --name other --network net {IMAGE}", user=user)
    await_output(machine, "podman inspect web --format '{{.State.Health.Status}}'", "healthy", user)
    page = machine.run(f"curl --silent --fail http://{machines.ADDRESS}:{port}/install", user=user)
    assert "<title>" in page.stdout
    assert machine.run("podman exec web cat /data/file", user=user).stdout == "mounted\n"
    machine.run("podman exec other curl --silent --fail http://web:3000/signin", user=user)
    refused = machine.run("podman exec other curl --silent --max-time 3 http://192.0.2.1/", user=user, check=False)
    assert refused.returncode != 0


@pytest.mark.parametrize("how", ["reboot", "power failure"])
def test_it_comes_back_with_its_disk_after(machine: Machine, how: str) -> None:
    if how == "reboot":
        machine.poweroff()
    else:
        machine.kill()
    machine.boot()
    machine.login()
    for user in USERS:
        machine.run("podman start web", user=user)
        assert machine.run("podman exec web cat /data/file", user=user).stdout == "mounted\n"


def test_a_test_that_is_killed_leaves_no_machine(disks: Path, base: Path) -> None:
    machine = Machine.clone(base, disks / f"killed-{os.getpid()}")
    command = [sys.executable, "-c", KILLED, str(machine.root)]
    test = subprocess.Popen(command, cwd=bundles.ROOT, stdout=subprocess.PIPE, text=True)
    assert test.stdout is not None
    assert test.stdout.readline() == "up\n"
    running = inside(machine)
    test.send_signal(signal.SIGKILL)
    test.communicate()
    deadline = time.monotonic() + 20
    while inside(machine):
        assert time.monotonic() < deadline, inside(machine)
        time.sleep(0.1)
    assert running
    machine.destroy()
    assert not list(machine.root.parent.glob(f"*{machine.root.name}*"))


def inside(machine: Machine) -> list[str]:
    """Return the processes that run on the machine's disk."""
    disk = machine.root.stat()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            root = (process / "root").stat()
        except OSError:
            continue
        if (root.st_dev, root.st_ino) == (disk.st_dev, disk.st_ino):
            found.append(process.name)
    return found
