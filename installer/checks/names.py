"""Judges whether names are resolved inside, and how long that takes: of the stack's services and of model servers."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from installer.checks import inside
from installer.core.finding import Finding
from installer.engine.base import Container, Engine
from installer.release import compose, dify

CHECK = "names inside"


class Remedies(NamedTuple):
    """What to do about names: of services that are lost, of hosts that nobody knows, slow ones, no answer at all."""

    lost: str
    unknown: str
    slow: str
    silent: str


ON_HOST = Remedies(
    lost="the engine's own name server fails: dify-installer restart; as root, see that no firewall stops it",
    unknown="let DNS know it, or give the IP address instead; --resolver IP names who knows it",
    slow="its name server does not answer: --resolver IP names one that does, --resolver none has nobody asked",
    silent="see why: dify-installer logs api",
)
# Whoever waits longer for a name has a name server that does not answer (docs/decisions/018).
SLOW_SECONDS = 2.0


def check_names(
    document: compose.Document, found: list[Container], servers: Iterable[str], probe: Path, engine: Engine
) -> list[Finding]:
    """Have the api's container resolve the names of services beside it and of model servers, given by their URLs."""
    api = inside.find_container(dify.API, found)
    if api is None:
        return []
    services, hosts = list_services(document, found), list_hosts(servers)
    (answer,) = inside.ask_inside(api, [{"names": [*services, *hosts]}], probe, engine, function="resolve")
    return judge(services, hosts, answer)


def list_services(document: compose.Document, found: Iterable[Container]) -> list[str]:
    """Return the services that run and share a network with the api."""
    running = {each.service for each in found if each.state == "running"}
    services = document["services"]
    of_api = _networks(services.get(dify.API) or {})
    return sorted(name for name in running & set(services) if _networks(services[name]) & of_api)


def _networks(service: Mapping[str, Any]) -> set[str]:
    if "network_mode" in service:
        return set()
    # A list, or a mapping with more about each.
    return set(service.get("networks") or ("default",))


def list_hosts(urls: Iterable[str]) -> list[str]:
    """Return the names of hosts in URLs; an address is none."""
    hosts = {host for url in urls if (host := urlsplit(url).hostname)}
    return sorted(host for host in hosts if not _is_address(host))


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def judge(
    services: Sequence[str], hosts: Sequence[str], answer: Mapping[str, Any], remedies: Remedies = ON_HOST
) -> list[Finding]:
    """Judge what the probe's `resolve` has answered."""
    if answer["kind"] != "ok":
        return [Finding(CHECK, "warning", str(answer["detail"]), remedies.silent)]
    names: Mapping[str, Mapping[str, Any]] = answer["names"]
    findings = []
    if lost := _faults(services, names):
        findings.append(Finding(CHECK, "error", f"the api does not find {lost}", remedies.lost))
    if lost := _faults(hosts, names):
        findings.append(Finding(CHECK, "warning", f"the api does not find the model server {lost}", remedies.unknown))
    slow = [f"{name} {each['seconds']:.1f} s" for name, each in names.items() if each["seconds"] > SLOW_SECONDS]
    if slow:
        findings.append(Finding(CHECK, "warning", f"the api waits for names: {', '.join(slow)}", remedies.slow))
    longest = max((float(each["seconds"]) for each in names.values()), default=0.0)
    return findings or [Finding(CHECK, "ok", f"the api finds {len(names)} names, each within {longest:.2f} s")]


def _faults(wanted: Iterable[str], names: Mapping[str, Mapping[str, Any]]) -> str:
    return ", ".join(f"{name} ({names[name]['fault']})" for name in wanted if names[name]["fault"])
