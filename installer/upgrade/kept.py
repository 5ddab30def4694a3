"""Keeps the version before an upgrade: files, data and programs as they were while nothing ran; and puts it back.

The copy is made beside what the new version migrates, and nothing ever writes in it. `upgrade.json` in it says how far
the upgrade came; it is written before each step, so that a run that is killed at any moment is gone on with or taken
back by the next one (docs/decisions/021).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from installer.core import errors, files, layout
from installer.core.console import Console
from installer.engine.base import Engine
from installer.images import image_store, inventory
from installer.release import compose, settings
from installer.stack import project, state, stopping
from installer.upgrade.rows import Counted

COPY_SECONDS = 12 * 3600.0
SYNC_SECONDS = 3600.0
MEASURE_SECONDS = 900.0

# "made": the copy is complete, and nothing is changed yet; "begun": what is in its place is being changed;
# "returning": the copy is taking its place again; "done": the new version runs.
State = Literal["noted", "made", "begun", "returning", "done"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """What is known of an upgrade: from which Dify to which, what the older one ran from, and its rows."""

    before: str
    after: str
    state: State
    when: str  # the copy was made
    images: Mapping[str, str] = field(default_factory=dict)  # reference -> the engine's ID
    stores: tuple[str, ...] = ()  # names of image stores
    counted: Counted = field(default_factory=Counted)
    aside: str = ""  # the name that `docker/` gets when the older one comes back


def read(place: layout.Installation) -> Record | None:
    """Return the record of what is kept; None when nothing is. Raises CommandFailed for one that cannot be read."""
    path = _record(place.previous)
    if not place.previous.exists():
        return None
    if (found := _read(path)) is None:
        raise errors.CommandFailed(
            f"{path} cannot be read: it says how far an upgrade came",
            f"{place.previous / layout.PROJECT} is Dify as it was before; `dify-installer doctor --bundle` for support",
        )
    return found


def _read(path: Path) -> Record | None:
    try:
        entry = json.loads(path.read_bytes())
        return Record(
            before=str(entry["from"]),
            after=str(entry["to"]),
            state=entry["state"],
            when=str(entry["when"]),
            images={str(key): str(value) for key, value in entry["images"].items()},
            stores=tuple(map(str, entry["stores"])),
            counted=Counted(rows=entry["rows"], why_not=str(entry["not_counted"])),
            aside=str(entry["aside"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _record(folder: Path) -> Path:
    return layout.Installation(folder).upgrade_record


def _write(folder: Path, record: Record) -> None:
    entry: dict[str, Any] = {
        "format": 1,
        "from": record.before,
        "to": record.after,
        "state": record.state,
        "when": record.when,
        "images": dict(record.images),
        "stores": list(record.stores),
        "rows": {name: dict(tables) for name, tables in record.counted.rows.items()},
        "not_counted": record.counted.why_not,
        "aside": record.aside,
    }
    files.write(_record(folder), json.dumps(entry, indent=1) + "\n", mode=0o600)


def is_begun(place: layout.Installation) -> bool:
    """Tell whether an upgrade has begun to change what is in place."""
    found = read(place)
    return found is not None and found.state == "begun"


def require_ended(place: layout.Installation) -> None:
    """Raise CommandFailed while an upgrade, or the way back, was interrupted."""
    found = read(place)
    if found is not None and found.state != "done":
        raise errors.CommandFailed(
            f"an upgrade from Dify {found.before} to {found.after} was interrupted",
            f"run the install command of {found.after} again, which goes on with it; "
            f"or `dify-installer start`, which brings {found.before} back",
        )


# ---- Keeping ----


def note(place: layout.Installation, before: str, after: str, engine: Engine) -> None:
    """Note what the older version runs from, before images are loaded that may take their names. Raises CommandFailed.

    What a run that was killed has noted stays: since then names may mean other images.
    """
    if (found := read(place)) is not None and found.state == "made":
        # Nothing was changed since, and the older version may have run.
        _bring_programs(place)
        remove(place, engine)
    earlier = _read(_record(place.previous_part))
    if earlier is None or (earlier.before, earlier.after) != (before, after):
        earlier = Record(before=before, after=after, state="noted", when="")
    stores = [each.name for each in image_store.list_stores(place)]
    images = {**_named(place, engine), **earlier.images, **_running(place, engine)}
    files.folder(place.previous_part, mode=0o700)
    _write(place.previous_part, dataclasses.replace(earlier, images=images, stores=earlier.stores or tuple(stores)))


def _document(place: layout.Installation, engine: Engine) -> compose.Document:
    """Return the services, for their names and their order; none where half an installation is there."""
    try:
        return project.read_installed(place, engine)
    except errors.InstallerError:
        return {"services": {}}


def _named(place: layout.Installation, engine: Engine) -> dict[str, str]:
    """Return the images that the services' names mean now."""
    found = inventory.list_present(engine)
    return {
        reference: stored.id
        for reference in _references(place, engine).values()
        for stored in found
        if reference in stored.names
    }


