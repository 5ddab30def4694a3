"""Nodes that are only objects, on the test cluster: its real scheduler and controllers place our pods on them.

What a kubelet would do is done here: a node is registered with its capacity and kept alive by its lease, a pod that was
placed becomes ready at once, a job's pod succeeds, what is to end is gone, and a node tells which images it has, as the
scheduler asks for that. Nothing is pulled and nothing runs: it is noted which node would pull which image. Claims get
volumes that every node can mount. The one real node is tainted.
"""

from __future__ import annotations

import contextlib
import datetime
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import requests

from tests.bench.scale_pulls import Image
from tests.target.cluster import settings
from tests.target.cluster.node import Node
from tests.target.network import Inside

CAPACITY = {"cpu": "8", "memory": "32Gi", "ephemeral-storage": "200Gi", "pods": "110"}
STORAGE_CLASS = "networked"
PERIOD_SECONDS = 0.3
# The server takes a node for gone after 50 seconds (kube-controller-manager, --node-monitor-grace-period).
LEASE_SECONDS = 10.0
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
PATCH = {"Content-Type": "application/merge-patch+json"}


@dataclass(kw_only=True, slots=True)
class Pulls:
    """What nodes pull: pairs of image and node, and bytes by node, without blobs that the node has already."""

    pairs: int = 0
    nodes: Counter[str] = field(default_factory=Counter)

    @property
    def bytes(self) -> int:
        """The bytes of all nodes."""
        return self.nodes.total()


@dataclass(kw_only=True, slots=True)
class Store:
    """What one node has: the names of its images, and the sizes of their blobs by digest."""

    images: list[str] = field(default_factory=list)
    blobs: dict[str, int] = field(default_factory=dict)

    def pull(self, images: Mapping[str, Image]) -> tuple[int, int]:
        """Take images by their names; return how many were lacking, and the bytes of the blobs that were."""
        lacking = {name: image for name, image in images.items() if name not in self.images}
        wanted = {digest: size for image in lacking.values() for digest, size in image.blobs.items()}
        count = sum(size for digest, size in wanted.items() if digest not in self.blobs)
        self.images += lacking
        self.blobs |= wanted
        return len(lacking), count


