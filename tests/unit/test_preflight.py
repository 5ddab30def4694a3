from __future__ import annotations

import dataclasses
import datetime
from pathlib import Path
from typing import Any

import pytest

from installer.core import finding
from installer.host import judge
from installer.host.facts import Host, Listener, Python, Wanted
from tests.unit.hosts import DOCKER, GIB, GOOD, HIGH, NOW, ROOTLESS, WANTED, changed, space


def levels(host: Host, wanted: Wanted = WANTED) -> dict[str, str]:
    """Return the worst level of each check."""
    order = ("ok", "warning", "error")
    found: dict[str, str] = {}
    for each in judge.judge(host, wanted):
        found[each.check] = max(each.level, found.get(each.check, "ok"), key=order.index)
    return found


def test_a_good_host_passes_everything() -> None:
    assert set(levels(GOOD).values()) == {"ok"}


def test_a_good_docker_host_passes_everything() -> None:
    assert set(levels(DOCKER).values()) == {"ok"}
    assert "podman" not in levels(DOCKER)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"engine_version": None}, "not installed"),
        ({"emulated": True}, "podman-docker"),
        ({"engine_problem": "Cannot connect to the Docker daemon"}, "systemctl enable --now docker"),
        ({"compose_version": None}, "dnf install docker-compose-plugin"),
        ({"compose_version": (2, 20, 0)}, "there is 2.20.0"),
    ],
)
def test_a_docker_host_with_a_fault(change: dict[str, Any], said: str) -> None:
    found = [each for each in judge.judge(changed(DOCKER, **change), WANTED) if each.level != "ok"]
    assert [(each.check, each.level) for each in found] == [("docker", "error")]
    assert said in f"{found[0].seen} {found[0].remedy}"


def test_a_docker_that_cannot_read_compressed_layers() -> None:
    old = changed(DOCKER, engine_version=(20, 10, 24))
    assert levels(old)["docker"] == "ok"
    assert levels(old, dataclasses.replace(WANTED, compressed=True))["docker"] == "error"
    assert levels(DOCKER, dataclasses.replace(WANTED, compressed=True))["docker"] == "ok"


@pytest.mark.parametrize(
    ("change", "level"), [({}, "ok"), ({"root": False, "rootless": True}, "error"), ({"dnf": False}, "error")]
)
def test_podman_that_is_to_be_installed(change: dict[str, Any], level: str) -> None:
    wanted = dataclasses.replace(WANTED, install_podman=True, ports=HIGH)
    assert levels(changed(GOOD, engine_version=None, **change), wanted)["podman"] == level


def test_a_user_of_docker_needs_nothing_of_what_rootless_needs() -> None:
    host = changed(DOCKER, root=False, name="dify", subuid=False, subgid=False, linger=False, session=False)
    assert set(levels(host).values()) == {"ok"}


def test_a_good_rootless_host_passes_everything() -> None:
    host = changed(GOOD, **ROOTLESS)
    assert set(levels(host, dataclasses.replace(WANTED, ports=HIGH)).values()) == {"ok"}


@pytest.mark.parametrize(
    ("change", "check", "level", "said"),
    [
        ({"os_id": "debian", "os_like": (), "os_version": "12"}, "system", "warning", "not RHEL"),
        ({"os_id": "rocky", "os_like": ("rhel",), "os_version": "8.10"}, "system", "ok", ""),
        ({"os_version": "7.9"}, "system", "warning", ""),
        ({"architecture": "arm64"}, "architecture", "error", "the bundle is for amd64"),
        ({"cpus": 1}, "cpu", "error", "Dify needs 2"),
        ({"memory": int(3.5 * GIB)}, "memory", "error", "4.0 GiB"),
        ({"memory": None}, "memory", "warning", ""),
        ({"engine_version": None}, "podman", "error", "--install-podman"),
        ({"engine_version": (4, 3, 1)}, "podman", "error", "cannot wait"),
        ({"engine_version": (4, 6)}, "podman", "ok", ""),
        ({"engine_problem": "failed to get new shm lock manager"}, "podman", "error", "mount -t tmpfs tmpfs /dev/shm"),
        ({"engine_problem": "no such runtime"}, "podman", "error", "no such runtime"),
        ({"network_backend": "cni"}, "network", "warning", "netavark"),
        ({"storage": space("images", "/store", 4, device=2)}, "space", "error", "4.4 GiB for images (/store)"),
        ({"install": space("the install folder", "/opt/dify", 2, device=3)}, "space", "error", "(/opt/dify)"),
        ({"temporary": space("podman's temporary files", "/var/tmp", 0.01, device=4)}, "space", "error", "(/var/tmp)"),
        ({"storage": None}, "space", "warning", "unknown"),
        ({"folder_writable": False}, "folder", "error", "--dir"),
        ({"install": space("the install folder", "/opt/dify", 99, options="rw,noexec")}, "folder", "error", "noexec"),
        ({"has_env": True, "has_data": True}, "installation", "ok", "kept"),
        ({"has_data": True}, "installation", "error", "put its .env back"),
        ({"conflicting": ("dify_api_1",)}, "installation", "error", "dify_api_1"),
        ({"other_dify": ("docker-api-1 (/srv/dify/docker)",)}, "installation", "warning", "/srv/dify/docker"),
        ({"listeners": None}, "ports", "warning", ""),
        (
            {"listeners": (Listener(port=80, holder="httpd (process 7)", ours=False),)},
            "ports",
            "error",
            "httpd (process 7)",
        ),
        ({"listeners": (Listener(port=80, holder="the container dify_nginx_1", ours=True),)}, "ports", "ok", ""),
        ({"addresses": ("10.0.0.6",)}, "address", "warning", "10.0.0.6"),
        ({"firewalld": True}, "firewall", "ok", "80, 443 will be opened"),
        ({"firewalld": True, "open_ports": (80, 443)}, "firewall", "ok", ""),
        ({"selinux": "disabled", "container_selinux": False}, "selinux", "ok", ""),
        ({"container_selinux": False}, "selinux", "error", "dnf install container-selinux"),
        ({"pythons": ()}, "python", "ok", "the installer itself"),
        (
            {"pythons": (Python(path=Path("/p"), version=(3, 6), has_venv=True),)},
            "python",
            "ok",
            "the installer itself",
        ),
        ({"now": NOW - datetime.timedelta(days=60)}, "clock", "error", "timedatectl"),
    ],
)
def test_each_fact_is_judged(change: dict[str, Any], check: str, level: str, said: str) -> None:
    host = changed(GOOD, **change)
    assert levels(host)[check] == level
    text = " ".join(f"{each.seen} {each.remedy}" for each in judge.judge(host, WANTED) if each.check == check)
    assert said in text


