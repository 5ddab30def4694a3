"""Judges a cluster for a written folder: pure functions, a finding each."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

from installer.cluster.look import Seen, Wanted
from installer.cluster.site import Object
from installer.core.finding import Finding

# The oldest with all of our objects' kinds, and with Pod Security (Kubernetes 1.25, "PodSecurity graduates to stable").
OLDEST = (1, 25)
# Pods of ours ran on this one.
TRIED = (1, 33)
DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
DEFAULT_INGRESS = "ingressclass.kubernetes.io/is-default-class"
# Who makes volumes of one node's disk or of a block device, which pods of several nodes do not write, unless set up so.
ONE_NODE = (
    "rancher.io/local-path",
    "ebs.csi.aws.com",
    "disk.csi.azure.com",
    "pd.csi.storage.gke.io",
    "cinder.csi.openstack.org",
)
ENFORCED = "pod-security.kubernetes.io/enforce"
SUFFIXES: dict[str, Decimal] = {"m": Decimal("0.001")}
SUFFIXES |= {name: Decimal(1000) ** power for power, name in enumerate(("k", "M", "G", "T"), start=1)}
SUFFIXES |= {name: Decimal(1024) ** power for power, name in enumerate(("Ki", "Mi", "Gi", "Ti"), start=1)}


def judge(wanted: Wanted, seen: Seen) -> list[Finding]:
    """Return all findings; of a cluster that does not answer that alone."""
    if seen.version is None:
        return [check_kubernetes(wanted, seen)]
    found = (check(wanted, seen) for check in CHECKS.values())
    return [finding for finding in found if finding is not None]


def check_kubernetes(_wanted: Wanted, seen: Seen) -> Finding:
    """kubectl is there, its cluster answers, and is of Kubernetes 1.25 or later."""
    name = "kubernetes"
    if not seen.program:
        return Finding(name, "error", "kubectl is not there", "install it, 1.21 or later, where you apply the folder")
    if seen.version is None:
        return Finding(name, "error", f"the cluster does not answer: {seen.refused}", "see: kubectl cluster-info")
    server = seen.version.get("serverVersion", {})
    digits = ("".join(filter(str.isdigit, str(server.get(key)))) for key in ("major", "minor"))
    major, minor = (int(each or 0) for each in digits)
    told = f"Kubernetes {server.get('gitVersion', '')}"
    if (major, minor) < OLDEST:
        return Finding(name, "error", told, "use a cluster of 1.25 or later")
    return Finding(name, "ok", told)


def check_namespace(wanted: Wanted, seen: Seen) -> Finding:
    """The namespace lets the sandbox's pod in, which `restricted` does not; one that is not there is made."""
    name = "namespace"
    if seen.namespace is None:
        return Finding(name, "ok", f"{wanted.namespace} is not there yet: `prepare` makes it")
    level = seen.namespace["metadata"].get("labels", {}).get(ENFORCED, "")
    if level == "restricted":
        return Finding(
            name,
            "warning",
            f"{wanted.namespace} enforces {level}, under which the sandbox's pod is refused",
            "apply `prepare`, which asks for baseline; or leave code nodes and tools alone",
        )
    return Finding(name, "ok", f"{wanted.namespace} enforces {level or 'no level'} of Pod Security")


def check_rights(wanted: Wanted, seen: Seen) -> Finding:
    """This user may create every kind of object that the folder has."""
    if seen.forbidden:
        return Finding(
            "rights",
            "error",
            f"this user may not create {', '.join(seen.forbidden)}",
            f"let an administrator apply the folder, or give you the right in {wanted.namespace}",
        )
    return Finding("rights", "ok", f"this user may create all {len(wanted.resources)} kinds of objects")


def check_storage(wanted: Wanted, seen: Seen) -> Finding | None:
    """Claims have a storage class, and the shared one a class whose volumes several nodes may write."""
    name = "storage"
    if not wanted.claims:
        return None
    if seen.classes is None:
        return Finding(name, "warning", "this user may not see storage classes", "ask which ones there are")
    known = {each["metadata"]["name"]: each for each in seen.classes}
    default = next((key for key, each in known.items() if _is_true(each, DEFAULT_CLASS)), "")
    there = f"there are {', '.join(sorted(known)) or 'none'}"
    for claim in wanted.claims.values():
        chosen = claim.get("storageClassName", default)
        if chosen not in known:
            told = f"there is no storage class {chosen}" if chosen else "no storage class is the default"
            return Finding(name, "error", f"{told}; {there}", "name one with manifests --storage-class")
        provisioner = known[chosen]["provisioner"]
        if "ReadWriteMany" in claim["accessModes"] and provisioner in ONE_NODE:
            return Finding(
                name,
                "warning",
                f"volumes of {chosen} ({provisioner}) are not written by several nodes, as the shared claim asks",
                "name another class, or manifests --access-mode ReadWriteOnce on one node, or --set STORAGE_TYPE=s3",
            )
    return Finding(name, "ok", f"{len(wanted.claims)} claims, of {default or 'a named class'}; {there}")


def check_ingress(wanted: Wanted, seen: Seen) -> Finding | None:
    """The Ingress has its class, or there is a default one."""
    name = "ingress"
    ingresses = wanted.of_kind("Ingress")
    if not ingresses or seen.ingress_classes is None:
        return None
    known = {each["metadata"]["name"]: each for each in seen.ingress_classes}
    there = f"there are {', '.join(sorted(known)) or 'none'}"
    chosen = ingresses[0]["spec"].get("ingressClassName") or next(
        (key for key, each in known.items() if _is_true(each, DEFAULT_INGRESS)), ""
    )
    if chosen not in known:
        told = f"there is no Ingress class {chosen}" if chosen else "no Ingress class is the default"
        return Finding(name, "warning", f"{told}; {there}", "name one with manifests --ingress-class")
    return Finding(name, "ok", f"the class {chosen}")


