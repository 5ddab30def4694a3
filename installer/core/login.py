"""Puts right what a login by `su` or `sudo -u` leaves wrong: the user's runtime folder, bus and current folder."""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import MutableMapping
from pathlib import Path

RUNTIME = Path("/run/user")


def join(environ: MutableMapping[str, str], uid: int, runtime: Path = RUNTIME) -> None:
    """Name the session that the user has, where the environment names none or another user's.

    Rootless podman and `systemctl --user` need it; `su` and `sudo -u` keep the caller's variables or drop
    them; podman-run(1) asks for a login by ssh instead. Root has no such session.
    """
    folder = runtime / str(uid)
    if uid == 0 or _is_ones_own(environ.get("XDG_RUNTIME_DIR", ""), uid) or not _is_ones_own(str(folder), uid):
        return
    environ["XDG_RUNTIME_DIR"] = str(folder)
    if _is_socket(folder / "bus"):
        environ["DBUS_SESSION_BUS_ADDRESS"] = f"unix:path={folder}/bus"


def leave_a_closed_folder() -> None:
    """Go to / when the current folder is closed to us, being the caller's: podman fails in such a one."""
    try:
        os.scandir(".").close()
    except OSError:
        os.chdir("/")


def _is_ones_own(folder: str, uid: int) -> bool:
    try:
        return bool(folder) and Path(folder).stat().st_uid == uid
    except OSError:
        return False


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.stat().st_mode)
    except OSError:
        return False


def user_name(uid: int | None = None) -> str:
    """Return a user's name, our own unless told; the number where it has none.

    Not LOGNAME, which `runuser -u` keeps from its caller.
    """
    number = os.geteuid() if uid is None else uid
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)
