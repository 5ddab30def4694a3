"""Looks at a cluster with the user's own kubectl, as far as a written folder needs it; changes nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from installer.cluster import kubectl
from installer.cluster.pods import WAITS_FOR_CACHE
from installer.cluster.site import Object
from installer.core import errors
from installer.core.runner import Runner

POLL_SECONDS = 1.0
GATEWAYS = "gateways.gateway.networking.k8s.io"
# How the server's API names what cannot be found in the folder's own words: group/plural.
PLURALS = {"NetworkPolicy": "networkpolicies", "Ingress": "ingresses"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What a folder of `manifests` asks of a cluster: its objects, all but those of the overlays."""

    namespace: str
    dify: str
    objects: tuple[Object, ...] = field(repr=False)

    def of_kind(self, *kinds: str) -> list[Object]:
        """Return the objects of these kinds."""
        return [each for each in self.objects if each["kind"] in kinds]

    @property
    def pods(self) -> list[Object]:
        """The specifications of all pods, one of each."""
        return [each["spec"]["template"]["spec"] for each in self.of_kind("Deployment", "StatefulSet", "Job")]

    @property
    def claims(self) -> dict[str, Object]:
        """The specification of each claim, those of templates by the name of the template's owner."""
        found = {each["metadata"]["name"]: each["spec"] for each in self.of_kind("PersistentVolumeClaim")}
        for each in self.of_kind("StatefulSet"):
            # A service of ours keeps its data in one folder.
            (template,) = each["spec"]["volumeClaimTemplates"]
            found[each["metadata"]["name"]] = template["spec"]
        return found

    @property
    def gateway(self) -> tuple[str, str] | None:
        """Namespace and name of the Gateway that is to take the route; None where there is an Ingress."""
        for route in self.of_kind("HTTPRoute"):
            parent = route["spec"]["parentRefs"][0]
            return str(parent.get("namespace", self.namespace)), str(parent["name"])
        return None

    @property
    def secrets(self) -> dict[str, str]:
        """The Secrets that somebody else makes: name -> type."""
        pulls = {name["name"] for pod in self.pods for name in pod.get("imagePullSecrets", ())}
        served = {tls["secretName"] for each in self.of_kind("Ingress") for tls in each["spec"].get("tls", ())}
        return dict.fromkeys(sorted(pulls), "kubernetes.io/dockerconfigjson") | dict.fromkeys(
            sorted(served), "kubernetes.io/tls"
        )

    @property
    def resources(self) -> list[str]:
        """The resources that are to be created in the namespace, as `kubectl auth can-i` takes them."""
        found = dict.fromkeys((each["kind"], each["apiVersion"].rpartition("/")[0]) for each in self.objects)
        names = ((PLURALS.get(kind, f"{kind.lower()}s"), group) for kind, group in found if kind != "Namespace")
        return [f"{name}.{group}".rstrip(".") for name, group in names]


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What kubectl has told. None where it was not told, and `refused` says why."""

    program: bool
    version: Mapping[str, Any] | None = None
    namespace: Object | None = None
    classes: list[Object] | None = None
    ingress_classes: list[Object] | None = None
    gateway: Object | None = None
    quotas: list[Object] = field(default_factory=list)
    limits: list[Object] = field(default_factory=list)
    secrets: Mapping[str, str] = field(default_factory=dict)
    forbidden: tuple[str, ...] = ()
    refused: str = ""


def read(folder: Path) -> Wanted:
    """Return what a folder asks for. Raises UsageError for one that `manifests` has not written."""
    try:
        record = json.loads((folder / "manifests.json").read_text("utf-8"))
        return Wanted(namespace=str(record["namespace"]), dify=str(record["dify"]), objects=tuple(_objects(folder)))
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        why = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
        raise errors.UsageError(
            f"{folder} is no folder that `manifests` has written: {why}", "write it first: dify-installer manifests …"
        ) from error


def _objects(folder: Path) -> Iterator[Object]:
    for place in ("prepare", "base"):
        for path in sorted((folder / place).glob("*.yaml")):
            if path.name != "kustomization.yaml":
                yield from yaml.load_all(path.read_text("utf-8"), Loader=yaml.CSafeLoader)


def look(wanted: Wanted, runner: Runner) -> Seen:
    """Ask the cluster that kubectl's configuration names."""
    found = kubectl.ask(runner, "version", "--output=json")
    if found.status == 127:
        return Seen(program=False)
    if not found.ok:
        return Seen(program=True, refused=found.last_words)
    version = json.loads(found.stdout)
    place = ("--namespace", wanted.namespace)
    namespace = kubectl.get(runner, "namespace", wanted.namespace)
    kind = "--output=jsonpath={.type}"
    secrets = {name: kubectl.get(runner, "secret", name, *place, kind) for name in wanted.secrets}
    forbidden = [each for each in wanted.resources if not _may_create(runner, each, place)]
    if namespace is None and not _may_create(runner, "namespaces", ()):
        forbidden.append("namespaces")
    return Seen(
        program=True,
        version=version,
        namespace=namespace,
        classes=kubectl.list_all(runner, "storageclasses"),
        ingress_classes=kubectl.list_all(runner, "ingressclasses"),
        gateway=_gateway(wanted, runner),
        quotas=kubectl.list_all(runner, "resourcequotas", *place) or [],
        limits=kubectl.list_all(runner, "limitranges", *place) or [],
        secrets={name: kind for name, kind in secrets.items() if kind is not None},
        forbidden=tuple(forbidden),
    )


