"""The seal of the executable: a SHA-256 of all its bytes, behind them.

The manifest inside cannot hold the hash of the file that carries it. PyInstaller's bootloader looks
for its archive from the end of the file backwards, so a few bytes behind it do no harm (docs/decisions/008).
"""

from __future__ import annotations

import hashlib
from pathlib import Path

MAGIC = b"DIFYSEAL"
BLOCK_BYTES = 1024 * 1024
LENGTH = len(MAGIC) + hashlib.sha256().digest_size


def add(path: Path) -> None:
    """Seal a finished executable. Raises OSError."""
    data = path.read_bytes()
    with path.open("ab") as file:
        file.write(MAGIC + hashlib.sha256(data).digest())


def is_intact(path: Path) -> bool:
    """Tell whether a sealed file is what was sealed; one without a seal is not. Raises OSError."""
    left = path.stat().st_size - LENGTH
    whole = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while left > 0 and (block := file.read(min(left, BLOCK_BYTES))):
            whole.update(block)
            left -= len(block)
        return file.read() == MAGIC + whole.digest()
