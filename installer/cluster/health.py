"""Judges what of a folder runs on a cluster: pure functions, a finding each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from installer.cluster import kubectl, running
from installer.cluster.look import Wanted
from installer.cluster.running import Running
from installer.cluster.site import Object
from installer.core.finding import Finding, Level

# As long as the nodes may take for large images over a slow line: afterwards what is not ready has failed.
STARTING_SECONDS = 1200.0
SETTINGS = "dify-installer/settings"
UNSEEN = "this user may not see them"
# What a Gateway's controller says of a route that it serves.
ROUTE_CONDITIONS = ("Accepted", "ResolvedRefs")
ABSENT, SCALED = "it is not there", "it is scaled to none"


def check_workloads(wanted: Wanted, seen: Running) -> Finding:
    """All pods that the folder asks for are there and ready, of today's templates."""
    name, reasons = "pods ready", unready(wanted, seen)
    if not reasons:
        count = sum(running.is_ready(each) for each in seen.pods)
        return Finding(name, "ok", f"{len(workloads(wanted))} workloads with {count} pods as they should be")
    told = "; ".join(f"{each}: {reason}" for each, reason in reasons.items())
    if set(reasons.values()) <= {ABSENT, SCALED}:
        return Finding(name, "error", told, "apply the overlay: kubectl apply -k FOLDER/overlays/small")
    first = next(iter(reasons))
    there = f"--namespace {wanted.namespace}"
    return Finding(
        name,
        "error",
        told,
        f"see why: kubectl {there} describe pods --selector={running.NAME}={first}, and "
        f"{_logs(wanted, f'--selector={running.NAME}={first}')}",
    )


def check_images(wanted: Wanted, seen: Running) -> Finding:
    """Nodes get every image."""
    found = {_whose(each): told for each in seen.pods if (told := running.not_pulled(each))}
    if not found:
        return Finding("images", "ok", "no pod waits for its image")
    return Finding(
        "images",
        "error",
        "; ".join(f"{name}: {told}" for name, told in sorted(found.items())),
        "see that the registry has the image (push sends what it lacks), that nodes reach it and trust its authority, "
        f"and that the pull secret in {wanted.namespace} holds its login",
    )


def check_migration(wanted: Wanted, seen: Running) -> Finding:
    """The Job has changed the database's tables for this release."""
    (job,) = wanted.of_kind("Job")
    name = job["metadata"]["name"]
    if seen.jobs is None:
        return Finding("migration", "info", UNSEEN)
    status = seen.jobs.get(name, {}).get("status")
    if status is None:
        return Finding("migration", "warning", f"{name} is not there", "apply the overlay: it makes the Job again")
    failed = int(status.get("failed", 0))
    # All containers of the tries so far: the newest pod says most, and each keeps its own log.
    logs = _logs(wanted, f"--selector=job-name={name}")
    if status.get("succeeded"):
        return Finding("migration", "ok", f"{name} is done" + (f", after {failed} tries that failed" if failed else ""))
    if any((each["type"], each["status"]) == ("Failed", "True") for each in status.get("conditions") or ()):
        return Finding(
            "migration",
            "error",
            f"{name} has failed {failed} times, and is not tried again; the older api goes on",
            f"see why: {logs}; mend it, delete the Job, and apply the overlay again",
        )
    if failed:
        return Finding(
            "migration", "error", f"{name} has failed {failed} times, and is tried again", f"see why: {logs}"
        )
    return Finding("migration", "warning", f"{name} is on its way", f"wait; {logs} tells more")


def check_claims(wanted: Wanted, seen: Running) -> Finding | None:
    """Every claim has its volume."""
    names = claims(wanted)
    if not names:
        return None
    if seen.claims is None:
        return Finding("claims", "info", UNSEEN)
    lost = {}
    for name in names:
        claim = seen.claims.get(name)
        phase = "not there" if claim is None else str(claim["status"].get("phase"))
        if phase != "Bound":
            lost[name] = f"{phase} {_event(seen, name)}".strip()
    if not lost:
        return Finding("claims", "ok", f"{len(names)} claims have their volumes")
    return Finding(
        "claims",
        "error",
        "; ".join(f"{name}: {told}" for name, told in lost.items()),
        "see that the storage class exists and has room: kubectl get storageclass; "
        f"kubectl --namespace {wanted.namespace} describe persistentvolumeclaims {' '.join(lost)}",
    )


