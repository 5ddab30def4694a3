"""PyInstaller's first run-time hook: proves the executable before anything else that it carries is run.

PyInstaller's own hooks, and the program itself, come after it (PyInstaller manual, "Changing runtime behavior"): 512
damaged bytes among them gave a traceback instead of an answer. Damage that keeps even this from being imported is
told in the same words.
"""

from __future__ import annotations

import os
import sys

DAMAGED = """\
error: {program} is damaged: its bytes are not those that were built
   do: copy it again from the machine that built it and compare it with SHA256SUMS
"""
# errors.BundleDamaged.exit_code, which is not imported from what may be damaged.
EXIT_CODE = 3


def require_intact() -> None:
    """End the program at once unless its executable is what was sealed."""
    try:
        from pathlib import Path

        from installer.bundle import seal

        intact = seal.is_intact(Path(sys.executable))
    except Exception:  # noqa: BLE001 - whatever damage does to the import, it is damage
        intact = False
    if not intact:
        try:
            os.write(2, DAMAGED.format(program=sys.executable).encode())
        finally:
            os._exit(EXIT_CODE)


if getattr(sys, "frozen", False):
    require_intact()
