"""Hosts that are not plain: a firewall, a hardened umask, no Python."""

from __future__ import annotations

import json

import pytest

from tests.e2e.conftest import MachineMaker
from tests.e2e.server import Server
from tests.target import machine as machines
from tests.target.bundle import Bundle


@pytest.mark.feature("firewalld runs", "works; root opens the ports, without root the command is told")
@pytest.mark.parametrize("user", ["root", machines.USER])
def test_firewalld(new_machine: MachineMaker, sample: Bundle, user: str) -> None:
    """As root the ports are opened; without, the exact command is told. Containers find each other either way."""
    server = Server(new_machine(), sample, user)
    server.machine.run("systemctl enable --now firewalld")
    result = server.install()
    opened = [server.machine.run(f"firewall-cmd {form} --list-ports").stdout.split() for form in ("", "--permanent")]
    if user == "root":
        assert opened == [["80/tcp", "443/tcp"]] * 2
        trusted = server.machine.run("firewall-cmd --permanent --zone=trusted --list-sources").stdout.split()
        network = server.run("podman", "network", "inspect", "dify_ssrf_proxy_network", "--format", "{{json .Subnets}}")
        assert trusted == [json.loads(network.stdout)[0]["subnet"]]
        assert "firewalld knows all of it" in server.install().stderr
    else:
        assert opened == [[], []]
        assert "firewall-cmd --permanent --add-port=8080/tcp --add-port=8443/tcp" in result.stderr
    assert server.installer("status").returncode == 0
    server.machine.reboot()
    server.await_healthy()


@pytest.mark.feature("firewalld that must not be touched", "works with `--no-firewall`")
def test_no_firewall_leaves_firewalld_alone(new_machine: MachineMaker, sample: Bundle) -> None:
    server = Server(new_machine(), sample)
    server.machine.run("systemctl start firewalld")
    result = server.installer("preflight", *server.arguments(), "--no-firewall")
    assert "WARN firewall: firewalld may keep others from 80, 443" in result.stdout
    assert server.machine.run("firewall-cmd --list-ports").stdout.strip() == ""


@pytest.mark.feature("no Python, or one without venv", "works; the executable serves as podman-compose")
@pytest.mark.parametrize("removed", ["python", "venv"])
def test_without_a_python_the_executable_serves(new_machine: MachineMaker, sample: Bundle, removed: str) -> None:
    server = Server(new_machine(), sample)
    gone = {"python": ["/usr/bin/python3", "/usr/bin/python3.13"], "venv": ["/usr/lib/python3.13/venv"]}
    server.run("rm", "-rf", *gone[removed])
    result = server.install()
    assert "1.6.0, run by the installer itself" in result.stderr
    assert "podman-compose version 1.6.0" in server.run("podman-compose", "--version").stdout
    assert server.installer("status").returncode == 0
    assert "run already" in server.install().stderr


@pytest.mark.feature("an install folder with blanks, % and Korean letters", "works, after a reboot too")
def test_a_folder_of_any_name_and_a_reader_who_goes_away(new_machine: MachineMaker, sample: Bundle) -> None:
    server = Server(new_machine(), sample)
    server.folder = "/opt/내 디파이 100%"
    there = ["--dir", server.folder]
    server.install(*there)
    server.machine.reboot()
    server.await_healthy(*there)
    # Whether anybody reads what it says must not matter to an installation.
    command = f"./dify-installer --ip {machines.ADDRESS} --dir '{server.folder}' --set LOG_LEVEL"
    for number, ending in enumerate(("2>&-", ">/dev/full 2>&1", "2>&1 | head -1")):
        assert server.run("sh", "-c", f"{command}={number} {ending}").returncode == 0, ending
        assert server.env()["LOG_LEVEL"] == str(number), ending
        assert server.report()["result"] == "done", ending
    assert server.installer("uninstall", *there).returncode == 0
    assert not server.machine.exists("/etc/systemd/system/dify.service")


@pytest.mark.feature("umask 077, no HOME, an unknown locale", "works")
def test_a_hardened_umask_no_home_and_an_unknown_locale(new_machine: MachineMaker, sample: Bundle) -> None:
    server = Server(new_machine(), sample)
    result = server.run("sh", "-c", f"umask 077; unset HOME; LANG=xx_XX ./dify-installer --ip {machines.ADDRESS}")
    assert result.returncode == 0, result.stderr
    assert server.run("stat", "-c", "%a", "/opt/dify/docker/nginx/docker-entrypoint.sh").stdout.strip() in (
        "644",
        "755",
    )


