"""Proves from a file itself which glibc it needs: every ELF in it, also inside a frozen executable."""

from __future__ import annotations

import io
import json
import platform
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from build.failure import BuildError
from installer.core.runner import Runner

# RHEL 8's.
FLOOR = (2, 28)
SCAN_SECONDS = 300.0

Version = tuple[int, ...]


def require(path: Path, interpreter: Path, runner: Runner, floor: Version = FLOOR) -> None:
    """Raise BuildError when anything in `path` needs a newer glibc than `floor`.

    The scan runs in `interpreter`, which has PyInstaller and pyelftools.
    """
    result = runner.run(
        [str(interpreter), str(Path(__file__).resolve()), str(path)],
        timeout=SCAN_SECONDS,
        env={"PYTHONPATH": str(Path(__file__).resolve().parent.parent)},
    )
    needs = {name: tuple(version) for name, version in json.loads(result.stdout).items()}
    above = [f"{name} needs {as_text(version)}" for name, version in needs.items() if version > floor]
    if above or not needs:
        raise BuildError(
            f"{path.name} does not run on glibc {as_text(floor)}: {'; '.join(above) or 'no ELF found in it'}",
            "freeze with a portable Python built for that glibc (PORTABLE_PYTHON=FILE, or none to build one)",
        )


def of_this_machine() -> Version:
    """Return the version of the glibc that this Python runs on."""
    return _version(platform.libc_ver()[1])


def as_text(version: Version) -> str:
    """Return a version as people write it."""
    return ".".join(map(str, version))


def needs(path: Path) -> dict[str, Version]:
    """Return the newest GLIBC symbol version that each ELF needs: the file's own, and those inside it."""
    return {name: _newest(data) for name, data in _elves(path)}


def _elves(path: Path) -> Iterator[tuple[str, bytes]]:
    from PyInstaller.archive.readers import CArchiveReader

    data = path.read_bytes()
    if data.startswith(b"\x7fELF"):
        yield path.name, data
    archive = CArchiveReader(str(path))
    for name in archive.toc:
        content = archive.extract(name)
        if isinstance(content, bytes) and content.startswith(b"\x7fELF"):
            yield name, content


def _newest(data: bytes) -> Version:
    from elftools.elf.elffile import ELFFile
    from elftools.elf.gnuversions import GNUVerNeedSection

    found: list[Version] = [(0,)]
    for section in ELFFile(io.BytesIO(data)).iter_sections():
        if isinstance(section, GNUVerNeedSection):
            names = (each.name for _, versions in section.iter_versions() for each in versions)
            found += [_version(match.group(1)) for name in names if (match := re.fullmatch(r"GLIBC_([\d.]+)", name))]
    return max(found)


def _version(text: str) -> Version:
    return tuple(int(part) for part in text.split("."))


if __name__ == "__main__":
    json.dump(needs(Path(sys.argv[1])), sys.stdout)
