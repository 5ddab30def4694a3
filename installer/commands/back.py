"""Brings the version before an upgrade back, and lets its own executable start it: that knows its images."""

from __future__ import annotations

from installer.core import errors, layout, lock
from installer.core.console import Console
from installer.engine.base import Engine
from installer.upgrade import kept

# What the executable does besides waiting for Dify: it unpacks and verifies itself, looks at the engine, ends.
MARGIN_SECONDS = 600.0
# Variables that say what this run does; an older executable may not know one of them, and would refuse.
OURS = ("DIFY_INSTALLER_",)


def put_back_without_rows(
    place: layout.Installation, before: str, after: str, engine: Engine, console: Console
) -> errors.NotHealthy:
    """Put the older version's files in their place again, and start nothing: its database is not ours.

    It would work on rows that it does not know. Returns the error that says so. Raises CommandFailed.
    """
    aside = kept.put_back(place, layout.PROJECT_FAILED, engine, console)
    made = f"; what the upgrade has made is in {aside}" if aside else ""
    return errors.NotHealthy(
        f"Dify {before} is back in {place.folder}, but not started: its database is not ours, and Dify {after} may "
        "have migrated it",
        f"have the copy of the database from before the upgrade loaded, then `dify-installer start`{made}",
    )


def put_back(
    place: layout.Installation,
    version: str,
    begin: str,
    timeout: float,
    held: lock.Held,
    engine: Engine,
    console: Console,
) -> str:
    """Put the older version in its place again, start it, and wait until it answers, at most `timeout` seconds.

    Returns where the newer one's files are, empty where nothing had been changed. The lock is given up: it is the
    older executable's then. Raises CommandFailed when it cannot be put back, NotHealthy when it does not start.
    """
    aside = ""
    if kept.read(place) is None:
        # The copy was not finished, and the original is as it was.
        kept.discard(place, engine)
    else:
        aside = kept.put_back(place, begin, engine, console)
    if not place.executable.is_file():
        raise errors.NotHealthy(
            f"Dify {version} is back in {place.folder}, but its dify-installer was not kept",
            f"start it with the executable of its own bundle: dify-installer start --dir {place.folder}",
        )
    console.line(f"Dify {version} is in its place; it is started")
    held.give_up()
    command = [str(place.executable), "start", "--silent", "--dir", str(place.folder), "--timeout", f"{timeout:g}"]
    runner = engine.runner.without(OURS)
    result = runner.run(command, timeout=timeout + MARGIN_SECONDS, check=False)
    if not result.ok:
        raise errors.NotHealthy(
            f"Dify {version} is back in {place.folder}, but does not start: {runner.mask(result.last_words)}",
            f"see `dify-installer status`; {place.executable} start --dir {place.folder} tries it again",
        )
    return aside
