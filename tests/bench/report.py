"""Makes the table and the plot of a benchmark's runs, beside this file: RESULTS.md and results.svg, or REAL.md."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from tests.bench import host_load
from tests.bench.host_load import Load
from tests.bench.hosts import ROOTFUL
from tests.bench.push import Sent

if TYPE_CHECKING:
    from tests.bench.bench import Run

HERE = Path(__file__).resolve().parent
HEAD = """\
# Benchmark

Made by `{command}`; never edited by hand. Medians of {rounds} rounds, the ways taking turns, every run on a machine
and file systems of its own. By hand is, typed in a project that is prepared already, until Dify answers:

    sha256sum -c SHA256SUMS && podman load -i dify-images.tar && podman-compose up -d

*Loaded* is `./dify-installer` with the image archive, *mounted* with the image store, *unpacked* where that may not be
mounted. {images} The first services start while
images are loaded: the whole counts. Floors are what no way of loading can beat. Other hosts, and what comes afterwards,
are of the first round. Seconds are of one machine; read the ratios.

"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What is measured, and the names of the files that tell it: the table, its runs and the plot."""

    command: str
    images: str
    table: str
    runs: str
    plot: str


STAND_IN = Report(
    command="make bench",
    images="The api is a stand-in that costs what the real one costs (docs/decisions/023).",
    table="RESULTS.md",
    runs="runs.json",
    plot="results.svg",
)
REAL = Report(
    command="make bench DIST=FOLDER",
    images="The images are those of a bundle that was given.",
    table="REAL.md",
    runs="real.json",
    plot="real.svg",
)
OURS = ("loaded", "mounted")
WAYS = (*OURS, "by hand", "floors")
COLOURS = {"loaded": "#1f77b4", "mounted": "#2ca02c", "by hand": "#ff7f0e", "floors": "#7f7f7f"}


def write(
    report: Report,
    runs: list[Run],
    alone: list[Load],
    sent: list[Sent],
    described: dict[str, str],
    startup: dict[str, float],
) -> None:
    """Write table, plot and the runs.

    `alone` are loads by the host's podman, `sent` what went into a registry, `startup` seconds.
    """
    everywhere = runs
    runs = [run for run in everywhere if run.host == ROOTFUL.name and run.way in WAYS]
    rounds = len(runs) // (len({run.way for run in runs}) * len({run.cache for run in runs}))
    parts = [HEAD.format(rounds=rounds, command=report.command, images=report.images), _facts(described)]
    for cache in ("cold", "warm"):
        parts += [f"\n## With a {cache} cache\n\n", _ratios(runs, cache), "\n", _steps(runs, cache)]
    parts += ["\n## Other hosts, with a cold cache\n\n", _hosts(everywhere)]
    parts += ["\n## Afterwards, until Dify answers again\n\n", _later(runs)]
    parts += [f"\n## Verify and load alone, with podman {host_load.version()}\n\n", _alone(alone)]
    parts += ["\n## Into a private registry, with a cold cache\n\n", _sent(sent)]
    parts += ["\n## What else it takes\n\n", _peaks(runs), "\n", _startup(runs, startup)]
    parts += [f"\n![seconds of each way, by step]({report.plot})\n"]
    (HERE / report.table).write_text("".join(parts))
    kept = {
        "runs": [dataclasses.asdict(run) for run in everywhere],
        "alone": [dataclasses.asdict(load) for load in alone],
    }
    kept["sent"] = [dataclasses.asdict(each) for each in sent]
    (HERE / report.runs).write_text(json.dumps(kept, indent=1) + "\n")
    _plot(runs, HERE / report.plot)


def _facts(described: dict[str, str]) -> str:
    return _table(["", ""], described.items())


def _of(runs: list[Run], way: str, cache: str) -> list[Run]:
    return [run for run in runs if (run.way, run.cache) == (way, cache)]


def _step(runs: list[Run], way: str, cache: str, *names: str) -> float:
    return median(sum(run.steps.get(name, 0.0) for name in names) for run in _of(runs, way, cache))


def _ratios(runs: list[Run], cache: str) -> str:
    """Return what the goals speak of: our ways in units of the manual one."""
    pairs = {
        "verify, images ready": (("verify", "images"), ("sha256sum -c", "podman load")),
        "start, until Dify answers": (("start", "health"), ("podman-compose up -d", "until it answers")),
    }
    rows: list[tuple[str, list[float]]] = []
    for name, (mine, theirs) in pairs.items():
        rows.append((name, [*(_step(runs, way, cache, *mine) for way in OURS), _step(runs, "by hand", cache, *theirs)]))
    rows.append(("the whole", [median(run.seconds for run in _of(runs, way, cache)) for way in (*OURS, "by hand")]))
    lines = [[name, *(_against(each, hand) for each in ours), f"{hand:.1f}"] for name, (*ours, hand) in rows]
    return _table(["seconds (ratio)", *OURS, "by hand"], lines)


