"""The commands `status --kubernetes` and `doctor --kubernetes`: what runs of a folder that `manifests` has written.

All is asked through the user's own kubectl. Nothing is changed on the cluster: a port is forwarded while the console is
asked, and a program runs in the api's pod that asks its neighbours.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import dataclasses
import datetime
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from installer.bundle import manifest, verify
from installer.checks import front_door, known_servers, starting
from installer.checks.upkeep import CERTIFICATE_DAYS
from installer.cluster import health, inside, judge, kubectl, names, running
from installer.cluster.look import Seen, Wanted, read
from installer.cluster.running import Running
from installer.cluster.site import Object
from installer.commands import overview
from installer.commands.manifests import SETTINGS
from installer.commands.overview import Overview
from installer.core import errors, layout
from installer.core.finding import Finding
from installer.core.runner import Runner
from installer.engine.base import Container
from installer.images import inventory
from installer.release import dify, external, settings, tls

# nginx's Service (`cluster.network`).
GATEWAY, PORT = names.of(dify.PROXY), 80
# As much of a digest as a person compares.
DIGEST = re.compile(r"(@sha256:[0-9a-f]{12})[0-9a-f]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """A folder, its settings, and the way to its pods."""

    folder: Path
    wanted: Wanted
    env: settings.Settings
    pods: kubectl.Pods
    bundle: manifest.Manifest

    def containers(self) -> list[Container]:
        """Return the pods of services as containers. Raises CommandFailed."""
        return running.containers(running.look(self.wanted, self.pods.runner))

    @contextlib.contextmanager
    def front(self) -> Iterator[front_door.FrontDoor]:
        """Give the way to the console: a port of this machine that leads to nginx. Raises CommandFailed."""
        with self.pods.forwarded(GATEWAY, PORT) as port:
            yield front_door.FrontDoor(
                url=f"http://127.0.0.1:{port}",
                version=self.wanted.dify,
                certificate=None,
                logs=self.pods.log_commands([f"--selector={running.NAME}={names.of(dify.API)}"]),
                status=f"dify-installer status --kubernetes {self.folder}",
                public=self.env.url,
            )


def open_cluster(folder: Path, runner: Runner) -> Cluster:
    """Read a folder. Raises UsageError for one that `manifests` has not written, or whose settings cannot be read."""
    wanted, payload = read(folder), layout.bundled("")
    bundle = verify.check_embedded(payload)
    example = (payload / layout.PROJECT / layout.ENV_EXAMPLE).read_text("utf-8")
    env = settings.read(folder / SETTINGS, example)
    runner.hide(env.secrets)
    pods = kubectl.Pods(runner, wanted.namespace)
    return Cluster(folder=folder, wanted=wanted, env=env, pods=pods, bundle=bundle)


def look(cluster: Cluster) -> tuple[Overview, list[Finding]]:
    """Return it at a glance, and its checklist; while it starts, what does not answer yet is a warning.

    Raises CommandFailed when the cluster does not answer.
    """
    seen = running.look(cluster.wanted, cluster.pods.runner)
    return _look(cluster, seen)


def diagnose(cluster: Cluster) -> tuple[Overview, list[Finding]]:
    """Return all of `look`, and what goes wrong over the months. Raises CommandFailed as `look` does."""
    seen = running.look(cluster.wanted, cluster.pods.runner)
    glance, checked = _look(cluster, seen)
    servers, probe = known_servers.read(layout.Installation(cluster.folder)), layout.bundled(layout.PROBE)
    found = [
        *health.judge(cluster.wanted, seen, health.MORE),
        *inside.check_names(cluster.wanted, seen, servers, probe, cluster.pods),
        *inside.ask_servers(servers, seen, probe, cluster.pods),
        *judge_certificate(glance.certificate_days, _tls_secret(cluster.wanted), cluster.wanted.namespace),
    ]
    return glance, [*checked, *found]


def _look(cluster: Cluster, seen: Running) -> tuple[Overview, list[Finding]]:
    wanted, now = cluster.wanted, time.time()
    version = judge.check_kubernetes(wanted, Seen(program=True, version=seen.version))
    checked = [
        version,
        *health.judge(wanted, seen, health.CHECKS),
        *_ask_console(cluster),
        *inside.check_services(wanted, seen, layout.bundled(layout.PROBE), cluster.pods),
    ]
    since = health.starting_since(wanted, seen, now)
    return glance_of(cluster, seen), starting.judge_as_starting(checked, since, now) if since else checked


def _ask_console(cluster: Cluster) -> list[Finding]:
    """Ask Dify through nginx, as the Ingress does."""
    try:
        with cluster.front() as front:
            found = front_door.check_console(front)
            # The port is another one each time.
            return [dataclasses.replace(each, seen=each.seen.replace(front.url, f"http://{GATEWAY}")) for each in found]
    except errors.CommandFailed as error:
        return [Finding("console reachable", "error", error.message, error.remedy)]


def glance_of(cluster: Cluster, seen: Running) -> Overview:
    """Return what runs at a glance."""
    reasons = health.unready(cluster.wanted, seen)
    return Overview(
        dify=cluster.wanted.dify,
        url=cluster.env.url,
        folder=str(cluster.folder),
        engine=f"Kubernetes {seen.version.get('serverVersion', {}).get('gitVersion', '')}".strip(),
        services=tuple(_service(each, seen, reasons.get(each, "")) for each in health.workloads(cluster.wanted)),
        image_bytes=sum(inventory.layer_sizes(cluster.bundle.images, cluster.bundle).values()),
        data_bytes=None,
        certificate_days=_certificate_days(cluster),
        not_ours=tuple(external.in_words(cluster.env.resolved)),
        last_backup="",
        kept="",
        changed=tuple(health.changed(cluster.wanted, seen)),
    )


def _service(name: str, seen: Running, reason: str) -> overview.Service:
    pods = seen.pods_of(name)
    ready = [each for each in pods if running.is_ready(each)]
    known = {each.name: each for each in running.containers(seen)}
    began = [known[each["metadata"]["name"]].started for each in ready if each["metadata"]["name"] in known]
    state = "not created" if not pods else "ready" if not reason else "not ready"
    return overview.Service(
        name=name,
        state=f"{len(ready)} ready" if state == "ready" and len(ready) > 1 else state,
        since=min(began, default=0),
        restarts=sum(map(running.restarts, pods)),
        image=str(pods[0]["spec"]["containers"][0]["image"]) if pods else "",
        reason=reason,
    )


def _tls_secret(wanted: Wanted) -> str:
    found: list[Object] = [tls for each in wanted.of_kind("Ingress") for tls in each["spec"].get("tls") or ()]
    return str(found[0]["secretName"]) if found else ""


def _certificate_days(cluster: Cluster) -> int | None:
    """Return how long the certificate of the Ingress is still good; None where there is none, or it is not seen."""
    secret = _tls_secret(cluster.wanted)
    if not secret:
        return None
    # The certificate alone, and not its key.
    asked = ("--namespace", cluster.wanted.namespace, r"--output=jsonpath={.data.tls\.crt}")
    text = kubectl.get(cluster.pods.runner, "secret", secret, *asked)
    with contextlib.suppress(errors.UsageError, binascii.Error):
        left = tls.end_of(base64.b64decode(text or ""), Path(secret)) - datetime.datetime.now(datetime.UTC)
        return left.days
    return None


def judge_certificate(days: int | None, secret: str, namespace: str) -> list[Finding]:
    """Judge how long the certificate is still good, in days; without https there is nothing to judge."""
    if not secret:
        return []
    if days is None:
        return [Finding("certificate", "info", f"this user may not see the Secret {secret}, or it holds none")]
    remedy = f"ask for a new one, and put it into the Secret {secret} of {namespace}"
    if days < 0:
        return [Finding("certificate", "error", "it has ended", remedy)]
    if days < CERTIFICATE_DAYS:
        return [Finding("certificate", "warning", f"{days} days left", remedy)]
    return [Finding("certificate", "ok", f"{days} days left")]


def as_text(glance: Overview, namespace: str, now: float) -> str:
    """Return a glance for people; `now` in seconds since the epoch."""
    lines = [f"Dify {glance.dify} at {glance.url}, in the namespace {namespace}, on {glance.engine}"]
    if glance.certificate_days is not None:
        lines.append(f"certificate: {glance.certificate_days} days left")
    services = [dataclasses.replace(each, image=DIGEST.sub(r"\1", each.image)) for each in glance.services]
    lines += ["", *overview.table(services, now), ""]
    if glance.changed:
        lines += [
            *glance.changed,
            f"       do: kubectl apply -k {glance.folder}/overlays/small, or the one you use",
            "",
        ]
    return "\n".join(lines)
