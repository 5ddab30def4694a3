"""Stops the stack of an installation; settings and data stay."""

from __future__ import annotations

from installer.core import layout, lock, logfile
from installer.core.console import Console
from installer.core.runner import Runner
from installer.engine import choose
from installer.stack import project, stopping
from installer.system import leftovers


def stop(place: layout.Installation, runner: Runner, console: Console) -> None:
    """Stop the stack in reverse order. Raises CommandFailed when there is no installation, AlreadyRunning."""
    memory = logfile.begin()
    with lock.hold(place.folder):
        engine = choose.choose_engine(None, place, runner)
        document = project.read_installed(place, engine)
        logfile.write_to(memory, place.logs, "stop")
        leftovers.remove_leftovers(place)
        stopping.stop(place, document, engine)
    console.line("the stack is stopped; `dify-installer start` brings it back")
