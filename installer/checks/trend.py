"""Notes day by day how large the data are and how much room is left, and judges when the disk will be full."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from installer.core import errors, files, layout
from installer.core.console import size
from installer.core.finding import Finding

CHECK = "disk trend"
KEPT = 60
# What the rate is taken from: what was a month ago says little of tomorrow.
WINDOW_DAYS = 30
WARNING_DAYS, ERROR_DAYS = 30.0, 3.0
# Nobody plans further ahead.
FAR_DAYS = 3650.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Day:
    """What was seen on a day: bytes that were free where the data are, and of the data, None where not measured."""

    date: datetime.date
    free: int
    data: int | None


def note(place: layout.Installation, sizes: Mapping[str, int] | None, today: datetime.date) -> list[Day]:
    """Note what is seen today of the data, whose folders have these sizes in bytes; return all days that are known.

    A file that cannot be written, or is another user's, is no failure: it is for the trend alone.
    """
    days = read(place.disk_history)
    with contextlib.suppress(OSError, errors.CommandFailed):
        data = sum(sizes.values()) if sizes is not None else None
        days = added(days, Day(date=today, free=shutil.disk_usage(place.volumes).free, data=data))
        if place.folder.stat().st_uid == os.geteuid():
            rows = [{**dataclasses.asdict(each), "date": each.date.isoformat()} for each in days]
            files.write(place.disk_history, json.dumps(rows, indent=1) + "\n")
    return days


def read(path: Path) -> list[Day]:
    """Return the days that were noted, the oldest first; none where the file is missing or makes no sense."""
    try:
        return [_day(each) for each in json.loads(path.read_bytes())]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _day(fields: Mapping[str, object]) -> Day:
    free, data = fields["free"], fields["data"]
    if not isinstance(free, int) or not isinstance(data, int | None):
        raise TypeError("not a size")
    return Day(date=datetime.date.fromisoformat(str(fields["date"])), free=free, data=data)


def added(days: Sequence[Day], today: Day) -> list[Day]:
    """Return the days with today's in the place of an earlier one of today, and no more than are kept.

    A day that has not come yet was noted while the clock was wrong, and goes.
    """
    return [*(each for each in days if each.date < today.date), today][-KEPT:]


def judge(days: Sequence[Day]) -> Finding:
    """Judge how much the data have grown a day, and when the disk is full at that rate.

    Where the data were too many to be measured, the room that has gone counts, whoever took it.
    """
    sizes = _recent([(each.date, each.data) for each in days if each.data is not None])
    measured = len(sizes) > 1
    if not measured:
        sizes = _recent([(each.date, -each.free) for each in days])
    if len(sizes) < 2:
        return Finding(CHECK, "info", "no trend yet: it takes two days on which something was noted")
    (first, before), (last, now) = sizes[0], sizes[-1]
    span = max((last - first).days, 1)
    rate = (now - before) / span
    what = "the data have grown" if measured else "the room has shrunk"
    if rate <= 0:
        return Finding(CHECK, "ok", f"{what} by nothing in {span} days")
    free = days[-1].free
    left = free / rate
    when = (
        "in more than ten years" if left > FAR_DAYS else f"in {left:.0f} days" if left >= 2 else f"in {left:.1f} days"
    )
    seen = f"{what} by {size(round(rate))} a day in {span} days; {size(free)} are free: full {when} at that rate"
    if left < ERROR_DAYS:
        return Finding(CHECK, "error", seen, "make room now, or give the file system more: the databases stop without")
    if left < WARNING_DAYS:
        return Finding(CHECK, "warning", seen, "make room, or give the file system more, before that day")
    return Finding(CHECK, "ok", seen)


def _recent(sizes: Sequence[tuple[datetime.date, int]]) -> Sequence[tuple[datetime.date, int]]:
    """Return the sizes of the last month; where that is one alone, with the one before it."""
    recent = [each for each in sizes if (sizes[-1][0] - each[0]).days <= WINDOW_DAYS]
    return recent if len(recent) > 1 else sizes[-2:]
