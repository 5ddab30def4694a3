"""The demo's steps: a line as each begins, lines while it runs, a line as it ends."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.target import steps

ROOT = Path(__file__).resolve().parent.parent.parent


def test_a_step_is_told_as_it_begins_and_as_it_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with steps.step("work", 5, tmp_path / "new/log"):
        pass
    begin, end = capsys.readouterr().out.splitlines()
    assert re.fullmatch(rf"\d\d:\d\d:\d\d  work \(about 5 s; log: {tmp_path}/new/log\)", begin)
    assert re.fullmatch(r"\d\d:\d\d:\d\d  work: done in \d+ s", end)


def test_a_step_that_fails_names_its_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), steps.step("work", 5, tmp_path / "log"):
        raise ZeroDivisionError
    assert f"work: failed after 0 s, see {tmp_path}/log" in capsys.readouterr().out


def test_a_step_is_never_silent_for_long(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "QUIET_SECONDS", 0.0)
    log = tmp_path / "log"
    told = ""
    with steps.step("work", 5, log):
        log.write_text("first\nlast words\n\n")
        while "last words" not in told:
            told += capsys.readouterr().out
    assert re.search(r"  work: \d+ s, last words", told)


def test_the_last_line_of_a_bar_is_what_it_shows_now(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(" 10%\r 20%\r")
    assert steps.last_line(tmp_path / "log") == "20%"


def test_what_fails_shows_the_end_of_its_log_and_keeps_its_status(tmp_path: Path) -> None:
    command = ["work", "1", str(tmp_path / "log"), "sh", "-c", "echo the reason; exit 7"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.target.steps", *command], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 7
    assert "the reason" in done.stderr
    assert "failed after" in done.stdout


def test_what_is_shown_has_the_time_before_each_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps.show(["sh", "-c", "echo one; echo two >&2"], tmp_path / "log", cwd=tmp_path, env={"PATH": "/usr/bin:/bin"})
    lines = capsys.readouterr().out.splitlines()
    assert [re.sub(r"^\d\d:\d\d:\d\d", "", line) for line in lines] == ["    one", "    two"]
    assert (tmp_path / "log").read_text() == "one\ntwo\n"
    with pytest.raises(subprocess.CalledProcessError):
        steps.show(["false"], tmp_path / "log", cwd=tmp_path, env={"PATH": "/usr/bin:/bin"})
