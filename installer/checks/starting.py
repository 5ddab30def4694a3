"""Tells a stack that is starting from one that has failed: the first needs time, the second a repair."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable

from installer.core.finding import Finding

# As long as the unit waits for a start at boot: afterwards what does not answer has failed.
LIMIT_SECONDS = 1200.0


def judge_as_starting(findings: Iterable[Finding], since: float, now: float) -> list[Finding]:
    """Return the findings with those that have failed as warnings: since when it starts, what for, and how long.

    `since` and `now` are seconds since the epoch.
    """
    begun = time.strftime("%H:%M:%S", time.localtime(since))
    last = time.strftime("%H:%M:%S", time.localtime(since + LIMIT_SECONDS))
    return [
        dataclasses.replace(
            each,
            level="warning",
            seen=f"starting since {begun} ({now - since:.0f} s ago), waiting for {each.check}: {each.seen}",
            remedy=f"wait, and look again; from {last} on this is a failure",
        )
        if each.level == "error"
        else each
        for each in findings
    ]
