"""A docker engine of our own, with all that it keeps in one folder, beside whatever else runs here."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType

from tests.target import machine

# The engine wants limits that a host in a container may not give.
OPTIONS = ["--iptables=false", "--bridge=none", "--storage-driver=vfs", "--default-ulimit=nofile=1024:1024"]


class Docker:
    """Runs inside a `with` block; `command` is how its client is called."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.host = f"unix://{folder}/socket"
        self.command = ["docker", "--host", self.host]

    def __enter__(self) -> Docker:
        self.folder.mkdir(parents=True)
        files = [f"--data-root={self.folder}/data", f"--exec-root={self.folder}/exec", f"--pidfile={self.folder}/pid"]
        # dockerd lies where a user's PATH may not look; cgroups of both versions at once confuse it.
        program = shutil.which("dockerd", path="/usr/sbin:/usr/bin:/usr/local/bin") or "dockerd"
        hidden = 'umount /sys/fs/cgroup/unified 2>/dev/null; exec "$@"'
        engine = [program, "--host", self.host, *files, *OPTIONS]
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [*machine.DIES_WITH_US, "unshare", "--mount", "sh", "-c", hidden, "sh", *engine], stdout=log, stderr=log
            )
        deadline = time.monotonic() + 60
        while subprocess.run([*self.command, "version"], capture_output=True).returncode != 0:
            if time.monotonic() > deadline:
                raise TimeoutError((self.folder / "log").read_text())
            time.sleep(0.2)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(60)
        shutil.rmtree(self.folder, ignore_errors=True)
