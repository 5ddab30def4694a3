"""Takes away what a run that was ended by SIGKILL could not: temporary files, half stores, and its own unpacked folder.

Called under the lock of the install folder, so that no other run works on it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import sys
from collections.abc import Iterable
from pathlib import Path

from installer.core import errors, files, layout
from installer.images import image_store, spool
from installer.system import boot_unit, own_copy

# Where the bootloader unpacks, besides what the environment names (build/portable/bootloader.patch).
UNPACKED_IN = ("/tmp", "/var/tmp", "/usr/tmp", "/run", "/var/lib", "/opt")
UNPACKED_BY = ("TMPDIR", "XDG_RUNTIME_DIR", "HOME")
UNPACKED = "_MEI"
# What an unpacked bundle of ours has, and no other program's.
OURS = (layout.PROBE, layout.PODMAN_COMPOSE_LOCK, layout.WHEELS, layout.MANIFEST)


def remove_leftovers(place: layout.Installation) -> None:
    """Remove what killed runs of this user have left of an installation, wherever it is; never fails for it."""
    for folder in _written_folders(place):
        files.remove_temporaries(folder)
    spool.clear(place)
    with contextlib.suppress(OSError, errors.CommandFailed):
        image_store.clear(place)
    if running := getattr(sys, "_MEIPASS", None):
        remove_unpacked(Path(running), _unpacking_folders(Path(running)))


def _written_folders(place: layout.Installation) -> list[Path]:
    """Return the folders that we write files into: ours, and those of the host."""
    payload = layout.bundled(layout.PROJECT)
    upstream = [place.project / path.relative_to(payload) for path in payload.rglob("*") if path.is_dir()]
    ours = [place.folder, place.project, place.certificate.parent, place.ca_bundle.parent, place.bin, place.logs]
    units = boot_unit.unit_path(os.geteuid() == 0).parent
    hosts = [units, image_store.UNITS, image_store.config_path().resolve().parent, own_copy.path_folder()]
    return list(dict.fromkeys([*ours, place.stores, *upstream, *hosts]))


def _unpacking_folders(running: Path) -> set[Path]:
    named = [os.environ.get(name, "") for name in UNPACKED_BY]
    return {running.parent, *map(Path, UNPACKED_IN), *(Path(name) for name in named if name)}


def remove_unpacked(running: Path, folders: Iterable[Path]) -> list[Path]:
    """Remove, and return, the folders that the bootloaders of killed runs have unpacked our bundle into.

    `running` is our own. One goes if it belongs to this user, is older than ours, holds our bundle, and no living
    process has a library of it in use: Python itself is one.
    """
    found = sorted({path for parent in folders for path in parent.glob(f"{UNPACKED}*") if _is_older(path, running)})
    used = _used_files() if found else ""
    unused = [folder for folder in found if f" {folder}/" not in used]
    for folder in unused:
        shutil.rmtree(folder, ignore_errors=True)
    return unused


def _is_older(folder: Path, running: Path) -> bool:
    """Tell whether this is an unpacked bundle of ours, made by this user before the running one was."""
    with contextlib.suppress(OSError):
        status = folder.lstat()
        return (
            stat.S_ISDIR(status.st_mode)
            and status.st_uid == os.geteuid()
            and folder != running
            # Of the folder, not of the clock: a folder's ctime cannot be set.
            and status.st_ctime_ns < running.lstat().st_ctime_ns
            and any((folder / layout.PAYLOAD / name).exists() for name in OURS)
        )
    return False


def _used_files() -> str:
    """Return the memory maps of all processes that we may look at: of this user's, whose folders these are."""
    maps = []
    for path in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):
            maps.append(path.read_text("utf-8", errors="replace"))
    return "\n".join(maps)
