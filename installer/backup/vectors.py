"""Counts the objects of each class of the vector store, by its own interface, and compares both sides.

The files are compared by hash already; this tells whether the store finds in them what was there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from installer.backup.file import Part
from installer.checks import inside
from installer.core import layout
from installer.core.finding import Finding
from installer.engine.base import Container, Engine
from installer.release import dify

# The part that holds the counts and no bytes.
PART = "vectors"
COUNT_SECONDS = 120.0
# Stores that the probe knows to ask.
KNOWN = ("weaviate",)


def count(variables: Mapping[str, str], found: Iterable[Container], engine: Engine) -> dict[str, int] | None:
    """Return the objects of each class, asked from the api's container, which has the address and the key.

    None where the store is of another kind, does not run or does not answer.
    """
    api = inside.find_container(dify.API, list(found))
    if api is None or variables.get(dify.VECTOR_STORE) not in KNOWN:
        return None
    probe = layout.bundled(layout.PROBE)
    (answer,) = inside.ask_inside(api, [{}], probe, engine, COUNT_SECONDS, function="count_objects")
    if answer["kind"] != "ok":
        return None
    return {str(name): int(number) for name, number in answer["classes"].items()}


def compare(found: Iterable[Part], here: Mapping[str, int] | None) -> list[Finding]:
    """Compare what a backup says of the classes with what the store finds now; nothing where it says nothing.

    Fewer is a warning: what the files hold has come, and Dify can index a knowledge base again.
    """
    part = next((each for each in found if each.name == PART), None)
    if part is None:
        return []
    if here is None:
        return [Finding(PART, "warning", "the vector store does not tell what it holds", "see: dify-installer doctor")]
    fewer = [
        f"{name}: {number} there, {here.get(name, 0)} here"
        for name, number in sorted(part.counts.items())
        if here.get(name, 0) < number
    ]
    if fewer:
        more = f" and {len(fewer) - 5} more" if len(fewer) > 5 else ""
        return [
            Finding(
                PART,
                "warning",
                "; ".join(fewer[:5]) + more,
                "in the settings of these knowledge bases change the embedding model, and change it back: Dify indexes "
                "them again",
            )
        ]
    return [Finding(PART, "ok", f"{sum(part.counts.values())} objects on both sides, in {len(part.counts)} classes")]
