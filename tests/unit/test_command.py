from __future__ import annotations

import logging
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from installer import cli
from installer.core import errors
from installer.core.runner import GRACE_SECONDS, Runner, communicate, host_environment


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


@pytest.mark.parametrize(
    ("words", "given", "remedy"),
    [
        ("cp: error writing 'x': No space left on device", "fix it", "make room on the file system that it names"),
        ("Error: write /x: no space left on device", "make room below /x", "make room below /x"),
        ("cp: permission denied", "fix it", "fix it"),
    ],
)
def test_who_has_no_room_is_told_to_make_some(words: str, given: str, remedy: str) -> None:
    with pytest.raises(errors.CommandFailed) as failed:
        Runner().run(["sh", "-c", 'echo "$1" >&2; exit 1', "sh", words], timeout=10, remedy=given)
    assert failed.value.remedy.startswith(remedy)


def test_a_command_that_takes_too_long_is_ended_with_all_that_it_started() -> None:
    started = time.monotonic()
    result = Runner().run(["sh", "-c", "sleep 60 & wait"], timeout=0.3, check=False)
    assert time.monotonic() - started < 8
    assert not result.ok
    assert result.timed_out
    assert "no end after" in result.last_words


def test_what_outlives_an_ended_child_is_ended_too() -> None:
    """As podman does that podman-compose has started."""
    stubborn = "trap '' TERM; sleep 60 & echo $!; wait"
    runner = Runner()
    with pytest.raises(RuntimeError), runner.started(["sh", "-c", f"sh -c {shlex.quote(stubborn)}"]) as child:
        assert child.stdout is not None
        sleeper = int(child.stdout.readline())
        raise RuntimeError
    assert not Path(f"/proc/{sleeper}").exists()


def test_what_a_killed_child_leaves_behind_is_ended_as_well() -> None:
    with Runner().started(["sh", "-c", "sleep 60 > /dev/null & echo $!; kill -TERM $$"]) as child:
        assert child.stdout is not None
        sleeper = int(child.stdout.readline())
        child.wait(10)
    assert child.returncode == -signal.SIGTERM
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


def test_what_other_threads_run_can_be_ended_and_nothing_starts_afterwards() -> None:
    """Whenever the end comes: before, while and after the threads start what they run."""
    runner = Runner()
    started = threading.Event()

    def run_for_ever() -> None:
        with pytest.raises(errors.CommandFailed, match="no program is started any more"):
            while True:
                started.set()
                runner.run(["sleep", "60"], timeout=90, check=False)

    threads = [threading.Thread(target=run_for_ever) for _ in range(8)]
    for thread in threads:
        thread.start()
    started.wait()
    runner.end_all()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    with pytest.raises(errors.CommandFailed):
        runner.only(["PATH"]).run(["true"], timeout=10, check=False)
    assert runner.for_tidying().run(["true"], timeout=10).ok


def test_a_command_that_took_too_long_keeps_what_it_printed(tmp_path: Path) -> None:
    script = f"echo first; echo second >&2; touch {tmp_path}/printed; trap 'echo last; exit 0' TERM; sleep 60 & wait"
    with Runner().started(["sh", "-c", script]) as child:
        while not (tmp_path / "printed").exists():
            time.sleep(0.01)
        stdout, stderr, timed_out = communicate(child, None, 0.01)
    assert timed_out
    assert stdout.startswith("first\n")
    assert stderr == "second\n"


def test_a_command_that_took_too_long_was_not_ended_by_others() -> None:
    late = Runner().run(["sleep", "60"], timeout=0.01, check=False)
    assert (late.ok, late.timed_out, late.ended_by_others) == (False, True, False)
    killed = Runner().run(["sh", "-c", "kill -TERM $$"], timeout=60, check=False)
    assert (killed.ok, killed.timed_out, killed.ended_by_others) == (False, False, True)


def test_a_command_that_may_not_fail_tells_what_to_do() -> None:
    with pytest.raises(errors.CommandFailed) as caught:
        Runner().run(["false"], timeout=10, remedy="try something else")
    assert caught.value.remedy == "try something else"


def test_output_is_utf_8_whatever_the_locale_is() -> None:
    program = "from installer.core.runner import Runner\n"
    program += "print(ascii(Runner().run(['printf', '\\\\352\\\\260\\\\200'], timeout=10).stdout))"
    env = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PATH": os.environ["PATH"]}
    root = Path(__file__).resolve().parent.parent.parent
    done = subprocess.run([sys.executable, "-c", program], env=env, cwd=root, capture_output=True, text=True)
    assert done.stdout.strip() == r"'\uac00'", done.stderr


# Where an interruption comes: while the main thread waits for a program, and while it waits for other threads that do.
STUBBORN = """
import signal, sys
from concurrent.futures import ThreadPoolExecutor
from installer import cli
from installer.commands import install
from installer.core.runner import Runner

STUBBORN = ["sh", "-c", "trap '' TERM; echo $$ >> {pids}; while :; do sleep 60; done"]

def here(*_):
    Runner().run(STUBBORN, timeout=600)

def beside(*_):
    runner = Runner()
    with ThreadPoolExecutor(3) as pool:
        jobs = [pool.submit(runner.run, STUBBORN, timeout=600) for _ in range(3)]
        for job in jobs:
            job.result()

install.install = {where}
sys.exit(cli.main(["--ip", "10.0.0.5"]))
"""


@pytest.mark.parametrize(("where", "number"), [("here", 1), ("beside", 3)])
@pytest.mark.parametrize("twice", [False, True])
def test_ctrl_c_ends_the_most_stubborn_programs(tmp_path: Path, where: str, number: int, twice: bool) -> None:
    pids = tmp_path / "pids"
    command = [sys.executable, "-c", STUBBORN.format(pids=pids, where=where)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not pids.exists() or len(pids.read_text().split()) < number:
        time.sleep(0.01)
    begun = time.monotonic()
    child.send_signal(signal.SIGINT)
    if twice:
        # Later than what a terminal may send twice.
        time.sleep(cli.ONE_KEY_SECONDS + 0.1)
        child.send_signal(signal.SIGINT)
    _, told = child.communicate(timeout=60)
    took = time.monotonic() - begun
    assert child.returncode == 130, told
    assert not [pid for pid in pids.read_text().split() if Path("/proc", pid).exists()]
    # Two seconds by design; the rest is for a machine that is busy with something else.
    assert took < 2 * GRACE_SECONDS + 10
