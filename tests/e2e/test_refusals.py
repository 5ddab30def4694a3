"""Bad input and bad hosts: each has its message and its exit code, and changes nothing."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from build import bootloader, freeze, portable_python
from installer.bundle import manifest
from installer.core import layout
from installer.core.console import Console
from installer.core.runner import Runner
from tests.e2e.conftest import MachineMaker
from tests.e2e.server import Server
from tests.target import machine as machines
from tests.target.bundle import Bundle

# What the machine itself writes all the time, and what podman keeps of a mere question.
MOVING = ("proc", "sys", "dev", "run", "tmp", "var/log", "var/lib/systemd", "var/lib/containers")


@pytest.fixture(scope="module")
def server(lasting_machine: MachineMaker, sample: Bundle) -> Server:
    """A server on which nothing is ever installed."""
    server = Server(lasting_machine(), sample)
    server.run("podman", "info")
    return server


def state(server: Server) -> set[str]:
    """Return names, modes, sizes and times of everything on the machine's disk, the bundle left out."""
    left_out = " -o ".join(f"-path ./{name}" for name in (*MOVING, "root")).split()
    command = ["find", ".", "(", *left_out, ")", "-prune", "-o", "-printf", "%P %m %s %T@\n"]
    listing = subprocess.run(command, cwd=server.machine.root, capture_output=True, check=True, text=True).stdout
    return set(listing.splitlines())


@pytest.fixture
def unchanged(server: Server) -> Iterator[None]:
    """Fail the test that changes the machine."""
    before = state(server)
    yield
    assert state(server) - before == set()
    assert server.run("podman", "images", "--quiet").stdout == ""


@pytest.fixture
def spoiled(server: Server) -> Iterator[Path]:
    """The archive on the machine, from here; made whole again afterwards."""
    path = server.machine.path("/root/dify-images.tar")
    yield path
    server.put(server.bundle.archive, "dify-images.tar")


def flip(path: Path, position: int) -> None:
    """Flip one bit."""
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 1]))


