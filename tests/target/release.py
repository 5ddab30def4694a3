"""Roots of other Debian releases: other glibcs, Pythons and podmans, entered with chroot and never booted."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

from tests.target import machine

PACKAGES = "podman,python3,python3-venv,iproute2,procps"


def root(suite: str, work: Path) -> Path:
    """Return a root of this release; made once (20 seconds) and kept below `work`."""
    folder = work / f"release-{suite}"
    if not folder.is_dir():
        partial = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(partial, ignore_errors=True)
        command = ["mmdebstrap", "--quiet", "--variant=minbase", *machine.LEAN, f"--include={PACKAGES}"]
        subprocess.run([*command, suite, str(partial), *machine.mirrors()], check=True)
        partial.rename(folder)
    return folder


def run(folder: Path, command: list[str], *shared: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a root, in which these folders of the host are to be found under their own names."""
    binds = []
    for path in shared:
        target = folder / str(path).lstrip("/")
        target.mkdir(parents=True, exist_ok=True)
        binds.append(shlex.join(["mount", "--bind", str(path), str(target)]))
    mounts = "; ".join([*binds, shlex.join(["mount", "-t", "proc", "proc", f"{folder}/proc"])])
    inside = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", *command]
    script = f"set -e; {mounts}; exec chroot {shlex.quote(str(folder))} {shlex.join(inside)}"
    return subprocess.run(["unshare", "--mount", "--pid", "--fork", "sh", "-c", script], capture_output=True, text=True)
