"""Runs in Dify's api image at the build: compiles what the application reads in as it starts (docs/decisions/036).

Imports show what that is. Then each file is compiled by itself, in order: what an import writes depends on what else is
in memory, and the same image is to give the same bytes.
"""

from __future__ import annotations

import contextlib
import os
import py_compile
import subprocess
import sys
import tempfile
from pathlib import Path

# What the image starts, and what that is started by (Dify 1.11.3, api/docker/entrypoint.sh). One that fails, for it has
# no database here, has been read in by then.
MODULES = (
    "app",
    "celery_entrypoint",
    "gunicorn.app.wsgiapp",
    "gunicorn.workers.ggevent",
    "celery.bin.worker",
    "celery.bin.beat",
)
SECONDS = 300.0
PREFIX = "PYTHONPYCACHEPREFIX"


def main(kept: Path) -> int:
    """Compile into a folder, laid out as PYTHONPYCACHEPREFIX wants it; return 0 if that came to anything."""
    # An image may say that Python is to write nothing.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryDirectory() as seen:
        for module in MODULES:
            with contextlib.suppress(subprocess.TimeoutExpired):
                subprocess.run(
                    [sys.executable, "-c", f"import {module}"],
                    env={**env, PREFIX: seen},
                    timeout=SECONDS,
                    check=False,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
        made = [path.relative_to(seen) for path in sorted(Path(seen).rglob("*.pyc"))]
    for path in made:
        # NAME.cpython-312.pyc, and before it the folder of NAME.py (PEP 3147).
        source = Path("/", path.parent, path.name.rsplit(".", 2)[0] + ".py")
        with contextlib.suppress(OSError, py_compile.PyCompileError):
            timestamp = py_compile.PycInvalidationMode.TIMESTAMP
            py_compile.compile(str(source), str(kept / path), doraise=True, invalidation_mode=timestamp)
    return 0 if made else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
