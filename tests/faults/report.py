"""Makes the table of the trials: RESULTS.md beside this file."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from tests.faults.trials import KINDS, Result

PATH = Path(__file__).resolve().with_name("RESULTS.md")
HEAD = """\
# Faults

Made by `make faults`; never edited by hand. Each trial does something bad to a target machine, runs the same install
command again and looks whether all is as it must be (`invariants.py`). Void is a trial whose fault did not take place.
One of them again: `python -m tests.faults --seed {seed} --only NUMBER`.

Seed {seed}, {number} trials in {minutes:.0f} minutes, {date}: {held} held, {failed} failed, {void} void.

"""


def as_markdown(results: Sequence[Result], seed: int, seconds: float) -> str:
    """Return the table of all kinds, and each trial that failed or was void with its reason."""
    verdicts = Counter(result.verdict for result in results)
    head = HEAD.format(
        seed=seed,
        number=len(results),
        minutes=seconds / 60,
        date=time.strftime("%Y-%m-%d"),
        **{verdict: verdicts[verdict] for verdict in ("held", "failed", "void")},
    )
    parts = [head, _kinds(results)]
    for verdict in ("failed", "void"):
        if chosen := [result for result in results if result.verdict == verdict]:
            parts += [f"\n## {verdict.capitalize()}\n\n", _trials(chosen)]
    return "".join(parts)


def _kinds(results: Sequence[Result]) -> str:
    rows = []
    for kind in KINDS:
        of_kind = [result for result in results if result.kind == kind]
        verdicts = Counter(result.verdict for result in of_kind)
        seconds = f"{median(result.seconds for result in of_kind):.0f}" if of_kind else ""
        counts = [len(of_kind), verdicts["held"], verdicts["failed"], verdicts["void"]]
        rows.append([kind, *map(str, counts), seconds])
    return _table(["kind", "trials", "held", "failed", "void", "seconds"], rows)


def _trials(results: Sequence[Result]) -> str:
    rows = [[str(each.number), each.kind, json.dumps(each.parameters), each.reason] for each in results]
    return _table(["number", "kind", "parameters", "why"], rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [
        head,
        ["---"] * len(head),
        *([cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows),
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
