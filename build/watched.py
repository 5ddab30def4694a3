"""Runs what takes minutes, and tells every few seconds how far it is; all that it prints is kept in a log."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from installer.core import files
from installer.core.console import Console
from installer.core.runner import MISSING_PROGRAM, Result, Runner

# How often it is told: on a terminal one line changes, elsewhere a new one is written.
TERMINAL_SECONDS = 1.0
LINE_SECONDS = 10.0
# Of a log, at its end: what an error quotes.
TAIL_BYTES = 64 * 1024


def run(
    argv: Sequence[str],
    log: Path,
    label: str,
    timeout: float,
    runner: Runner,
    console: Console,
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    progress: Callable[[], str] | None = None,
) -> Result:
    """Run `argv` to its end, at most `timeout` seconds; `log` gets all that it prints, from its first line on.

    Tells `label`, the seconds and what `progress` returns, if it is given. The end of the log is the result's
    `stderr`. A program that is missing gives status 127.
    """
    files.folder(log.parent)
    started = time.monotonic()
    try:
        with log.open("wb") as file, runner.started(argv, env=env, cwd=cwd, stdout=file, stderr=file) as child:
            status = _wait(child, label, started, timeout, console, progress)
    except OSError as error:
        status = MISSING_PROGRAM
        log.write_text(f"{argv[0]}: {error.strerror}\n")
    return runner.ended(argv, status, tail(log), time.monotonic() - started)


def _wait(
    child: subprocess.Popen[str],
    label: str,
    started: float,
    timeout: float,
    console: Console,
    progress: Callable[[], str] | None,
) -> int:
    """Return the exit status of a child; one that takes too long is ended by who has started it."""
    every = TERMINAL_SECONDS if console.interactive else LINE_SECONDS
    while (left := started + timeout - time.monotonic()) > 0:
        try:
            status = child.wait(min(every, left))
        except subprocess.TimeoutExpired:
            seen = progress() if progress is not None else ""
            console.waiting(f"{label}: {time.monotonic() - started:.0f} s{f', {seen}' if seen else ''}")
        else:
            console.waiting("")
            return status
    return -signal.SIGTERM


def tail(log: Path) -> bytes:
    """Return the end of a log."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL_BYTES))
        return file.read()