def _running(place: layout.Installation, engine: Engine) -> dict[str, str]:
    """Return the images that containers were made from, whatever their names mean now."""
    references = _references(place, engine)
    ours = state.list_ours(place, engine)
    return {references[each.service]: each.image_id for each in ours if each.image_id and each.service in references}


def _references(place: layout.Installation, engine: Engine) -> dict[str, str]:
    """Return the reference of each service's image."""
    with contextlib.suppress(errors.InstallerError):
        needed = compose.images(_document(place, engine), settings.load(place).resolved)
        return {service: reference for reference, services in needed.items() for service in services}
    return {}


def count(place: layout.Installation, counted: Counted) -> None:
    """Note the rows; those that an earlier run has counted stay where this one could not. Raises CommandFailed."""
    noted = _read(_record(place.previous_part))
    assert noted is not None
    if counted.rows or not noted.counted.rows:
        _write(place.previous_part, dataclasses.replace(noted, counted=counted))


def make(place: layout.Installation, engine: Engine, console: Console) -> int:
    """Stop and remove the containers, and copy all of the older version; return the copy's bytes.

    What is kept of an even older one goes once the copy is complete. Raises CommandFailed.
    """
    noted = _read(_record(place.previous_part))
    assert noted is not None
    console.waiting("the end of all containers: a copy is made of what is at rest")
    stopping.remove_all(place, _document(place, engine), engine)
    console.waiting(f"a copy of {place.project}")
    part = layout.Installation(place.previous_part)
    for old in (part.project, part.bin, part.venv):
        _remove(old, engine)
    paths = (place.project, place.bin, place.venv, place.report, place.report_page)
    sources = [each for each in paths if each.exists()]
    command = ["cp", "--archive", "--reflink=auto", "--", *map(str, sources), str(part.folder)]
    engine.runner.run(engine.as_owner(command), timeout=COPY_SECONDS)
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    _write(part.folder, dataclasses.replace(noted, state="made", when=now))
    _sync(part.folder, engine)
    if place.previous.exists():
        remove(place, engine)
    with files.telling(place.previous):
        part.folder.rename(place.previous)
    _sync(place.folder, engine)
    console.waiting("")
    return measure(place.previous, engine)


def mark(place: layout.Installation, reached: State) -> None:
    """Note how far the upgrade came. Raises CommandFailed."""
    found = read(place)
    assert found is not None
    _write(place.previous, dataclasses.replace(found, state=reached))


def _sync(folder: Path, engine: Engine) -> None:
    """Wait until the disk has all of a file system. Raises CommandFailed."""
    engine.runner.run(["sync", "--file-system", str(folder)], timeout=SYNC_SECONDS)


def measure(folder: Path, engine: Engine) -> int:
    """Return the bytes that a folder takes on the disk. Raises PreflightFailed when not all of it may be read.

    A file that goes away meanwhile is none.
    """
    if not folder.exists():
        return 0
    command = ["du", "--summarize", "--block-size=1", "--", str(folder)]
    asked = engine.runner.also({"LC_ALL": "C"})
    result = asked.run(engine.as_owner(command), timeout=MEASURE_SECONDS, check=False)
    if "Permission denied" in result.stderr:
        raise errors.PreflightFailed(
            f"{folder} cannot be copied: not all of it may be read", "run the same command as root (sudo)"
        )
    found = result.stdout.split()
    if result.timed_out or not found or not found[0].isdecimal():
        raise engine.runner.failure(result, "fix what it says, and run the same command again")
    return int(found[0])