@pytest.mark.usefixtures("unchanged")
class TestRefused:
    @pytest.mark.parametrize("where", [0.0, 0.3, 0.7, 0.999999])
    def test_a_flipped_bit_in_the_archive(self, server: Server, spoiled: Path, where: float) -> None:
        flip(spoiled, int(spoiled.stat().st_size * where))
        # Without --verify full, podman proves the layers: see TestDamagedLayer.
        full = ["--verify", "full"] if where else []
        result = server.installer(*server.arguments(), *full)
        assert result.returncode == 3, result.stderr
        assert "dify-images.tar is changed" in result.stderr
        assert "SHA256SUMS" in result.stderr

    def test_a_truncated_archive(self, server: Server, spoiled: Path) -> None:
        with spoiled.open("r+b") as file:
            file.truncate(spoiled.stat().st_size - 1)
        result = server.installer(*server.arguments())
        assert result.returncode == 3
        assert "truncated" in result.stderr

    def test_a_longer_archive(self, server: Server, spoiled: Path) -> None:
        with spoiled.open("ab") as file:
            file.write(b"x")
        assert server.installer(*server.arguments()).returncode == 3

    def test_a_missing_archive(self, server: Server, spoiled: Path) -> None:
        spoiled.unlink()
        result = server.installer(*server.arguments())
        assert result.returncode == 3
        assert "--images PATH" in result.stderr

    @pytest.mark.parametrize("where", [0.02, 0.3, 0.5, 0.7, 0.9, 0.999999])
    def test_a_flipped_bit_in_the_executable(self, server: Server, where: float) -> None:
        """Where even the bootloader cannot start, its own message and status stand for ours."""
        server.put(server.bundle.executable, "flipped", mode=0o755)
        path = server.machine.path("/root/flipped")
        flip(path, int(path.stat().st_size * where))
        result = server.run("./flipped", *server.arguments())
        path.unlink()
        assert result.returncode != 0
        assert result.stderr
        if "dify-installer" in result.stderr or "is damaged" in result.stderr:
            assert result.returncode == 3

    def test_a_bundle_of_another_architecture(self, server: Server, foreign: Path) -> None:
        server.put(foreign, "foreign", mode=0o755)
        result = server.run("./foreign", *server.arguments())
        server.machine.path("/root/foreign").unlink()
        assert result.returncode == 4, result.stderr
        assert "the bundle is for arm64" in result.stderr

    @pytest.mark.parametrize(
        ("arguments", "named"),
        [
            (["--ip", "10.0.0.256"], "not a valid IP address"),
            (["--ip", "0.0.0.0"], "an address that a server can have"),
            (["--host", "http://dify"], "not a valid host name"),
            (["--port", "0"], "--port"),
            (["--ip", "10.0.0.5", "--port", "80", "--https-port", "80"], "the same"),
            (["--ip", "10.0.0.5", "--set", "nonsense"], "KEY=VALUE"),
            (["--ip", "10.0.0.5", "--set", "LOG_LEVEL=p${HOME}q"], "LOG_LEVEL"),
            (["--ip", "10.0.0.5", "--model", "llama"], "--ollama-url"),
            (["--ip", "10.0.0.5", "--ollama-url", "10.0.0.9:11434"], "http"),
            (["--no-such-option"], "No such option"),
            (["no-such-command"], "No such command"),
            ([], "--ip"),
        ],
    )
    def test_usage(self, server: Server, arguments: list[str], named: str) -> None:
        result = server.installer(*arguments)
        assert result.returncode == 2, result.stderr
        assert named in result.stderr

    def test_an_unknown_key_in_the_answer_file(self, server: Server) -> None:
        server.run("sh", "-c", "echo 'ipp: 10.0.0.5' > answers.yaml")
        result = server.installer("--config", "answers.yaml")
        assert result.returncode == 2
        assert "ipp" in result.stderr

    def test_a_port_that_is_held_and_by_whom(self, server: Server) -> None:
        holder = server.machine.start(["python3", "-m", "http.server", "80"])
        try:
            server.run("sh", "-c", "until ss -Hltn | grep -q :80; do sleep 0.1; done")
            result = server.installer(*server.arguments())
        finally:
            server.machine.signal("TERM", "http.server 80")
            holder.wait(10)
        assert result.returncode == 4
        assert "port 80 (http) is held by python3 (process" in result.stderr
        assert "--port 8080" in result.stderr

    def test_all_findings_at_once(self, server: Server) -> None:
        result = server.installer("--ip", "10.0.0.77", "--dir", "/sys/dify")
        assert result.returncode == 4
        assert "cannot write /sys/dify" in result.stderr
        assert "10.0.0.77 is not one of this host's addresses" in result.stderr

    def test_too_little_room(self, server: Server) -> None:
        server.run("sh", "-c", "mkdir -p /run/small && mount -t tmpfs -o size=20m none /run/small")
        result = server.installer(*server.arguments(), "--dir", "/run/small/dify")
        server.run("umount", "/run/small")
        assert result.returncode == 4
        assert "needed" in result.stderr
        assert "/run/small/dify" in result.stderr

    def test_preflight_alone_needs_no_archive_and_speaks_json(self, server: Server, spoiled: Path) -> None:
        spoiled.unlink()
        result = server.installer("preflight", *server.arguments(), "--json")
        assert result.returncode == 0, result.stdout
        assert result.stdout.startswith("{")

    def test_a_dry_run_shows_what_would_be_done(self, server: Server) -> None:
        result = server.installer(*server.arguments(), "--dry-run")
        assert result.returncode == 0, result.stderr
        for words in ("/opt/dify is made", "10 are loaded", ".env is written", "created: ", "dify.service is written"):
            assert words in result.stdout
        assert "This would be done; nothing has been changed" in result.stdout
        planned = server.installer("preflight", *server.arguments(), "--plan", "--json")
        actions = [action["subject"] for action in json.loads(planned.stdout)["actions"]]
        assert {"folder", "images", "settings", "files", "containers", "boot"} <= set(actions)

    @pytest.mark.parametrize(
        ("arguments", "status", "named"),
        [
            (["--tls-cert", "no.pem", "--tls-key", "no.key"], 2, "no.pem cannot be read"),
            (["--set", "EXPOSE_NGINX_PORT=x"], 2, "EXPOSE_NGINX_PORT"),
            (["--ca-bundle", "dify-installer"], 2, "no certificate in PEM form"),
        ],
    )
    def test_preflight_refuses_what_the_installation_would(
        self, server: Server, arguments: list[str], status: int, named: str
    ) -> None:
        for command in ([], ["preflight"]):
            result = server.installer(*command, *server.arguments(), *arguments)
            assert result.returncode == status, (command, result.stderr)
            assert named in result.stdout + result.stderr

    def test_start_and_status_without_an_installation(self, server: Server) -> None:
        for command in ("start", "stop", "status"):
            result = server.installer(command)
            assert result.returncode == 5, command
            assert "nothing is installed in /opt/dify" in result.stderr


THEIRS = ("tmp/backup.sql", "podman-compose/notes", "bin/my-script", "logs/install-other-1.log", "docker/theirs")
# What once was the lock, in the hands of a user without rights.
SQUATTER = """
import socket, time
lock = socket.socket(socket.AF_UNIX)
lock.bind("\\0dify-installer:/srv")
lock.listen(1)
print("bound", flush=True)
time.sleep(600)
"""


