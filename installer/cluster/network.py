"""Services, the Ingress, HTTPRoute or Route, and network policies that let out what is named."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Any

from installer.cluster import names
from installer.cluster.site import CACHE, DATABASE, PORTS, Object, Site, labels, make
from installer.release import dify, external, intranet, storage

STORES = ("weaviate", "qdrant", "pgvector")
_ASKED = (DATABASE, CACHE, dify.MODEL_CALLER, dify.SSRF_PROXY, "sandbox", *STORES)
# Who calls whom (the addresses in Dify 1.11.3's .env.example, and nginx's templates).
CALLS: dict[str, tuple[str, ...]] = {
    dify.PROXY: dify.PROXIED,
    dify.API: _ASKED,
    dify.WORKER: (*_ASKED, dify.API),
    "worker_beat": (DATABASE, CACHE),
    "migration": (*_ASKED,),
    dify.MODEL_CALLER: (DATABASE, CACHE, dify.API),
    dify.SSRF_PROXY: ("sandbox",),
    "sandbox": (dify.SSRF_PROXY,),
}
# Who calls model servers and what workflows name.
OUTWARD = (dify.API, dify.WORKER, dify.MODEL_CALLER, dify.SSRF_PROXY)
# Who calls which services that run already, and the port at which sentinels' servers have to listen.
CALLS_OF_OTHERS: dict[str, tuple[str, ...]] = {
    "rows": (dify.API, dify.WORKER, "worker_beat", "migration", dify.MODEL_CALLER),
    "files": (dify.API, dify.WORKER, "worker_beat", "migration", dify.MODEL_CALLER),
    "vectors": (dify.API, dify.WORKER, "migration"),
}
REDIS_PORT = 6379


def service_object(site: Site, service: str) -> Object | None:
    """Return the Service of a service that listens."""
    ports = [{"name": name, "port": port, "targetPort": port} for name, port in PORTS.get(service, {}).items()]
    if service == dify.PROXY:
        ports = [{"name": "http", "port": 80, "targetPort": 8080}]
    if not ports:
        return None
    return make(site, "v1", "Service", names.of(service), service, spec={"selector": labels(service), "ports": ports})


def entrance(site: Site) -> Object:
    """Return what leads browsers to nginx: a route of the company's Gateway, if one is named, else an Ingress."""
    return http_route(site) if site.gateway else ingress(site)


def http_route(site: Site) -> Object:
    """Return the route of a Gateway: all goes to nginx.

    Answers are streamed for minutes, and a Gateway may end each request after 15 s (Envoy's default). "0s" lets it
    take its time (GEP-1742; in the standard channel since Gateway API 1.2).
    """
    namespace, _, name = site.gateway.rpartition("/")
    parent = {"name": name} | ({"namespace": namespace} if namespace else {})
    rule = {
        "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
        "backendRefs": [{"name": names.of(dify.PROXY), "port": 80}],
        "timeouts": {"request": "0s"},
    }
    spec: dict[str, Any] = {"parentRefs": [parent], "hostnames": [site.host], "rules": [rule]}
    return make(site, "gateway.networking.k8s.io/v1", "HTTPRoute", "dify", dify.PROXY, spec=spec)


