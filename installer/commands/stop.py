"""Stops the stack of an installation; settings and data stay."""

from __future__ import annotations

from installer.core import layout, lock, logfile
from installer.core.console import Console
from installer.core.runner import Runner
from installer.engine import choose
from installer.release import settings
from installer.stack import project, stopping


def stop(place: layout.Installation, runner: Runner, console: Console) -> None:
    """Stop the stack in reverse order. Raises CommandFailed when there is no installation, AlreadyRunning."""
    memory = logfile.begin()
    with lock.hold(place.folder):
        engine = choose.choose_engine(None, place, runner)
        document = project.read_installed(place, engine)
        runner.hide(settings.secret_values(project.read_variables(place)))
        logfile.write_to(memory, place.logs, "stop")
        stopping.stop(place, document, engine)
    console.line("the stack is stopped; `dify-installer start` brings it back")
