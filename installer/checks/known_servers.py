"""Remembers the addresses of the model servers that were named last, so that `doctor` can ask them; never a key."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from typing import cast, get_args

from installer.checks.models import Server, ServerKind
from installer.core import files, layout


def keep(place: layout.Installation, servers: Iterable[Server]) -> None:
    """Write these servers down in the place of those before. Raises CommandFailed."""
    rows = list({each.base: {"kind": each.kind, "url": each.url} for each in servers}.values())
    files.write(place.model_servers, json.dumps(rows, indent=1) + "\n", mode=0o600)


def add(place: layout.Installation, servers: Iterable[Server]) -> None:
    """Write these servers down beside those before. Raises CommandFailed."""
    keep(place, [*read(place), *servers])


def read(place: layout.Installation) -> list[Server]:
    """Return the servers that were named last, without key and models; none where nothing tells."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return [
            Server(kind=cast(ServerKind, each["kind"]), url=str(each["url"]))
            for each in json.loads(place.model_servers.read_bytes())
            if each["kind"] in get_args(ServerKind)
        ]
    return []
