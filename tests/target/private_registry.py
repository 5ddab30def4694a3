"""A company's registry, here or in another host's network: https by an authority of its own, and a login."""

from __future__ import annotations

import base64
import os
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import requests

from tests.target import machine
from tests.target.network import Host, Inside

USER, PASSWORD = "pusher", "correct horse battery"
# bcrypt of the password, which is what docker-registry reads, with the smallest cost.
HTPASSWD = "pusher:$2b$04$abcdefghijklmnopqrstuuqREtd3VJD2QVZbuFskFSLk6eRIrQoOS\n"
CONFIG = """\
version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: {folder}/storage}}, delete: {{enabled: true}}}}
auth: {{htpasswd: {{realm: company, path: {folder}/htpasswd}}}}
http: {{addr: '{host}', tls: {{certificate: {folder}/certs/ca.crt, key: {folder}/registry.key}}}}
"""


class PrivateRegistry:
    """Debian's docker-registry with its files in `folder`; runs inside a `with` block.

    With `beside` it is in that host's network, and answers at the host's address; else on loopback.
    """

    def __init__(self, folder: Path, beside: Host | None = None) -> None:
        self.folder = folder
        self.address = "127.0.0.1" if beside is None else beside.address
        # What runs a program of this host where the registry can be reached.
        self.enter: list[str] = [] if beside is None else ["nsenter", f"--net={beside.network}"]
        self._session: requests.Session | Inside = requests.Session() if beside is None else Inside(beside)
        # podman takes authorities from a folder of files *.crt (--cert-dir).
        self.certificates = folder / "certs"
        self.authority = self.certificates / "ca.crt"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]

    @property
    def host(self) -> str:
        return f"{self.address}:{self.port}"

    @property
    def process(self) -> int:
        """The process ID of the registry, while it runs."""
        return self._process.pid

    def get(self, path: str) -> Any:
        """Return the JSON of an answer."""
        answer = self._ask(path)
        answer.raise_for_status()
        return answer.json()

    def _ask(self, path: str) -> requests.Response:
        login = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        headers = {"Authorization": f"Basic {login}"}
        url = f"https://{self.host}{path}"
        return self._session.request("GET", url, headers=headers, verify=str(self.authority), timeout=10)

    def __enter__(self) -> PrivateRegistry:
        self.certificates.mkdir(parents=True)
        subject = ["-subj", "/CN=company", "-addext", f"subjectAltName=IP:{self.address}", "-days", "2"]
        files = ["-keyout", str(self.folder / "registry.key"), "-out", str(self.authority)]
        made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *subject, *files]
        subprocess.run(made, check=True, capture_output=True)
        (self.folder / "htpasswd").write_text(HTPASSWD)
        config = self.folder / "config.yml"
        config.write_text(CONFIG.format(folder=self.folder, host=self.host))
        env = {**os.environ, "OTEL_TRACES_EXPORTER": "none"}
        command = [*machine.DIES_WITH_US, *self.enter, "docker-registry", "serve", str(config)]
        self._process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                if self._ask("/v2/").ok:
                    return self
            except requests.ConnectionError:
                time.sleep(0.1)
        raise TimeoutError("the registry does not answer")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(10)
