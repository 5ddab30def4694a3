"""The folder: `prepare`, `base`, the overlays and `gone`, as plain kustomize; the same inputs give the same bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from installer.cluster import authorities, migration, names, network, settings, storage, workloads
from installer.cluster.site import LEFT_OUT, Object, Site, make
from installer.release import dify

OVERLAYS = ("small", "replicated", "openshift")


def contents(site: Site) -> dict[str, str]:
    """Return path -> text of all files of the folder; those with Secrets end in `-secrets.yaml`."""
    files = {
        "prepare/namespace.yaml": _text(_namespace(site)),
        "prepare/kustomization.yaml": _kustomization(["namespace.yaml"]),
    }
    if claims := storage.claims(site):
        files["prepare/claims.yaml"] = _text(*claims)
        files["prepare/kustomization.yaml"] = _kustomization(["namespace.yaml", "claims.yaml"])
    base = {
        "accounts.yaml": _text(*_accounts(site)),
        "migration.yaml": _text(migration.program(site), migration.job(site)),
    }
    base |= {"entrance.yaml": _text(network.entrance(site)), "policies.yaml": _text(*network.policies(site))}
    if company := authorities.config_map(site):
        base["authorities.yaml"] = _text(company)
    for service in site.services:
        if service not in LEFT_OUT:
            base |= _service(site, service)
    files |= {f"base/{name}": text for name, text in base.items()}
    files["base/kustomization.yaml"] = _kustomization(sorted(base))
    files["overlays/small/kustomization.yaml"] = _kustomization(["../../base"])
    return files | _replicated(site) | _openshift(site)


def objects(contents: Mapping[str, str]) -> list[Object]:
    """Return what names each object that the overlays make, and nothing else of it."""
    found = []
    for path, text in sorted(contents.items()):
        if path.startswith(("base/", "overlays/")) and not path.endswith("/kustomization.yaml"):
            for each in yaml.load_all(text, Loader=yaml.CSafeLoader):
                place = {key: each["metadata"][key] for key in ("name", "namespace")}
                found.append({"apiVersion": each["apiVersion"], "kind": each["kind"], "metadata": place})
    return found


def gone(named: list[Object]) -> dict[str, str]:
    """Return the files that let kubectl delete objects which an earlier release had; none where there are none."""
    if not named:
        return {}
    return {"gone/objects.yaml": _text(*named), "gone/kustomization.yaml": _kustomization(["objects.yaml"])}


def _service(site: Site, service: str) -> dict[str, str]:
    plain, secret = settings.environment(site, service)
    made = [
        workloads.workload(site, service),
        network.service_object(site, service),
        plain,
        settings.files(site, service),
    ]
    name = names.of(service)
    return {f"{name}.yaml": _text(*made), f"{name}-secrets.yaml": _text(secret)}


def _replicated(site: Site) -> dict[str, str]:
    patches, budgets = [], []
    for service in workloads.REPLICATED:
        if service in site.services:
            patch, budget = workloads.replicas(site, service)
            patches.append({"patch": _text(patch)})
            budgets.append(budget)
    return {
        "overlays/replicated/budgets.yaml": _text(*budgets),
        "overlays/replicated/kustomization.yaml": _kustomization(["../../base", "budgets.yaml"], patches),
    }


def _openshift(site: Site) -> dict[str, str]:
    """Return the overlay with a Route, and the security contexts that the pods may have (SCC).

    Upstream's images are "not built to run under any random user" (dify-helm#112), so that they keep their users:
    nonroot-v2 allows that. The sandbox does chroot and setuid (dify-helm#421): anyuid.
    """
    access = [*_context(site, "dify", "nonroot-v2"), *_context(site, "dify-sandbox", "anyuid")]
    gone = network.entrance(site)
    gone = {key: gone[key] for key in ("apiVersion", "kind", "metadata")} | {"$patch": "delete"}
    resources = ["../../base", "access.yaml", "route.yaml"]
    return {
        "overlays/openshift/route.yaml": _text(network.route(site)),
        "overlays/openshift/access.yaml": _text(*access),
        "overlays/openshift/kustomization.yaml": _kustomization(resources, [{"patch": _text(gone)}]),
    }


def _context(site: Site, account: str, context: str) -> list[Object]:
    name, group = f"{account}-{context}", "rbac.authorization.k8s.io"
    rule = {
        "apiGroups": ["security.openshift.io"],
        "resources": ["securitycontextconstraints"],
        "resourceNames": [context],
        "verbs": ["use"],
    }
    subject = {"kind": "ServiceAccount", "name": account, "namespace": site.namespace}
    referred = {"apiGroup": group, "kind": "Role", "name": name}
    return [
        make(site, f"{group}/v1", "Role", name, dify.API, rules=[rule]),
        make(site, f"{group}/v1", "RoleBinding", name, dify.API, roleRef=referred, subjects=[subject]),
    ]


def _namespace(site: Site) -> Object:
    """Return the namespace. The sandbox needs what `restricted` forbids and `baseline` allows; others are told of."""
    level = "pod-security.kubernetes.io"
    marked = {f"{level}/enforce": "baseline", f"{level}/warn": "restricted", f"{level}/audit": "restricted"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": site.namespace, "labels": marked}}


def _accounts(site: Site) -> list[Object]:
    """Return the accounts of the pods, which none of them signs in with."""
    return [
        make(site, "v1", "ServiceAccount", name, dify.API, automountServiceAccountToken=False)
        for name in ("dify", "dify-sandbox")
    ]


def _kustomization(resources: list[str], patches: list[dict[str, Any]] | None = None) -> str:
    top: Object = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": resources}
    return _text(top | ({"patches": patches} if patches else {}))


class _Dumper(yaml.CSafeDumper):
    """Writes whole what stands there twice."""

    def ignore_aliases(self, _data: Any) -> bool:
        """Return that nothing is an alias."""
        return True


def _text(*objects: Object | None) -> str:
    there = [each for each in objects if each is not None]
    return yaml.dump_all(there, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)
