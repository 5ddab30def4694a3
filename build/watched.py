"""Runs what takes minutes, and tells every few seconds how far it is; all that it prints is kept in a log."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from installer.core import files
from installer.core.console import Console
from installer.core.runner import MISSING_PROGRAM, Result, Runner

# How often it is told: on a terminal one line changes, elsewhere a new one is written.
TERMINAL_SECONDS = 1.0
LINE_SECONDS = 10.0
POLL_SECONDS = 0.1
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
    every = TERMINAL_SECONDS if console.interactive else LINE_SECONDS
    started = told = time.monotonic()
    try:
        with log.open("wb") as file, runner.started(argv, env=env, cwd=cwd, stdout=file, stderr=file) as child:
            while (status := child.poll()) is None:
                now = time.monotonic()
                if now - started > timeout:
                    # The block's end ends the child, and all that it has started.
                    status = -signal.SIGTERM
                    break
                if now - told >= every:
                    told = now
                    seen = progress() if progress is not None else ""
                    console.waiting(f"{label}: {now - started:.0f} s{f', {seen}' if seen else ''}")
                time.sleep(POLL_SECONDS)
    except OSError as error:
        status = MISSING_PROGRAM
        log.write_text(f"{argv[0]}: {error.strerror}\n")
    console.waiting("")
    return runner.ended(argv, status, tail(log), time.monotonic() - started)


def tail(log: Path) -> bytes:
    """Return the end of a log."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL_BYTES))
        return file.read()