def check_address(_wanted: Wanted, seen: Running) -> Finding:
    """Somebody serves the Ingress or the Route: it has an address; or the Gateway has taken its route."""
    if seen.entrances is None:
        return Finding("address", "info", UNSEEN)
    if not seen.entrances:
        return Finding("address", "error", "there is no Ingress, HTTPRoute or Route", "apply the overlay again")
    for each in seen.entrances.values():
        hosts = ", ".join(_hosts(each))
        if there := list(_addresses(each)):
            return Finding("address", "ok", f"{each['kind']} {hosts} is served at {', '.join(there)}")
    if each["kind"] == "HTTPRoute":
        return Finding(
            "address",
            "warning",
            f"HTTPRoute {hosts} is not served: {_refusal(each)}",
            "see whether the Gateway takes routes of this namespace and name: kubectl describe httproute dify; name "
            "another one with manifests --gateway",
        )
    return Finding(
        "address",
        "warning",
        f"{each['kind']} {hosts} has no address: no controller says that it serves it",
        "see that an Ingress controller runs, and that the class is its own: kubectl get ingressclass; name it with "
        "manifests --ingress-class",
    )


def check_restarts(wanted: Wanted, seen: Running) -> Finding:
    """How often containers were started again, and which pods a node has put out."""
    again = [f"{each['metadata']['name']} {count} times" for each in seen.pods if (count := running.restarts(each))]
    put_out = [
        f"{each['metadata']['name']} ({each['status'].get('message', '')})"
        for each in seen.pods
        if each["status"].get("reason") == "Evicted"
    ]
    told = [f"started again: {', '.join(again)}"] if again else []
    told += [f"put out by their nodes: {', '.join(put_out)}"] if put_out else []
    if not told:
        return Finding("restarts", "ok", "no container was started again")
    return Finding("restarts", "warning", "; ".join(told), f"see why: {_logs(wanted, 'POD')} --previous")


def check_memory(_wanted: Wanted, seen: Running) -> Finding:
    """No container was ended for lack of memory."""
    killed = [each for each in seen.pods if running.out_of_memory(each)]
    if not killed:
        return Finding("memory", "ok", "no container was ended for lack of memory")
    told = ", ".join(f"{each['metadata']['name']} (limit {_limit(each)})" for each in killed)
    remedy = "give it more: a kustomization of yours on top of the overlay, with a patch of resources.limits.memory"
    # One that is ready again has lost some work, and may lose it again.
    level: Level = "warning" if all(map(running.is_ready, killed)) else "error"
    return Finding("memory", level, f"ended for lack of memory: {told}", remedy)


def check_settings(wanted: Wanted, seen: Running) -> Finding:
    """What runs has the folder's images and settings."""
    if seen.workloads is None:
        return Finding("settings", "info", UNSEEN)
    if different := changed(wanted, seen):
        remedy = f"apply the folder: kubectl diff -k FOLDER/overlays/small in {wanted.namespace} tells what changes"
        return Finding("settings", "warning", "; ".join(different), remedy)
    return Finding("settings", "ok", "images and settings are those of the folder")


Check = Callable[[Wanted, Running], Finding | None]
# What `status` tells, and what `doctor` tells besides.
CHECKS: dict[str, Check] = {
    "pods ready": check_workloads,
    "images": check_images,
    "migration": check_migration,
    "claims": check_claims,
    "address": check_address,
}
MORE: dict[str, Check] = {"restarts": check_restarts, "memory": check_memory, "settings": check_settings}


def judge(wanted: Wanted, seen: Running, checks: Mapping[str, Check]) -> list[Finding]:
    """Return what these checks find."""
    found = (check(wanted, seen) for check in checks.values())
    return [each for each in found if each is not None]


def workloads(wanted: Wanted) -> dict[str, Object]:
    """Return the Deployments and StatefulSets of a folder, by name."""
    return {each["metadata"]["name"]: each for each in wanted.of_kind("Deployment", "StatefulSet")}


def claims(wanted: Wanted) -> list[str]:
    """Return the names of a folder's claims, those of StatefulSets as the cluster makes them."""
    names = [str(each["metadata"]["name"]) for each in wanted.of_kind("PersistentVolumeClaim")]
    for each in wanted.of_kind("StatefulSet"):
        names += [
            f"{it['metadata']['name']}-{each['metadata']['name']}-0" for it in each["spec"]["volumeClaimTemplates"]
        ]
    return names


def unready(wanted: Wanted, seen: Running) -> dict[str, str]:
    """Return the workloads that are not as they should be, with the reason in words."""
    reasons = {name: _reason(name, seen) for name in workloads(wanted)}
    return {name: reason for name, reason in reasons.items() if reason}


