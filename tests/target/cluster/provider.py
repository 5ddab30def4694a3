"""What a cloud or a distribution adds to Kubernetes: a volume for each claim, and a name for each Service.

A thread looks at the server's objects a few times a second. Volumes are folders of the node's disk as `local` volumes:
they begin as root's, and the kubelet gives them the group that a pod names (fsGroup), as it does with block devices. A
volume whose class is `unmanaged` is one that it leaves alone, as NFS is: all may write into it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests

from tests.target.cluster import settings
from tests.target.network import Inside

CLASS, UNMANAGED = "local", "unmanaged"
PERIOD_SECONDS = 0.3
PROVISIONER = "example.com/folders"
NAMES = "names"


class Provider(threading.Thread):
    """Serves claims and names until it is stopped; `names_changed` is called when the name server is to read again."""

    def __init__(self, inside: Inside, folder: Path, names_changed: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self._inside, self._folder, self._names_changed = inside, folder, names_changed
        self._names = ""
        self._ended = threading.Event()

    def run(self) -> None:
        """Serve."""
        while not self._ended.wait(PERIOD_SECONDS):
            # The server may have just been killed; what lacks comes in the next round.
            with contextlib.suppress(requests.RequestException):
                self._serve_classes()
                self._serve_claims()
                self._serve_names()

    def stop(self) -> None:
        """End, and wait for that."""
        self._ended.set()
        self.join(30)

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        headers = {"Authorization": f"Bearer {settings.token('admin')}"}
        proof = str(settings.authority(self._folder))
        url = settings.SERVER + path
        answer = self._inside.request(method, url, headers=headers, json=body, timeout=10, verify=proof)
        # What is there already is as it should be: nobody else makes these.
        if answer.status_code != requests.codes.conflict:
            answer.raise_for_status()
        return answer.json()

    def _serve_classes(self) -> None:
        path = "/apis/storage.k8s.io/v1/storageclasses"
        if self._ask("GET", path)["items"]:
            return
        for name in (UNMANAGED, CLASS):
            default = {"storageclass.kubernetes.io/is-default-class": str(name == CLASS).lower()}
            made = {"metadata": {"name": name, "annotations": default}, "provisioner": PROVISIONER}
            self._ask("POST", path, made)

    def _serve_claims(self) -> None:
        for claim in self._ask("GET", "/api/v1/persistentvolumeclaims")["items"]:
            ours = claim["spec"].get("storageClassName") in (CLASS, UNMANAGED)
            if ours and claim["status"]["phase"] == "Pending" and not claim["spec"].get("volumeName"):
                volume = _volume(claim, self._folder / "volumes")
                self._ask("POST", "/api/v1/persistentvolumes", volume)

    def _serve_names(self) -> None:
        services = self._ask("GET", "/api/v1/services")["items"]
        lines = [
            f"{each['spec']['clusterIP']} {each['metadata']['name']}.{each['metadata']['namespace']}.svc.cluster.local"
            for each in services
            if each["spec"].get("clusterIP") not in (None, "None")
        ]
        if (text := "\n".join([*lines, ""])) != self._names:
            (self._folder / "hosts" / NAMES).write_text(text)
            self._names_changed()
            self._names = text


def _volume(claim: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the volume for a claim, whose folder is there."""
    name = f"{claim['metadata']['namespace']}-{claim['metadata']['name']}-{claim['metadata']['uid'][:8]}"
    path = folder / name
    path.mkdir(exist_ok=True)
    chosen = claim["spec"]["storageClassName"]
    path.chmod(0o777 if chosen == UNMANAGED else 0o755)
    here = {"key": "kubernetes.io/hostname", "operator": "In", "values": [settings.NODE]}
    return {
        "metadata": {"name": name},
        "spec": {
            "storageClassName": chosen,
            "capacity": {"storage": claim["spec"]["resources"]["requests"]["storage"]},
            "accessModes": claim["spec"]["accessModes"],
            "persistentVolumeReclaimPolicy": "Retain",
            "claimRef": {key: claim["metadata"][key] for key in ("namespace", "name", "uid")},
            **({"hostPath": {"path": str(path)}} if chosen == UNMANAGED else {"local": {"path": str(path)}}),
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
        },
    }
