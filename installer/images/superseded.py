"""Remembers the images that we have loaded, and removes those that no bundle of ours wants any more.

What somebody else has loaded, or has given a name to, is never removed.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence

from installer.bundle import manifest
from installer.core import files, layout
from installer.engine.base import Engine, Stored
from installer.images import inventory

REMOVE_SECONDS = 600.0

# ID -> the name that we gave it.
Record = dict[str, str]


def read(place: layout.Installation) -> Record:
    """Return what we have loaded; nothing where no record is, or one that cannot be read."""
    try:
        entries = json.loads(place.loaded_images.read_text("utf-8"))["images"]
        return {str(each["id"]): str(each["reference"]) for each in entries}
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def remember(place: layout.Installation, images: Iterable[manifest.Image], found: Sequence[Stored] = ()) -> None:
    """Add images to the record: by the IDs of the bundle, and by those that the engine has given them.

    Called before they are loaded, too: a run that is killed in the middle has loaded some. Raises CommandFailed.
    """
    record = read(place)
    for image in images:
        stored = inventory.find_stored(image, found)
        record |= {image.id: image.reference, **({stored.id: image.reference} if stored else {})}
    _write(place, record)


def _write(place: layout.Installation, record: Record) -> None:
    if not record:
        place.loaded_images.unlink(missing_ok=True)
        return
    entries = [{"id": identity, "reference": reference} for identity, reference in sorted(record.items())]
    text = json.dumps({"format": 1, "images": entries}, indent=2) + "\n"
    if not place.loaded_images.is_file() or place.loaded_images.read_text("utf-8") != text:
        files.write(place.loaded_images, text)


def rename(
    place: layout.Installation, names: Mapping[str, str], images: Sequence[manifest.Image], engine: Engine
) -> None:
    """Take the names of an older version from images that the bundle has as well, by other names. Raises CommandFailed.

    `names` are the older version's: reference -> the engine's ID. With such a name an image would count as somebody
    else's once nothing wants it any more.
    """
    record, found = read(place), engine.images()
    wanted = {image.reference for image in images}
    for image in images:
        stored = inventory.find_stored(image, found)
        if stored is None or not {stored.id, image.id} & record.keys():
            continue
        for old in sorted(stored.names - wanted):
            if names.get(old) == stored.id:
                engine.run(["rmi", old], timeout=REMOVE_SECONDS, check=False)
                record |= {stored.id: image.reference, image.id: image.reference}
    _write(place, record)


def rename_back(place: layout.Installation, names: Mapping[str, str], engine: Engine) -> None:
    """Take the names of a newer version, which has gone, from images that the older one has. Raises CommandFailed.

    `names` are the older version's: reference -> the engine's ID. Only names that we gave are taken, from images that
    have the older one's as well.
    """
    record, found = read(place), {each.id: each for each in engine.images()}
    for reference, identity in names.items():
        newer, its = record.get(identity), found.get(identity)
        if newer and newer not in names and its and {newer, reference} <= its.names:
            engine.run(["rmi", newer], timeout=REMOVE_SECONDS, check=False)
            record[identity] = reference
    _write(place, record)


def find_superseded(record: Record, wanted: Collection[str], found: Iterable[Stored]) -> list[Stored]:
    """Return the images of the record that are not `wanted` (IDs), and have no name but the one that we gave them."""
    return [each for each in found if each.id in record and each.id not in wanted and each.names <= {record[each.id]}]


def remove_superseded(
    place: layout.Installation, images: Sequence[manifest.Image], engine: Engine, kept: Collection[str] = ()
) -> int:
    """Remove those that neither the bundle nor a container needs any more; return how many went. Raises CommandFailed.

    A container that uses one keeps it: the engine refuses then, and the next run tries again. `kept` are the engine's
    IDs of those that the version before an upgrade needs.
    """
    record = read(place)
    if not record:
        return 0
    before = found = _present(record, engine)
    wanted = {image.id for image in images} | set(kept)
    wanted |= {stored.id for image in images if (stored := inventory.find_stored(image, found))}
    # Some are in the list of others only once those are gone.
    while old := find_superseded(record, wanted, found):
        engine.run(["rmi", *(each.id for each in old)], timeout=REMOVE_SECONDS, check=False)
        number, found = len(found), _present(record, engine)
        if len(found) == number:
            break
    # What somebody else has given a name to is no longer ours.
    ours = {each.id for each in found if each.names <= {record.get(each.id, "")}}
    _write(place, {identity: name for identity, name in record.items() if identity in ours | wanted})
    return len({each.id for each in before} - {each.id for each in found})


def _present(record: Record, engine: Engine) -> list[Stored]:
    """Return the images that the engine has, and those of the record that it does not list. Raises CommandFailed."""
    listed = engine.images()
    hidden = record.keys() - {each.id for each in listed}
    return [*listed, *(Stored(id=each, names=frozenset()) for each in sorted(hidden) if inventory.has(each, engine))]
