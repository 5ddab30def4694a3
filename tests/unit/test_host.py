from __future__ import annotations

import dataclasses
import os
import subprocess
import time
from pathlib import Path

import pytest

from installer.engine import base
from installer.host import observe, parse
from tests.unit.test_stack import container

SS = """\
LISTEN 0      128          0.0.0.0:22        0.0.0.0:*    users:(("sshd",pid=812,fd=3))
LISTEN 0      511                *:80              *:*    users:(("nginx",pid=90,fd=6),("nginx",pid=91,fd=6))
LISTEN 0      4096       127.0.0.1:631       0.0.0.0:*
LISTEN 0      4096            [::]:5003         [::]:*
"""

MOUNTS = """\
22 1 253:0 / / rw,relatime shared:1 - xfs /dev/mapper/root rw
30 22 253:2 / /home rw,nosuid,nodev shared:2 - xfs /dev/mapper/home rw
31 22 0:30 / /tmp rw,nosuid,nodev,noexec shared:3 - tmpfs tmpfs rw
32 30 0:40 / /home/dify rw,relatime shared:4 - nfs4 server:/home rw
33 22 253:3 / /mnt/with\\040space ro,relatime - ext4 /dev/sdb1 ro
34 22 253:4 / /데이터 rw,noexec - ext4 /dev/sdc1 rw
"""


def test_os_release() -> None:
    text = 'NAME="Rocky Linux"\nID="rocky"\nID_LIKE="rhel centos fedora"\nVERSION_ID="9.4"\n# a comment = x\n'
    assert parse.parse_os_release(text) == {
        "NAME": "Rocky Linux",
        "ID": "rocky",
        "ID_LIKE": "rhel centos fedora",
        "VERSION_ID": "9.4",
    }


def test_memory() -> None:
    assert parse.parse_memory("MemTotal:        3880456 kB\nMemFree: 1 kB\n") == 3880456 * 1024
    assert parse.parse_memory("") is None


@pytest.mark.parametrize(
    ("text", "version"),
    [("podman version 4.9.4-rhel", (4, 9, 4)), ("podman version 5.4.2", (5, 4, 2)), ("", None), ("none", None)],
)
def test_version(text: str, version: tuple[int, ...] | None) -> None:
    assert base.parse_version(text) == version


def test_listeners_and_who_they_are() -> None:
    assert parse.parse_listeners(SS) == {
        22: parse.Holder("sshd", 812),
        80: parse.Holder("nginx", 90),
        631: None,
        5003: None,
    }
    assert str(parse.Holder("sshd", 812)) == "sshd (process 812)"


@pytest.mark.parametrize(
    ("text", "enough"),
    [
        ("dify:100000:65536\n", True),
        ("1000:100000:65536\n", True),
        ("other:100000:65536\n", False),
        ("dify:100000:1000\n", False),
        ("dify:100000:32768\ndify:200000:32768\n", True),
        ("", False),
        ("dify:x:y\n", False),
    ],
)
def test_subordinate_ids(text: str, enough: bool) -> None:
    assert parse.has_ranges(text, "dify", 1000) is enough


@pytest.mark.parametrize(("text", "mode"), [("1", "enforcing"), ("0\n", "permissive"), ("", "disabled")])
def test_selinux(text: str, mode: str) -> None:
    assert parse.selinux_mode(text) == mode


@pytest.mark.parametrize(
    ("path", "kind", "option"),
    [
        ("/opt/dify", "xfs", "relatime"),
        ("/home/other", "xfs", "nosuid"),
        ("/home/dify/dify", "nfs4", "rw"),
        ("/tmp/x", "tmpfs", "noexec"),
        ("/mnt/with space/x", "ext4", "ro"),
        ("/데이터/dify", "ext4", "noexec"),
    ],
)
def test_mounts(path: str, kind: str, option: str) -> None:
    found, options = parse.mount_of(Path(path), MOUNTS)
    assert found == kind
    assert option in options


def test_a_port_is_ours_although_podman_says_that_its_container_has_ended() -> None:
    """The monitor, which names the container in its command line, holds it still."""
    ended = dataclasses.replace(container("nginx", "exited"), ports=(80,))
    for name, ours in (("dify_nginx_1", True), ("another", False)):
        child = subprocess.Popen(["sh", "-c", "sleep 600; :", "-n", name])
        try:
            while name not in Path(f"/proc/{child.pid}/cmdline").read_text():
                time.sleep(0.01)
            line = f'LISTEN 0 4096 0.0.0.0:80 0.0.0.0:* users:(("conmon",pid={child.pid},fd=5))'
            listeners = observe._listeners(line, [ended])
            assert listeners is not None
            assert [each.ours for each in listeners] == [ours]
        finally:
            child.kill()
            child.wait()


@pytest.mark.parametrize(("others", "ours"), [([], True), (["another"], False)])
def test_a_port_that_podman_holds_while_it_starts_our_container_again_is_ours(others: list[str], ours: bool) -> None:
    """Seen with a container that ended again and again: `ss` named podman itself."""
    ended = dataclasses.replace(container("plugin_daemon", "exited"), ports=(5003,))
    theirs = [dataclasses.replace(ended, project=name, name=name) for name in others]
    line = f'LISTEN 0 4096 0.0.0.0:5003 0.0.0.0:* users:(("podman",pid={os.getpid()},fd=5))'
    listeners = observe._listeners(line, [*theirs, ended])
    assert listeners is not None
    assert [each.ours for each in listeners] == [ours]


def test_a_container_that_is_being_stopped_still_holds_its_port() -> None:
    stopping = dataclasses.replace(container("nginx", "stopping"), ports=(80,))
    listeners = observe._listeners('LISTEN 0 4096 0.0.0.0:80 0.0.0.0:* users:(("conmon",pid=1,fd=5))', [stopping])
    assert listeners is not None
    assert listeners[0].ours
    assert listeners[0].holder == "the container dify_nginx_1"


def test_a_resolv_conf_is_read_as_far_as_it_makes_sense() -> None:
    text = "# x\nnameserver 10.0.0.53\nnameserver fe80::1%eth0\nnameserver\nnameserver x\nsearch a.example B.example.\n"
    assert parse.parse_resolvers(text) == ("10.0.0.53", "fe80::1%eth0")
    assert parse.parse_search(text) == ("a.example", "b.example")
    assert parse.parse_search("") == ()
