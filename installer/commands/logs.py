"""Shows what the services of an installation have written, without the secrets of its settings."""

from __future__ import annotations

import contextlib
import heapq
import queue
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from installer.commands import restart
from installer.core import errors, layout
from installer.core.console import stream_result
from installer.core.runner import WITH_STDOUT, Runner
from installer.engine import choose
from installer.engine.base import Container, Engine
from installer.stack import project, state

# How many lines of a service are shown when nothing is said.
LINES = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What is asked for: services (none: all), a time or a duration as the engine takes it, lines of each service."""

    services: Sequence[str] = ()
    since: str | None = None
    lines: int | None = None
    follow: bool = False

    @property
    def options(self) -> list[str]:
        """The options of the engine's command."""
        lines = LINES if self.lines is None and not self.since else self.lines
        return [
            "--timestamps",
            *(["--since", self.since] if self.since else []),
            *(["--tail", str(lines)] if lines is not None else []),
            *(["--follow"] if self.follow else []),
        ]


def show(place: layout.Installation, asked: Asked, runner: Runner) -> None:
    """Print the logs of services, in the order of their times, each line behind its service's name.

    With `follow` it goes on until Ctrl-C. Raises UsageError for a service that is none, CommandFailed.
    """
    engine = choose.choose_engine(None, place, runner)
    restart.require_known(asked.services, project.read_installed(place, engine))
    found = [each for each in state.list_ours(place, engine) if not asked.services or each.service in asked.services]
    if not found:
        raise errors.CommandFailed("none of its containers exists", "start the stack: dify-installer start")
    width = max(len(each.service) for each in found)
    with _ended_by_ctrl_c(asked), contextlib.ExitStack() as stack:
        sources = [_read(each, asked, width, engine, stack) for each in found]
        lines = _as_they_come(sources) if asked.follow else (line for _, line in heapq.merge(*sources))
        stream_result(runner.mask(line) for line in lines)


@contextlib.contextmanager
def _ended_by_ctrl_c(asked: Asked) -> Iterator[None]:
    """Have Ctrl-C end what follows the logs without a word; the exit code stays."""
    try:
        yield
    except errors.Interrupted as interruption:
        interruption.wanted = asked.follow and interruption.signal == signal.SIGINT
        raise


def _read(
    container: Container, asked: Asked, width: int, engine: Engine, stack: contextlib.ExitStack
) -> Iterator[tuple[str, str]]:
    """Give the lines of a container's log, each with its time."""
    command = [engine.name, "logs", *asked.options, container.name]
    child = stack.enter_context(engine.runner.started(command, stderr=WITH_STDOUT))
    assert child.stdout is not None
    for line in child.stdout:
        when, _, text = line.rstrip("\n").partition(" ")
        yield when, f"{container.service:<{width}}  {when[:19]}  {text}"


def _as_they_come(sources: Sequence[Iterator[tuple[str, str]]]) -> Iterator[str]:
    """Give the lines of all sources until all have ended."""
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def pass_on(source: Iterator[tuple[str, str]]) -> None:
        # A stream that is closed under the reader has ended.
        with contextlib.suppress(ValueError):
            for _, line in source:
                lines.put(line)
        lines.put(None)

    for source in sources:
        threading.Thread(target=pass_on, args=(source,), daemon=True).start()
    left = len(sources)
    while left:
        if (line := lines.get()) is None:
            left -= 1
        else:
            yield line
