"""Starts the stack of an installation, and waits until Dify answers; the unit does it at boot."""

from __future__ import annotations

import time

from installer.backup import exchange
from installer.bundle import verify
from installer.checks import front_door, waiting
from installer.commands import back
from installer.core import layout, lock, logfile
from installer.core.console import Console
from installer.core.runner import Runner
from installer.engine import choose
from installer.engine.base import Engine
from installer.images import image_store, inventory, unpacked_store
from installer.release import compose, env_history, envfile, external, settings
from installer.stack import api_start, project, run
from installer.system import leftovers
from installer.upgrade import kept


def start(place: layout.Installation, timeout: float, runner: Runner, console: Console) -> None:
    """Start the stack in its order and wait until Dify answers, at most `timeout` seconds.

    The unit is active only then. Raises CommandFailed when there is no installation or compose fails, NotHealthy,
    AlreadyRunning, PreflightFailed when `.env` has lost keys.
    """
    memory = logfile.begin()
    with lock.hold(place.folder) as held:
        kept.end_renames(place)
        engine = choose.choose_engine(None, place, runner)
        if (found := kept.read(place)) is not None and found.state != "done":
            logfile.write_to(memory, place.logs, "start")
            leftovers.remove_leftovers(place)
            console.line("an upgrade was interrupted: the version before comes back")
            if found.state == "begun" and external.has_database(envfile.parse(env_history.text_of(place.env))):
                raise back.put_back_without_rows(place, found.before, found.after, engine, console)
            aside = back.put_back(place, found.before, layout.PROJECT_FAILED, timeout, held, engine, console)
            console.line(f"what the upgrade has made is in {aside}" if aside else "nothing had been changed")
            return
        document = project.read_installed(place, engine)
        logfile.write_to(memory, place.logs, "start")
        leftovers.remove_leftovers(place)
        if exchange.is_begun(place):
            exchange.put_back(place, document, engine, console)
        bring_up(place, document, timeout, engine, console)


def bring_up(
    place: layout.Installation, document: compose.Document, timeout: float, engine: Engine, console: Console
) -> None:
    """Start what does not run and wait until Dify answers; the caller holds the lock. Raises as `start` does."""
    deadline = time.monotonic() + timeout
    settings.require_kept(place)
    image_store.require_none_lost(place)
    env = settings.load(place)
    bundle = verify.check_embedded(layout.bundled(""))
    images = inventory.find_ids(document, env.resolved, bundle.images, inventory.list_present(engine))
    # Somebody may have removed what can be made anew.
    project.make_folders(place, document, env.resolved)
    api_start.mend_folders(place)
    api_start.fill_folders(place)
    with unpacked_store.on_disk(place, engine, console):
        run.up(place, run.Wanted(document, env.resolved, images), deadline, engine, console)
        front = front_door.front_door(place, env.url, bundle.dify, engine)
        waiting.await_console(front, document, deadline, engine, console)
