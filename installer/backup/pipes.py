"""Programs whose output goes into a backup, and those that read what comes out of one."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import IO

from installer.core.runner import PIPE, Runner

REMEDY = "fix what it says, and run the same command again"


@contextlib.contextmanager
def streaming(command: Sequence[str], runner: Runner, accepted: Sequence[int] = (0,)) -> Iterator[IO[bytes]]:
    """Give the output of a program; it must end with an accepted status, else CommandFailed is raised."""
    with tempfile.TemporaryFile() as told:
        with runner.started(command, stderr=told, text=False) as child:
            stream: IO[bytes] = child.stdout  # type: ignore[assignment]  # bytes, since text is off
            yield stream
            status = child.wait()
        told.seek(0)
        result = runner.ended(command, status, told.read(), 0.0)
    if status not in accepted:
        raise runner.failure(result, REMEDY)


def feed(command: Sequence[str], pieces: Iterable[bytes], runner: Runner) -> None:
    """Run a program that reads pieces from its standard input. Raises CommandFailed when it fails."""
    begun = time.monotonic()
    with runner.started(command, stdin=PIPE, text=False) as child:
        assert child.stdin is not None
        # A program that has failed reads no more: its status tells.
        with contextlib.suppress(BrokenPipeError):
            for piece in pieces:
                child.stdin.write(piece)  # type: ignore[arg-type]  # bytes, since text is off
        _, told = child.communicate()
        result = runner.ended(command, child.returncode, told or b"", time.monotonic() - begun)  # type: ignore[arg-type]
    if not result.ok:
        raise runner.failure(result, REMEDY)
