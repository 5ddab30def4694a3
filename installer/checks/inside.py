"""Asks from inside a container: what the host reaches says little of what a container reaches."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from installer.core.finding import Finding
from installer.core.runner import Result, Runner
from installer.engine.base import Container, Engine
from installer.release import compose, dify

EXEC_SECONDS = 60.0


class Runtime(Protocol):
    """What runs containers, as far as questions from inside need it: an engine of this host, or a cluster."""

    @property
    def runner(self) -> Runner:
        """Runs programs of this host."""

    def execute(self, container: str, command: Sequence[str], *, timeout: float, input: str) -> Result:
        """Run a program in a running container, with `input` on its standard input; a failure is a result, too."""

    def log_commands(self, names: Iterable[str]) -> str:
        """Return, for people, the commands that show these containers' logs."""


def check_inner_services(
    document: compose.Document, found: list[Container], probe: Path, engine: Engine
) -> list[Finding]:
    """Ask the inner services from where the api asks them: out of its container."""
    wanted = [check for check in dify.INNER_CHECKS if check.service in document["services"]]
    api = find_container(dify.API, found)
    if api is None or not wanted:
        return []
    return ask_services(
        api,
        wanted,
        probe,
        engine,
        lambda kind, service: _inner_remedy(kind, engine.log_commands([engine.container_name(service)])),
    )


def ask_services(
    api: str, wanted: Sequence[dify.InnerCheck], probe: Path, engine: Runtime, remedy: Callable[[str, str], str]
) -> list[Finding]:
    """Ask services out of the api's container; `remedy` is of the answer's kind and the service."""
    answers = ask_inside(api, [{"url": check.url} for check in wanted], probe, engine)
    return [
        Finding(
            check=f"api reaches {check.service}",
            level="ok" if answer["kind"] == "ok" else "error",
            seen=f"{check.url}: {answer['detail']}",
            remedy="" if answer["kind"] == "ok" else remedy(answer["kind"], check.service),
        )
        for check, answer in zip(wanted, answers, strict=True)
    ]


def _inner_remedy(kind: str, logs: str) -> str:
    if kind in ("name", "connection"):
        return (
            f"look at {logs}; if that service is well, a firewall stands between them: "
            "as root, run the same command without --no-firewall, or trust the subnets of `podman network inspect`"
        )
    return f"look at {logs}"


def find_container(service: str, found: list[Container]) -> str | None:
    """Return the name of a service's running container."""
    return next((each.name for each in found if each.service == service and each.state == "running"), None)


def ask_inside(
    container: str,
    questions: Sequence[Mapping[str, object]],
    probe: Path,
    engine: Runtime,
    seconds: float = EXEC_SECONDS,
    function: Literal["probe", "connect", "resolve", "count_objects"] = "probe",
) -> list[dict[str, Any]]:
    """Run the probe in a container, its text and the questions on standard input: keys stay out of process lists.

    `function` is the one of the probe that is asked. Returns an answer for each question, of kind "unknown" where the
    container cannot run it.
    """
    call = f"print(json.dumps([{function}(**question) for question in json.loads({json.dumps(questions)!r})]))"
    program = f"{probe.read_text('utf-8')}\n\n{call}\n"
    result = engine.execute(container, ["python3", "-"], timeout=seconds, input=program)
    try:
        answers: list[dict[str, Any]] = json.loads(result.stdout)
    except ValueError:
        words = engine.runner.mask(
            result.last_words.splitlines()[-1] if result.last_words else f"status {result.status}"
        )
        return [
            {"kind": "unknown", "detail": f"cannot be asked from {container}: {words}", "models": [], "described": {}}
        ] * len(questions)
    return answers
