"""The standard streams, where a caller has closed them or a reader has gone away."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TextIO


def close_quietly(stream: TextIO) -> None:
    """Point a standard stream that cannot be written at /dev/null: Python writes the rest of it at its end."""
    with contextlib.suppress(OSError, ValueError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, stream.fileno())
        os.close(nothing)


def open_standard_streams() -> None:
    """Open what a caller has closed (`2>&-`): else the next file of ours would get its number, and our words."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False))  # noqa: SIM115 - it stays open to the end