@pytest.mark.feature("an install folder with files of others in it, or that others can change", "refused: a new folder")
def test_a_folder_of_others_is_refused_and_all_in_it_survives(server: Server) -> None:
    paths = [f"/srv/{name}" for name in THEIRS]
    server.run("sh", "-c", 'for path; do mkdir -p "${path%/*}" && echo theirs > "$path"; done', "sh", *paths)
    server.run("mkdir", "-p", "/srv/stores")
    server.machine.login(machines.USER)
    before = state(server)
    squatter = server.machine.start(["python3", "-c", SQUATTER], user=machines.USER)
    try:
        assert squatter.stdout is not None
        assert squatter.stdout.readline().strip() == "bound"
        result = server.installer(*server.arguments(), "--dir", "/srv")
        assert result.returncode == 4, result.stderr
        assert "/srv was not made by dify-installer, and holds bin, docker, logs, podman-compose" in result.stderr
        assert "--dir /srv/dify" in result.stderr
        removed = server.installer("uninstall", "--dir", "/srv")
        assert removed.returncode == 2, removed.stderr
        theirs = server.installer(*server.arguments(), "--dir", f"/home/{machines.USER}/new")
        assert theirs.returncode == 4
        assert f"/home/{machines.USER} belongs to {machines.USER}" in theirs.stderr
    finally:
        server.run("pkill", "-KILL", "--full", "dify-installer:/srv")
        squatter.wait(10)
    assert state(server) - before == set()
    assert {server.machine.read(path) for path in paths} == {"theirs\n"}


@pytest.fixture(scope="module")
def foreign(sample: Bundle, work: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An executable whose bundle says that it is for arm64."""
    ready = Path(os.environ["PORTABLE_PYTHON"]) if os.environ.get("PORTABLE_PYTHON") else None
    payload = tmp_path_factory.mktemp("foreign")
    subprocess.run(["cp", "-a", f"{sample.payload}/.", str(payload)], check=True)
    bundle = manifest.loads((payload / "manifest.json").read_bytes())
    (payload / "manifest.json").write_bytes(manifest.dumps(dataclasses.replace(bundle, architecture="arm64")))
    runner = Runner()
    python = portable_python.portable_python(work / "build", ready, "amd64", runner, Console())
    loader = bootloader.bootloader(work / "build", runner, Console())
    freeze.freeze(
        freeze.Tools(python=python, bootloader=loader), payload, payload / "foreign", work / "build", runner, Console()
    )
    return payload / "foreign"


def test_help_is_good_enough_to_work_from(server: Server) -> None:
    shown = server.installer("--help").stdout
    for word in ("--ip", "--ollama-url", "preflight", "DIFY_INSTALLER_", "Exit codes", "--config"):
        assert word in shown
    assert server.installer("--version").stdout.strip()
    assert machines.ADDRESS in shown


def test_nothing_is_left_in_the_temporary_folder(server: Server) -> None:
    server.run("sh", "-c", "rm -rf /tmp/_MEI*")
    server.installer("preflight")
    assert not [name for name in server.run("ls", "-A", "/tmp").stdout.split() if name.startswith("_MEI")]


@pytest.fixture(scope="class")
def where(lasting_machine: MachineMaker, sample: Bundle) -> Iterator[Server]:
    """A server of its own for the class below: something is installed there in the end."""
    with Server(lasting_machine(), sample) as made:
        yield made


class TestDamagedLayer:
    """What podman finds while it loads: nothing of the layer is unpacked, what was proved before stays."""

    @pytest.mark.parametrize("position", [0.3, 0.7, 0.999999])
    def test_it_is_found_before_it_is_unpacked(self, where: Server, position: float) -> None:
        path = where.machine.path("/root/dify-images.tar")
        flip(path, int(path.stat().st_size * position))
        result = where.installer(*where.arguments())
        where.put(where.bundle.archive, "dify-images.tar")
        assert result.returncode == 3, result.stderr
        assert "dify-images.tar is changed: bytes" in result.stderr
        described = manifest.loads((where.bundle.folder / layout.MANIFEST).read_bytes())
        loaded = where.run("podman", "images", "--quiet", "--no-trunc").stdout.split()
        assert {each.removeprefix("sha256:") for each in loaded} < {image.id for image in described.images}
        assert where.run("podman", "ps", "--all", "--quiet").stdout == ""
        assert not where.machine.exists("/opt/dify/tmp")

    def test_then_a_good_copy_is_installed(self, where: Server) -> None:
        where.install()
        assert where.installer("status").returncode == 0


def test_docker_gets_nothing_that_is_not_proved(new_machine: MachineMaker, sample: Bundle) -> None:
    where = Server(new_machine("docker"), sample, engine="docker")
    path = where.machine.path("/root/dify-images.tar")
    flip(path, path.stat().st_size // 2)
    result = where.installer(*where.arguments())
    assert result.returncode == 3
    assert "dify-images.tar is changed: bytes" in result.stderr
    assert where.run("docker", "images", "--quiet").stdout == ""
    assert not where.machine.exists("/opt/dify")
