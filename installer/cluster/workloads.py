"""Deployments and StatefulSets, and what there is of them when several run."""

from __future__ import annotations

from typing import Any

from installer.cluster import authorities, migration, names, pods, settings, storage
from installer.cluster.site import Object, Site, labels, make
from installer.release import dify

# Those of which several may run. worker_beat sends each task when its time comes: two would send each twice. The plugin
# daemon is "not designed for high availability" (dify-plugin-daemon#87).
REPLICATED = (dify.API, dify.WORKER, dify.WEB, dify.PROXY)
ONE_ONLY = ("worker_beat", dify.MODEL_CALLER)
MIGRATED_FIRST = (dify.API, dify.WORKER, "worker_beat")


def workload(site: Site, service: str) -> Object:
    """Return a service's Deployment or StatefulSet."""
    plain, secret = settings.environment(site, service)
    checksum = settings.digest(plain, secret, settings.files(site, service), authorities.of(site, service))
    waits = []
    if service in MIGRATED_FIRST:
        waits = [pods.waits_for_migration(site, migration.job_name(site))]
    elif service == dify.MODEL_CALLER:
        waits = [pods.waits_for_database(site), pods.waits_for_cache(site)]
    spec: dict[str, Any] = {
        "replicas": 1,
        "selector": {"matchLabels": labels(service)},
        "template": pods.template(site, service, checksum, waits),
    }
    if storage.is_stateful(site, service):
        spec["serviceName"] = names.of(service)
        spec["volumeClaimTemplates"] = [
            {"metadata": {"name": f"data-{number}"}, "spec": storage.spec(site, service, "ReadWriteOnce")}
            for number, _ in enumerate(storage.data_targets(site, service))
        ]
        return make(site, "apps/v1", "StatefulSet", names.of(service), service, spec=spec)
    spec["strategy"] = {"type": "Recreate"} if service in ONE_ONLY else _rolling()
    return make(site, "apps/v1", "Deployment", names.of(service), service, spec=spec)


def _rolling() -> dict[str, Any]:
    return {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}


def replicas(site: Site, service: str) -> list[Object]:
    """Return the patch that runs two of a service, apart from each other, and the budget that keeps one of them."""
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": labels(service)},
    }
    spec = {"replicas": 2, "template": {"spec": {"topologySpreadConstraints": [spread]}}}
    patch = make(site, "apps/v1", "Deployment", names.of(service), service, spec=spec)
    budget = {"minAvailable": 1, "selector": {"matchLabels": labels(service)}}
    return [patch, make(site, "policy/v1", "PodDisruptionBudget", names.of(service), service, spec=budget)]
