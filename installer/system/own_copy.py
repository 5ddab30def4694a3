"""Keeps a copy of the executable in the install folder: for `status`, for the unit, to serve as podman-compose."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from installer.core import digest, files, layout


def path_folder() -> Path:
    """Return the folder of the path that commands are linked into."""
    return Path("/usr/local/bin") if os.geteuid() == 0 else Path.home() / ".local/bin"


def is_kept(place: layout.Installation) -> bool:
    """Tell whether `place.executable` is the running one, or its copy; so it is where a checkout runs."""
    running = layout.executable()
    if running is None or running == place.executable:
        return True
    return place.executable.exists() and digest.hash_file(place.executable) == digest.hash_file(running)


def keep(place: layout.Installation) -> None:
    """Copy the running executable to `place.executable`, unless it is there; from a checkout there is none.

    Raises CommandFailed, which names the executable when that cannot be read, or its copy.
    """
    running = layout.executable()
    if running is None:
        return
    with files.reading(running) as source:
        if is_kept(place):
            return
        files.folder(place.bin)
        with files.replacing(place.executable, mode=0o755) as target:
            shutil.copyfileobj(source, target)
