"""What takes minutes tells how far it is, and keeps all that it prints in a log."""

from __future__ import annotations

import io
import signal
from pathlib import Path

import pytest

from build import portable_python, watched
from installer.core import console
from installer.core.console import Console
from installer.core.runner import MISSING_PROGRAM, Runner


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


def test_all_that_is_printed_is_in_the_log_and_the_end_of_it_in_the_result(tmp_path: Path, stream: io.StringIO) -> None:
    log = tmp_path / "below/log"
    command = ["sh", "-c", "echo first; echo last >&2; exit 3"]
    result = watched.run(command, log, "it", 60, Runner(), Console(stream=stream))
    assert result.status == 3
    assert log.read_text() == "first\nlast\n"
    assert result.last_words == "first\nlast"


def test_what_takes_long_tells_how_far_it_is(
    tmp_path: Path, stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watched, "LINE_SECONDS", 0.0)
    told = tmp_path / "told"

    def progress() -> str:
        told.touch()
        return "half of it"

    # It ends when it was told of, and not before.
    command = ["sh", "-c", f"while [ ! -e {told} ]; do sleep 0.01; done"]
    assert watched.run(command, tmp_path / "log", "it", 60, Runner(), Console(stream=stream), progress=progress).ok
    assert stream.getvalue().startswith("  waiting for it: 0 s, half of it\n")


def test_a_long_step_tells_on_a_pipe_how_far_it_is(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "LINE_SECONDS", 0.0)
    with Console(stream=stream).progress("load", 4 * 1024**2) as bar:
        bar.update(1024**2)
        bar.update(1024**2)
    assert stream.getvalue().splitlines()[:2] == ["  load: 1.0 MiB of 4.0 MiB", "  load: 2.0 MiB of 4.0 MiB"]


def test_what_takes_too_long_is_ended(tmp_path: Path, stream: io.StringIO) -> None:
    result = watched.run(["sleep", "1000"], tmp_path / "log", "it", 0, Runner(), Console(stream=stream))
    assert result.status == -signal.SIGTERM


def test_a_program_that_is_missing_is_told(tmp_path: Path, stream: io.StringIO) -> None:
    result = watched.run(["no-such-program"], tmp_path / "log", "it", 60, Runner(), Console(stream=stream))
    assert result.status == MISSING_PROGRAM
    assert "no-such-program" in result.last_words


def test_the_phase_of_a_recipe_is_the_last_that_its_log_names(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("")
    assert portable_python.phase(log) == ""
    log.write_text("== configuring zlib, 1 of 6\nchecking for gcc\n")
    assert portable_python.phase(log) == "configuring zlib, 1 of 6"


def test_objects_are_counted_where_the_phase_says(tmp_path: Path) -> None:
    folder = tmp_path / "openssl"
    (folder / "crypto").mkdir(parents=True)
    for name in ("crypto/a.o", "b.o", "b.c"):
        (folder / name).touch()
    log = tmp_path / "log"
    log.write_text(f"== compiling openssl, 5 of 6, 10 objects in {folder}\ncc -c b.c\n")
    assert portable_python.phase(log) == "compiling openssl, 5 of 6, 2 of 10 objects"
    log.write_text(f"== compiling openssl, 5 of 6, 1 objects in {folder}\n")
    assert portable_python.phase(log) == "compiling openssl, 5 of 6, 1 of 1 objects"


@pytest.mark.parametrize("script", ["build.sh", "fetch.sh", "pack.sh", "zig.sh"])
def test_every_recipe_names_its_phases(script: str) -> None:
    text = (portable_python.RECIPES / script).read_text()
    assert portable_python.PHASE in text or "phase " in text
