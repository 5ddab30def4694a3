"""Claims: one that api and workers share, one of the plugin daemon, and templates for what keeps data."""

from __future__ import annotations

from typing import Any

from installer.cluster import names
from installer.cluster.site import LEFT_OUT, PORTS, Object, Site, make
from installer.release import dify

SHARED = "storage"
SHARED_TARGET = "/app/api/storage"
SIZES = {SHARED: "20Gi", dify.MODEL_CALLER: "20Gi", "db_postgres": "20Gi", "redis": "2Gi"}
DEFAULT_SIZE = "20Gi"
STATELESS = (dify.PROXY, dify.API, dify.WORKER, "worker_beat", dify.WEB, dify.SSRF_PROXY, "sandbox", *LEFT_OUT)


def data_targets(site: Site, service: str) -> list[str]:
    """Return where a service keeps data that must outlive its pod."""
    if service in STATELESS:
        return []
    targets = []
    for volume in site.services[service].get("volumes") or ():
        source, target = str(volume).split(":")[:2]
        if not (site.project / source).is_file():
            targets.append(target)
    return targets


def is_stateful(site: Site, service: str) -> bool:
    """Tell whether a service is a StatefulSet: it has data, and is no part of Dify itself."""
    return service != dify.MODEL_CALLER and service in PORTS and bool(data_targets(site, service))


def spec(site: Site, name: str, mode: str) -> dict[str, Any]:
    """Return the specification of a claim."""
    found: dict[str, Any] = {
        "accessModes": [mode],
        "resources": {"requests": {"storage": SIZES.get(name, DEFAULT_SIZE)}},
    }
    return found | ({"storageClassName": site.storage_class} if site.storage_class else {})


def claims(site: Site) -> list[Object]:
    """Return the claims that are no templates. They are not in the overlays: `kubectl delete -k` would take them."""
    found = []
    if site.storage_is_shared:
        fields = {"spec": spec(site, SHARED, site.access_mode)}
        found.append(make(site, "v1", "PersistentVolumeClaim", SHARED, dify.API, **fields))
    if dify.MODEL_CALLER in site.services:
        name = names.of(dify.MODEL_CALLER)
        fields = {"spec": spec(site, dify.MODEL_CALLER, "ReadWriteOnce")}
        found.append(make(site, "v1", "PersistentVolumeClaim", name, dify.MODEL_CALLER, **fields))
    return found
