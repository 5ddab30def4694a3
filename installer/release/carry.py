"""Carries a person's settings from one release of Dify to another, by key.

A `.env` begins as a copy of the release's `.env.example`, so that it holds all of that release's defaults. What differs
from them a person has chosen, or the installer; the rest follows the new release.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from installer.release import envfile


@dataclass(frozen=True, kw_only=True, slots=True)
class Carried:
    """What becomes of an older `.env`; it holds secrets, so its `repr` does not tell their values."""

    # What was chosen, and the new release knows, or no release does.
    values: Mapping[str, str] = field(repr=False)
    # Keys of the new release that the older one did not have.
    new: tuple[str, ...]
    # Keys that follow the new release, whose default is another one.
    changed: tuple[str, ...]
    # Keys that were chosen, and that the new release does not have any more.
    gone: tuple[str, ...]


def carry(text: str, old_example: str, new_example: str, bound: Collection[str] = ()) -> Carried:
    """Return what of a `.env` goes on in the new release; the examples are the texts of both `.env.example`.

    `bound` are keys that keep their value although it is the older release's default.
    """
    here, old, new = envfile.parse(text), envfile.parse(old_example), envfile.parse(new_example)
    differing = {key for key, value in here.items() if old.get(key) != value}
    chosen = {key: value for key, value in here.items() if key in differing or key in bound}
    gone = {key for key in chosen if key in old and key not in new}
    return Carried(
        values={key: value for key, value in chosen.items() if key not in gone},
        new=tuple(sorted(new.keys() - old.keys() - here.keys())),
        changed=tuple(sorted(key for key in new if here.get(key, new[key]) != new[key] and key not in chosen)),
        gone=tuple(sorted(gone & differing)),
    )


def rebase(text: str, old_example: str, new_example: str, bound: Collection[str] = ()) -> str:
    """Return the `.env` of the new release with what was chosen in the older one; our mark is not in it."""
    return envfile.edit(new_example, dict(carry(text, old_example, new_example, bound).values))
