"""Tells which of two versions of Dify is the older one, by the tags of its images."""

from __future__ import annotations

import re

_VERSION = re.compile(r"v?(\d+(?:\.\d+)*)(?:[-.+_]([a-z].*))?", re.IGNORECASE)
# What follows a number and comes before it: Dify has published 1.0.0-beta.1 and 2.0.0-beta.2.
_BEFORE = ("a", "b", "c", "dev", "pre", "rc", "alpha", "beta")

Key = tuple[tuple[int, ...], int, tuple[int, ...]]


def is_older(version: str, other: str) -> bool:
    """Tell whether a version is certainly older than another one; a tag without a number is of no age."""
    left, right = _key(version), _key(other)
    return left is not None and right is not None and left < right


def _key(version: str) -> Key | None:
    """Return what orders versions: the numbers, then a pre-release, the release, and what was built on top of it."""
    found = _VERSION.fullmatch(version)
    if found is None:
        return None
    numbers = tuple(int(each) for each in found[1].split("."))
    while numbers and numbers[-1] == 0:
        numbers = numbers[:-1]
    suffix = (found[2] or "").lower()
    word = re.match("[a-z]*", suffix)
    rank = 0 if not suffix else -1 if word and word[0] in _BEFORE else 1
    return numbers, rank, (*_letters(suffix), *(int(each) for each in re.findall(r"\d+", suffix)))


def _letters(suffix: str) -> tuple[int, ...]:
    """Return the rank of alpha, beta and release candidate among each other."""
    order = {"dev": 0, "a": 1, "alpha": 1, "b": 2, "beta": 2, "c": 3, "pre": 3, "rc": 3}
    word = re.match("[a-z]*", suffix)
    return (order.get(word[0], 4),) if word and suffix else ()
