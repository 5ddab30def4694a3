"""The systemd timer that makes a backup again and again, and the unit that it starts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from installer.core import errors, files, layout
from installer.core.runner import Runner
from installer.system import boot_unit

Every = Literal["hourly", "daily", "weekly", "never"]
EVERY: tuple[Every, ...] = get_args(Every)
# At night, and not all servers of a rack at the same moment (systemd.time(7), "Calendar Events").
WHEN: dict[Every, str] = {"hourly": "*-*-* *:10:00", "daily": "*-*-* 02:10:00", "weekly": "Sun *-*-* 02:10:00"}

SERVICE = """\
# Written by dify-installer; written anew by `dify-installer backup --every`.
[Unit]
Description=A backup of Dify
After={stack}

[Service]
Type=oneshot
ExecStart={program} backup {target} --dir {folder} --silent{given}
"""
TIMER = """\
# Written by dify-installer; written anew by `dify-installer backup --every`.
[Unit]
Description=Backups of Dify

[Timer]
OnCalendar={when}
RandomizedDelaySec=20min
Persistent=true

[Install]
WantedBy=timers.target
"""


def schedule(
    place: layout.Installation, target: Path, every: Every, given: Sequence[tuple[str, str]], runner: Runner
) -> str:
    """Have backups made into the folder `target`; return in words when. Raises UsageError, CommandFailed.

    `given` are options of `backup` and their values.
    """
    root = os.geteuid() == 0
    if not place.executable.exists():
        raise errors.UsageError(f"{place.executable} is missing, which the timer starts", "run the install command")
    if not target.is_dir():
        raise errors.UsageError(f"{target} is no folder", "name the folder that the backups are to go into")
    if found := layout.UNUSABLE.search(str(target)):
        raise errors.UsageError(
            f"the folder {target} holds {found.group()!r}, which systemd would read differently",
            "choose another folder",
        )
    service = SERVICE.format(
        stack=layout.UNIT,
        program=boot_unit.quoted(place.executable),
        target=boot_unit.quoted(target),
        folder=boot_unit.quoted(place.folder),
        given="".join(f" {name} {boot_unit.quoted(value)}" for name, value in given),
    )
    timer, unit = boot_unit.unit_path(root, layout.BACKUP_TIMER), boot_unit.unit_path(root, layout.BACKUP_UNIT)
    files.folder(unit.parent)
    files.write(unit, service)
    files.write(timer, TIMER.format(when=WHEN[every]))
    for command in (["daemon-reload"], ["enable", layout.BACKUP_TIMER], ["restart", layout.BACKUP_TIMER]):
        if words := boot_unit.systemctl(root, command, runner):
            raise errors.CommandFailed(f"the timer cannot be set: {words}", "see `systemctl status` of it")
    lingers = "" if root else boot_unit.linger(runner)
    return "; ".join(filter(None, (f"{timer} makes a backup {every}, into {target}", lingers)))


def cancel(place: layout.Installation, runner: Runner) -> str:
    """Remove the timer, if it is this installation's; return in words what came of it. Raises CommandFailed."""
    root = os.geteuid() == 0
    timer, unit = boot_unit.unit_path(root, layout.BACKUP_TIMER), boot_unit.unit_path(root, layout.BACKUP_UNIT)
    if not unit.is_file() and not timer.is_file():
        return "no timer"
    text = unit.read_text("utf-8", errors="replace") if unit.is_file() else ""
    if f"ExecStart={boot_unit.quoted(place.executable)} " not in text:
        return f"{unit} backs another installation up, and stays"
    boot_unit.systemctl(root, ["disable", "--now", layout.BACKUP_TIMER], runner)
    for path in (timer, unit):
        with files.telling(path):
            path.unlink(missing_ok=True)
    boot_unit.systemctl(root, ["daemon-reload"], runner)
    return f"{timer} is removed"