@pytest.mark.parametrize(
    ("change", "check", "level", "said"),
    [
        ({}, "low ports", "error", "--port 8080 --https-port 8443"),
        ({"low_port": 80}, "low ports", "ok", ""),
        ({"firewalld": True}, "firewall", "warning", "--add-port=80/tcp --add-port=443/tcp"),
        ({"subuid": False}, "subordinate ids", "error", "usermod --add-subuids"),
        ({"session": False}, "session", "error", "enable-linger dify"),
        ({"linger": False}, "linger", "warning", "enable-linger dify"),
        ({"storage": space("images", "/home/s", 99, kind="nfs4")}, "storage", "error", "graphroot"),
    ],
)
def test_each_rootless_fact_is_judged(change: dict[str, Any], check: str, level: str, said: str) -> None:
    host = changed(GOOD, **(ROOTLESS | change))
    assert levels(host)[check] == level
    assert said in finding.as_text(judge.judge(host, WANTED))


@pytest.mark.parametrize("folder", ["/", "/root", "/home", "/usr", "/usr/local/dify", "/etc/dify"])
def test_folders_that_must_keep_their_labels_are_refused(folder: str) -> None:
    assert levels(GOOD, dataclasses.replace(WANTED, folder=Path(folder)))["selinux"] == "error"


def test_needs_on_one_file_system_add_up() -> None:
    # 4.4 for the images, 2 + 1 for the install folder, 0.1 temporary: 7.5 on one device.
    tight: dict[str, Any] = {name: space(name, f"/{name}", 7.0) for name in ("storage", "install", "temporary")}
    host = changed(GOOD, **tight)
    assert levels(host)["space"] == "error"
    apart = dict(
        zip(tight, [dataclasses.replace(each, device=n) for n, each in enumerate(tight.values())], strict=True)
    )
    assert levels(changed(GOOD, **apart))["space"] == "ok"


def test_what_is_loaded_needs_no_room() -> None:
    tight: dict[str, Any] = {name: space(name, f"/{name}", 1.5) for name in ("storage", "install", "temporary")}
    loaded = dataclasses.replace(WANTED, missing_bytes=0, largest_image_bytes=0)
    assert levels(changed(GOOD, **tight), loaded)["space"] == "ok"


def test_every_error_and_warning_has_a_remedy_and_none_switches_selinux_off() -> None:
    faults: dict[str, Any] = {"os_id": "x", "os_like": (), "cpus": 1, "memory": GIB, "architecture": "arm64"}
    faults |= {"engine_version": (4, 3), "subuid": False, "session": False, "linger": False, "addresses": ()}
    faults |= {"folder_writable": False, "has_data": True, "container_selinux": False, "firewalld": True}
    bad = changed(GOOD, **(ROOTLESS | faults))
    findings = judge.judge(bad, WANTED)
    assert finding.any_failed(findings)
    assert len([each for each in findings if each.level == "error"]) >= 9
    for each in findings:
        assert each.level == "ok" or each.remedy, each
        assert "setenforce" not in each.remedy
        assert "SELINUX=" not in each.remedy


def test_findings_carry_the_names_of_their_checks() -> None:
    host = changed(GOOD, **ROOTLESS, storage=space("images", "/s", 99, kind="nfs"))
    found = {each.check for every in (host, DOCKER) for each in judge.judge(every, WANTED)}
    assert found == set(judge.CHECKS)
