from __future__ import annotations

import logging
import shlex
import threading
import time
from pathlib import Path

import pytest

from installer.core import errors
from installer.core.runner import Runner, host_environment


def test_a_frozen_programs_library_path_does_not_reach_children() -> None:
    frozen = {"LD_LIBRARY_PATH": "/tmp/_MEI1", "LD_LIBRARY_PATH_ORIG": "/opt/lib", "_PYI_ARCHIVE_FILE": "x", "A": "1"}
    assert host_environment(frozen) == {"LD_LIBRARY_PATH": "/opt/lib", "A": "1"}
    del frozen["LD_LIBRARY_PATH_ORIG"]
    assert host_environment(frozen) == {"A": "1"}
    assert host_environment({"LD_LIBRARY_PATH": "/mine"}) == {"LD_LIBRARY_PATH": "/mine"}


def test_a_result_holds_what_the_program_did() -> None:
    result = Runner().run(["sh", "-c", "cat; echo problem >&2; exit 3"], timeout=10, input="text", check=False)
    assert (result.status, result.stdout, result.stderr) == (3, "text", "problem\n")
    assert not result.ok


def test_a_missing_program_is_an_ordinary_result() -> None:
    assert Runner().run(["no-such-program"], timeout=10, check=False).status == 127
    with pytest.raises(errors.CommandFailed, match="cannot be started"):
        Runner().run(["no-such-program"], timeout=10)


def test_a_command_that_takes_too_long_is_ended_with_all_that_it_started() -> None:
    started = time.monotonic()
    result = Runner().run(["sh", "-c", "sleep 60 & wait"], timeout=0.3, check=False)
    assert time.monotonic() - started < 8
    assert not result.ok
    assert "no end after" in result.stderr


def test_what_outlives_an_ended_child_is_ended_too() -> None:
    """As podman does that podman-compose has started."""
    stubborn = "trap '' TERM; sleep 60 & echo $!; wait"
    runner = Runner()
    with pytest.raises(RuntimeError), runner.started(["sh", "-c", f"sh -c {shlex.quote(stubborn)}"]) as child:
        assert child.stdout is not None
        sleeper = int(child.stdout.readline())
        raise RuntimeError
    assert not Path(f"/proc/{sleeper}").exists()


def test_announced_secrets_reach_neither_log_nor_errors(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="dify-installer")
    logging.getLogger("dify-installer").propagate = True
    runner = Runner()
    runner.hide(["the-password", "redis://:the-password@redis"])
    with pytest.raises(errors.CommandFailed) as caught:
        runner.run(["sh", "-c", "echo redis://:the-password@redis the-password; exit 1"], timeout=10)
    assert "the-password" not in caught.value.message + caplog.text
    assert "status=1" in caplog.text


def test_restricted_runners_share_secrets_and_children() -> None:
    runner = Runner({"A": "1", "PIP_X": "2", "PATH": "/usr/bin:/bin"})
    runner.hide(["announced-before"])
    assert runner.only(["A"]).env == {"A": "1"}
    assert runner.without(("PIP_",)).env == {"A": "1", "PATH": "/usr/bin:/bin"}
    assert runner.only(["A"]).mask("announced-before") == "********"


def test_what_other_threads_run_can_be_ended() -> None:
    runner = Runner()
    thread = threading.Thread(target=lambda: runner.run(["sleep", "60"], timeout=90, check=False))
    thread.start()
    while not runner._active:
        time.sleep(0.01)
    runner.end_all()
    thread.join(10)
    assert not thread.is_alive()