class Nodes(threading.Thread):
    """Simulated nodes of a cluster, from `register` to `remove`; `images` are known by their names in a pod.

    Used as a context manager.
    """

    def __init__(self, node: Node) -> None:
        super().__init__(daemon=True)
        self._inside, self._proof = Inside(node), str(settings.authority(node.folder))
        self.images: dict[str, Image] = {}
        self.pulls = Pulls()
        self._stores: dict[str, Store] = {}
        self._beaten = 0.0
        self._lock, self._ended = threading.Lock(), threading.Event()
        self.failed: list[str] = []

    def __enter__(self) -> Nodes:
        taint = {"spec": {"taints": [{"key": "real", "value": "true", "effect": "NoSchedule"}]}}
        self.ask("PATCH", f"/api/v1/nodes/{settings.NODE}", taint)
        made = {"metadata": {"name": STORAGE_CLASS}, "provisioner": "kubernetes.io/no-provisioner"}
        self.ask("POST", "/apis/storage.k8s.io/v1/storageclasses", made)
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join(60)

    def run(self) -> None:
        """Do what kubelets do, until the end."""
        while not self._ended.wait(PERIOD_SECONDS):
            try:
                with self._lock:
                    self._beat()
                    self._serve_claims()
                    self._serve_pods()
            except requests.RequestException as error:
                self.failed.append(str(error))

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Ask the server as the cluster's owner. Raises HTTPError for a refusal, but for an object that is there."""
        headers = {"Authorization": f"Bearer {settings.token('admin')}", **(PATCH if method == "PATCH" else {})}
        url = settings.SERVER + path
        answer = self._inside.request(method, url, headers=headers, json=body, timeout=30, verify=self._proof)
        if answer.status_code != requests.codes.conflict:
            answer.raise_for_status()
        return answer.json()

    # -- nodes

    def register(self, count: int, labels: Mapping[str, str], labelled: int) -> None:
        """Register nodes, none of which has an image; the first `labelled` ones have labels besides their own."""
        with self._lock:
            for number in range(count):
                name = f"simulated-{number:03}"
                self._stores[name] = Store()
                self.ask("POST", "/api/v1/nodes", _node(name, labels if number < labelled else {}))
                lease = {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": _now()}
                self.ask("POST", LEASES, {"metadata": {"name": name}, "spec": lease})

    def remove(self, name: str) -> None:
        """Switch a node off for good, and take it and its pods out of the cluster, as its owner would."""
        with self._lock:
            self._stores.pop(name)
            for path in (f"/api/v1/nodes/{name}", f"{LEASES}/{name}"):
                self.ask("DELETE", path)
            for pod in self._pods():
                if pod["spec"].get("nodeName") == name:
                    self._end(pod)

    def remove_all(self) -> None:
        """Take all nodes out of the cluster."""
        for name in list(self._stores):
            self.remove(name)

    def held(self, name: str) -> int:
        """Return the bytes of images that a node has."""
        return sum(self._stores[name].blobs.values())

    def begin(self) -> None:
        """Count from here on; nodes keep what they have."""
        with self._lock:
            self.pulls = Pulls()

    def _beat(self) -> None:
        if time.monotonic() - self._beaten > LEASE_SECONDS:
            for name in self._stores:
                self.ask("PATCH", f"{LEASES}/{name}", {"spec": {"renewTime": _now()}})
            self._beaten = time.monotonic()

    # -- pods

    def _pods(self) -> list[dict[str, Any]]:
        pods: list[dict[str, Any]] = self.ask("GET", "/api/v1/pods")["items"]
        return pods

    def _serve_pods(self) -> None:
        for pod in self._pods():
            name = pod["spec"].get("nodeName")
            if pod["metadata"].get("deletionTimestamp"):
                self._end(pod)
            elif name in self._stores and pod["status"]["phase"] == "Pending":
                self._pull(name, pod)
                owner = pod["metadata"]["ownerReferences"][0]["kind"]
                status = {"status": _status(pod, is_done=owner == "Job")}
                with contextlib.suppress(requests.HTTPError):
                    self.ask("PATCH", f"{_path(pod)}/status", status)

    def _end(self, pod: dict[str, Any]) -> None:
        # It may have gone by itself meanwhile.
        with contextlib.suppress(requests.HTTPError):
            self.ask("DELETE", _path(pod), {"gracePeriodSeconds": 0})

    def _pull(self, name: str, pod: dict[str, Any]) -> None:
        """Note what a node pulls for a pod, and let the node tell that it has it."""
        store = self._stores[name]
        containers = (*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"])
        pairs, count = store.pull({each["image"]: self.images[each["image"]] for each in containers})
        if pairs:
            self.pulls.pairs += pairs
            self.pulls.nodes[name] += count
            told = [{"names": [each], "sizeBytes": self.images[each].size} for each in store.images]
            self.ask("PATCH", f"/api/v1/nodes/{name}/status", {"status": {"images": told}})

    # -- claims

    def _serve_claims(self) -> None:
        for claim in self.ask("GET", "/api/v1/persistentvolumeclaims")["items"]:
            if claim["status"]["phase"] == "Pending" and not claim["spec"].get("volumeName"):
                self.ask("POST", "/api/v1/persistentvolumes", _volume(claim))


def _node(name: str, more: Mapping[str, str]) -> dict[str, Any]:
    condition = {"type": "Ready", "status": "True", "reason": "Simulated", "lastHeartbeatTime": _now()[:19] + "Z"}
    labels = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64", **more}
    status = {"capacity": CAPACITY, "allocatable": CAPACITY, "conditions": [condition]}
    return {"metadata": {"name": name, "labels": labels}, "status": status}


def _status(pod: Mapping[str, Any], *, is_done: bool) -> dict[str, Any]:
    kinds = ["PodScheduled", "Initialized", *(() if is_done else ("ContainersReady", "Ready"))]
    conditions = [{"type": kind, "status": "True", "lastTransitionTime": _now()[:19] + "Z"} for kind in kinds]
    begun = pod["metadata"]["creationTimestamp"]
    return {"phase": "Succeeded" if is_done else "Running", "conditions": conditions, "startTime": begun}


def _volume(claim: Mapping[str, Any]) -> dict[str, Any]:
    name = f"networked-{claim['metadata']['uid']}"
    return {
        "metadata": {"name": name},
        "spec": {
            "storageClassName": STORAGE_CLASS,
            "capacity": {"storage": claim["spec"]["resources"]["requests"]["storage"]},
            "accessModes": claim["spec"]["accessModes"],
            "persistentVolumeReclaimPolicy": "Retain",
            "claimRef": {key: claim["metadata"][key] for key in ("namespace", "name", "uid")},
            "nfs": {"server": "files.example.com", "path": f"/{name}"},
        },
    }


def _path(pod: Mapping[str, Any]) -> str:
    return f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
