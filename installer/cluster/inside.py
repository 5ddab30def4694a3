"""Asks from inside the pods what the api and the plugin daemon reach: services, names, model servers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from installer.checks import inside, models
from installer.checks import names as inner_names
from installer.cluster import names, running
from installer.cluster.kubectl import Pods
from installer.cluster.look import Wanted
from installer.cluster.running import Running
from installer.core.finding import Finding
from installer.release import dify

LET_THROUGH = "let the network policies through: manifests --allow-intranet CIDR, and apply the folder again"


def check_services(wanted: Wanted, seen: Running, probe: Path, pods: Pods) -> list[Finding]:
    """Ask the inner services from where the api asks them: out of its pod."""
    services = {running.SERVICES[each["metadata"]["name"]] for each in wanted.of_kind("Service")}
    asked = [
        dify.InnerCheck(each.service, names.translate(each.url, (each.service,)))
        for each in dify.INNER_CHECKS
        if each.service in services
    ]
    api = inside.find_container(dify.API, running.containers(seen))
    if api is None or not asked:
        return []

    def remedy(kind: str, service: str) -> str:
        logs = pods.log_commands([f"--selector={running.NAME}={names.of(service)}"])
        if kind in ("name", "connection"):
            return f"look at {logs}; if that service is well, a network policy or the cluster's DNS is in the way"
        return f"look at {logs}"

    return inside.ask_services(api, asked, probe, pods, remedy)


def check_names(
    wanted: Wanted, seen: Running, servers: Sequence[models.Server], probe: Path, pods: Pods
) -> list[Finding]:
    """Have the api's pod resolve the names of the Services and of model servers."""
    api = inside.find_container(dify.API, running.containers(seen))
    if api is None:
        return []
    services = sorted(each["metadata"]["name"] for each in wanted.of_kind("Service"))
    hosts = inner_names.list_hosts(each.url for each in servers)
    (answer,) = inside.ask_inside(api, [{"names": [*services, *hosts]}], probe, pods, function="resolve")
    cluster_dns = "see that the cluster's DNS runs, and that network policies let pods ask it at port 53"
    remedies = inner_names.Remedies(
        lost=cluster_dns,
        unknown="let the cluster's DNS know it, or give the IP address instead",
        slow=cluster_dns,
        silent=f"see why: {pods.log_commands([api])}",
    )
    return inner_names.judge(services, hosts, answer, remedies)


def ask_servers(servers: Sequence[models.Server], seen: Running, probe: Path, pods: Pods) -> list[Finding]:
    """Ask each model server once more, without a key, from the pod that will call it; nothing where none runs."""
    found = running.containers(seen)
    caller = inside.find_container(dify.MODEL_CALLER, found) or inside.find_container(dify.API, found)
    results = []
    for server in servers if caller is not None else ():
        (answer,) = inside.ask_inside(str(caller), [server.question], probe, pods)
        judged = models.judge_again(server, str(caller), answer, answer)
        if answer["kind"] == "connection":
            judged = dataclasses.replace(judged, remedy=f"{judged.remedy}; {LET_THROUGH}")
        results.append(judged)
    return results
