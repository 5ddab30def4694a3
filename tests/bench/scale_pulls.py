"""What one registry takes to serve several nodes that pull a bundle's images at the same time.

A client does what a node's containerd does: manifest, configuration, and up to three layers of an image at once, each
blob once, hashed; the images come one after the other, as the kubelet asks for them by default. What it has got is
thrown away. Sources: containerd, docs/cri/config.md, `max_concurrent_downloads`; Kubernetes, KubeletConfiguration,
`serializeImagePulls`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import requests

from tests.target.private_registry import PASSWORD, USER, PrivateRegistry
from tests.target.registry import Registry

LAYERS_AT_ONCE = 3
CHUNK_BYTES = 1 << 20
CLIENTS = (1, 3, 10, 30)
MIRRORED = 10
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Image:
    """An image in a registry: its repository, the digest of its manifest, and its blobs' sizes in bytes by digest."""

    repository: str
    digest: str
    blobs: dict[str, int]

    @property
    def size(self) -> int:
        """The bytes of all blobs."""
        return sum(self.blobs.values())


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """What a registry has served: wall and processor seconds, its own alone, and bytes of blobs."""

    scheme: str
    clients: int
    bytes: int
    seconds: float
    processor: float
    load: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Mirrored:
    """What clients get through a mirror, and what the registry behind it has sent for that, in bytes."""

    event: str
    clients: int
    bytes: int
    upstream: int


def describe(url: str, repository: str, digest: str) -> Image:
    """Return an image of a registry without a login, as its manifest says. Raises requests' errors."""
    answer = requests.get(f"{url}/v2/{repository}/manifests/{digest}", headers={"Accept": MANIFEST}, timeout=30)
    answer.raise_for_status()
    found = answer.json()
    blobs = {each["digest"]: each["size"] for each in (found["config"], *found["layers"])}
    return Image(repository=repository, digest=digest, blobs=blobs)


def measure(registry: Registry, images: Sequence[Image], seconds: float) -> list[Served]:
    """Serve ever more clients, over http and over https with a login, until a round has taken longer than `seconds`."""
    measured = _rounds("http", registry.url, registry.process, None, images, seconds)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "company")
        place.mkdir()
        # The same blobs: nothing is written.
        (place / "storage").symlink_to(registry.folder.resolve())
        with PrivateRegistry(place) as company:
            url = f"https://{company.host}"
            measured += _rounds("https", url, company.process, str(company.authority), images, seconds)
    return measured


def mirror(registry: Registry, images: Sequence[Image], folder: Path) -> list[Mirrored]:
    """Let clients pull at once through an empty mirror of the registry, in a `folder` that is not there, and again."""
    measured: list[Mirrored] = []
    with Registry(folder, upstream=registry.url) as cache:
        for event in ("an empty mirror", "a filled mirror"):
            before = _written_bytes(registry.process)
            with ThreadPoolExecutor(MIRRORED) as nodes:
                pulled = [nodes.submit(_pull_all, cache.url, None, images) for _ in range(MIRRORED)]
                count = sum(each.result() for each in pulled)
            sent = _written_bytes(registry.process) - before
            measured.append(Mirrored(event=event, clients=MIRRORED, bytes=count, upstream=sent))
            print(measured[-1], flush=True)
    shutil.rmtree(folder)
    return measured


def _rounds(
    scheme: str, url: str, process: int, authority: str | None, images: Sequence[Image], seconds: float
) -> list[Served]:
    measured: list[Served] = []
    for clients in CLIENTS:
        before, begun = _processor_seconds(process), time.monotonic()
        with ThreadPoolExecutor(clients) as nodes:
            pulled = [nodes.submit(_pull_all, url, authority, images) for _ in range(clients)]
            count = sum(each.result() for each in pulled)
        run = Served(
            scheme=scheme,
            clients=clients,
            bytes=count,
            seconds=time.monotonic() - begun,
            processor=_processor_seconds(process) - before,
            load=os.getloadavg()[0],
        )
        print(run, flush=True)
        measured.append(run)
        if run.seconds > seconds:
            break
    return measured


def _pull_all(url: str, authority: str | None, images: Sequence[Image]) -> int:
    """Pull all images as one node does, and return the bytes of blobs."""
    had: set[str] = set()
    count = 0
    with requests.Session() as session, ThreadPoolExecutor(LAYERS_AT_ONCE) as layers:
        session.trust_env = False
        session.verify = authority or False
        session.auth = (USER, PASSWORD) if authority else None
        for image in images:
            path = f"{url}/v2/{image.repository}/manifests/{image.digest}"
            answer = session.get(path, headers={"Accept": MANIFEST}, timeout=300)
            answer.raise_for_status()
            _prove(image.digest, hashlib.sha256(answer.content).hexdigest())
            wanted = [digest for digest in image.blobs if digest not in had]
            had.update(wanted)
            place = f"{url}/v2/{image.repository}/blobs"
            count += sum(layers.map(lambda digest, place=place: _read(session, f"{place}/{digest}", digest), wanted))
    return count


def _read(session: requests.Session, url: str, digest: str) -> int:
    """Read a blob, compare its hash, and return its size."""
    count, hashed = 0, hashlib.sha256()
    with session.get(url, stream=True, timeout=300) as answer:
        answer.raise_for_status()
        for chunk in answer.iter_content(CHUNK_BYTES):
            hashed.update(chunk)
            count += len(chunk)
    _prove(digest, hashed.hexdigest())
    return count


def _prove(digest: str, found: str) -> None:
    if digest != f"sha256:{found}":
        raise ValueError(f"the registry has sent {found} for {digest}")


def _written_bytes(process: int) -> int:
    """Return the bytes that a process has written so far: of a registry that stores nothing, what it has sent."""
    found = dict(line.split(": ") for line in Path(f"/proc/{process}/io").read_text().splitlines())
    return int(found["wchar"])


def _processor_seconds(process: int) -> float:
    """Return the processor seconds that a process has taken so far (proc_pid_stat(5), utime and stime)."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
