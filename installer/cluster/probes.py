"""Probes out of health checks; where there is none, the page or the port that shows that a service works."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

from installer.cluster.site import PORTS, Site
from installer.release import compose, dify

# The api's page answers when its database has tables: it is not asked before the migration is done.
PAGES = {dify.API: "/console/api/setup", dify.WEB: "/install"} | {
    each.service: urlsplit(each.url).path for each in dify.INNER_CHECKS
}


def probes(site: Site, service: str) -> dict[str, Any]:
    """Return a container's probes, none for a service that listens on nothing."""
    check = site.services[service].get("healthcheck") or {}
    ports = list(PORTS.get(service, {}).values())
    times: dict[str, Any] = {"periodSeconds": 5, "timeoutSeconds": 5, "failureThreshold": 6}
    if check.get("test") and service not in PAGES:
        return {"readinessProbe": {"exec": {"command": command(site, service)}, **times}}
    if not ports:
        return {}
    listens = {"tcpSocket": {"port": ports[0]}}
    ready = {"httpGet": {"path": PAGES[service], "port": ports[0]}} if service in PAGES else listens
    patient = {"tcpSocket": {"port": ports[0]}, "periodSeconds": 5, "failureThreshold": 120}
    return {
        "startupProbe": patient,
        "readinessProbe": {**ready, **times},
        "livenessProbe": {**listens, "periodSeconds": 20, "timeoutSeconds": 5, "failureThreshold": 6},
    }


def command(site: Site, service: str) -> list[str]:
    """Return a health check's command. It asks its own container: its Service has no address before it is ready."""
    test = compose.expand_all(site.services[service]["healthcheck"]["test"], site.variables)
    kind, *words = test if isinstance(test, list) else ("CMD-SHELL", test)
    words = [re.sub(rf"(?<![\w.-]){service}(?![\w.-])", "127.0.0.1", word) for word in words]
    return words if kind == "CMD" else ["sh", "-c", *words]