def _hosts(runs: list[Run]) -> str:
    """Return, for each way on each host, what the goals speak of, in units of the manual way on that host."""
    rows = []
    for host in dict.fromkeys(run.host for run in runs):
        cold = [run for run in runs if (run.host, run.cache) == (host, "cold")]
        for way in dict.fromkeys(run.way for run in cold if run.way not in ("by hand", "floors")):
            ours, hand = ([_parts(run) for run in cold if run.way == name] for name in (way, "by hand"))
            pairs = zip(map(median, zip(*ours, strict=True)), map(median, zip(*hand, strict=True)), strict=True)
            rows.append(
                [host, way, *(f"{mine:.1f} and {theirs:.1f} (**{mine / theirs:.2f}**)" for mine, theirs in pairs)]
            )
    return _table(["host", "way", "images ready, ours and by hand", "start", "the whole"], rows)


def _parts(run: Run) -> tuple[float, float, float]:
    """Return the seconds until the images are ready, of the start, and of the whole."""
    ready = ("verify", "images", "sha256sum -c", "podman load", "docker load")
    start = ("start", "health", "podman-compose up -d", "docker compose up -d", "until it answers")
    return (
        sum(run.steps.get(name, 0.0) for name in ready),
        sum(run.steps.get(name, 0.0) for name in start),
        run.seconds,
    )


def _later(runs: list[Run]) -> str:
    """Return what people do later, beside what they would type."""
    cold = {way: [run for run in _of(runs, way, "cold") if run.later] for way in (*OURS, "by hand")}
    rows = []
    for name in cold["by hand"][0].later:
        *ours, hand = (median(run.later[name] for run in each) for each in cold.values())
        rows.append([name, *(_against(each, hand) for each in ours), f"{hand:.1f}"])
    return _table(["seconds (ratio)", *OURS, "by hand"], rows)


def _against(ours: float, hand: float) -> str:
    return f"{ours:.1f} (**{ours / hand:.2f}**)"


def _alone(loads: list[Load]) -> str:
    times = {way: [load.seconds for load in loads if load.way == way] for way in ("loaded", "by hand")}
    hand = median(times["by hand"])
    rows = [[way, f"{median(each):.1f}", _range(each), f"{median(each) / hand:.2f}"] for way, each in times.items()]
    return _table(["way", "median, s", "range", "ratio"], rows)


def _sent(sent: list[Sent]) -> str:
    by_way = {way: [each for each in sent if each.way == way] for way in ("push", "skopeo")}
    hand = median(each.seconds for each in by_way["skopeo"])
    rows = []
    for way, each in by_way.items():
        times = [one.seconds for one in each]
        again = f"{median(one.again for one in each):.1f}"
        rows.append([way, f"{median(times):.1f}", _range(times), f"{median(times) / hand:.2f}", again])
    return _table(["way", "median, s", "range", "ratio", "once more, s"], rows)


def _startup(runs: list[Run], startup: dict[str, float]) -> str:
    again = {way: median(run.again for run in runs if run.way == way) for way in OURS}
    rows = [[f"`{name}`", f"{seconds:.2f}"] for name, seconds in startup.items()]
    rows += [[f"a second run with nothing to do, {way}", f"{seconds:.2f}"] for way, seconds in again.items()]
    return _table(["command", "seconds"], rows)


def _range(times: list[float]) -> str:
    return f"{min(times):.1f} to {max(times):.1f}"


def _steps(runs: list[Run], cache: str) -> str:
    rows = []
    for way in WAYS:
        for name in _of(runs, way, cache)[0].steps:
            times = [run.steps[name] for run in _of(runs, way, cache)]
            rows.append([way, name, f"{median(times):.1f}", _range(times)])
    return _table(["way", "step", "median, s", "range"], rows)


def _peaks(runs: list[Run]) -> str:
    disks = list(runs[0].disk)
    rows = []
    for way in WAYS:
        mine = [run for run in runs if run.way == way]
        peaks = [f"{max(run.disk[name] for run in mine) / 1e9:.2f}" for name in disks]
        cpu, memory = median(run.cpu for run in mine), max(run.memory for run in mine)
        rows.append([way, f"{cpu:.0f}", f"{memory / 1e6:.0f}", *peaks])
    return _table(["way", "processor, s", "memory, MB", *(f"disk: {name}, GB" for name in disks)], rows)


def _table(head: list[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines) + "\n"


def _plot(runs: list[Run], path: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    # The same runs give the same bytes.
    matplotlib.rcParams["svg.hashsalt"] = "dify-installer"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 3.6))
    bars = [(way, cache) for cache in ("warm", "cold") for way in reversed(WAYS)]
    for row, (way, cache) in enumerate(bars):
        left = 0.0
        for number, name in enumerate(name for name in _of(runs, way, cache)[0].steps):
            width = _step(runs, way, cache, name)
            axes.barh(row, width, left=left, color=COLOURS[way], alpha=1 - 0.3 * (number % 3), edgecolor="white")
            if width > 4:
                axes.text(left + width / 2, row, name, ha="center", va="center", fontsize=7)
            left += width
        axes.text(left, row, f" {left:.0f} s", va="center", fontsize=8)
    axes.set_yticks(range(len(bars)), [f"{way}, {cache}" for way, cache in bars])
    axes.set_xlabel("seconds, medians")
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