NOEXEC = "for folder in /tmp /var/tmp /dev/shm; do mount -t tmpfs -o noexec,mode=1777 none $folder; done"


@pytest.mark.feature("/tmp, /var/tmp and /dev/shm mounted noexec (CIS, STIG)", "works")
@pytest.mark.parametrize("user", ["root", machines.USER])
def test_no_temporary_folder_may_execute(new_machine: MachineMaker, sample: Bundle, user: str) -> None:
    """As CIS and STIG have it."""
    server = Server(new_machine(), sample, user)
    server.machine.run(NOEXEC)
    server.install()
    assert server.installer("status").returncode == 0
    left = server.machine.run("find / -xdev -name '_MEI*' -not -path '/proc/*'", check=False).stdout
    assert left == ""


@pytest.mark.feature("a full /tmp; no temporary folder at all", "works; where nothing serves, `TMPDIR` is told")
def test_a_full_temporary_folder_and_a_user_without_any(new_machine: MachineMaker, sample: Bundle) -> None:
    server = Server(new_machine(), sample)
    server.machine.run("mount -t tmpfs -o size=30m,mode=1777 none /tmp")
    assert server.installer("--version").returncode == 0
    server.machine.run(f"cp /root/dify-installer /usr/local/bin/; {NOEXEC}")
    nobody = "setpriv --reuid=65534 --regid=65534 --clear-groups env -u HOME"
    refused = server.machine.run(f"cd /; {nobody} dify-installer --version", check=False)
    assert refused.returncode == 255
    assert "do: name one that is: TMPDIR=/some/folder ./dify-installer" in refused.stderr
    server.machine.run("mkdir -m 1777 /srv/run")
    named = server.machine.run(f"cd /; {nobody} TMPDIR=/srv/run dify-installer --version", check=False)
    assert named.returncode == 0, named.stderr


@pytest.mark.feature("no /dev/shm", "refused, since podman needs it: `mount -t tmpfs tmpfs /dev/shm`")
def test_no_shared_memory(new_machine: MachineMaker, sample: Bundle) -> None:
    server = Server(new_machine(), sample)
    server.machine.run("umount /dev/shm && rmdir /dev/shm")
    judged = server.installer("preflight", *server.arguments()[:2])
    assert judged.returncode == 4
    assert "FAIL podman" in judged.stdout
    remedy = "mkdir -p /dev/shm && mount -t tmpfs tmpfs /dev/shm"
    assert f"`{remedy}`" in judged.stdout
    server.machine.run(remedy)
    assert server.installer("preflight", *server.arguments()[:2]).returncode == 0


@pytest.mark.feature("a read-only current folder, TMPDIR set", "works")
def test_a_current_folder_that_cannot_be_written(new_machine: MachineMaker, sample: Bundle) -> None:
    server = Server(new_machine(), sample)
    medium = "/srv/medium"
    server.machine.run(f"mkdir -p {medium} /srv/tmp; mv dify-* {medium}; mount --bind {medium} {medium}")
    server.machine.run(f"mount -o remount,bind,ro {medium}")
    running = server.machine.start(f"cd {medium} && TMPDIR=/srv/tmp exec ./dify-installer --ip {machines.ADDRESS}")
    server.machine.run("until ls -d /srv/tmp/_MEI*; do sleep 0.05; done")
    output = running.communicate(timeout=300)[0]
    assert running.returncode == 0, output
    assert server.machine.run("ls -A /srv/tmp").stdout == ""


@pytest.mark.feature("docker with containerd's image store (docker 29's default)", "works")
def test_docker_with_containerds_store(new_machine: MachineMaker, sample: Bundle) -> None:
    """There an image's ID is another: its manifest's digest."""
    server = Server(new_machine("docker"), sample, engine="docker")
    daemon = server.machine.path("/etc/docker/daemon.json")
    settings = json.loads(daemon.read_text()) if daemon.exists() else {}
    daemon.write_text(json.dumps(settings | {"features": {"containerd-snapshotter": True}}))
    server.machine.run("systemctl restart docker")
    assert "io.containerd.snapshotter" in server.run("docker", "info", "--format", "{{json .DriverStatus}}").stdout
    server.install()
    again = server.install("--runtime", "docker")
    assert "the archive is not read" in again.stderr
    assert "run already" in again.stderr
    refused = server.installer(*server.arguments(), "--runtime", "podman")
    assert refused.returncode == 2
    assert "is run by docker, not podman" in refused.stderr


