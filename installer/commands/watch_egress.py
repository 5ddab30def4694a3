"""Watches what the containers of an installation ask for outside of it, and tells; starts nothing, changes nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import ipaddress
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from installer.core import errors, finding, layout
from installer.core.console import Console
from installer.core.finding import Finding
from installer.egress import judge, watch
from installer.egress.judge import Known, Row
from installer.engine.base import Engine
from installer.host import resolvers as host_resolvers
from installer.release import compose, dify, external, intranet, resolvers, settings
from installer.stack import project

SCHEME_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What was seen: how long, of which containers, and all that they asked for outside of the stack."""

    started: datetime.datetime
    seconds: float
    ended_early: bool
    containers: tuple[str, ...]
    missed: int
    asked: tuple[Row, ...]
    notes: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing unexpected was asked for, and nothing escaped us."""
        return all(row.expected for row in self.asked) and not self.notes


def watch_egress(
    place: layout.Installation, engine: Engine, minutes: float, servers: Iterable[str], console: Console
) -> Seen:
    """Watch an installation for some minutes, or until Ctrl-C; `servers` are the URLs of model servers.

    Raises UsageError for who is not root, CommandFailed where nothing is installed or nothing of it has run.
    """
    if os.geteuid() != 0:
        raise errors.UsageError(
            "only root sees the packets of all containers",
            f"run it as root: dify-installer watch-egress --dir {place.folder}",
        )
    document = project.read_installed(place, engine)
    env = settings.load(place)
    started = datetime.datetime.now().astimezone()
    watched = watch.watch(engine, place.folder.stat().st_uid, minutes * 60, console)
    if not watched.containers:
        raise errors.CommandFailed(
            f"no container of the installation in {place.folder} has run meanwhile: nothing was seen",
            f"start it, as the user whose it is: {place.executable} start; those of a rootless docker are not seen",
        )
    known = what_is_known(document, env, [*servers, *used_servers(place)], watched)
    return Seen(
        started=started,
        seconds=watched.seconds,
        ended_early=watched.ended_early,
        containers=tuple(sorted(watched.containers)),
        missed=watched.missed,
        asked=tuple(judge.judge(watched.record, known)),
        notes=tuple(notes(watched)),
    )


def notes(watched: watch.Watched) -> Iterable[str]:
    """Give what could not be seen, a sentence each."""
    if watched.missed:
        yield f"{watched.missed} packets were missed, since there were too many at a time"
    if watched.record.left_out:
        yield f"{watched.record.left_out} more packets asked for other things, which there was no room to list"
    for name in sorted(watched.unseen):
        yield f"{name} shares the network of the host, so that what it asks for cannot be told from what the host does"


def what_is_known(
    document: compose.Document, env: settings.Settings, servers: Iterable[str], watched: watch.Watched
) -> Known:
    """Return what this installation is expected to ask for."""
    named = [*host_resolvers.list_resolvers(), *resolvers.list_named(env.resolved.get(dify.RESOLVERS))]
    return Known(
        networks=watched.networks,
        services={*map(str.lower, document["services"]), *map(str.lower, watched.containers)},
        search=watched.search,
        host=watched.host,
        own_name=env.address.host.lower(),
        resolvers={*map(ipaddress.ip_address, named), *watched.resolvers},
        servers={found for url in servers if (found := host_and_port(url))},
        yours=external.find_addresses(env.resolved),
        allowed=intranet.read(env.resolved.get(dify.ALLOW_INTRANET)),
        addresses=watched.addresses,
    )


def used_servers(place: layout.Installation) -> list[str]:
    """Return the URLs of the model servers whose models the last run has registered."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        report: Mapping[str, Any] = json.loads(place.report.read_text("utf-8"))
        return sorted({str(model["server"]) for model in report["inside"]["models"]})
    return []


def host_and_port(url: str) -> tuple[str, int] | None:
    """Return where a URL leads; None when it is none."""
    with contextlib.suppress(ValueError, KeyError):
        parts = urlsplit(url)
        if parts.hostname:
            return parts.hostname, parts.port or SCHEME_PORTS[parts.scheme]
    return None


def as_text(seen: Seen) -> str:
    """Return what was seen for people: what is not expected first, then what is, with the reason."""
    early = ", when Ctrl-C ended it" if seen.ended_early else ""
    names, began = ", ".join(seen.containers), f"{seen.started:%Y-%m-%d %H:%M:%S %z}"
    lines = [
        f"watched for {seen.seconds / 60:.1f} minutes, from {began}{early}, {len(seen.containers)} containers: {names}",
        "seen was each packet in their networks and on the bridges between them; not what the host itself asks for",
    ]
    findings = [*map(as_finding, seen.asked), *(Finding("watch", "error", note, _remedy(note)) for note in seen.notes)]
    if all(row.expected for row in seen.asked):
        findings.append(Finding("egress", "ok", "nothing unexpected: no other name, and no other address"))
    return "\n".join([*lines, finding.as_text(findings)])


def as_finding(row: Row) -> Finding:
    """Return a row as a finding."""
    times = "once" if row.times == 1 else f"{row.times} times"
    asked = f"asked for the name {row.what}" if row.kind == "name" else f"called {row.what}"
    seen = f"{asked}, {times}, first at {_clock(row.first)}: {row.why}"
    if row.expected:
        return Finding(row.container, "ok", seen)
    return Finding(
        row.container,
        "error",
        seen,
        "end it as docs/network.md says, or name it: --allow-intranet, --ollama-url, --vllm-url",
    )


def as_fields(seen: Seen) -> dict[str, Any]:
    """Return what was seen for a machine."""
    asked = [
        {**dataclasses.asdict(row), "first": datetime.datetime.fromtimestamp(row.first).astimezone().isoformat()}
        for row in seen.asked
    ]
    return {**dataclasses.asdict(seen), "started": seen.started.isoformat(), "asked": asked}


def _remedy(note: str) -> str:
    return "watch again, for a shorter time" if "packets" in note else "give it a network of its own"


def _clock(moment: float) -> str:
    return f"{datetime.datetime.fromtimestamp(moment).astimezone():%H:%M:%S}"
