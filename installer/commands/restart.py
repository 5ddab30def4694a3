"""Restarts the stack of an installation, or some of its services."""

from __future__ import annotations

from collections.abc import Sequence

from installer.commands import start
from installer.core import errors, layout, lock, logfile
from installer.core.console import Console
from installer.core.runner import Runner
from installer.engine import choose
from installer.release import compose
from installer.stack import project, stopping
from installer.upgrade import kept


def restart(
    place: layout.Installation, services: Sequence[str], timeout: float, runner: Runner, console: Console
) -> list[str]:
    """Stop services, all if none is named, and start them again; return those that were stopped.

    What needs one of them is stopped before it and started after it. Raises UsageError for a service that is none,
    and as `stop` and `start` do.
    """
    memory = logfile.begin()
    with lock.hold(place.folder):
        engine = choose.choose_engine(None, place, runner)
        kept.require_ended(place)
        document = project.read_installed(place, engine)
        require_known(services, document)
        logfile.write_to(memory, place.logs, "restart")
        concerned = stopping.with_dependents(services, document) if services else set(document["services"])
        console.waiting(f"the end of {', '.join(sorted(concerned))}")
        stopping.stop(place, document, engine, concerned)
        console.waiting("")
        start.bring_up(place, document, timeout, engine, console)
    return sorted(concerned)


def require_known(services: Sequence[str], document: compose.Document) -> None:
    """Raise UsageError when one of these is no service of the installation."""
    unknown = [name for name in services if name not in document["services"]]
    if unknown:
        raise errors.UsageError(
            f"{', '.join(unknown)} is no service of this installation",
            f"its services are {', '.join(document['services'])}",
        )
