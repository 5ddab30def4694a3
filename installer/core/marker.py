"""The marker of an install folder: that it is ours, and what we have made that no fixed name tells."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from installer.core import errors, files, layout

FORMAT = 1
Kind = Literal["port", "source"]
# What an environment of Python has besides pyvenv.cfg, which is missing for a moment, or lost; .gitignore from 3.13 on.
VENV_NAMES = {"bin", "include", "lib", "lib64", "share", ".gitignore"}


@dataclass(frozen=True, slots=True, order=True)
class Rule:
    """A rule that we have added to firewalld; `value` is as 80/tcp or 10.89.0.0/24."""

    zone: str
    kind: Kind
    value: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Inventory:
    """What the marker says; `venv` tells that the folder `podman-compose` has been made by us.

    `stores` is the folder with image stores that is not in the install folder, empty where there is none.
    """

    venv: bool = False
    rules: tuple[Rule, ...] = ()
    stores: str = ""


# What a marker says when nothing has been noted yet.
EMPTY = json.dumps({"format": FORMAT, "kind": "dify-installer", "venv": False, "rules": []})


class Newer(Exception):
    """The marker is of a later version, whose meaning we do not know."""


def read(place: layout.Installation) -> Inventory | None:
    """Return what the marker of an install folder says; None where there is none of ours, or an unreadable one.

    Ours is a file, not a link, that belongs to us. Raises Newer.
    """
    try:
        status = place.marker.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            return None
        fields = json.loads(place.marker.read_bytes())
        if isinstance(fields["format"], int) and fields["format"] > FORMAT:
            raise Newer
        return _inventory(fields)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write(place: layout.Installation, inventory: Inventory) -> None:
    """Write the marker, 0644. Raises CommandFailed."""
    fields = {"format": FORMAT, "kind": "dify-installer", **dataclasses.asdict(inventory)}
    files.write(place.marker, json.dumps(fields, indent=2) + "\n")


def record_venv(place: layout.Installation) -> None:
    """Note that the folder `podman-compose` is made by us. Raises CommandFailed."""
    _update(place, venv=True)


def record_rules(place: layout.Installation, rules: Iterable[Rule]) -> None:
    """Note which rules in firewalld are ours. Raises CommandFailed."""
    _update(place, rules=tuple(sorted(rules)))


def record_stores(place: layout.Installation, folder: Path) -> None:
    """Note that image stores of ours are in this folder as well. Raises CommandFailed."""
    _update(place, stores=str(folder))


def recorded(place: layout.Installation) -> Inventory:
    """Return what the marker of an installation of ours says. Raises CommandFailed when it is of a later version."""
    try:
        return read(place) or Inventory()
    except Newer as error:
        raise errors.CommandFailed(
            f"{place.marker} is of a later version of dify-installer", "use that version for this installation"
        ) from error


def owns_venv(place: layout.Installation) -> bool:
    """Tell whether the folder `podman-compose` may go: noted as ours, and what is in it is an environment of Python."""
    if place.venv.is_symlink() or not recorded(place).venv:
        return False
    with contextlib.suppress(OSError):
        return (place.venv / "pyvenv.cfg").is_file() or {path.name for path in place.venv.iterdir()} <= VENV_NAMES
    return False


def _update(place: layout.Installation, **changes: Any) -> None:
    before = recorded(place)
    after = dataclasses.replace(before, **changes)
    if after != before:
        write(place, after)


def _inventory(fields: Any) -> Inventory:
    if fields["kind"] != "dify-installer":
        raise ValueError("not our marker")
    rules = tuple(Rule(str(each["zone"]), each["kind"], str(each["value"])) for each in fields["rules"])
    if any(rule.kind not in ("port", "source") for rule in rules):
        raise ValueError("not a rule of ours")
    return Inventory(venv=fields["venv"] is True, rules=rules, stores=str(fields.get("stores", "")))
