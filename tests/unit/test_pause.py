"""A container that is stopped for a copy runs again, whatever becomes of us."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from installer.backup import pause
from installer.core import runner
from installer.engine.podman import Podman
from tests.unit.test_boot import program

# A process that pauses the container and waits; its podman only notes what it is told.
PAUSING = """
import sys, time
from installer.backup import pause
from installer.core.runner import Runner
from installer.engine.podman import Podman

with pause.stopped("store", Podman(Runner())):
    print("stopped", flush=True)
    time.sleep(60)
"""


def noted(folder: Path) -> list[str]:
    path = folder / "log"
    return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def engine(tmp_path: Path) -> Podman:
    return Podman(program(tmp_path, "podman", f'echo "$1" >> "{tmp_path}/log"'))


def test_it_runs_again_at_the_end(tmp_path: Path, engine: Podman) -> None:
    with pause.stopped("store", engine):
        assert noted(tmp_path) == ["stop"]
    # Whoever stops it from now on means it: the shell that waited ends without a word.
    time.sleep(2)
    assert noted(tmp_path) == ["stop", "start"]


def test_it_runs_again_after_an_error(tmp_path: Path, engine: Podman) -> None:
    with pytest.raises(RuntimeError), pause.stopped("store", engine):
        raise RuntimeError
    assert noted(tmp_path) == ["stop", "start"]


def test_it_runs_again_when_nothing_else_may_start(tmp_path: Path, engine: Podman) -> None:
    with pytest.raises(KeyboardInterrupt), pause.stopped("store", engine):
        runner.interrupt(KeyboardInterrupt())
        raise KeyboardInterrupt
    assert noted(tmp_path) == ["stop", "start"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP])
def test_it_runs_again_when_we_are_killed(tmp_path: Path, engine: Podman, number: signal.Signals) -> None:
    environment = {**os.environ, "PATH": engine.runner.env["PATH"]}
    with subprocess.Popen(
        [sys.executable, "-c", PAUSING], env=environment, stdout=subprocess.PIPE, start_new_session=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"stopped\n"
        os.killpg(child.pid, number)
    deadline = time.monotonic() + 20
    while noted(tmp_path) != ["stop", "start"]:
        assert time.monotonic() < deadline, noted(tmp_path)
        time.sleep(0.1)
