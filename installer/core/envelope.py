"""The one shape of everything that we print or keep for a machine; `specs/output.schema.json` describes it."""

from __future__ import annotations

import json
from typing import Any, Literal

from installer import VERSION

# Raised when a field goes or changes its meaning; a new field does not raise it.
FORMAT = 2

Kind = Literal[
    "answer",
    "backup",
    "doctor",
    "egress",
    "export",
    "models",
    "plan",
    "plugins",
    "preflight",
    "prune",
    "push",
    "report",
    "restore",
    "rollback",
    "status",
    "verify",
]


def to_json(kind: Kind, *, passed: bool, **fields: Any) -> str:
    """Return JSON text: {"format", "installer", "kind", "passed", …fields}, with a line break at its end."""
    top = {"format": FORMAT, "installer": VERSION, "kind": kind, "passed": passed, **fields}
    return json.dumps(top, indent=2, ensure_ascii=False) + "\n"
