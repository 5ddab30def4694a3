"""What a run did and saw: one object, shown as a table and kept as JSON."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from installer.core import envelope, finding, layout
from installer.core.console import Console
from installer.core.finding import Finding
from installer.workspace.ask import Answer
from installer.workspace.knowledge import Found
from installer.workspace.plugins import Brought


@dataclass(kw_only=True, slots=True)
class Step:
    """A step of the run; `seconds` is its wall time, `seen` what it found or did."""

    name: str
    seconds: float
    seen: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A model of a server; `what` became of it: added, updated, kept or failed."""

    name: str
    server: str
    provider: str
    kind: str
    context: int
    tools: bool
    vision: bool
    what: str
    default: bool


@dataclass(kw_only=True, slots=True)
class Inside:
    """What was done inside of Dify with an account; `password_file` is where a generated password stands."""

    account: str
    password_file: str = ""
    plugins: list[Brought] = field(default_factory=list)
    models: list[Model] = field(default_factory=list)
    answer: Answer | None = None
    knowledge: Found | None = None


@dataclass(kw_only=True, slots=True)
class Report:
    """The run; `result` stays "interrupted" until the run sets it at its end. Holds no secret."""

    dify: str = ""
    folder: str = ""
    url: str = ""
    log: str = ""
    started: str = field(default_factory=lambda: time.strftime("%Y-%m-%dT%H:%M:%S%z"))
    result: str = "interrupted"
    steps: list[Step] = field(default_factory=list)
    checks: list[Finding] = field(default_factory=list)
    models: list[Finding] = field(default_factory=list)
    compared: list[Finding] = field(default_factory=list)  # what came of a backup with what it holds
    inside: Inside | None = None
    notes: list[str] = field(default_factory=list)
    error: str = ""  # what the run failed with, and what to do
    remedy: str = ""

    @contextlib.contextmanager
    def step(self, name: str, console: Console) -> Iterator[Step]:
        """Time a step and show its outcome when it has ended well."""
        step = Step(name=name, seconds=0.0, seen="")
        started = time.monotonic()
        try:
            yield step
        finally:
            step.seconds = round(time.monotonic() - started, 2)
            self.steps.append(step)
        console.line(f"{name:<16}{step.seconds:>7.1f} s  {step.seen}")


def as_json(report: Report) -> str:
    """Return the report as JSON; `specs/output.schema.json` describes it."""
    return envelope.to_json("report", passed=report.result == "done", **dataclasses.asdict(report))


def show(report: Report, console: Console) -> None:
    """Write the checklist, the notes and the address to open."""
    console.line()
    for line in finding.as_text((*report.compared, *report.checks, *report.models)).splitlines():
        console.line(f"  {line}")
    for note in report.notes:
        console.line(f"  note {note}")
    if report.inside is not None:
        console.line()
        for line in inside_as_text(report.inside):
            console.line(f"  {line}")
    console.line()
    page = Path(report.folder, layout.REPORT_PAGE)
    console.line(f"The report is {page}, for programs {layout.REPORT} beside it, the log {report.log}")
    console.line(f"Dify {report.dify} is at {report.url}")


def inside_as_text(inside: Inside) -> list[str]:
    """Return lines for people of what was done inside of Dify."""
    lines = [f"account {inside.account}" + (f", password in {inside.password_file}" if inside.password_file else "")]
    lines += [f"plugin {each.name} {each.version} ({each.what})" for each in inside.plugins]
    lines += [
        f"model {each.name} of {each.server}: {each.kind}, context {each.context} ({each.what})"
        + (", the default" if each.default else "")
        for each in inside.models
    ]
    if (answer := inside.answer) is not None:
        lines += _answer_as_text(answer)
    if (found := inside.knowledge) is not None:
        lines.append(f"knowledge base by {found.model}: {found.question}")
        lines.append(f"   {found.passage}")
        times = f"indexed in {found.index_seconds:.2f} s, found in {found.find_seconds:.2f} s"
        lines.append(f"   {found.passages} passages {times}; by {', '.join(found.path)}")
        lines += _answer_as_text(found.answer) if found.answer else []
    return lines


def _answer_as_text(answer: Answer) -> list[str]:
    times = f"first word after {answer.first_seconds:.2f} s, all after {answer.seconds:.2f} s"
    tokens = f"{answer.prompt_tokens} and {answer.answer_tokens} tokens"
    return [
        f"asked {answer.model}: {answer.question}",
        f"   {answer.answer}",
        f"   {times}, {tokens}; by {', '.join(answer.path)}",
    ]
