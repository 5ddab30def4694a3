"""The systemd unit that brings the stack up after a reboot, and stops it before one.

podman's own `podman-restart.service` starts containers in any order and forgets 'healthy'
(podman#29813); `dify-installer start` keeps the order of the dependencies, nginx last (docs/decisions/010).
"""

from __future__ import annotations

import datetime
import os
import re
from pathlib import Path

from installer.core import files, layout, lock, login
from installer.core.runner import Runner

SYSTEMCTL_SECONDS = 60.0
# The unit's own start: podman-compose on a stack that runs already, or all containers after a boot.
START_SECONDS = 1200
# What all containers may take to end, one level of dependencies after the other (`stack.stopping.longest_stop`).
STOP_SECONDS = 300

TEMPLATE = """\
# Written by dify-installer; written anew by its next run.
[Unit]
Description=Dify
After=network-online.target firewalld.service docker.service
Wants=network-online.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={program} start --silent --dir {folder} --timeout {timeout}
ExecStop={program} stop --silent --dir {folder}
TimeoutStartSec={start_limit}
TimeoutStopSec={stop_limit}
# Containers belong to podman: when this unit stops, ExecStop has ended them in order.
KillMode=process

[Install]
WantedBy={target}
"""


def unit_path(root: bool, name: str = layout.UNIT) -> Path:
    """Return where a unit lies: a system unit for root, else one of the user's own."""
    return Path("/etc/systemd/system" if root else Path.home() / ".config/systemd/user") / name


def unit_text(place: layout.Installation) -> str:
    """Return the unit of an installation."""
    return TEMPLATE.format(
        program=quoted(place.executable),
        folder=quoted(place.folder),
        timeout=START_SECONDS - 60,
        start_limit=START_SECONDS,
        stop_limit=STOP_SECONDS,
        target=_target(os.geteuid() == 0),
    )


def quoted(path: Path | str) -> str:
    """Return a path, or a word, as one word of a command line of systemd (systemd.service(5), "Command lines").

    A plain one stays as it is. `layout.checked_folder` lets no quote, dollar sign or backslash through.
    """
    text = str(path).replace("%", "%%")
    return f'"{text}"' if any(character.isspace() for character in text) else text


def enable(place: layout.Installation, held: lock.Held, runner: Runner) -> str:
    """Write, enable and activate the unit, which works under the lock that we hold; return in words what came of it.

    Never fails the installation: without systemd, or for a user without linger, the stack runs
    all the same until the host reboots, and the words say what to do.
    """
    root = os.geteuid() == 0
    if not place.executable.exists():
        return "no unit: dify-installer was not run as an executable"
    words_of_linger = "" if root else linger(runner)
    path, text = unit_path(root), unit_text(place)
    files.folder(path.parent)
    if not path.is_file() or path.read_bytes() != text.encode():
        files.write(path, text)
        systemctl(root, ["daemon-reload"], runner)
    with held.lent():
        for command in (["enable", layout.UNIT], ["start", layout.UNIT]):
            if words := systemctl(root, command, runner):
                return f"the stack will not start at boot: {words}"
    return words_of_linger or f"{path} is enabled"


def disable(place: layout.Installation, runner: Runner) -> str:
    """Stop and remove the unit, while the lock is held; return in words what came of it.

    The stack goes on. A unit that another installation has written stays. Without systemd the files go all the same.
    Raises CommandFailed when the unit may not be written.
    """
    root = os.geteuid() == 0
    path = unit_path(root)
    there = path.is_file()
    if there:
        # Whatever bytes it holds by now: what is not ours stays.
        text = path.read_text("utf-8", errors="replace")
        if f"ExecStart={quoted(place.executable)} " not in text:
            return f"{path} starts another installation, and stays"
        # Its ExecStop is `dify-installer stop`, which wants the lock that we hold: that line goes first. The unit
        # is not stopped before we have the lock either: a run that is refused must change nothing. And it is
        # stopped while its KillMode is known: without, systemd would end processes that containers share.
        files.write(path, "".join(line for line in text.splitlines(True) if not line.startswith("ExecStop=")))
        for arguments in (["daemon-reload"], ["stop", layout.UNIT], ["disable", layout.UNIT]):
            systemctl(root, arguments, runner)
        # Where nobody answers to systemctl, `disable` has left its link.
        (path.parent / f"{_target(root)}.wants" / layout.UNIT).unlink(missing_ok=True)
        path.unlink()
    for arguments in (["daemon-reload"], ["reset-failed", layout.UNIT]):
        systemctl(root, arguments, runner)
    return f"{path} is removed" if there else "no unit"


def _target(root: bool) -> str:
    return "multi-user.target" if root else "default.target"


def starting_since(runner: Runner) -> float | None:
    """Return when the unit began to start the stack, in seconds since the epoch; None when it does not."""
    names = "ActiveState,InactiveExitTimestamp"
    command = ["systemctl", *([] if os.geteuid() == 0 else ["--user"]), "show", f"--property={names}", layout.UNIT]
    shown = runner.also({"LC_ALL": "C", "TZ": "UTC"}).run(command, timeout=SYSTEMCTL_SECONDS, check=False).stdout
    values = dict(line.partition("=")[::2] for line in shown.splitlines())
    if values.get("ActiveState") != "activating":
        return None
    # As "Thu 2026-11-26 14:35:21 UTC" (systemd.time(7)); the day's name is of no use, and strptime's is the locale's.
    found = re.search(r"(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d) UTC", values.get("InactiveExitTimestamp", ""))
    return datetime.datetime.fromisoformat(f"{found[1]}T{found[2]}+00:00").timestamp() if found else None


def scope() -> list[str]:
    """Return the option with which systemctl asks this user's own systemd; none for root."""
    return [] if os.geteuid() == 0 else ["--user"]


def lingers() -> bool:
    """Tell whether this user's units live without a login."""
    return Path("/var/lib/systemd/linger", login.user_name()).exists()


def systemctl(root: bool, arguments: list[str], runner: Runner) -> str:
    """Run systemctl; return nothing, or in words why it failed."""
    command = ["systemctl", *([] if root else ["--user"]), *arguments]
    result = runner.run(command, timeout=START_SECONDS if "start" in arguments else SYSTEMCTL_SECONDS, check=False)
    return "" if result.ok else f"`{' '.join(command)}`: {runner.mask(result.last_words)}"


def linger(runner: Runner) -> str:
    """Let the user's units live without a login; return nothing, or the command that an administrator must run."""
    user = login.user_name()
    if lingers():
        return ""
    result = runner.run(["loginctl", "enable-linger", user], timeout=SYSTEMCTL_SECONDS, check=False)
    return "" if result.ok else f"the stack ends with your session until root runs `loginctl enable-linger {user}`"
