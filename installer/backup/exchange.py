"""Puts other data in the place of an installation's, so that what was there can come back: by itself, or by hand.

The data are moved aside, never copied or removed: a rename takes no time and no room.
"""

from __future__ import annotations

import contextlib
import json
import os
import time

from installer.backup.file import Head
from installer.core import errors, files, layout
from installer.core.console import Console
from installer.engine.base import Engine
from installer.release import compose, env_history
from installer.stack import state, stopping

REMOVE_SECONDS = 3600.0
SYNC_SECONDS = 3600.0


def require_possible(place: layout.Installation) -> None:
    """Raise UsageError where the data cannot be moved aside, because they are a file system of their own."""
    if place.volumes.is_symlink() or os.path.ismount(place.volumes):
        raise errors.UsageError(
            f"{place.volumes} is a file system of its own, which cannot be put aside as a whole",
            f"mount it at {place.project} or {place.folder} instead",
        )


def is_begun(place: layout.Installation) -> bool:
    """Tell whether an exchange has begun and not ended."""
    return place.restoring.is_file()


def require_ended(place: layout.Installation) -> None:
    """Raise CommandFailed while a restore that was interrupted has not been taken back."""
    if is_arriving(place):
        raise _half_arrived()
    if is_begun(place):
        raise errors.CommandFailed(
            "a restore was interrupted, and what was there before is not in its place",
            "`dify-installer start` puts it back; or run the restore again, to its end",
        )


def _half_arrived() -> errors.CommandFailed:
    return errors.CommandFailed(
        "an installation with --restore was interrupted, and its data have not come to their end",
        "run the same command again, with --restore FILE: it goes on from there",
    )


def begin_arrival(place: layout.Installation, engine: Engine) -> None:
    """Note that data come into an empty installation; of an earlier try nothing is left. Raises CommandFailed."""
    files.write(place.restoring, json.dumps({"kept": ""}) + "\n")
    found = state.list_ours(place, engine)
    if found:
        engine.run(["rm", "--force", *(each.name for each in found)], timeout=REMOVE_SECONDS)
    if place.volumes.exists():
        engine.runner.run(engine.as_owner(["rm", "-rf", "--", str(place.volumes)]), timeout=REMOVE_SECONDS)


def is_arriving(place: layout.Installation) -> bool:
    """Tell whether data have begun to come into an installation that was empty before, and not ended."""
    return is_begun(place) and _noted(place) == ""


def identity(head: Head) -> dict[str, str]:
    """Return what tells a backup from others."""
    return {"host": head.host, "folder": head.folder, "made": head.made}


def last_restored(place: layout.Installation) -> dict[str, str]:
    """Return the identity of the backup that was restored last; empty where there was none."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        return dict(json.loads(place.last_restore.read_bytes()))
    return {}


def begin(place: layout.Installation, document: compose.Document, engine: Engine) -> str:
    """Remove the containers and move data and settings aside; return where the data are now. Raises CommandFailed."""
    kept = f"{layout.VOLUMES_BEFORE}{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"
    # The note comes first: a run that is killed at any moment from here on is taken back by the next one.
    files.write(place.env_before_restore, place.env.read_bytes(), mode=0o600)
    files.write(place.restoring, json.dumps({"kept": kept}) + "\n")
    stopping.remove(place, document["services"], document, engine)
    with files.telling(place.volumes):
        place.volumes.rename(place.volumes.with_name(kept))
    files.folder(place.volumes)
    return str(place.volumes.with_name(kept))


def put_back(place: layout.Installation, document: compose.Document, engine: Engine, console: Console) -> None:
    """Take back an exchange that has not ended: what was moved aside takes its place again. Raises CommandFailed.

    What the exchange has brought so far goes: it was made from a file that is still there.
    """
    if is_arriving(place):
        raise _half_arrived()
    console.line("a restore did not end: what was there before is put back")
    stopping.remove(place, document["services"], document, engine)
    kept = place.volumes.with_name(_kept(place))
    if kept.is_dir():
        if place.volumes.exists():
            command = engine.as_owner(["rm", "-rf", "--", str(place.volumes)])
            engine.runner.run(command, timeout=REMOVE_SECONDS)
        with files.telling(place.volumes):
            kept.rename(place.volumes)
    if place.env_before_restore.is_file():
        env_history.write(place, place.env_before_restore.read_text("utf-8"))
    _forget(place)


def end(place: layout.Installation, head: Head, engine: Engine) -> None:
    """Note that an exchange has ended, and with which backup. Raises CommandFailed."""
    # The disk has all of it before the note goes: a power failure finds the one or the other.
    engine.runner.run(["sync", "--file-system", str(place.volumes)], timeout=SYNC_SECONDS)
    files.write(place.last_restore, json.dumps(identity(head), indent=1) + "\n")
    _forget(place)


def _forget(place: layout.Installation) -> None:
    with files.telling(place.restoring):
        place.restoring.unlink(missing_ok=True)
        place.env_before_restore.unlink(missing_ok=True)


def _noted(place: layout.Installation) -> str | None:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return str(json.loads(place.restoring.read_bytes())["kept"])
    return None


def _kept(place: layout.Installation) -> str:
    name = _noted(place)
    if name is not None and name.startswith(layout.VOLUMES_BEFORE) and "/" not in name:
        return name
    raise errors.CommandFailed(
        f"{place.restoring} is damaged: it does not say where the data are that a restore has moved aside",
        f"look for {place.volumes}.before-…; move it back to {place.volumes}, then remove {place.restoring}",
    )
