"""What the model servers have, as the plugins will meet them, and what each model can do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from installer.checks import inside
from installer.checks.models import Kind, Server, Wanted
from installer.checks.probe import probe as ask
from installer.engine.base import Container
from installer.release import dify

# A server without a word of it: what Dify's own form has as its default.
USUAL_CONTEXT = 4096
# Each model is asked; an OpenAI-compatible server four times.
EXEC_SECONDS = 300.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A model of a server: what it is for, how many tokens it takes, and what it can."""

    server: Server
    name: str
    kind: Kind
    context: int
    tools: bool
    vision: bool

    @property
    def words(self) -> str:
        """What it is, for people."""
        able = [what for what, can in (("tools", self.tools), ("vision", self.vision)) if can]
        return ", ".join([self.kind, f"context {self.context}", *able])


def find_models(
    servers: Sequence[Server], found: list[Container], authorities: str, probe: Path, engine: inside.Runtime
) -> list[Model]:
    """Ask each server, from the container whose plugins will call it, for its models.

    A server that does not answer has none: `checks.models` tells why.
    """
    caller = inside.find_container(dify.MODEL_CALLER, found)
    questions = [{**server.question, "describe": True} for server in servers]
    if caller is None:
        answers = [ask(**question, authorities=authorities) for question in questions]  # type: ignore[arg-type]
    else:
        answers = inside.ask_inside(caller, questions, probe, engine, EXEC_SECONDS)
    return [model for server, answer in zip(servers, answers, strict=True) for model in _models(server, answer)]


def _models(server: Server, answer: Mapping[str, Any]) -> Iterable[Model]:
    described: Mapping[str, Mapping[str, Any]] = answer["described"]
    for name in sorted(described, key=lambda name: _rank(server, name)):
        yield _model(server, name, described[name], _wanted(server, name) or Wanted(name=name))


def _model(server: Server, name: str, seen: Mapping[str, Any], wanted: Wanted) -> Model:
    """Return a model as its server tells of it, but as the command line has it where that says more."""
    return Model(
        server=server,
        name=name,
        kind=wanted.kind or cast(Kind, seen["kind"]),
        context=wanted.context or seen["context"] or USUAL_CONTEXT,
        tools=seen["tools"] if wanted.tools is None else wanted.tools,
        vision=seen["vision"] if wanted.vision is None else wanted.vision,
    )


def _wanted(server: Server, name: str) -> Wanted | None:
    # Ollama's names end in `:latest` where a person leaves the tag out.
    return next((each for each in server.wanted if name in (each.name, f"{each.name}:latest")), None)


def _rank(server: Server, name: str) -> int:
    """Models keep the order in which they were named: the first is the default one."""
    wanted = _wanted(server, name)
    return 0 if wanted is None else server.wanted.index(wanted)
