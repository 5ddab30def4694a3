"""Hosts without podman, or with too old a one: what is said, and what dnf does about it."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import MachineMaker
from tests.e2e.server import Server
from tests.target import machine as machines
from tests.target import rpms
from tests.target.bundle import Bundle


@pytest.fixture(scope="module")
def server(lasting_machine: MachineMaker, sample: Bundle) -> Server:
    """A host without podman; the tests run on it in their order."""
    return Server(lasting_machine("dnf"), sample)


@pytest.mark.feature("no podman", "refused: `--install-podman`, or `--rpms FOLDER`")
def test_without_podman_both_ways_are_told(server: Server) -> None:
    result = server.installer(*server.arguments())
    assert result.returncode == 4
    assert "podman is not installed" in result.stderr
    assert "--install-podman" in result.stderr
    assert "--rpms FOLDER" in result.stderr
    assert not server.machine.exists("/opt/dify")


def test_a_user_cannot_install_it(server: Server) -> None:
    server.machine.login()
    server.machine.push(
        server.bundle.executable, f"/home/{machines.USER}/dify-installer", user=machines.USER, mode=0o755
    )
    result = server.machine.run(
        "./dify-installer preflight --ip 10.0.0.5 --install-podman", user=machines.USER, check=False
    )
    assert result.returncode == 4
    assert "only root may install it" in result.stdout


def test_dnf_without_a_repository_fails_in_its_own_words(server: Server) -> None:
    result = server.installer(*server.arguments(), "--install-podman")
    assert result.returncode == 5
    assert "no enabled repositories" in result.stderr.lower() or "unable to find a match" in result.stderr.lower()
    assert "--rpms FOLDER" in result.stderr


def test_a_folder_without_podman_is_refused(server: Server) -> None:
    result = server.installer(*server.arguments(), "--rpms", "/root")
    assert result.returncode == 2
    assert "holds no RPM of podman" in result.stderr


def test_rpms_whose_key_is_not_known_are_refused_with_the_remedy(server: Server) -> None:
    result = server.installer(*server.arguments(), "--rpms", rpms.FOLDER)
    assert result.returncode == 5, result.stderr
    assert "rpm --import" in result.stderr
    assert server.run("rpm", "-q", "podman").returncode != 0


@pytest.mark.feature("no podman, but its RPMs", "works with `--rpms FOLDER`; their signatures are checked")
def test_from_a_folder_of_rpms(server: Server) -> None:
    assert server.run("rpm", "--import", rpms.KEY).returncode == 0
    result = server.install("--rpms", rpms.FOLDER)
    assert "podman" in server.run("rpm", "-q", "podman").stdout
    assert [step["name"] for step in server.report()["steps"]][:3] == ["verify", "preflight", "podman"]
    assert "Dify" in result.stderr
    assert server.installer("status").returncode == 0


def test_once_it_is_there_nothing_is_installed(server: Server) -> None:
    server.install("--rpms", rpms.FOLDER)
    assert "podman" not in [step["name"] for step in server.report()["steps"]]


@pytest.mark.feature("no podman, but a repository that has it", "works with `--install-podman`")
def test_from_the_hosts_repository(new_machine: MachineMaker, sample: Bundle) -> None:
    server = Server(new_machine("dnf"), sample)
    server.machine.path("/etc/yum.repos.d").mkdir(parents=True, exist_ok=True)
    server.machine.path("/etc/yum.repos.d/medium.repo").write_text(rpms.REPOSITORY)
    server.install("--install-podman")
    assert server.installer("status").returncode == 0
