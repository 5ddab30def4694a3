"""The Ansible role: all hosts are looked at before one is changed, then installed in turns; then it changes nothing."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.e2e.conftest import MachineMaker, alone
from tests.target import ansible
from tests.target.ansible import Fleet
from tests.target.bundle import Bundle
from tests.target.machine import Machine

HOSTS = ("first", "second")


@pytest.fixture(scope="module")
def programs(work: Path) -> Path:
    with alone(work / "ansible.lock"):
        return ansible.environment(work)


@pytest.fixture(scope="module")
def hosts(lasting_machine: MachineMaker) -> dict[str, Machine]:
    return {name: lasting_machine() for name in HOSTS}


@pytest.fixture(scope="module")
def fleet(programs: Path, hosts: dict[str, Machine], sample: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    variables = {"dify_bundle": str(sample.folder), "dify_options": {"set": ["LOG_LEVEL=WARNING"]}}
    return Fleet(programs, tmp_path_factory.mktemp("fleet"), hosts, variables)


def test_the_role_is_as_ansible_lint_wants_it(programs: Path, tmp_path: Path) -> None:
    env = {**os.environ, "HOME": str(tmp_path), "PATH": f"{programs}:{os.environ['PATH']}"}
    command = ["ansible-lint", "--offline", "--nocolor", "--profile", "production", str(ansible.FOLDER)]
    done = subprocess.run(command, cwd=ansible.ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.feature("the Ansible role against two hosts", "works; check mode; a second run changes nothing")
def test_a_fleet_is_looked_at_installed_in_turns_and_left_alone(
    fleet: Fleet, hosts: dict[str, Machine], sample: Bundle
) -> None:
    done, counted = fleet.play("--check")
    assert done.returncode == 0, done.stdout
    assert all(each["changed"] for each in counted.values())
    assert not any(host.exists("/var/lib/dify-bundle") or host.exists("/opt/dify") for host in hosts.values())

    # A host that is not ready: nothing is installed, on no host.
    taken = hosts["second"].start("python3 -m http.server 80")
    done, counted = fleet.play()
    assert done.returncode != 0
    assert "second is not ready, and nothing has been changed" in done.stdout
    assert "port 80" in done.stdout
    assert not any(host.exists("/opt/dify") for host in hosts.values())
    hosts["second"].run("pkill -f '[h]ttp.server'")
    taken.wait(10)

    done, counted = fleet.play()
    assert done.returncode == 0, done.stdout
    reports = {name: json.loads((fleet.reports / name / "install-report.json").read_text()) for name in HOSTS}
    assert [reports[name]["result"] for name in HOSTS] == ["done", "done"]
    assert done.stdout.count("TASK [dify : Run the installation]") == len(HOSTS)
    for name, host in hosts.items():
        assert (fleet.reports / name / "install-report.html").is_file()
        assert "LOG_LEVEL=WARNING" in host.read("/opt/dify/docker/.env").splitlines()
        assert not host.exists("/var/lib/dify-bundle/options.yml")

    # Nothing is copied, and nothing done; the archive is not missed.
    for host in hosts.values():
        host.run("rm /var/lib/dify-bundle/dify-images.tar")
    done, counted = fleet.play("--check")
    assert [each["changed"] for each in counted.values()] == [0, 0], done.stdout

    # What has changed on one host is done there alone.
    hosts["second"].run("podman rm --force --time 0 dify_nginx_1")
    done, counted = fleet.play()
    assert not hosts["first"].exists("/var/lib/dify-bundle/dify-images.tar")
    assert (done.returncode, [counted[name]["changed"] > 0 for name in HOSTS]) == (0, [False, True]), done.stdout