def _gateway(wanted: Wanted, runner: Runner) -> Object | None:
    if wanted.gateway is None:
        return None
    namespace, name = wanted.gateway
    found: Object | None = kubectl.get(runner, GATEWAYS, name, "--namespace", namespace)
    return found


def image_to_try(wanted: Wanted) -> str:
    """Return the image that a pull is tried with: the cache's, which is a small one with a shell."""
    waits = (each for pod in wanted.pods for each in pod.get("initContainers", ()) if each["name"] == WAITS_FOR_CACHE)
    return str(next(waits)["image"])


def pull(wanted: Wanted, image: str, runner: Runner, seconds: float) -> str:
    """Let a pod of the namespace pull an image and end at once; return why it could not, or nothing. It is removed.

    Raises CommandFailed when the pod cannot be made.
    """
    template, container = next(
        (pod, each)
        for pod in wanted.pods
        for each in (*pod["containers"], *pod.get("initContainers", ()))
        if each["image"] == image
    )
    name = "dify-installer-pull"
    asking: Object = {key: container[key] for key in ("image", "resources", "securityContext")}
    asking |= {"name": "pull", "imagePullPolicy": "Always", "command": ["sh", "-c", "exit 0"]}
    pod: Object = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": wanted.namespace},
        "spec": {
            **{key: template[key] for key in ("securityContext", "imagePullSecrets") if key in template},
            "automountServiceAccountToken": False,
            "restartPolicy": "Never",
            "containers": [asking],
        },
    }
    place = ("--namespace", wanted.namespace)
    command = ["kubectl", "create", "--filename=-"]
    remedy = "read what kubectl says: your right to make a pod there, or one that was left behind"
    runner.run(command, timeout=kubectl.ASK_SECONDS, input=json.dumps(pod), remedy=remedy)
    try:
        deadline = time.monotonic() + seconds
        told = "it was not begun"
        while time.monotonic() < deadline:
            found = kubectl.get(runner, "pod", name, *place) or {}
            if found.get("status", {}).get("phase") in ("Succeeded", "Failed"):
                return ""
            told = _waiting(found) or told
            if told.startswith(("ErrImagePull", "ImagePullBackOff", "InvalidImageName")):
                return told
            time.sleep(POLL_SECONDS)
        return f"no end after {seconds:.0f} s: {told}"
    finally:
        # It runs nothing that would have to end in its own time.
        command = ["kubectl", "delete", "pod", name, *place, "--grace-period=1", "--ignore-not-found"]
        runner.for_tidying().run(command, timeout=kubectl.ASK_SECONDS, check=False)


def _waiting(pod: Object) -> str:
    """Return what a pod waits for, as the node says it."""
    status = pod.get("status", {})
    for each in status.get("containerStatuses", ()):
        waits = each.get("state", {}).get("waiting", {})
        if waits.get("reason"):
            return f"{waits['reason']}: {waits.get('message', '')}".rstrip(": ")
    unmet = (each for each in status.get("conditions", ()) if each["status"] == "False" and each.get("message"))
    return next((f"{each['reason']}: {each['message']}" for each in unmet), "")


def _may_create(runner: Runner, resource: str, place: tuple[str, ...]) -> bool:
    return kubectl.ask(runner, "auth", "can-i", "create", resource, *place).stdout.strip() == "yes"