def _reason(name: str, seen: Running) -> str:
    own = seen.pods_of(name)
    if seen.workloads is None:
        return "" if any(map(running.is_ready, own)) else "no pod of it is ready"
    live = seen.workloads.get(name)
    if live is None:
        return ABSENT
    asked, status = live["spec"].get("replicas", 1), live["status"]
    if not asked:
        return SCALED
    if status.get("observedGeneration", 0) < live["metadata"].get("generation", 0):
        return "its change was not taken up yet"
    there, ready, updated = (int(status.get(key, 0)) for key in ("replicas", "readyReplicas", "updatedReplicas"))
    # Pods of the template before, which go on until those of today's are ready.
    older = there - updated
    if not older and min(ready, updated) >= asked:
        return ""
    told = f"{max(0, min(ready, there) - older)} of {asked} ready"
    told += f", {older} of those before go on" if older > 0 else ""
    late = sorted((each for each in own if not running.is_ready(each)), key=running.is_ending)
    return f"{told} ({running.failing(late[0]) or running.waiting(late[0])})" if late else told


def starting_since(wanted: Wanted, seen: Running, now: float) -> float | None:
    """Return when the start began that is still on its way, in seconds since the epoch; None when none is.

    It is on its way while neither a pod nor the migration fails, and the youngest pod that is not ready is not older
    than STARTING_SECONDS.
    """
    # What a node has put out stays in the list, and was replaced.
    own = [each for name in workloads(wanted) for each in seen.pods_of(name) if each["status"].get("phase") != "Failed"]
    late = [each for each in own if not running.is_ready(each) and not running.is_ending(each)]
    begun = [running.moment(each["metadata"]["creationTimestamp"]) for each in late]
    fails = any(map(running.failing, own)) or any(map(running.out_of_memory, late))
    fails = fails or check_migration(wanted, seen).level == "error"
    if fails or not begun or now - max(begun) > STARTING_SECONDS:
        return None
    return min(begun)


def changed(wanted: Wanted, seen: Running) -> list[str]:
    """Return in words where what runs differs from the folder, and what of ours the folder does not have."""
    told = []
    known = workloads(wanted)
    for name, live in (seen.workloads or {}).items():
        mine = known.get(name)
        if mine is None:
            told.append(f"{name} is not of this folder")
            continue
        here, there = mine["spec"]["template"], live["spec"]["template"]
        if here["spec"]["containers"][0]["image"] != there["spec"]["containers"][0]["image"]:
            told.append(f"{name} runs another image than the folder's")
        elif here["metadata"]["annotations"].get(SETTINGS) != (there["metadata"].get("annotations") or {}).get(
            SETTINGS
        ):
            told.append(f"{name} runs with other settings than the folder's")
    return told


def _whose(pod: Object) -> str:
    return str(pod["metadata"]["labels"].get(running.NAME, pod["metadata"]["name"]))


def _limit(pod: Object) -> str:
    return str(pod["spec"]["containers"][0].get("resources", {}).get("limits", {}).get("memory", "of the node"))


def _logs(wanted: Wanted, which: str) -> str:
    return kubectl.log_command(wanted.namespace, which)


def _event(seen: Running, name: str) -> str:
    """Return what was said last of a claim."""
    told = [
        str(each.get("message", ""))
        for each in seen.events
        if each["involvedObject"].get("name") == name and each["involvedObject"].get("kind") == "PersistentVolumeClaim"
    ]
    return f"({told[-1]})" if told else ""


def _hosts(entrance: Object) -> Iterable[str]:
    if entrance["kind"] == "Route":
        return [str(entrance["spec"].get("host", ""))]
    if entrance["kind"] == "HTTPRoute":
        return map(str, entrance["spec"].get("hostnames") or ())
    return [str(each.get("host", "")) for each in entrance["spec"].get("rules") or ()]


def _addresses(entrance: Object) -> Iterator[str]:
    status = entrance.get("status", {})
    if entrance["kind"] == "Route":
        for each in status.get("ingress") or ():
            if any((it["type"], it["status"]) == ("Admitted", "True") for it in each.get("conditions") or ()):
                yield str(each.get("routerCanonicalHostname") or each.get("routerName") or each.get("host", ""))
        return
    if entrance["kind"] == "HTTPRoute":
        for each in status.get("parents") or ():
            if all(_condition(each, kind).get("status") == "True" for kind in ROUTE_CONDITIONS):
                yield f"the Gateway {each['parentRef']['name']}"
        return
    for each in status.get("loadBalancer", {}).get("ingress") or ():
        yield str(each.get("ip") or each.get("hostname") or "")


def _refusal(route: Object) -> str:
    """Return why no Gateway serves a route, in its controller's words."""
    for each in route.get("status", {}).get("parents") or ():
        for kind in ROUTE_CONDITIONS:
            if (found := _condition(each, kind)).get("status") == "False":
                return f"{found.get('reason', kind)}: {found.get('message', '')}".rstrip(": ")
    return "no controller says that it serves it"


def _condition(parent: Object, kind: str) -> Object:
    return next((each for each in parent.get("conditions") or () if each["type"] == kind), {})
