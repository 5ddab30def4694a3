"""Tells what goes on: a line with the time as a step begins, one every few seconds while it runs, one as it ends.

Nothing but the standard library: `make demo` uses it before there is an environment, to tell of what makes one.

    python3 -m tests.target.steps WHAT SECONDS LOG COMMAND...
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

# Whoever looks at a terminal wonders after ten seconds of silence.
QUIET_SECONDS = 8.0
LONGEST_WORDS = 90

_lock = threading.RLock()
_running: dict[str, tuple[float, Path]] = {}
_said = 0.0


def say(text: str) -> None:
    """Print a line with the time in front."""
    global _said
    with _lock:
        _said = time.monotonic()
        print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)


@contextlib.contextmanager
def step(what: str, seconds: int, log: Path) -> Iterator[None]:
    """Tell of a step that takes about so many seconds on a quiet machine and writes `log`.

    While it runs and nothing else is said, the last line of its log is told. Steps may run in several threads at once.
    Whatever makes the step fail is raised again, after a line that names the log.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    log.touch()
    started = time.monotonic()
    with _lock:
        say(f"{what} (about {seconds} s; log: {log})")
        _running[what] = (started, log)
    ended = threading.Event()
    watcher = threading.Thread(target=_watch, args=(ended,), daemon=True)
    watcher.start()
    try:
        yield
    except BaseException:
        say(f"{what}: failed after {time.monotonic() - started:.0f} s, see {log}")
        raise
    else:
        say(f"{what}: done in {time.monotonic() - started:.0f} s")
    finally:
        ended.set()
        watcher.join()
        with _lock:
            del _running[what]


def run(command: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> None:
    """Run a command to its end, all that it prints into `log`. Raises CalledProcessError when it fails."""
    with log.open("ab") as file:
        subprocess.run(command, check=True, env=env, stdin=subprocess.DEVNULL, stdout=file, stderr=file)


def show(command: Sequence[str], log: Path, cwd: Path, env: Mapping[str, str]) -> None:
    """Run a command to its end and say each line that it prints, kept in `log` too.

    Raises CalledProcessError when it fails.
    """
    with (
        log.open("w", buffering=1) as file,
        subprocess.Popen(
            command,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as child,
    ):
        assert child.stdout is not None
        for line in child.stdout:
            file.write(line)
            say(f"  {line.rstrip()}")
    if child.returncode != 0:
        raise subprocess.CalledProcessError(child.returncode, command)


def last_line(log: Path) -> str:
    """Return the last line of a log that is not empty, cut to what fits beside the time."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        lines = file.read().decode(errors="replace").replace("\r", "\n").split("\n")
    return next((line.strip()[:LONGEST_WORDS] for line in reversed(lines) if line.strip()), "")


def _watch(ended: threading.Event) -> None:
    """Say how far the running steps are whenever nothing was said for a while."""
    while not ended.wait(0.5):
        with _lock:
            if time.monotonic() - _said >= QUIET_SECONDS:
                for what, (started, log) in _running.items():
                    say(f"  {what}: {time.monotonic() - started:.0f} s, {last_line(log) or 'nothing in the log yet'}")


def main(what: str, seconds: str, log: str, *command: str) -> int:
    """Run a command as a step; return its exit code, after the end of its log where it failed."""
    path = Path(log).resolve()
    path.unlink(missing_ok=True)
    try:
        with step(what, int(seconds), path):
            run(command, path)
    except subprocess.CalledProcessError as error:
        sys.stderr.write("\n".join(path.read_text(errors="replace").splitlines()[-15:]) + "\n")
        return error.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
