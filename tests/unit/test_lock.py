"""The lock: who holds it, who may not, and that nothing of it outlives its process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from installer.core import errors, lock

HOLDER = """
import os, sys
from pathlib import Path
from installer.core import lock
with lock.hold(Path({folder!r})) as held:
    with held.lent():
        print("lent", flush=True)
        sys.stdin.readline()
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another run for the same folder."""
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDER.format(folder=str(tmp_path))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield child
    child.kill()
    child.communicate()


def said(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def go_on(child: subprocess.Popen[str]) -> None:
    assert child.stdin is not None
    child.stdin.write("\n")
    child.stdin.flush()


def test_the_unit_alone_works_under_the_lock_that_is_lent_to_it(
    tmp_path: Path, other: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert said(other) == "lent"
    with pytest.raises(errors.AlreadyRunning, match=f"process {other.pid}"), lock.hold(tmp_path):
        pass
    monkeypatch.setattr(lock, "_in_unit", lambda: True)
    with lock.hold(tmp_path) as held:
        assert held.descriptor is None
    go_on(other)
    assert said(other) == "held"
    with pytest.raises(errors.AlreadyRunning, match=f"process {other.pid}"), lock.hold(tmp_path):
        pass


def test_one_that_is_given_up_is_another_runs_and_stays_so(tmp_path: Path) -> None:
    with lock.hold(tmp_path) as first:
        first.give_up()
        with lock.hold(tmp_path):
            pass
        # That one has taken the file away with it; this is another one, which the end of the first must leave.
        second = lock.hold(tmp_path)
        second.__enter__()
    with pytest.raises(errors.AlreadyRunning), lock.hold(tmp_path):
        pass
    second.__exit__(None, None, None)
    with lock.hold(tmp_path):
        pass


def test_a_killed_run_holds_nothing(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    assert said(other) == "lent"
    os.kill(other.pid, signal.SIGKILL)
    other.wait()
    with lock.hold(tmp_path):
        pass


def test_a_child_does_not_inherit_it(tmp_path: Path) -> None:
    with lock.hold(tmp_path) as held:
        assert held.descriptor is not None
        assert not os.get_inheritable(held.descriptor)
        child = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        with lock.hold(tmp_path):
            pass
    finally:
        child.kill()
        child.wait()


@pytest.mark.parametrize("name", ["d" * 93, "d" * 200, "이름 %s"])
def test_a_path_of_any_length_is_locked_and_nothing_stays(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name / name
    with lock.hold(folder):
        with pytest.raises(errors.AlreadyRunning), lock.hold(folder):
            pass
        assert [path for path in lock._folder().iterdir() if path.read_text() == f"{os.getpid()}\n"]
    assert not [path for path in lock._folder().iterdir() if path.read_text() == f"{os.getpid()}\n"]


def test_two_names_of_one_folder_are_one_lock(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with lock.hold(tmp_path / "real"), pytest.raises(errors.AlreadyRunning), lock.hold(tmp_path / "link"):
        pass


def test_another_users_socket_of_the_old_name_does_not_matter(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as squatted:
        squatted.bind(f"\0dify-installer:{os.path.realpath(tmp_path)}")
        with lock.hold(tmp_path):
            pass


def test_only_the_owner_can_open_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "ROOTS", tmp_path / "locks")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(lock, "RUNTIME", tmp_path)
    if os.getuid() == 0:
        with lock.hold(tmp_path):
            assert (tmp_path / "locks").stat().st_mode & 0o777 == 0o700
            assert {path.stat().st_mode & 0o777 for path in (tmp_path / "locks").iterdir()} == {0o600}
        (tmp_path / "locks").chmod(0o755)
        with pytest.raises(errors.CommandFailed, match="open to others"), lock.hold(tmp_path):
            pass
