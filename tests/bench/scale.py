"""`make scale`: what clusters of 3, 30 and 300 nodes pull, and what one registry takes to serve that.

The nodes are objects of the test cluster (`scale_nodes`), which its real scheduler fills with the pods of our own
manifests. The images are those of the benchmark, as large as Dify's, pushed by the executable into a real registry.
That registry is then asked by ever more clients (`scale_pulls`).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from installer.core import layout
from tests.bench import ballast, scale_report
from tests.bench.scale_nodes import STORAGE_CLASS, Nodes, Pulls
from tests.bench.scale_pulls import Image, describe, measure, mirror
from tests.target import bundle as bundles
from tests.target.cluster import programs
from tests.target.cluster.node import Company, Node
from tests.target.cluster.site import WORKLOADS, is_ready
from tests.target.registry import Registry

COUNTS = (3, 30, 300)
OVERLAYS = ("small", "replicated")
# How many nodes get the label that docs/scale.md has pods ask for, in the largest cluster.
CHOSEN = 3
CHOICE = """\
resources: [../{folder}/overlays/{overlay}]
patches:
  - target: {{kind: Deployment|StatefulSet}}
    patch: |-
      - {{op: add, path: /spec/template/spec/nodeSelector, value: {{dify: here}}}}
"""
ROLLOUT_SECONDS = 180.0
# A round of clients that takes longer is the last one.
ROUND_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Placed:
    """What one event makes a cluster pull: pairs of image and node, nodes, bytes, and the most of a node."""

    overlay: str
    nodes: int
    event: str
    pods: int
    pairs: int
    pulling: int
    bytes: int
    most: int


def main() -> None:
    """Measure, and write SCALE.md and scale.json beside this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=bundles.WORK)
    parser.add_argument("--bundle", type=Path, help="a folder with a bundle's files, in place of the benchmark's")
    given = parser.parse_args()
    work = given.work.resolve() / "scale"
    work.mkdir(parents=True, exist_ok=True)
    with Registry(work / "registry") as registry:
        folder = given.bundle or _build(given.work.resolve())
        pushed = work / "images.json"
        prefix = f"127.0.0.1:{registry.port}/dify"
        _run(folder, "push", "--registry", prefix, "--plain-http", "--out", str(pushed))
        rows = json.loads(pushed.read_text())["images"]
        images = [describe(registry.url, row["repository"], row["digest"]) for row in rows]
        with Company() as company, Node(work / "node", programs.find(given.work.resolve()), company) as node:
            placed = _simulate(node, folder, pushed, images, work)
        served = measure(registry, images, ROUND_SECONDS)
        shutil.rmtree(work / "mirror", ignore_errors=True)
        mirrored = mirror(registry, images, work / "mirror")
    scale_report.write(
        images, placed, served, mirrored, {"Kubernetes": programs.version(), "load": f"{os.getloadavg()[2]:.1f}"}
    )


def _build(work: Path) -> Path:
    """Build the bundle of the benchmark (a few minutes), and return its folder."""
    with Registry(work / "registry") as registry:
        return bundles.make("bench", bundles.SAMPLE, registry, work, ballast.layers(work / "bench")).folder


def _run(folder: Path, *arguments: str) -> None:
    subprocess.run([str(folder / layout.EXECUTABLE), *arguments], check=True, stdout=sys.stderr)


# -- the cluster


def _simulate(node: Node, folder: Path, pushed: Path, images: list[Image], work: Path) -> list[Placed]:
    placed: list[Placed] = []
    with Nodes(node) as nodes:
        for count in COUNTS:
            for overlay in OVERLAYS:
                placed += _live(node, nodes, (folder, pushed, images, work), overlay, count)
        placed += _live(node, nodes, (folder, pushed, images, work), OVERLAYS[-1], COUNTS[-1], chosen=CHOSEN)
        if nodes.failed:
            print("\n".join(nodes.failed), file=sys.stderr)
    return placed


