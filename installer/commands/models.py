"""The command `models`: what the workspace has registered, what is added to it, removed and tried."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from installer.core import errors
from installer.core.console import Console
from installer.core.finding import Finding
from installer.workspace import ask
from installer.workspace import models as registry
from installer.workspace.client import Client


def remove(client: Client, name: str) -> list[registry.Known]:
    """Remove a model, whatever it was registered for; nothing is removed where there is none."""
    found = [each for each in registry.list_models(client) if each.name == name]
    for each in found:
        registry.remove(client, each)
    return found


def test(client: Client, names: Sequence[str], words: ask.Words, console: Console) -> list[Finding]:
    """Ask models a question, all that can talk or those of these names. Raises UsageError for one that is not there."""
    talking = [each for each in registry.list_models(client) if each.type == registry.TYPES["chat"]]
    missing = set(names) - {each.name for each in talking}
    if missing:
        known = ", ".join(each.name for each in talking) or "none"
        raise errors.UsageError(
            f"{', '.join(sorted(missing))}: no such model can be asked", f"name one of these: {known}"
        )
    results = []
    for each in talking:
        if not names or each.name in names:
            console.waiting(f"{each.name} to answer")
            results.append(_test(client, each, words))
    console.waiting("")
    return results


def _test(client: Client, model: registry.Known, words: ask.Words) -> Finding:
    try:
        answer = ask.ask(client, model.provider, model.name, words)
    except ask.AskFailed as error:
        return Finding(model.name, "error", error.message, error.remedy)
    seen = f"first word after {answer.first_seconds:.2f} s, all after {answer.seconds:.2f} s: {answer.answer}"
    return Finding(model.name, "ok", seen)


def choose(client: Client, name: str | None) -> tuple[str, str]:
    """Return provider and name of the model to ask: the one named, else the default. Raises UsageError."""
    talking = [each for each in registry.list_models(client) if each.type == registry.TYPES["chat"]]
    for each in talking:
        if each.name == name or (name is None and each.default):
            return each.provider, each.name
    known = ", ".join(each.name for each in talking)
    raise errors.UsageError(
        f"the workspace has no model {name}" if name else "the workspace has no default model to talk to",
        f"name one of these: {known}" if known else "add one: `dify-installer models add --ollama-url URL`",
    )


def as_list(found: Iterable[registry.Known]) -> list[dict[str, Any]]:
    """Return models for a machine."""
    return [dataclasses.asdict(each) for each in found]


def as_text(found: Sequence[registry.Known]) -> str:
    """Return models for people, one a line."""
    lines = []
    for each in found:
        notes = [note for note, so in (("default", each.default), ("switched off", not each.active)) if so]
        lines.append(f"{each.name:<40}{each.type:<16}{each.provider}" + (f"  ({', '.join(notes)})" if notes else ""))
    return "\n".join(lines) or "no model is registered"
