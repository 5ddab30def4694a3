"""The command `models`: what the workspace has registered, what is added to it, removed and tried."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from installer.core import errors
from installer.core.console import Console
from installer.core.finding import Finding
from installer.plan import Language
from installer.workspace import ask, knowledge
from installer.workspace import models as registry
from installer.workspace.client import Client


def remove(client: Client, name: str) -> list[registry.Known]:
    """Remove a model, whatever it was registered for; nothing is removed where there is none."""
    found = [each for each in registry.list_models(client) if each.name == name]
    for each in found:
        registry.remove(client, each)
    return found


def test(
    client: Client, names: Sequence[str], language: Language, worker_runs: Callable[[], bool], console: Console
) -> list[Finding]:
    """Try models, all or those of these names: what talks is asked a question, what embeds finds it in knowledge.

    `worker_runs` tells whether the container that indexes knowledge does. Raises UsageError for a name that is not
    there.
    """
    kinds = {registry.TYPES["chat"], registry.TYPES["embedding"]}
    known = [each for each in registry.list_models(client) if each.type in kinds]
    missing = set(names) - {each.name for each in known}
    if missing:
        there = ", ".join(each.name for each in known) or "none"
        raise errors.UsageError(
            f"{', '.join(sorted(missing))}: no such model can be tried", f"name one of these: {there}"
        )
    results = []
    for each in known:
        if names and each.name not in names:
            continue
        console.waiting(f"{each.name} to answer")
        if each.type == registry.TYPES["chat"]:
            results.append(_ask(client, each, ask.WORDS[language]))
        else:
            results.append(_find(client, each, knowledge.WORDS[language], worker_runs, console))
    console.waiting("")
    return results


def _ask(client: Client, model: registry.Known, words: ask.Words) -> Finding:
    try:
        answer = ask.ask(client, model.provider, model.name, words)
    except ask.AskFailed as error:
        return Finding(model.name, "error", error.message, error.remedy)
    seen = f"first word after {answer.first_seconds:.2f} s, all after {answer.seconds:.2f} s: {answer.answer}"
    return Finding(model.name, "ok", seen)


def _find(
    client: Client,
    model: registry.Known,
    words: knowledge.Words,
    worker_runs: Callable[[], bool],
    console: Console,
) -> Finding:
    try:
        found = knowledge.prove(client, (model.provider, model.name), words, worker_runs, console)
    except knowledge.KnowledgeFailed as error:
        return Finding(model.name, "error", error.message, error.remedy)
    times = f"indexed in {found.index_seconds:.2f} s, found in {found.find_seconds:.2f} s"
    return Finding(model.name, "ok", f"{found.passages} passages {times}: {found.passage}")


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
