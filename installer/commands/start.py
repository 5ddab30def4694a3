"""Starts the stack of an installation; the unit does it at boot."""

from __future__ import annotations

import time

from installer.core import layout, lock, logfile
from installer.core.console import Console
from installer.core.runner import Runner
from installer.engine import choose
from installer.release import settings
from installer.stack import project, run
from installer.system import leftovers


def start(place: layout.Installation, timeout: float, runner: Runner, console: Console) -> None:
    """Start the stack in its order and wait until its services are up, at most `timeout` seconds.

    Raises CommandFailed when there is no installation or compose fails, NotHealthy, AlreadyRunning,
    PreflightFailed when `.env` has lost keys.
    """
    memory = logfile.begin()
    with lock.hold(place.folder):
        engine = choose.choose_engine(None, place, runner)
        document = project.read_installed(place, engine)
        settings.require_kept(place)
        logfile.write_to(memory, place.logs, "start")
        leftovers.remove_leftovers(place)
        run.up(place, document, time.monotonic() + timeout, engine, console)
