"""Sending a bundle's images into a company's registry: `push`, and skopeo for each image, from the same archive.

The registry is real, with TLS and a login, on this host. Both send layers as gzip. Each way begins with an empty
registry, and is run once more with nothing left to send.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from installer.bundle import manifest
from installer.core import layout
from tests.bench.target import set_cache
from tests.target.bundle import Bundle
from tests.target.private_registry import PASSWORD, USER, PrivateRegistry


@dataclass(frozen=True, slots=True)
class Sent:
    """Seconds of a way into an empty registry, with a cold cache, and of the same again."""

    way: str
    seconds: float
    again: float


def require_skopeo() -> None:
    """Exit where skopeo is missing."""
    if shutil.which("skopeo") is None:
        raise SystemExit("skopeo is not installed: make bench-packages")


def measure(made: Bundle, work: Path, rounds: int) -> list[Sent]:
    """Return `rounds` runs of each way, taking turns."""
    ways: dict[str, Callable[[Bundle, PrivateRegistry], None]] = {"push": _ours, "skopeo": _by_hand}
    runs = []
    for _ in range(rounds):
        for way, send in ways.items():
            shutil.rmtree(work, ignore_errors=True)
            with PrivateRegistry(work) as registry:
                set_cache("cold", made.folder)
                first, again = _seconds(send, made, registry), _seconds(send, made, registry)
            runs.append(Sent(way, first, again))
            print(f"into a registry: {runs[-1]}", flush=True)
    shutil.rmtree(work)
    return runs


def _seconds(send: Callable[[Bundle, PrivateRegistry], None], made: Bundle, registry: PrivateRegistry) -> float:
    begun = time.monotonic()
    send(made, registry)
    return time.monotonic() - begun


def _ours(made: Bundle, registry: PrivateRegistry) -> None:
    out = registry.folder / "images.json"
    command = [str(made.executable), "push", "--registry", f"{registry.host}/dify", "--registry-user", USER]
    command += ["--registry-ca", str(registry.authority), "--out", str(out)]
    env = {**os.environ, "DIFY_INSTALLER_REGISTRY_PASSWORD": PASSWORD}
    subprocess.run(command, env=env, check=True, capture_output=True, cwd=made.folder)


def _by_hand(made: Bundle, registry: PrivateRegistry) -> None:
    login = registry.folder / "login.json"
    encoded = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    login.write_text(json.dumps({"auths": {registry.host: {"auth": encoded}}}))
    access = ["--dest-authfile", str(login), "--dest-cert-dir", str(registry.certificates), "--quiet"]
    for image in manifest.loads((made.payload / layout.MANIFEST).read_bytes()).images:
        # The name without its registry, as `push` has it.
        name = image.reference.partition("/")[2]
        source = f"docker-archive:{made.archive}:@{image.index}"
        command = ["skopeo", "copy", *access, source, f"docker://{registry.host}/dify/{name}"]
        subprocess.run(command, check=True, capture_output=True)
