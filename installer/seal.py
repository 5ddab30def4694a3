"""The seal of the executable: a SHA-256 of all its bytes, behind them.

The manifest inside cannot hold the hash of the file that carries it. PyInstaller's bootloader looks
for its archive from the end of the file backwards, so a few bytes behind it do no harm.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

MAGIC = b"DIFYSEAL"
LENGTH = len(MAGIC) + hashlib.sha256().digest_size


def add(path: Path) -> None:
    """Seal a finished executable. Raises OSError."""
    data = path.read_bytes()
    with path.open("ab") as file:
        file.write(MAGIC + hashlib.sha256(data).digest())


def intact(path: Path) -> bool:
    """Tell whether a sealed file is what was sealed; one without a seal is not. Raises OSError."""
    data = path.read_bytes()
    return data[-LENGTH:] == MAGIC + hashlib.sha256(data[:-LENGTH]).digest()