def _live(
    node: Node, nodes: Nodes, given: tuple[Path, Path, list[Image], Path], overlay: str, count: int, chosen: int = 0
) -> list[Placed]:
    """Install, upgrade to other images, and lose the node that has most; return what each of these pulls.

    With `chosen`, only so many nodes may have the pods, but for the job's.
    """
    folder, pushed, images, work = given
    namespace = f"{overlay}-{count}" + (f"-on-{chosen}" if chosen else "")
    out = work / "manifests" / f"{namespace}-{os.getpid()}"
    document = json.loads(pushed.read_text())
    place = f"{document['host']}/{document['prefix']}"

    def apply(path: Path) -> None:
        named = ("--namespace", namespace, "--host", "dify.example.com", "--storage-class", STORAGE_CLASS)
        _run(folder, "manifests", "--registry", place, "--images-json", str(path), "--out", str(out), *named)
        choice = out.with_name(f"{out.name}-choice")
        choice.mkdir(exist_ok=True)
        (choice / "kustomization.yaml").write_text(CHOICE.format(folder=out.name, overlay=overlay))
        for part in (out / "prepare", choice if chosen else out / "overlays" / overlay):
            node.kubectl("apply", "-k", str(part))

    def counted(event: str, act: Callable[[], object]) -> Placed:
        nodes.begin()
        act()
        pods = _await(node, namespace)
        return _placed(f"{overlay}, {chosen} chosen nodes" if chosen else overlay, count, event, pods, nodes.pulls)

    next_pushed = work / "newer.json"
    next_pushed.write_text(json.dumps(renewed(document)))
    nodes.images = {f"{document['host']}/{each.repository}@{each.digest}": each for each in images}
    nodes.images |= {f"{document['host']}/{each.repository}@{each.digest}": each for each in map(newer, images)}
    nodes.register(count, {"dify": "here"}, chosen)
    found = [counted("start", lambda: apply(pushed)), counted("upgrade", lambda: apply(next_pushed))]
    # What comes back elsewhere is the most that a single node can cost.
    fullest = max(sorted(set(_running(node, namespace))), key=nodes.held)
    found.append(counted("a node is gone", lambda: nodes.remove(fullest)))
    node.kubectl("delete", "namespace", namespace, "--wait=false")
    nodes.remove_all()
    for each in found:
        print(each, flush=True)
    return found


def renewed(document: dict[str, Any]) -> dict[str, Any]:
    """Return an images.json whose images are all others."""
    rows = [{**row, "digest": _other(row["digest"])} for row in document["images"]]
    return {**document, "images": rows}


def newer(image: Image) -> Image:
    """Return another image of the same size, which shares no blob with this one."""
    blobs = {_other(digest): size for digest, size in image.blobs.items()}
    return Image(repository=image.repository, digest=_other(image.digest), blobs=blobs)


def _other(digest: str) -> str:
    return f"sha256:{hashlib.sha256(digest.encode()).hexdigest()}"


def _await(node: Node, namespace: str) -> int:
    """Wait until all that was applied is ready, and return how many pods there are."""
    deadline = time.monotonic() + ROLLOUT_SECONDS
    while True:
        workloads = node.get(WORKLOADS, "--namespace", namespace)
        jobs = node.get("jobs", "--namespace", namespace)
        wanted: int = sum(each["spec"]["replicas"] for each in workloads)
        is_done = all(map(is_ready, workloads)) and all(each["status"].get("succeeded") for each in jobs)
        # A workload does not know at once that pods of it are gone.
        if is_done and len(_running(node, namespace)) == wanted:
            return wanted
        if time.monotonic() > deadline:
            pods = node.kubectl("get", "pods", "--namespace", namespace, "--output=wide").stdout
            events = node.kubectl("get", "events", "--namespace", namespace, "--sort-by=.lastTimestamp").stdout
            raise TimeoutError(f"not all is ready\n{pods}\n{events[-3000:]}")
        time.sleep(0.5)


def _running(node: Node, namespace: str) -> list[str]:
    """Return the node of each pod that runs."""
    pods = node.get("pods", "--namespace", namespace, "--field-selector=status.phase=Running")
    return [each["spec"]["nodeName"] for each in pods if "deletionTimestamp" not in each["metadata"]]


def _placed(overlay: str, nodes: int, event: str, pods: int, pulls: Pulls) -> Placed:
    return Placed(
        overlay=overlay,
        nodes=nodes,
        event=event,
        pods=pods,
        pairs=pulls.pairs,
        pulling=len(pulls.nodes),
        bytes=pulls.bytes,
        most=max(pulls.nodes.values(), default=0),
    )


if __name__ == "__main__":
    main()
