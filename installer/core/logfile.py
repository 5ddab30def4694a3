"""The log of a run: every command, its status and time, with secrets masked.

Until the checks have passed nothing is written to the host: the lines wait in memory.
"""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Literal, get_args

from installer import VERSION
from installer.core import files

log = logging.getLogger("dify-installer")

# More lines than any run makes before its folder exists.
WAITING_LINES = 100_000
KEPT = 20
# The commands that keep one.
Command = Literal["install", "start", "stop", "restart", "backup", "restore", "rollback", "prune", "uninstall"]
NAME = re.compile(rf"({'|'.join(get_args(Command))})-\d{{8}}-\d{{6}}\.log")


def begin() -> logging.handlers.MemoryHandler:
    """Start to record, in memory."""
    memory = logging.handlers.MemoryHandler(WAITING_LINES, flushLevel=logging.CRITICAL + 1, flushOnClose=False)
    # A log on a full disk must not cover the terminal with tracebacks: what fails is told by the step that fails.
    logging.raiseExceptions = False
    log.setLevel(logging.DEBUG)
    log.propagate = False
    log.addHandler(memory)
    log.info("dify-installer %s, Python %s, uid %d", VERSION, sys.version.split()[0], os.geteuid())
    return memory


def write_to(memory: logging.handlers.MemoryHandler, folder: Path, command: Command = "install") -> Path:
    """Write what was recorded to a new file in `folder`, 0600, and go on there; return its path.

    Raises CommandFailed when the folder cannot be written.
    """
    files.folder(folder, mode=0o700)
    path = folder / time.strftime(f"{command}-%Y%m%d-%H%M%S.log")
    files.write(path, "", mode=0o600)
    handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    memory.setTarget(handler)
    memory.flush()
    log.removeHandler(memory)
    log.addHandler(handler)
    ours = [each for each in folder.glob(f"{command}-*.log") if NAME.fullmatch(each.name)]
    for old in sorted(ours)[:-KEPT]:
        old.unlink(missing_ok=True)
    return path


def keep_unforeseen() -> Path | None:
    """Log the exception that is being handled; return the log, which is a new file, 0600, where there was none yet."""
    if not log.handlers:
        begin()
    log.error("unforeseen", exc_info=sys.exc_info())
    for handler in log.handlers:
        if isinstance(handler, logging.FileHandler):
            return Path(handler.baseFilename)
    with contextlib.suppress(OSError):
        number, name = tempfile.mkstemp(prefix="dify-installer-", suffix=".log")
        target = logging.StreamHandler(os.fdopen(number, "w", encoding="utf-8", errors="backslashreplace"))
        target.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        for handler in log.handlers:
            if isinstance(handler, logging.handlers.MemoryHandler):
                handler.setTarget(target)
                handler.flush()
        return Path(name)
    return None
