"""What the end-to-end tests do on a machine: carry a bundle there, run the installer, look around."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from installer.engine.base import Name
from installer.release import envfile
from tests.target import machine as machines
from tests.target.bundle import Bundle
from tests.target.machine import Machine

HOMES = {"root": "/root", machines.USER: f"/home/{machines.USER}"}
FOLDERS = {"root": "/opt/dify", machines.USER: f"/home/{machines.USER}/dify"}
# Without root, ports begin at 1024.
PORTS = {"root": [], machines.USER: ["--port", "8080", "--https-port", "8443"]}
# What systemd runs at a boot; the pattern does not match the shell that looks for it.
STARTS = '"[d]ify-installer start"'
URLS = {"root": f"http://{machines.ADDRESS}", machines.USER: f"http://{machines.ADDRESS}:8080"}


class Server:
    """A machine with a bundle in the home of `user`, as whom everything runs, with `engine` to run containers.

    As a context manager it ends with its machine.
    """

    def __init__(
        self, machine: Machine, bundle: Bundle, user: str = "root", *, images: bool = True, engine: Name = "podman"
    ) -> None:
        self.machine, self.bundle, self.user, self.engine = machine, bundle, user, engine
        self.home, self.folder, self.url = HOMES[user], FOLDERS[user], URLS[user]
        if user != "root":
            machine.login(user)
        self.put(bundle.executable, "dify-installer", mode=0o755)
        if images:
            self.put(bundle.archive, "dify-images.tar")

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *error: object) -> None:
        self.machine.destroy()

    def put(self, source: Path, name: str, mode: int = 0o644) -> None:
        """Copy a file into the user's home."""
        self.machine.push(source, f"{self.home}/{name}", user=self.user, mode=mode)

    def run(
        self, *command: str, env: Mapping[str, str] | None = None, timeout: float = 600
    ) -> subprocess.CompletedProcess[str]:
        """Run a command; its status is the caller's to judge."""
        return self.machine.run(list(command), user=self.user, env=env, check=False, timeout=timeout)

    def installer(self, *arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run the executable; it gives up before `run` does, and says why."""
        return self.run("./dify-installer", *arguments, env={"DIFY_INSTALLER_TIMEOUT": "400", **(env or {})})

    def arguments(self) -> list[str]:
        """Return the options of an ordinary installation."""
        return ["--ip", machines.ADDRESS, *PORTS[self.user]]

    def install(self, *arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Install, and fail the test if that fails."""
        result = self.installer(*self.arguments(), *arguments, env=env)
        assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
        return result

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start an installation and return at once."""
        return self.machine.start(["./dify-installer", *self.arguments(), *arguments], user=self.user)

    def env(self) -> dict[str, str]:
        """Return the settings of `.env`."""
        return envfile.parse(self.machine.read(f"{self.folder}/docker/.env"))

    def report(self) -> dict[str, Any]:
        """Return the report of the last run."""
        report: dict[str, Any] = json.loads(self.machine.read(f"{self.folder}/install-report.json"))
        return report

    def container(self, service: str) -> str:
        """Return the name of a service's container."""
        return f"dify_{service}_1" if self.engine == "podman" else f"dify-{service}-1"

    def containers(self) -> dict[str, str]:
        """Return name -> ID of the containers that run."""
        shown = self.run(self.engine, "ps", "--no-trunc", "--format", "{{.Names}} {{.ID}}")
        return dict(line.split() for line in shown.stdout.splitlines())

    def await_healthy(self, *arguments: str, seconds: float = 180) -> None:
        """Wait until the stack, which something else starts, is as `status` wants it."""
        deadline = time.monotonic() + seconds
        # A look costs a second of a processor, and would slow down what it waits for.
        self.machine.run(f"timeout {seconds:.0f} sh -c 'while pgrep --full {STARTS}; do sleep 0.3; done'", check=False)
        # While it starts, what does not answer yet is a warning, and nothing has failed.
        while (status := self.installer("status", *arguments)).returncode != 0 or "starting since" in status.stdout:
            assert time.monotonic() < deadline, status.stdout
            time.sleep(1)

    def get(self, path: str) -> subprocess.CompletedProcess[str]:
        """Ask the front door."""
        return self.run("curl", "--silent", "--show-error", "--max-time", "10", self.url + path)
