"""What of a folder runs on the cluster now: its workloads, pods, Job, claims and entrance, as kubectl tells of them."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from installer.cluster import kubectl, names
from installer.cluster.look import Wanted
from installer.cluster.site import PORTS, Object
from installer.core import errors
from installer.core.runner import Runner
from installer.engine.base import Container

NAME, PART_OF = "app.kubernetes.io/name", "app.kubernetes.io/part-of"
OURS = f"--selector={PART_OF}=dify"
# Services by the names of their objects.
SERVICES = {names.of(each): each for each in (*PORTS, "worker", "worker_beat")}
# What a node says of a container whose image it does not get (kubelet, images/types.go).
NOT_PULLED = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable")
OUT_OF_MEMORY = "OOMKilled"


@dataclass(frozen=True, kw_only=True, slots=True)
class Running:
    """What kubectl has told; objects by name. None is for a kind that may not be seen."""

    version: Mapping[str, Any]
    workloads: Mapping[str, Object] | None = field(default=None, repr=False)
    pods: tuple[Object, ...] = field(default=(), repr=False)
    jobs: Mapping[str, Object] | None = field(default=None, repr=False)
    claims: Mapping[str, Object] | None = field(default=None, repr=False)
    entrances: Mapping[str, Object] | None = field(default=None, repr=False)
    events: tuple[Object, ...] = field(default=(), repr=False)

    def pods_of(self, name: str) -> list[Object]:
        """Return the pods of a workload or of the migration, those that end included."""
        return [each for each in self.pods if each["metadata"].get("labels", {}).get(NAME) == name]


def look(wanted: Wanted, runner: Runner) -> Running:
    """Ask the cluster that kubectl's configuration names. Raises CommandFailed when it does not answer."""
    found = kubectl.ask(runner, "version", "--output=json")
    if found.status == 127:
        raise errors.CommandFailed("kubectl is not there", "install it, 1.21 or later, where you apply the folder")
    if not found.ok:
        raise errors.CommandFailed(f"the cluster does not answer: {found.last_words}", "see: kubectl cluster-info")
    place = ("--namespace", wanted.namespace)
    pods = kubectl.list_all(runner, "pods", *place, OURS)
    if pods is None:
        raise errors.CommandFailed(
            f"the pods of {wanted.namespace} may not be seen", f"see: kubectl --namespace {wanted.namespace} get pods"
        )
    workloads = kubectl.list_all(runner, "deployments,statefulsets", *place, OURS)
    # A claim that a StatefulSet has made does not carry its labels on every version.
    claims = kubectl.list_all(runner, "persistentvolumeclaims", *place)
    entrances = kubectl.list_all(runner, "ingresses", *place, OURS)
    if not entrances:
        # Unknown where nobody has added them.
        others = ("httproutes.gateway.networking.k8s.io", "routes.route.openshift.io")
        entrances = next(filter(None, (kubectl.list_all(runner, each, *place, OURS) for each in others)), entrances)
    pending = any(each["status"].get("phase") == "Pending" for each in claims or ())
    events = kubectl.list_all(runner, "events", *place) if pending else []
    return Running(
        version=json.loads(found.stdout),
        workloads=_by_name(workloads),
        pods=tuple(pods),
        jobs=_by_name(kubectl.list_all(runner, "jobs", *place, OURS)),
        claims=_by_name(claims),
        entrances=_by_name(entrances),
        events=tuple(events or ()),
    )


def _by_name(found: list[Object] | None) -> dict[str, Object] | None:
    return None if found is None else {each["metadata"]["name"]: each for each in found}


def containers(running: Running) -> list[Container]:
    """Return the pods of services as containers, so that those that run can be asked from inside."""
    found = []
    for pod in running.pods:
        service = SERVICES.get(pod["metadata"]["labels"].get(NAME, ""))
        if service is not None:
            found.append(_container(pod, service))
    # One that is ready answers best.
    return sorted(found, key=lambda each: each.health != "healthy")


