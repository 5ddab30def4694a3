"""The company's authorities: a ConfigMap that the pods have mounted which call model servers, as on a host."""

from __future__ import annotations

from typing import Any

from installer.cluster.site import Object, Site, make
from installer.release import dify

NAME = "company-ca"
FILE = dify.CA_IN_CONTAINER.rpartition("/")[2]
# `kubectl apply` writes down what it applies in an annotation of the object, and the API takes 256 KiB of annotations
# (apimachinery, api/validation/objectmeta.go, TotalAnnotationSizeLimitB).
LARGEST = 200 * 1024


def config_map(site: Site) -> Object | None:
    """Return the ConfigMap, if there are authorities."""
    if not site.authorities:
        return None
    return make(site, "v1", "ConfigMap", NAME, dify.API, data={FILE: site.authorities})


def of(site: Site, service: str) -> Object | None:
    """Return the ConfigMap for a service that trusts it: those whose environment names the file."""
    return config_map(site) if site.environment(service).get(dify.CA_VARIABLES[0]) == dify.CA_IN_CONTAINER else None


def volume(site: Site, service: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the volume of a service's pods and the mount of its container; none for the others."""
    if of(site, service) is None:
        return [], []
    mount = {"name": NAME, "mountPath": dify.CA_FOLDER_IN_CONTAINER, "readOnly": True}
    return [{"name": NAME, "configMap": {"name": NAME}}], [mount]
