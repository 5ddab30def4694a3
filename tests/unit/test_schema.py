"""What is printed for machines is what `specs/output.schema.json` says, and no other field gets in unnoticed."""

from __future__ import annotations

import dataclasses
import datetime
import json
from pathlib import Path
from typing import Any, get_args

import jsonschema
import pytest

from installer.commands import models, overview, plugins, report, watch_egress
from installer.core import envelope, finding
from installer.core.console import Console
from installer.core.finding import Finding
from installer.egress.judge import Row
from installer.workspace.ask import Answer
from installer.workspace.knowledge import Found
from installer.workspace.models import Known
from installer.workspace.plugins import Brought
from tests.unit import test_overview

ROOT = Path(__file__).resolve().parent.parent.parent
SCHEMA = json.loads((ROOT / "specs/output.schema.json").read_text())
FINDINGS = finding.as_list([Finding("ports", "error", "80 is taken", "choose another"), Finding("cpu", "ok", "2")])

GLANCE = test_overview.glance(test_overview.service())
BROUGHT = [Brought(name="a/ollama", version="0.1.3", what="upgraded", before="0.1.1", seconds=2.5)]
KNOWN = Known(provider="a/b/ollama", name="qwen3:8b", type="llm", active=True, default=True)
ANSWER = Answer(
    provider="a/b/ollama",
    model="qwen3:8b",
    question="?",
    answer="!",
    first_seconds=0.2,
    seconds=1.0,
    prompt_tokens=20,
    answer_tokens=6,
    path=("api", "model"),
)

FOUND = Found(
    provider="a/b/ollama",
    model="bge-m3",
    question="?",
    passage="!",
    passages=3,
    index_seconds=2.0,
    find_seconds=0.5,
    path=("api", "worker"),
    answer=ANSWER,
)
SEEN = watch_egress.Seen(
    started=datetime.datetime.now(datetime.UTC),
    seconds=600.0,
    ended_early=True,
    containers=("dify_web_1",),
    missed=0,
    asked=(
        Row(container="dify_web_1", kind="name", what="a.example", times=8, first=1.0, expected=False, why="nothing"),
    ),
    notes=("x",),
)


def reported(*, inside: bool = False) -> str:
    one = report.Report(dify="1.11.3", folder="/opt/dify", url="http://h", log="/l", result="done")
    with one.step("verify", Console(silent=True)) as step:
        step.seen = "all"
    one.checks = [Finding("console reachable", "ok", "it answers")]
    if inside:
        model = report.Model(
            name="qwen3:8b",
            server="http://o:11434",
            provider="a/b/ollama",
            kind="chat",
            context=8192,
            tools=True,
            vision=False,
            what="added",
            default=True,
        )
        one.inside = report.Inside(
            account="ops@example.com", plugins=BROUGHT, models=[model], answer=ANSWER, knowledge=FOUND
        )
    return report.as_json(one)


@pytest.mark.parametrize(
    "text",
    [
        envelope.to_json("preflight", passed=False, findings=FINDINGS),
        envelope.to_json("plan", passed=True, findings=FINDINGS, actions=[{"subject": "files", "what": "x"}]),
        envelope.to_json("status", passed=True, checks=FINDINGS, overview=overview.as_fields(GLANCE)),
        envelope.to_json("verify", passed=True, dify="1.11.3", embedded=["a"], files=["dify-images.tar"]),
        reported(),
        reported(inside=True),
        envelope.to_json("plugins", passed=True, plugins=plugins.as_list(BROUGHT)),
        envelope.to_json("models", passed=True, models=models.as_list([KNOWN])),
        envelope.to_json("models", passed=False, findings=FINDINGS),
        envelope.to_json("answer", passed=True, **dataclasses.asdict(ANSWER)),
        envelope.to_json("egress", passed=False, **watch_egress.as_fields(SEEN)),
    ],
)
def test_each_output_is_of_the_schema(text: str) -> None:
    jsonschema.validate(json.loads(text), SCHEMA)


@pytest.mark.parametrize(
    "change",
    [{"format": 1}, {"kind": "other"}, {"findings": [{"check": "x"}]}, {"findings": None}, {"passed": "yes"}],
)
def test_the_schema_refuses_what_is_not(change: dict[str, Any]) -> None:
    top = json.loads(envelope.to_json("preflight", passed=True, findings=FINDINGS)) | change
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(top, SCHEMA)


def test_the_schema_knows_our_format_and_every_kind() -> None:
    assert SCHEMA["properties"]["format"]["const"] == envelope.FORMAT
    assert set(SCHEMA["properties"]["kind"]["enum"]) == set(get_args(envelope.Kind))
