"""Makes the tables of `make growth`: GROWTH.md, and the runs themselves, growth.json, beside this file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.bench.growth import Run

HERE = Path(__file__).resolve().parent
HEAD = """\
# Cost as the bundle grows

Made by `make growth`; never edited by hand. Each run is a whole `dify-installer --ip … --no-boot` on a machine and file
systems of its own, with a cold cache. Figures are medians of a bundle's runs. Peaks are of the whole run; memory is
what all processes of a program hold together, sampled ten times a second. podman is a process of its own for each
image, which holds more for a larger one; so does the spool, which is one image.

A bundle is the sample's with filler images beside its own ten: four layers each, none of them shared, of files of real
wheels and Debian packages in the same mixture. The installer verifies and loads them like all others; no container
runs them. The last line of a table is the difference between its first and its last bundle, for each unit of what
grows: what stays the same is not in it. Seconds are of one machine; read how they grow.

"""


@dataclass(frozen=True, slots=True)
class Column:
    """A figure of a run, and the digits that it is shown with."""

    name: str
    value: Callable[[Run], float]
    digits: int


GB = Column("archive, GB", lambda run: run.size / 1e9, 2)
IMAGES = Column("images", lambda run: run.images, 0)
BUNDLE = [
    GB,
    IMAGES,
    Column("layers", lambda run: run.layers, 0),
    Column("largest image, GB", lambda run: run.largest / 1e9, 2),
]
VERIFY = Column("verify", lambda run: run.steps["verify"], 1)
LOAD = Column("load images", lambda run: run.steps["images"], 1)
PROCESSOR = Column("processor", lambda run: run.cpu, 1)
SECONDS = [
    VERIFY,
    LOAD,
    Column("other steps", lambda run: run.seconds - run.steps["verify"] - run.steps["images"], 1),
    Column("the whole", lambda run: run.seconds, 1),
    PROCESSOR,
    Column("second run", lambda run: run.again, 1),
]
MEMORY = [
    Column("dify-installer, MB", lambda run: run.memory["dify-installer"] / 1e6, 0),
    Column("podman, MB", lambda run: run.memory["podman"] / 1e6, 0),
]

# The runs of a bundle.
Runs = Sequence["Run"]


def write(by_size: Sequence[Runs], by_count: Sequence[Runs], facts: dict[str, str]) -> None:
    """Write the tables, and the runs; each series has the runs of its bundles in their order."""
    bundles = [*by_size, *(runs for runs in by_count if runs not in by_size)]
    rounds = "; ".join(f"{len(runs)} of {_text(GB, runs)} GB, {_text(IMAGES, runs)} images" for runs in bundles)
    parts = [HEAD, _table(["", ""], (facts | {"runs": rounds}).items())]
    parts += ["\n## A larger bundle: more images of the same size\n", *_series(by_size, GB, "each further GB")]
    parts += ["\n## The same bytes in more, smaller images\n", *_series(by_count, IMAGES, "each further image")]
    (HERE / "GROWTH.md").write_text("".join(parts))
    raw = [dataclasses.asdict(run) for runs in bundles for run in runs]
    (HERE / "growth.json").write_text(json.dumps(raw, indent=1) + "\n")


def _series(series: Sequence[Runs], grows: Column, unit: str) -> list[str]:
    disks = [_disk(name) for name in series[0][0].disk]
    per_gb = [_per_gb(column) for column in (VERIFY, LOAD, PROCESSOR, _disk("graph root"))]
    return [
        "\nSeconds:\n\n",
        _grown(series, SECONDS, grows, unit),
        "\nFor each GB of the archive, in seconds, and in GB of the graph root:\n\n",
        _table(_names([*BUNDLE, *per_gb]), _rows(series, [*BUNDLE, *per_gb])),
        "\nPeaks of memory, and, in GB, of what is taken beside the archive:\n\n",
        _grown(series, [*MEMORY, *disks], grows, unit),
    ]


def _disk(name: str) -> Column:
    return Column(name, lambda run: run.disk[name] / 1e9, 2)


def _per_gb(column: Column) -> Column:
    return Column(column.name, lambda run: column.value(run) / GB.value(run), 2)


def _grown(series: Sequence[Runs], columns: list[Column], grows: Column, unit: str) -> str:
    """Return a table with a last line that says what each further unit adds."""
    first, last = series[0], series[-1]
    units = _median(grows, last) - _median(grows, first)
    slopes = [(_median(each, last) - _median(each, first)) / units for each in columns]
    added = [f"{slope:+.{each.digits + 1}f}" for slope, each in zip(slopes, columns, strict=True)]
    rows = [*_rows(series, [*BUNDLE, *columns]), [unit, *[""] * (len(BUNDLE) - 1), *added]]
    return _table(_names([*BUNDLE, *columns]), rows)


def _names(columns: list[Column]) -> list[str]:
    return [column.name for column in columns]


def _rows(series: Sequence[Runs], columns: list[Column]) -> list[list[str]]:
    return [[_text(column, runs) for column in columns] for runs in series]


def _text(column: Column, runs: Runs) -> str:
    return f"{_median(column, runs):.{column.digits}f}"


def _median(column: Column, runs: Runs) -> float:
    return median(column.value(run) for run in runs)


def _table(head: list[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines) + "\n"
