"""A real registry on loopback, and the registries.conf that makes it the mirror of the public ones."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

import requests

from tests.target import machine

CONFIG = """\
version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: {folder}}}, delete: {{enabled: true}}}}
http: {{addr: 127.0.0.1:{port}}}
"""
PROXY = """\
proxy: {{remoteurl: '{upstream}'}}
"""
MIRROR = """\
unqualified-search-registries = []
[[registry]]
location = "docker.io"
[[registry.mirror]]
location = "127.0.0.1:{port}"
insecure = true
"""
# A store of our own: in the host's there may be images of these names that are somebody else's, or older.
STORAGE = """\
[storage]
driver = "{driver}"
graphroot = "{folder}/images"
runroot = "{run_root}"
"""


class Registry:
    """Debian's docker-registry with its storage in `folder`; runs inside a `with` block.

    Who comes second waits: the same name means other images to other builds. With `upstream`, the URL of another
    registry, it is a cache that pulls through from there.
    """

    def __init__(self, folder: Path, upstream: str = "") -> None:
        self.folder, self._upstream = folder, upstream
        # podman 4.3 takes no runroot of more than 50 characters, wherever the checkout lies.
        self._run_root = tempfile.TemporaryDirectory(prefix="dify-", dir="/run", ignore_cleanup_errors=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def process(self) -> int:
        """The process ID of the registry, while it runs."""
        return self._process.pid

    @property
    def registries_conf(self) -> Path:
        """Write and return the configuration with which podman pulls docker.io's images from here."""
        path = self.folder / "registries.conf"
        path.write_text(MIRROR.format(port=self.port))
        return path

    @property
    def storage_conf(self) -> Path:
        """Write and return the configuration with which podman keeps what it pulls beside the registry."""
        asked = ["podman", "info", "--format", "{{.Store.GraphDriverName}}"]
        driver = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()
        path = self.folder / "storage.conf"
        path.write_text(STORAGE.format(driver=driver, folder=self.folder, run_root=self._run_root.name))
        return path

    def __enter__(self) -> Registry:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = (self.folder / "lock").open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        config = self.folder / "config.yml"
        proxy = PROXY.format(upstream=self._upstream) if self._upstream else ""
        config.write_text(CONFIG.format(folder=self.folder, port=self.port) + proxy)
        env = {**os.environ, "OTEL_TRACES_EXPORTER": "none"}
        command = [*machine.DIES_WITH_US, "docker-registry", "serve", str(config)]
        self._process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                if requests.get(f"{self.url}/v2/", timeout=1).ok:
                    return self
            except requests.ConnectionError:
                time.sleep(0.1)
        raise TimeoutError("the registry does not answer")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(10)
        self._lock.close()
