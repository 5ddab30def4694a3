"""What the stack was last started with: tells whether, and where, it differs from what is wanted, before compose runs.

The note counts for the containers that were there when it was written. One that was made since is left to compose.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from installer.core import digest, files, layout
from installer.engine.base import Container, Engine
from installer.release import compose


def write(
    place: layout.Installation,
    document: compose.Document,
    variables: Mapping[str, str],
    found: list[Container],
    engine: Engine,
) -> None:
    """Note the files, the containers, and each service's part with its variables expanded, all as digests."""
    note = {**_seen(place, found, engine), "services": _parts(document, variables)}
    files.write(place.applied, json.dumps(note, indent=1, sort_keys=True) + "\n", mode=0o600)


def is_current(place: layout.Installation, found: list[Container], engine: Engine) -> bool:
    """Tell whether the files and the containers are those of the note: then compose need not be asked to compare."""
    note = _read(place)
    return all(note.get(key) == value for key, value in _seen(place, found, engine).items())


def find_edited(place: layout.Installation, engine: Engine) -> list[str]:
    """Return the names of the files that are not those of the note; none where there is no note."""
    noted = _mapping(_read(place).get("files"))
    today = _files(place, engine)
    return [name for name, hashed in today.items() if noted and noted.get(name) != hashed]


def find_changed(
    place: layout.Installation, document: compose.Document, variables: Mapping[str, str], found: list[Container]
) -> list[str]:
    """Return the services whose container was made from another part of the compose file, or other settings."""
    note = _read(place)
    made, parts = _mapping(note.get("containers")), _mapping(note.get("services"))
    wanted = _parts(document, variables)
    return [
        each.service
        for each in found
        if each.service in wanted
        and made.get(each.name) == each.created
        and parts.get(each.service) not in (None, wanted[each.service])
    ]


def _seen(place: layout.Installation, found: list[Container], engine: Engine) -> dict[str, object]:
    return {
        "files": _files(place, engine),
        "containers": {container.name: container.created for container in found},
    }


def _files(place: layout.Installation, engine: Engine) -> dict[str, str]:
    read = [place.env, place.upstream_compose, engine.written_file(place)]
    return {path.name: digest.hash_file(path) for path in read}


def _parts(document: compose.Document, variables: Mapping[str, str]) -> dict[str, str]:
    expanded = {name: compose.expand_all(service, variables) for name, service in document["services"].items()}
    return {
        name: digest.hash_bytes(json.dumps(part, sort_keys=True, default=str).encode())
        for name, part in expanded.items()
    }


def _read(place: layout.Installation) -> dict[str, object]:
    """Return the note; an empty one when there is none, or none that can be read: nothing is known then."""
    try:
        return _mapping(json.loads(place.applied.read_bytes()))
    except (OSError, ValueError):
        return {}


def _mapping(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}
