"""A short round of the fault rig: the most telling kinds, each a fixed trial. `make faults` draws others, for long."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import MachineMaker
from tests.faults import rig, trials
from tests.target.bundle import Bundle

SEED = 1
# Each needs what the one before leaves: two new machines in all.
ROUND = [
    ("executable damaged, verify", 14),
    ("archive damaged, verify", 8),
    ("disk full", 15),
    ("file broken", 7),
    ("file broken", 22),
    ("containers broken", 8),
    ("images broken", 2),
    ("runs at once", 7),
    ("power cut", 6),
    ("stop killed", 2),
    ("conmons killed", 4),
    (".env broken", 0),
    ("uninstall killed", 9),
    ("install killed", 13),
]


@pytest.fixture(scope="module")
def lab(lasting_machine: MachineMaker, sample: Bundle, newer: Bundle, work: Path) -> Iterator[rig.Lab]:
    """Where the trials take place."""
    lab = rig.Lab(lasting_machine, sample, newer, work / "faults")
    yield lab
    lab.spoil()


@pytest.mark.parametrize(("kind", "number"), ROUND)
def test_the_same_command_repairs(lab: rig.Lab, kind: str, number: int) -> None:
    result = trials.run(trials.plan(SEED, number, kind), lab)
    assert result.verdict == "held", f"{result.parameters} {result.exit_codes}\n{result.reason}"
