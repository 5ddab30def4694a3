"""The machine of a trial, the runs on it, and how their ends are judged."""

from __future__ import annotations

import re
import time
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from installer.core import errors
from tests.e2e.server import Server
from tests.faults import invariants, rig
from tests.faults.rig import Ended, Running
from tests.target.bundle import Bundle

Parameters = dict[str, Any]

# What a run that lost a program of its own may end with: its own doing, or a documented failure.
FAILED = {0, *range(4, 7)}
# What a run may end with that refuses.
REFUSED = {2, 4, 5}
TRACE = re.compile(r"Traceback \(most recent|unforeseen|--- Logging error")
ERROR = re.compile("error")


class Void(Exception):
    """The fault did not take place, so that the trial shows nothing."""


@dataclass(kw_only=True, slots=True)
class Scene:
    """The machine of a trial and what is seen on it; `broken` are pairs of what does not hold and how."""

    server: Server
    folder: Path
    memory: invariants.Memory
    newer: Bundle
    codes: dict[str, int | None] = field(default_factory=dict)
    broken: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    # Of the install command, which is the same one each time.
    options: tuple[str, ...] = ()

    def start(self, name: str, command: list[str]) -> Running:
        """Start a command; what it prints is kept under its name."""
        return Running(self.server, command, self.folder / f"{name}.txt")

    def install(self, name: str) -> Running:
        return self.start(name, rig.install(*self.options))

    def end(self, name: str, running: Running, allowed: Collection[int]) -> Ended:
        """Wait for a run and judge its exit code: no run may hang, or end without a message that was foreseen."""
        ended = running.wait()
        self.codes[name] = ended.status
        if ended.status is None:
            self.fail("hang", f"{name} does not end within {rig.RUN_SECONDS:.0f} s")
        elif TRACE.search(ended.output):
            self.fail("traceback", f"{name}: {line_of(ended.output, TRACE)}")
        elif ended.status not in allowed:
            self.fail("exit code", f"{name} ends with {ended.status}: {line_of(ended.output, ERROR)}")
        return ended

    def run(self, name: str, command: list[str], allowed: Collection[int]) -> Ended:
        return self.end(name, self.start(name, command), allowed)

    def fail(self, what: str, how: str) -> None:
        self.broken.append((what, how))

    def keep_secrets(self) -> None:
        """Remember the secrets that a run has written, if there were none before."""
        self.memory = replace(self.memory, secrets=self.memory.secrets or invariants.read_secrets(self.server))

    def install_again(self, name: str) -> Ended:
        """Run the install command; while another run is active, which may be what a kill has left, wait for that."""
        deadline = time.monotonic() + rig.RUN_SECONDS
        while (ended := self.install(name).wait()).status == errors.AlreadyRunning.exit_code:
            if time.monotonic() > deadline:
                break
            time.sleep(1)
        self.codes[name] = ended.status
        return ended


def line_of(text: str, wanted: re.Pattern[str]) -> str:
    """Return the line that says what is wanted, and the one after it; else the last one."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for number, line in enumerate(lines):
        if wanted.search(line):
            return " / ".join(lines[number : number + 2])[:300]
    return lines[-1][:300] if lines else "(no output)"
