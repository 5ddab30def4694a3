"""One thing that was looked at: of a host before the installation, of a running Dify, of a model server."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

# "info" is told and not judged.
Level = Literal["ok", "warning", "error", "info"]
MARKS: dict[Level, str] = {"ok": "ok  ", "warning": "WARN", "error": "FAIL", "info": "    "}


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, how it is, what was seen, and what to do about it."""

    check: str
    level: Level
    seen: str
    remedy: str = ""


def any_failed(findings: Iterable[Finding]) -> bool:
    """Tell whether any finding is an error."""
    return any(finding.level == "error" for finding in findings)


def as_text(findings: Iterable[Finding]) -> str:
    """Return the findings for people, one a line, each remedy below its own."""
    lines = []
    for finding in findings:
        lines.append(f"{MARKS[finding.level]} {finding.check}: {finding.seen}")
        if finding.remedy:
            lines.append(f"       do: {finding.remedy}")
    return "\n".join(lines)


def as_note(finding: Finding) -> str:
    """Return a finding in one line, for the notes of a report."""
    return f"{finding.seen}; do: {finding.remedy}"


def as_list(findings: Iterable[Finding]) -> list[dict[str, str]]:
    """Return the findings for a machine: [{check, level, seen, remedy}]."""
    return [dataclasses.asdict(finding) for finding in findings]