# ---- The way back ----


def put_back(place: layout.Installation, begin: str, engine: Engine, console: Console) -> str:
    """Let the version before take its place again; nothing runs afterwards. Return where the newer one's files are.

    They get a name that begins with `begin`; it is empty where nothing had been changed. Goes on where a run was
    killed. Raises CommandFailed.
    """
    found = read(place)
    assert found is not None
    if found.state == "made":
        # What would be put back is what is there.
        _bring_programs(place)
        remove(place, engine)
        return ""
    if found.state != "returning":
        aside = f"{begin}{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"
        found = dataclasses.replace(found, state="returning", aside=aside)
        _write(place.previous, found)
    console.waiting(f"the end of all containers: Dify {found.before} comes back")
    stopping.remove_all(place, _document(place, engine), engine)
    console.waiting("")
    kept = layout.Installation(place.previous)
    aside_path = place.folder / found.aside
    if kept.project.exists():
        with files.telling(place.project):
            if place.project.exists():
                place.project.rename(aside_path)
            kept.project.rename(place.project)
    for store in image_store.list_stores(place):
        if store.name not in found.stores:
            image_store.remove(store, engine)
    inventory.give_names(found.images, engine)
    _bring_programs(place)
    _sync(place.folder, engine)
    remove(place, engine)
    return str(aside_path)


def end_renames(place: layout.Installation) -> None:
    """Put the older `docker/` in its place where a run was killed between two renames: by it the engine is known.

    Raises CommandFailed.
    """
    source = layout.Installation(place.previous).project
    found = read(place)
    if found is not None and found.state == "returning" and source.exists() and not place.project.exists():
        with files.telling(place.project):
            source.rename(place.project)


def _bring_programs(place: layout.Installation) -> None:
    """Put the older programs and reports in the place of the newer ones, the installer last of all."""
    kept = layout.Installation(place.previous)
    if kept.venv.exists():
        files.remove(place.venv)
        with files.telling(place.venv):
            kept.venv.rename(place.venv)
    files.folder(place.bin)
    pairs = {getattr(kept, name): getattr(place, name) for name in ("report", "report_page", "podman_compose")}
    for source, target in {**pairs, kept.executable: place.executable}.items():
        if os.path.lexists(source):
            with files.telling(target):
                source.replace(target)


def find_lacking(record: Record, engine: Engine) -> list[str]:
    """Return the names of the older version's images that the engine does not have any more."""
    return sorted(reference for reference, identity in record.images.items() if not inventory.has(identity, engine))


def list_images(place: layout.Installation) -> tuple[frozenset[str], tuple[str, ...]]:
    """Return the IDs of the images, and the names of the stores, that the version before an upgrade needs."""
    with contextlib.suppress(errors.CommandFailed):
        if found := read(place):
            return frozenset(found.images.values()), found.stores
    return frozenset(), ()


# ---- The end of it ----


def remove(place: layout.Installation, engine: Engine) -> None:
    """Remove what is kept, in one step for whoever looks. Raises CommandFailed."""
    tidy(place, engine)
    if place.previous.exists():
        with files.telling(place.previous):
            place.previous.rename(place.previous_gone)
    tidy(place, engine)


def tidy(place: layout.Installation, engine: Engine) -> None:
    """Remove what a removal that was killed has left. Raises CommandFailed."""
    _remove(place.previous_gone, engine)


def _remove(path: Path, engine: Engine) -> None:
    if path.exists():
        engine.runner.run(engine.as_owner(["rm", "-rf", "--", str(path)]), timeout=COPY_SECONDS)


def discard(place: layout.Installation, engine: Engine) -> None:
    """Remove a copy that was not finished, for an upgrade that is not wanted any more. Raises CommandFailed."""
    _remove(place.previous_part, engine)
    tidy(place, engine)


def remove_programs(place: layout.Installation, engine: Engine) -> None:
    """Remove the older version's programs, but not its data: it cannot come back by itself then. Raises CommandFailed.

    A copy that was not finished goes as a whole: the original is in its place.
    """
    discard(place, engine)
    kept = layout.Installation(place.previous)
    for path in (kept.bin, kept.venv):
        _remove(path, engine)
