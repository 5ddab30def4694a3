"""`make faults`: fault trials on target machines for some minutes; JSON lines below WORK, and a table."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from tests.faults import report, rig, trials
from tests.target import bundle as bundles
from tests.target import machine as machines
from tests.target import newer as releases
from tests.target.machine import Machine
from tests.target.registry import Registry


def main() -> int:
    """Run the trials; return 1 when one has failed."""
    given = arguments()
    work: Path = given.work.resolve()
    folder = work / "faults"
    print(f"== trials of seed {given.seed}", flush=True)
    lab = prepare(work, folder)
    results: list[trials.Result] = []
    started = time.monotonic()
    try:
        for number in numbers(given.only, started + given.minutes * 60):
            result = trials.run(trials.plan(given.seed, number, given.kind), lab)
            results.append(result)
            show(result)
            if given.only is None:
                record(folder / f"{given.seed}.jsonl", result, first=len(results) == 1)
    finally:
        lab.spoil()
        if results and given.only is None:
            report.PATH.write_text(report.as_markdown(results, given.seed, time.monotonic() - started))
    return 1 if any(result.verdict == "failed" for result in results) else 0


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--work", type=Path, default=bundles.WORK)
    parser.add_argument("--minutes", type=float, default=30, help="no trial begins after that")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="the same seed, the same trials")
    parser.add_argument("--only", type=int, metavar="NUMBER", help="repeat this trial alone")
    parser.add_argument("--kind", default="", choices=["", *trials.KINDS], metavar="KIND", help="of this kind alone")
    return parser.parse_args()


def prepare(work: Path, folder: Path) -> rig.Lab:
    """Build the sample's bundle, and return where trials of it take place."""
    base = machines.base_root(work)
    with Registry(work / "registry") as registry:
        sample = bundles.make("sample", bundles.SAMPLE, registry, work)
    newer = releases.make(Registry(work / "registry"), work)
    shutil.rmtree(work / "machines", ignore_errors=True)
    count = itertools.count()

    def make() -> Machine:
        machine = Machine.clone(base, work / "machines" / f"faults-{next(count)}")
        machine.boot()
        return machine

    return rig.Lab(make, sample, newer, folder)


def numbers(only: int | None, deadline: float) -> Iterator[int]:
    """Yield the numbers of the trials to run, until the deadline, a time.monotonic()."""
    if only is not None:
        yield only
        return
    for number in itertools.count():
        if time.monotonic() > deadline:
            return
        yield number


def show(result: trials.Result) -> None:
    """Print a line for people."""
    codes = " ".join(f"{name}={code}" for name, code in result.exit_codes.items())
    print(
        f"{result.seed}/{result.number} {result.verdict:<6} {result.seconds:>6.1f} s  {result.kind}  {codes}",
        flush=True,
    )
    if result.verdict != "held":
        print(f"    {json.dumps(result.parameters)}\n    {result.reason}", flush=True)


def record(path: Path, result: trials.Result, *, first: bool) -> None:
    """Write a trial as a line of JSON; the first one begins the file."""
    with path.open("w" if first else "a") as file:
        file.write(json.dumps(dataclasses.asdict(result)) + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
