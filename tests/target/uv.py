"""A layer with uv and pip, as the plugin daemon's image has them beside its Python."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
import zipfile
from io import BytesIO
from pathlib import Path

import pip

ROOT = Path(__file__).resolve().parent.parent.parent
# uv also writes the project's locks, and is pinned there.
LOCK = ROOT / "specs/lock.lock"
PACKAGES = "usr/lib/python3/dist-packages"


def layer(work: Path) -> Path:
    """Return the layer as a tar, for Debian's Python; made once."""
    target = work / f"uv-{hashlib.sha256(LOCK.read_bytes() + pip.__version__.encode()).hexdigest()[:12]}.tar"
    if target.is_file():
        return target
    wheels = work / "uv-wheels"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--require-hashes", "--dest", str(wheels)]
    subprocess.run([*command, "--only-binary", ":all:", "--requirement", str(LOCK)], check=True)
    partial = target.with_suffix(".part")
    with tarfile.open(partial, "w") as tar:
        for wheel in wheels.glob("uv-*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                for name in archive.namelist():
                    _, script, program = name.partition(".data/scripts/")
                    _add(
                        tar, f"usr/local/bin/{program}" if script else f"{PACKAGES}/{name}", archive.read(name), script
                    )
        folder = Path(pip.__file__).parent
        for source in sorted(folder.rglob("*.py*")):
            if "__pycache__" not in source.parts:
                _add(tar, f"{PACKAGES}/pip/{source.relative_to(folder)}", source.read_bytes())
    partial.rename(target)
    return target


def _add(tar: tarfile.TarFile, name: str, data: bytes, program: str = "") -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), 0o755 if program else 0o644
    tar.addfile(entry, BytesIO(data))
