"""The fault rig itself: its trials are drawn, not thrown; what it does to files and processes is what it says."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from tests.faults import __main__ as program
from tests.faults import damage, invariants, report, rig, scene, trials

ROUNDS = 6 * len(trials.KINDS)


def damaged(path: Path, **parameters: object) -> tuple[int, bytes]:
    position = damage.damage(path, {"where": 0.5, "bit": 3, "length": 4, **parameters})
    return position, path.read_bytes()


def test_a_trial_is_a_function_of_its_seed_and_number() -> None:
    first = [trials.plan(7, number) for number in range(ROUNDS)]
    # In another order, and with other trials in between.
    again = [trials.plan(seed, number) for number in reversed(range(ROUNDS)) for seed in (8, 7)][1::2]
    assert first == again[::-1]
    assert first != [trials.plan(8, number) for number in range(ROUNDS)]


def test_a_kind_of_ones_own_choice_draws_what_it_draws_anyhow() -> None:
    for number in range(ROUNDS):
        drawn = trials.plan(7, number)
        assert trials.plan(7, number, drawn.kind) == drawn


def test_each_round_has_every_kind_once() -> None:
    for start in range(0, ROUNDS, len(trials.KINDS)):
        kinds = [trials.plan(1, number).kind for number in range(start, start + len(trials.KINDS))]
        assert sorted(kinds) == sorted(trials.KINDS)


def test_parameters_outlive_json() -> None:
    for number in range(ROUNDS):
        planned = dataclasses.asdict(trials.plan(3, number))
        assert json.loads(json.dumps(planned)) == planned


@pytest.mark.parametrize(
    ("how", "position", "content"),
    [
        ("flip", 5, b"abcde\x6eghij"),
        ("zeros", 5, b"abcde\0\0\0\0j"),
        ("truncated", 5, b"abcde"),
        ("longer", 10, b"abcdefghij\0\0\0\0"),
    ],
)
def test_damage_is_what_it_says(tmp_path: Path, how: str, position: int, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abcdefghij")
    assert damaged(path, how=how) == (position, content)


def test_damage_that_changes_nothing_is_void(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(10))
    with pytest.raises(scene.Void):
        damaged(path, how="zeros")


def test_temporary_files_are_told_from_those_that_stay(tmp_path: Path) -> None:
    for name in (".env", "dify-installer"):
        with tempfile.NamedTemporaryFile(prefix=f".{name.lstrip('.')}.", dir=tmp_path) as file:
            assert invariants.TEMPORARY_NAME.fullmatch(Path(file.name).name)
    for name in (".env", ".env.before", ".env.example", ".env.20261126", ".applied", "dify-compose.yaml"):
        assert not invariants.TEMPORARY_NAME.fullmatch(name)


def test_the_processes_below_a_process_are_found_and_known_again() -> None:
    shell = subprocess.Popen(["sh", "-c", "sh -c 'sleep 60 & wait' & wait"])
    deadline = time.monotonic() + 20
    while [rig.comm(pid) for pid in rig.descendants(shell.pid)] != ["sh", "sleep"]:
        assert time.monotonic() < deadline
        time.sleep(rig.POLL_SECONDS)
    below = {pid: rig.born(pid) for pid in rig.descendants(shell.pid)}
    for pid in below:
        assert rig.kill(pid, signal.SIGKILL)
    shell.wait(20)
    while any(rig.born(pid) == born for pid, born in below.items()):
        assert time.monotonic() < deadline
        time.sleep(rig.POLL_SECONDS)


def result(number: int, verdict: trials.Verdict, reason: str = "") -> trials.Result:
    planned = trials.plan(5, number)
    return trials.Result(
        **dataclasses.asdict(planned), exit_codes={"again": 0}, seconds=12.3, verdict=verdict, reason=reason
    )


def test_the_table_has_every_kind_and_every_failure_with_its_number() -> None:
    text = report.as_markdown([result(0, "held"), result(1, "failed", "a | b"), result(2, "void", "over")], 5, 90)
    assert "Seed 5, 3 trials in 2 minutes" in text
    assert "1 held, 1 failed, 1 void" in text
    for kind in trials.KINDS:
        assert f"| {kind} |" in text
    assert f"| 1 | {trials.plan(5, 1).kind} |" in text
    assert "| a \\| b |" in text
    assert "## Void" in text


def test_lines_of_json_begin_anew_and_are_one_a_trial(tmp_path: Path) -> None:
    path = tmp_path / "5.jsonl"
    path.write_text("of an earlier run\n")
    program.record(path, result(0, "held"), first=True)
    program.record(path, result(1, "failed", "why"), first=False)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["number"], line["verdict"], line["reason"]) for line in lines] == [
        (0, "held", ""),
        (1, "failed", "why"),
    ]


def test_no_trial_begins_after_the_deadline() -> None:
    assert list(program.numbers(4, 0.0)) == [4]
    assert list(program.numbers(None, time.monotonic() - 1)) == []
