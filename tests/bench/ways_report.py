"""Makes the table and the plot of which way wins where: WAYS.md, ways.json and ways.svg beside this file."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench import slow_disk

if TYPE_CHECKING:
    from tests.bench.ways import Run

HERE = Path(__file__).resolve().parent
HEAD = """\
# Which way wins where

Made by `make growth`; never edited by hand. Each figure is one run, from the bundle's first byte until Dify answers, on
a machine and file systems of its own, with a cold cache, podman as root. The application is that of `make bench`, which
costs what Dify's costs; filler images make the bundle larger. *Loaded*, *mounted*, *unpacked* and *by hand* are those
of [the benchmark](RESULTS.md). The bundle, podman's storage, `/var/tmp` and the install folder lie on disks that are
made slow: so many bytes, or requests, a second. 50 requests are a disk that takes 20 ms for each.

"""
COLOURS = {"loaded": "#1f77b4", "mounted": "#2ca02c", "unpacked": "#9467bd", "by hand": "#ff7f0e"}


def write(runs: list[Run], facts: dict[str, str]) -> None:
    """Write table, plot and the runs themselves."""
    facts = {**facts, "bundle": "as in the table"}
    parts = [HEAD, _table(["", ""], list(facts.items())), "\n", _cases(runs), "\n![seconds of each way](ways.svg)\n"]
    (HERE / "WAYS.md").write_text("".join(parts))
    (HERE / "ways.json").write_text(json.dumps([dataclasses.asdict(run) for run in runs], indent=1) + "\n")
    _plot(runs)


def _of(runs: list[Run]) -> dict[tuple[int, str, int], dict[str, Run]]:
    """Return the runs by case, size and disk and processors, and by way."""
    found: dict[tuple[int, str, int], dict[str, Run]] = {}
    for run in runs:
        found.setdefault((run.size, run.disk, run.processors), {})[run.way] = run
    return found


def _cases(runs: list[Run]) -> str:
    rows = []
    for (size, disk, processors), each in _of(runs).items():
        hand = each["by hand"].seconds
        ours = [f"{run.seconds:.1f} (**{run.seconds / hand:.2f}**)" for way, run in each.items() if way != "by hand"]
        rows.append([f"{size / 1e9:.1f}", disk, str(processors), *ours, f"{hand:.1f}"])
    return _table(["archive, GB", "disk", "processors", *(way for way in COLOURS)], rows)


def _table(head: list[str], rows: list[list[str]] | list[tuple[str, str]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines) + "\n"


def _plot(runs: list[Run]) -> None:
    import matplotlib

    matplotlib.use("svg")
    # The same runs give the same bytes.
    matplotlib.rcParams["svg.hashsalt"] = "dify-installer"
    from matplotlib import pyplot

    every = max(run.processors for run in runs)
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.8), width_ratios=(3, 4))
    for way, colour in COLOURS.items():
        sized = [run for run in runs if (run.way, run.disk, run.processors) == (way, slow_disk.FAST.name, every)]
        left.plot([run.size / 1e9 for run in sized], [run.seconds for run in sized], "o-", color=colour, label=way)
    left.set_xlabel("archive, GB")
    left.set_ylabel("seconds until Dify answers")
    left.legend(frameon=False)
    usual = {case: each for case, each in _of(runs).items() if _is_usual(case, runs)}
    for number, (way, colour) in enumerate(COLOURS.items()):
        places = [place + 0.2 * number for place in range(len(usual))]
        right.bar(places, [each[way].seconds for each in usual.values()], width=0.18, color=colour)
    names = [f"{disk}\n{processors} processors" for _, disk, processors in usual]
    right.set_xticks([place + 0.3 for place in range(len(usual))], names, fontsize=8)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_ylim(bottom=0)
    figure.tight_layout()
    figure.savefig(HERE / "ways.svg", metadata={"Date": None})


def _is_usual(case: tuple[int, str, int], runs: list[Run]) -> bool:
    """Tell whether a case is of the bundle that is tried with several disks."""
    sizes = [run.size for run in runs if run.disk != slow_disk.FAST.name] or [min(run.size for run in runs)]
    return case[0] == sizes[0]
