"""The executable runs on glibc 2.28: proved from the file, with a control that must fail."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from build import freeze, glibc_floor
from build.failure import BuildError
from installer.core.console import Console
from installer.core.runner import Runner
from tests.target.bundle import Bundle


def test_the_executable_needs_no_newer_glibc_than_rhel_8_has(sample: Bundle, work: Path) -> None:
    glibc_floor.require(sample.executable, scanner(work), Runner())


def test_an_executable_of_an_ordinary_python_fails_the_same_check(work: Path, tmp_path: Path) -> None:
    interpreter = freeze.install_environment(ordinary_python(), tmp_path, Runner(), Console(silent=True))
    (tmp_path / "hello.py").write_text("print('hello')\n")
    command = [str(interpreter), "-m", "PyInstaller", "--onefile", "--log-level", "ERROR", "--distpath", str(tmp_path)]
    command += ["--workpath", str(tmp_path / "w"), "--specpath", str(tmp_path), str(tmp_path / "hello.py")]
    subprocess.run(command, check=True, cwd=tmp_path)
    with pytest.raises(BuildError, match=r"does not run on glibc 2\.28: .* needs 2\."):
        glibc_floor.require(tmp_path / "hello", scanner(work), Runner())


def scanner(work: Path) -> Path:
    """Return the interpreter that the sample was frozen with: it has PyInstaller and pyelftools."""
    return next((work / "build").glob("freeze-env-*/bin/python"))


def ordinary_python() -> Path:
    """Return an interpreter as a distribution builds it, with a shared libpython, as PyInstaller needs."""
    return Path(shutil.which("python3", path="/usr/bin") or sys.executable)