def ingress(site: Site) -> Object:
    """Return the Ingress: all goes to nginx, which knows upstream's routes, streams and limits."""
    backend = {"service": {"name": names.of(dify.PROXY), "port": {"number": 80}}}
    rule = {"host": site.host, "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}
    spec: dict[str, Any] = {"rules": [rule]}
    if site.ingress_class:
        spec["ingressClassName"] = site.ingress_class
    if site.tls_secret:
        spec["tls"] = [{"hosts": [site.host], "secretName": site.tls_secret}]
    return make(site, "networking.k8s.io/v1", "Ingress", "dify", dify.PROXY, spec=spec)


def route(site: Site) -> Object:
    """Return OpenShift's Route in the Ingress's place; its certificate is the router's own."""
    spec: dict[str, Any] = {
        "host": site.host,
        "to": {"kind": "Service", "name": names.of(dify.PROXY)},
        "port": {"targetPort": "http"},
    }
    if site.tls_secret:
        spec["tls"] = {"termination": "edge", "insecureEdgeTerminationPolicy": "Redirect"}
    return make(site, "route.openshift.io/v1", "Route", "dify", dify.PROXY, spec=spec)


def policies(site: Site) -> list[Object]:
    """Return a policy for each service, which names who may call it and whom it may call."""
    services = [*site.services, "migration"]
    return [_policy(site, service) for service in services if service in PORTS or service in CALLS]


def _policy(site: Site, service: str) -> Object:
    callers = [each for each in sorted(CALLS) if service in CALLS[each] and each in (*site.services, "migration")]
    ports = [{"protocol": "TCP", "port": port} for port in PORTS.get(service, {}).values()]
    into: list[dict[str, Any]] = [{"from": [_pods(each) for each in callers], "ports": ports}] if callers else []
    if service == dify.PROXY:
        into = [{"ports": ports}]
    # The cluster's name service: 53, and 5353 where its pods listen there (OpenShift).
    asked = [{"protocol": kind, "port": port} for port in (53, 5353) for kind in ("UDP", "TCP")]
    out: list[dict[str, Any]] = [{"ports": asked}]
    for each in CALLS.get(service, ()):
        if each in site.services:
            listening = [{"protocol": "TCP", "port": port} for port in PORTS[each].values()]
            out.append({"to": [_pods(each)], "ports": listening})
    out += _others(site, service)
    if service in OUTWARD:
        out += [_range(each) for each in intranet.read(site.variables.get(dify.ALLOW_INTRANET))]
    spec = {"podSelector": {"matchLabels": labels(service)}, "policyTypes": ["Ingress", "Egress"], "egress": out}
    if into:
        # Without it nobody may call; the API counts an empty one as a change each time.
        spec["ingress"] = into
    return make(site, "networking.k8s.io/v1", "NetworkPolicy", names.of(service), service, spec=spec)


def _pods(service: str) -> dict[str, Any]:
    return {"podSelector": {"matchLabels": labels(service)}}


def _others(site: Site, service: str) -> list[dict[str, Any]]:
    """Return what lets a service out to those that run already; each once."""
    found: list[dict[str, Any]] = []
    for address in _addresses_of_others(site, service):
        if (rule := _to_server(*address)) not in found:
            found.append(rule)
    return found


def _addresses_of_others(site: Site, service: str) -> Iterator[external.Address]:
    variables = site.variables
    if service in CALLS_OF_OTHERS["rows"]:
        for each in (site.database, site.cache):
            yield from each.addresses.values() if each else ()
        if site.cache and site.cache.sentinels:
            # Where the server is that they name, they alone know.
            yield "", REDIS_PORT
    files, vectors = storage.find(variables), external.find_vectors(variables)
    if files and service in CALLS_OF_OTHERS["files"]:
        yield files.host, files.port
    if vectors and service in CALLS_OF_OTHERS["vectors"]:
        yield vectors.host, vectors.port


def _to_server(host: str, port: int) -> dict[str, Any]:
    """Return the rule for a server. A policy knows addresses and no names: of a name the port alone is said."""
    ports = {"ports": [{"protocol": "TCP", "port": port}]}
    try:
        return {"to": [{"ipBlock": {"cidr": str(ipaddress.ip_network(host.strip("[]")))}}], **ports}
    except ValueError:
        return ports


def _range(allowed: intranet.Range) -> dict[str, Any]:
    block: dict[str, Any] = {"to": [{"ipBlock": {"cidr": str(allowed.network)}}]}
    return block | ({"ports": [{"protocol": "TCP", "port": allowed.port}]} if allowed.port else {})
