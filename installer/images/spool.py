"""Where podman puts an image while it loads it: in memory if there is plenty, else in the install folder.

podman writes each layer to a temporary file before it unpacks it: faster in memory (docs/decisions/004).
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from installer.core import digest, files, layout

MEMORY = Path("/dev/shm")
# So much must be left beside the spool: for podman, for what else the host does, and for the page cache.
LEFT_BYTES = 2 * 1024**3


def prepare(place: layout.Installation, needed: int, memory: Path = MEMORY) -> Path:
    """Make and return the folder for `needed` bytes, 0700 and empty; what an earlier run left is removed."""
    clear(place, memory)
    folder = in_memory(place, memory) if _fits(memory, needed) else place.spool
    try:
        folder.mkdir(mode=0o700, parents=folder == place.spool)
    except OSError:
        # Somebody else's file of that name, or a memory that may not be written: the disk always does.
        folder = place.spool
        files.folder(folder, mode=0o700)
    return folder


def clear(place: layout.Installation, memory: Path = MEMORY) -> None:
    """Remove the spool, wherever it was; nothing of other users is touched."""
    files.remove(place.spool)
    folder = in_memory(place, memory)
    try:
        status = folder.lstat()
    except OSError:
        return
    if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid():
        files.remove(folder)


def in_memory(place: layout.Installation, memory: Path = MEMORY) -> Path:
    """Return the name of an installation's spool in memory: always the same, so that the next run finds it."""
    return memory / f"dify-installer-{os.geteuid()}-{digest.hash_bytes(str(place.folder).encode())[:8]}"


def _fits(memory: Path, needed: int) -> bool:
    """Tell whether this is a file system in memory, with room, on a host that has the memory to spare."""
    try:
        free = os.statvfs(memory)
        available = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        return False
    spare = int(available.group(1)) * 1024 - LEFT_BYTES if available else 0
    # Twice: what is spooled is in the page cache as well, once it is unpacked.
    return free.f_bavail * free.f_frsize > needed and spare > 2 * needed