NO_MD5 = """
import hashlib
def refused(*_, **options):
    if options.get("usedforsecurity", True):
        raise ValueError("md5 is disabled, as in FIPS mode")
hashlib.md5 = hashlib.sha1 = refused
"""


@pytest.mark.feature("FIPS mode: no MD5 in podman-compose or the host's Python", "works")
def test_podman_compose_does_without_md5(new_machine: MachineMaker, sample: Bundle) -> None:
    """The kernel's own FIPS mode cannot be had on a machine that shares its kernel; Python's refusal can."""
    server = Server(new_machine(), sample)
    folder = server.run("python3", "-c", "import sys; print(f'python3.{sys.version_info[1]}')").stdout.strip()
    server.machine.path(f"/usr/lib/{folder}/sitecustomize.py").unlink(missing_ok=True)
    server.machine.path(f"/usr/lib/{folder}/sitecustomize.py").write_text(NO_MD5)
    assert server.run("python3", "-c", "import hashlib; hashlib.md5(b'')").returncode != 0
    server.install()
    assert server.installer("status").returncode == 0


def test_children_get_the_hosts_environment(new_machine: MachineMaker, sample: Bundle) -> None:
    """What the bootloader sets for us must not reach podman."""
    server = Server(new_machine(), sample, images=False)
    wrapper = '#!/bin/sh\nenv >> /root/seen\nexec /usr/bin/podman "$@"\n'
    server.machine.path("/usr/local/bin/podman").write_text(wrapper)
    server.machine.path("/usr/local/bin/podman").chmod(0o755)
    server.installer("preflight")
    seen = server.machine.read("/root/seen")
    assert "PATH=" in seen
    assert "_MEI" not in seen
    assert "_PYI" not in seen


@pytest.mark.feature("https", "works with `--tls-cert` and `--tls-key`, or `--tls self-signed`")
class TestHttps:
    @pytest.fixture(scope="class")
    @classmethod
    def server(cls, lasting_machine: MachineMaker, sample: Bundle) -> Server:
        return Server(lasting_machine(), sample)

    def test_self_signed(self, server: Server) -> None:
        result = server.install("--tls", "self-signed")
        assert "is at https://10.0.0.5" in result.stderr
        env = server.env()
        assert env["FILES_URL"] == env["CONSOLE_WEB_URL"] == "https://10.0.0.5"
        asked = server.run(
            "curl", "-s", "--cacert", "/opt/dify/docker/nginx/ssl/dify.crt", "https://10.0.0.5/console/api/ping"
        )
        assert "pong" in asked.stdout
        assert server.run("stat", "-c", "%a", "/opt/dify/docker/nginx/ssl/dify.key").stdout.strip() == "600"

    def test_the_next_run_keeps_certificate_and_scheme(self, server: Server) -> None:
        before = server.machine.read("/opt/dify/docker/nginx/ssl/dify.crt")
        assert "is at https://10.0.0.5" in server.install().stderr
        assert "run already" in server.install("--tls", "self-signed").stderr
        assert server.machine.read("/opt/dify/docker/nginx/ssl/dify.crt") == before

    def test_a_certificate_of_ones_own_replaces_it(self, server: Server) -> None:
        make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=mine"
        server.run("sh", "-c", f"{make} -addext subjectAltName=IP:10.0.0.5 -keyout mine.key -out mine.crt")
        result = server.install("--tls-cert", "mine.crt", "--tls-key", "mine.key")
        assert "ok   console reachable: GET https://10.0.0.5" in result.stderr
        shown = server.run(
            "sh", "-c", "openssl s_client -connect 10.0.0.5:443 </dev/null 2>/dev/null | openssl x509 -subject"
        )
        assert "CN=mine" in shown.stdout.replace(" ", "")

    def test_a_name_that_this_host_does_not_know(self, server: Server) -> None:
        result = server.installer("--host", "dify.example", "--tls", "self-signed")
        assert result.returncode == 0, result.stderr
        assert "is at https://dify.example" in result.stderr

    def test_a_certificate_for_another_name_is_refused(self, server: Server) -> None:
        result = server.installer("--host", "other.example", "--tls-cert", "mine.crt", "--tls-key", "mine.key")
        assert result.returncode == 2
        assert "is not for other.example" in result.stderr
