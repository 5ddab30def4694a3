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

# ID -> the names that we gave it: two releases may call the same image by two.
Record = dict[str, frozenset[str]]


def read(place: layout.Installation) -> Record:
    """Return what we have loaded; nothing where no record is, or one that cannot be read."""
    record: Record = {}
    try:
        for each in json.loads(place.loaded_images.read_text("utf-8"))["images"]:
            _add(record, str(each["id"]), str(each["reference"]))
    except (OSError, ValueError, TypeError, KeyError):
        return {}
    return record


def _add(record: Record, identity: str, reference: str) -> None:
    record[identity] = record.get(identity, frozenset()) | {reference}


def remember(place: layout.Installation, images: Iterable[manifest.Image], found: Sequence[Stored] = ()) -> None:
    """Add images to the record: by the IDs of the bundle, and by those that the engine has given them.

    Called before they are loaded, too: a run that is killed in the middle has loaded some. Raises CommandFailed.
    """
    record = read(place)
    for image in images:
        stored = inventory.find_stored(image, found)
        for identity in {image.id, stored.id if stored else image.id}:
            _add(record, identity, image.reference)
    _write(place, record)


def remember_names(place: layout.Installation, images: Iterable[manifest.Image], found: Sequence[Stored]) -> None:
    """Add the names that images of ours have got which were there already. Raises CommandFailed."""
    record = read(place)
    for image in images:
        stored = inventory.find_stored(image, found)
        for identity in {image.id, stored.id if stored else image.id} & record.keys():
            _add(record, identity, image.reference)
    _write(place, record)


def name(place: layout.Installation, images: Sequence[manifest.Image], engine: Engine) -> None:
    """Remember the names that images get, and give them. Raises CommandFailed, as `inventory.tag` does."""
    remember_names(place, images, inventory.list_present(engine))
    inventory.tag(images, engine)


def _write(place: layout.Installation, record: Record) -> None:
    if not record:
        place.loaded_images.unlink(missing_ok=True)
        return
    pairs = sorted((identity, reference) for identity, names in record.items() for reference in names)
    entries = [{"id": identity, "reference": reference} for identity, reference in pairs]
    text = json.dumps({"format": 1, "images": entries}, indent=2) + "\n"
    if not place.loaded_images.is_file() or place.loaded_images.read_text("utf-8") != text:
        files.write(place.loaded_images, text)


def rename(
    place: layout.Installation, names: Mapping[str, str], images: Sequence[manifest.Image], engine: Engine
) -> None:
    """Take other names of ours from images that the bundle has: those of another version. Raises CommandFailed.

    `names` are the older version's, whatever is recorded: reference -> the engine's ID. With such a name an image would
    count as somebody else's once nothing wants it any more.
    """
    record, found = read(place), engine.images()
    wanted = {image.reference for image in images}
    for image in images:
        stored = inventory.find_stored(image, found)
        if stored is None or not {stored.id, image.id} & record.keys():
            continue
        ours = record.get(stored.id, frozenset()) | record.get(image.id, frozenset())
        for other in sorted(stored.names - wanted):
            if other in ours or names.get(other) == stored.id:
                engine.run(["rmi", other], timeout=REMOVE_SECONDS, check=False)
                record |= {each: frozenset({image.reference}) for each in (stored.id, image.id)}
    _write(place, record)


def find_superseded(record: Record, wanted: Collection[str], found: Iterable[Stored]) -> list[Stored]:
    """Return the images of the record that are not `wanted` (IDs), and have no names but those that we gave them."""
    return [each for each in found if each.id in record and each.id not in wanted and each.names <= record[each.id]]


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
    ours = {each.id for each in found if each.names <= record.get(each.id, frozenset())}
    _write(place, {identity: names for identity, names in record.items() if identity in ours | wanted})
    return len({each.id for each in before} - {each.id for each in found})


def _present(record: Record, engine: Engine) -> list[Stored]:
    """Return the images that the engine has, and those of the record that it does not list. Raises CommandFailed."""
    listed = engine.images()
    hidden = record.keys() - {each.id for each in listed}
    return [*listed, *(Stored(id=each, names=frozenset()) for each in sorted(hidden) if inventory.has(each, engine))]