def check_gateway(wanted: Wanted, seen: Seen) -> Finding | None:
    """The Gateway that is named is there, works, and takes routes of the namespace."""
    name = "gateway"
    if wanted.gateway is None:
        return None
    namespace, called = wanted.gateway
    if seen.gateway is None:
        return Finding(
            name,
            "error",
            f"there is no Gateway {called} in {namespace}, or this user may not see it",
            "name one with manifests --gateway NAMESPACE/NAME: kubectl get gateways --all-namespaces",
        )
    conditions = {each["type"]: each for each in seen.gateway.get("status", {}).get("conditions") or ()}
    works = conditions.get("Programmed", {})
    if works.get("status") != "True":
        why = str(works.get("message") or "no controller says that it serves it")
        return Finding(name, "warning", f"the Gateway {called} does not work: {why}", "see that its controller runs")
    allowed = [_takes_from(each) for each in seen.gateway["spec"].get("listeners") or ()]
    if namespace != wanted.namespace and not {"All", "Selector"} & set(allowed):
        return Finding(
            name,
            "error",
            f"the Gateway {called} takes routes of its own namespace alone, and Dify's is in {wanted.namespace}",
            "its administrator sets allowedRoutes.namespaces.from of a listener to All, or to Selector",
        )
    return Finding(name, "ok", f"the Gateway {called} in {namespace} works")


def _takes_from(listener: Object) -> str:
    return str(listener.get("allowedRoutes", {}).get("namespaces", {}).get("from", "Same"))


def check_secrets(wanted: Wanted, seen: Seen) -> Finding | None:
    """The Secrets that the folder only names are there, of their type: the registry's login, the certificate."""
    if not wanted.secrets:
        return None
    remedy = "kubectl create secret docker-registry …, or tls …, after `prepare`"
    if seen.namespace is None:
        return Finding("secrets", "warning", f"{', '.join(wanted.secrets)}: to be made by you", remedy)
    wrong = [f"{name} ({kind})" for name, kind in wanted.secrets.items() if seen.secrets.get(name) != kind]
    if wrong:
        return Finding(
            "secrets",
            "error",
            f"not in {wanted.namespace}, or of another type: {', '.join(wrong)}",
            remedy,
        )
    return Finding("secrets", "ok", ", ".join(wanted.secrets))


def check_quota(wanted: Wanted, seen: Seen) -> Finding:
    """What the pods of `small` request fits into the namespace's quotas."""
    asked = {
        "requests.cpu": _sum(wanted, "cpu"),
        "requests.memory": _sum(wanted, "memory"),
        "requests.storage": sum(
            (quantity(each["resources"]["requests"]["storage"]) for each in wanted.claims.values()), Decimal()
        ),
        "pods": Decimal(len(wanted.pods)),
        "persistentvolumeclaims": Decimal(len(wanted.claims)),
    }
    for quota in seen.quotas:
        hard, used = quota["status"].get("hard", {}), quota["status"].get("used", {})
        if {"limits.cpu", "limits.ephemeral-storage"} & set(hard) and not seen.limits:
            return Finding(
                "quota",
                "error",
                f"{quota['metadata']['name']} counts limits that our pods do not name, so that they are refused",
                "make a LimitRange with default limits for the processor and ephemeral storage",
            )
        for key, limit in hard.items():
            full = {"cpu": "requests.cpu", "memory": "requests.memory"}.get(key, key)
            left = quantity(limit) - quantity(used.get(key, "0"))
            if full in asked and asked[full] > left:
                return Finding(
                    "quota",
                    "error",
                    f"{quota['metadata']['name']} leaves {left:f} of {full}, and {asked[full]:f} are asked for",
                    "have the quota raised, unless what is used already is this Dify",
                )
    needs = f"{asked['requests.cpu']:f} processors, {asked['requests.memory'] / 2**30:.1f} GiB of memory"
    return Finding("quota", "ok", f"{len(seen.quotas)} quotas; the pods request {needs}")


CHECKS: dict[str, Callable[[Wanted, Seen], Finding | None]] = {
    "kubernetes": check_kubernetes,
    "namespace": check_namespace,
    "rights": check_rights,
    "storage": check_storage,
    "ingress": check_ingress,
    "gateway": check_gateway,
    "secrets": check_secrets,
    "quota": check_quota,
}


def quantity(text: str) -> Decimal:
    """Return a number as Kubernetes writes it: 500m, 2, 64Mi. Raises InvalidOperation for anything else."""
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if text.endswith(suffix):
            return Decimal(text.removesuffix(suffix)) * SUFFIXES[suffix]
    return Decimal(text)


def _sum(wanted: Wanted, resource: str) -> Decimal:
    """Return what the pods request of a resource; init containers run before the others, the largest counts."""
    total = Decimal()
    for pod in wanted.pods:
        at_once = sum((_request(each, resource) for each in pod["containers"]), Decimal())
        before = (_request(each, resource) for each in pod.get("initContainers", ()))
        total += max([at_once, *before])
    return total


def _request(container: Object, resource: str) -> Decimal:
    return quantity(container["resources"]["requests"][resource])


def _is_true(each: Object, annotation: str) -> bool:
    return bool(each["metadata"].get("annotations", {}).get(annotation) == "true")