def _container(pod: Object, service: str) -> Container:
    statuses = pod["status"].get("containerStatuses") or ()
    began = [each["state"]["running"]["startedAt"] for each in statuses if "running" in each.get("state", {})]
    runs = bool(began) and not is_ending(pod)
    return Container(
        project="",
        service=service,
        folder="",
        name=pod["metadata"]["name"],
        image=pod["spec"]["containers"][0]["image"],
        state="running" if runs else "created",
        health="healthy" if is_ready(pod) else "starting",
        exit_code=0,
        restarts=restarts(pod),
        created=int(moment(pod["metadata"]["creationTimestamp"])),
        started=int(max(map(moment, began), default=0)),
    )


def is_ready(pod: Object) -> bool:
    """Tell whether a pod is ready and stays."""
    conditions = {each["type"]: each["status"] for each in pod["status"].get("conditions") or ()}
    return conditions.get("Ready") == "True" and not is_ending(pod)


def is_ending(pod: Object) -> bool:
    """Tell whether a pod was told to end."""
    return "deletionTimestamp" in pod["metadata"]


def restarts(pod: Object) -> int:
    """Return how often the containers of a pod were started again."""
    return sum(int(each.get("restartCount", 0)) for each in statuses(pod))


def statuses(pod: Object) -> Iterator[Object]:
    """Give what the node says of each container of a pod, those that run before the others first."""
    yield from pod["status"].get("initContainerStatuses") or ()
    yield from pod["status"].get("containerStatuses") or ()


def not_pulled(pod: Object) -> str:
    """Return why a node does not get an image for a pod, or nothing."""
    for each in statuses(pod):
        waits = each.get("state", {}).get("waiting", {})
        if waits.get("reason") in NOT_PULLED:
            return f"{waits['reason']}: {waits.get('message', each.get('image', ''))}"
    return ""


def out_of_memory(pod: Object) -> bool:
    """Tell whether the kernel has ended a container of a pod for lack of memory, the last time that it ended."""
    ends = (each.get(key, {}).get("terminated", {}) for each in statuses(pod) for key in ("state", "lastState"))
    return any(each.get("reason") == OUT_OF_MEMORY for each in ends)


def failing(pod: Object) -> str:
    """Return why a pod will not become ready by waiting, or nothing."""
    if told := not_pulled(pod):
        return told
    if pod["status"].get("phase") == "Failed":
        return f"{pod['status'].get('reason', 'failed')}: {pod['status'].get('message', '')}".rstrip(": ")
    for each in statuses(pod):
        waits = each.get("state", {}).get("waiting", {})
        if waits.get("reason") in ("CrashLoopBackOff", "CreateContainerConfigError", "CreateContainerError"):
            ended = each.get("lastState", {}).get("terminated", {})
            how = f"{each['name']} ended with status {ended.get('exitCode')}" if ended else waits.get("message", "")
            return f"{waits['reason']}: {how}"
    for each in pod["status"].get("conditions") or ():
        if (each["type"], each["status"], each.get("reason")) == ("PodScheduled", "False", "Unschedulable"):
            return f"no node takes it: {each.get('message', '')}"
    return ""


def waiting(pod: Object) -> str:
    """Return what a pod waits for that may still come, in words."""
    if is_ending(pod):
        return "it ends"
    for each in pod["status"].get("initContainerStatuses") or ():
        if "running" in each.get("state", {}):
            return str(each["name"]).replace("wait-for-", "waits for ").replace("-", " ")
    for each in statuses(pod):
        reason = each.get("state", {}).get("waiting", {}).get("reason")
        if reason and reason != "PodInitializing":
            return str(reason)
    return "it runs and is not ready yet" if pod["status"].get("phase") == "Running" else "it was not begun yet"


def moment(text: str) -> float:
    """Return a time as Kubernetes writes it, in seconds since the epoch."""
    return datetime.datetime.fromisoformat(text).timestamp()
