"""Users without root, as hosts have them: come by `su` or `sudo`, without IDs of their own, with others' containers."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import MachineMaker
from tests.e2e.server import Server
from tests.target import machine as machines
from tests.target.bundle import Bundle

# As `su` from a root login leaves it: root's current folder and root's variables.
SU = f"cd /root && XDG_RUNTIME_DIR=/run/user/0 exec su {machines.USER} -c"
USER_HOME = f"/home/{machines.USER}"


@pytest.fixture(scope="module")
def server(lasting_machine: MachineMaker, sample: Bundle) -> Server:
    """A machine on which the user has a session, but has not come by it; the tests run in their order."""
    return Server(lasting_machine(), sample, machines.USER)


def by_su(server: Server, command: str) -> tuple[int, str]:
    """Run the installer as `su` does; return its status and what it printed."""
    done = server.machine.run(["sh", "-c", f"{SU} '{USER_HOME}/dify-installer {command}'"], check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.feature("login by `su` or `sudo -u`, linger on", "works")
def test_the_session_is_found_by_itself(server: Server) -> None:
    status, said = by_su(server, " ".join(server.arguments()))
    assert status == 0, said
    assert server.installer("status").returncode == 0


@pytest.mark.feature("rootless: owners of the volumes", "works")
def test_volumes_belong_to_the_sub_uid_that_the_api_runs_as(server: Server) -> None:
    """init_permissions gives the api's storage to its user 1001, which the host sees as the 1001st sub-UID."""
    first = int(server.machine.read("/etc/subuid").splitlines()[0].split(":")[1])
    owner = server.machine.path(f"{server.folder}/docker/volumes/app/storage").stat().st_uid
    assert owner == first + 1000


@pytest.mark.feature("login by `su` or `sudo -u`, linger off", "refused: `loginctl enable-linger USER`")
def test_without_any_session_the_command_is_told(server: Server) -> None:
    server.machine.run(f"loginctl disable-linger {machines.USER}; systemctl stop user@{machines.USER_ID}.service")
    status, said = by_su(server, "preflight --ip 10.0.0.5 --port 8080 --https-port 8443")
    assert status == 4, said
    assert f"`loginctl enable-linger {machines.USER}`" in said


@pytest.mark.feature("rootless without subuid and subgid", "refused: `usermod --add-subuids …`")
def test_without_subordinate_ids_the_command_is_told(server: Server) -> None:
    server.machine.login()
    for name in ("subuid", "subgid"):
        server.machine.path(f"/etc/{name}").write_text("")
    judged = server.installer("preflight", *server.arguments()[:2], "--port", "8080", "--https-port", "8443")
    assert judged.returncode == 4
    assert f"usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {machines.USER}" in judged.stdout


@pytest.mark.feature("rootless, ports below 1024", "refused: `--port 8080`, or the `sysctl` to set")
def test_low_ports_and_the_sysctl_that_opens_them(server: Server) -> None:
    preflight = ["preflight", "--ip", machines.ADDRESS, "--dir", f"{USER_HOME}/second"]
    judged = server.installer(*preflight)
    assert "FAIL low ports" in judged.stdout
    assert "sysctl -w net.ipv4.ip_unprivileged_port_start=80" in judged.stdout
    server.machine.run("sysctl -w net.ipv4.ip_unprivileged_port_start=80")
    assert "FAIL low ports" not in server.installer(*preflight).stdout
