"""What `status` shows besides its checks: versions, services, sizes, certificate, and what differs by hand."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from installer.bundle import manifest
from installer.checks import changes
from installer.core import errors, layout
from installer.core.console import size
from installer.engine.base import Container, Engine
from installer.images import inventory
from installer.release import compose, external, settings, tls
from installer.stack import applied, state
from installer.upgrade import kept

# A large installation has millions of files; what is not counted by then is left out, and said to be.
MEASURE_SECONDS = 15.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    """A service that is to run; `since` in seconds since the epoch, 0 for never.

    `reason` says why it is not as it should be, and is empty otherwise.
    """

    name: str
    state: str
    since: int
    restarts: int
    image: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Overview:
    """An installation at a glance; sizes in bytes, None for what could not be measured."""

    dify: str
    url: str
    folder: str
    engine: str
    services: tuple[Service, ...]
    image_bytes: int
    data_bytes: Mapping[str, int] | None
    certificate_days: int | None
    not_ours: tuple[str, ...]  # services of others that it uses, in words
    last_backup: str  # when and where, empty for never
    kept: str  # the version before the last upgrade, and its size; empty for none
    changed: tuple[str, ...]


def look(
    place: layout.Installation,
    document: compose.Document,
    env: settings.Settings,
    bundle: manifest.Manifest,
    found: Sequence[Container],
    engine: Engine,
) -> Overview:
    """Look at an installation; changes nothing. Raises CommandFailed when the engine fails."""
    version, _ = engine.version()
    return Overview(
        dify=bundle.dify,
        url=env.url,
        folder=str(place.folder),
        engine=f"{engine.name} {'.'.join(map(str, version or ()))}".strip(),
        services=_services(document, found),
        image_bytes=sum(inventory.layer_sizes(bundle.images, bundle).values()),
        data_bytes=measure_data(place, engine),
        certificate_days=_certificate_days(place, env),
        not_ours=tuple(external.in_words(env.resolved)),
        last_backup=_last_backup(place),
        kept=_kept(place, engine),
        changed=_changes(place, document, env, bundle, found, engine),
    )


def _services(document: compose.Document, found: Sequence[Container]) -> tuple[Service, ...]:
    by_service = {each.service: each for each in found}
    reasons = state.find_unready(document, list(found), time.time())
    return tuple(_service(name, by_service.get(name), reasons.get(name, "")) for name in document["services"])


def _service(name: str, container: Container | None, reason: str) -> Service:
    if container is None:
        return Service(name=name, state="not created", since=0, restarts=0, image="", reason=reason)
    # A one-shot service has ended as it should.
    shown = "done" if container.state == "exited" and not reason else container.health or container.state
    return Service(
        name=name,
        state=shown,
        since=container.started,
        restarts=container.restarts,
        image=container.image,
        reason=reason,
    )


def measure_data(place: layout.Installation, engine: Engine) -> dict[str, int] | None:
    """Return the bytes on the disk of each folder of data, by its name; None when that takes too long."""
    folders = sorted(str(path) for path in place.volumes.iterdir()) if place.volumes.is_dir() else []
    if not folders:
        return {}
    command = engine.as_owner(["du", "--summarize", "--block-size=1", "--", *folders])
    result = engine.runner.run(command, timeout=MEASURE_SECONDS, check=False)
    if result.timed_out:
        return None
    sizes = {}
    for line in result.stdout.splitlines():
        count, _, path = line.partition("\t")
        sizes[path.removeprefix(f"{place.volumes}/")] = int(count)
    return sizes


def _certificate_days(place: layout.Installation, env: settings.Settings) -> int | None:
    if not env.url.startswith("https:"):
        return None
    with contextlib.suppress(errors.UsageError):
        left = tls.read_end(place.certificate) - datetime.datetime.now(datetime.UTC)
        return left.days
    return None


def _last_backup(place: layout.Installation) -> str:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        note = json.loads(place.last_backup.read_bytes())
        return f"{note['made']}, {note['file']}, {size(int(note['bytes']))}"
    return ""


def _kept(place: layout.Installation, engine: Engine) -> str:
    try:
        found = kept.read(place)
    except errors.CommandFailed as error:
        return error.message
    if found is None:
        return ""
    if found.state != "done":
        return f"an upgrade from Dify {found.before} to {found.after} was interrupted"
    command = engine.as_owner(["du", "--summarize", "--block-size=1", "--", str(place.previous)])
    result = engine.runner.run(command, timeout=MEASURE_SECONDS, check=False)
    count = result.stdout.partition("\t")[0]
    told = f", {size(int(count))}" if count.isdecimal() and not result.timed_out else ""
    return f"Dify {found.before} as it was at {found.when}{told}"


def _changes(
    place: layout.Installation,
    document: compose.Document,
    env: settings.Settings,
    bundle: manifest.Manifest,
    found: Sequence[Container],
    engine: Engine,
) -> tuple[str, ...]:
    """Return what differs from what the stack was started with, in words."""
    changed = [changes.edited_in_words(name) for name in applied.find_edited(place, engine)]
    images = inventory.find_ids(document, env.resolved, bundle.images, inventory.list_present(engine))
    changed += [f"{name} runs another image than the bundle's" for name in state.find_outdated(list(found), images)]
    services = document["services"]
    changed += [f"{each.name} is not of this version" for each in found if each.service not in services]
    return tuple(changed)


def as_fields(overview: Overview) -> dict[str, Any]:
    """Return it for a machine."""
    return dataclasses.asdict(overview)


def as_text(overview: Overview, now: float) -> str:
    """Return it for people; `now` in seconds since the epoch."""
    lines = [
        f"Dify {overview.dify} at {overview.url}, in {overview.folder}, with {overview.engine}",
        f"images {size(overview.image_bytes)}; data {_data(overview.data_bytes)}",
    ]
    lines += [f"not ours: {each}" for each in overview.not_ours]
    if overview.certificate_days is not None:
        lines.append(f"certificate: {overview.certificate_days} days left")
    lines.append(f"last backup: {overview.last_backup or 'never (`dify-installer backup PATH`)'}")
    if overview.kept:
        lines.append(f"kept: {overview.kept} (`dify-installer rollback` or `prune`)")
    lines += ["", *table(overview.services, now), ""]
    if overview.changed:
        lines += [*overview.changed, "       do: run the install command again: it puts into effect what .env says", ""]
    return "\n".join(lines)


def table(services: Sequence[Service], now: float) -> list[str]:
    """Return services as the lines of a table; `now` in seconds since the epoch."""
    rows = [("service", "state", "for", "restarts", "image"), *(_row(each, now) for each in services)]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return ["  ".join((*map(str.ljust, row[:4], widths), row[4])).rstrip() for row in rows]


def _row(service: Service, now: float) -> tuple[str, str, str, str, str]:
    lives = service.since and service.state not in ("done", "not created", "exited", "created")
    long = _duration(now - service.since) if lives else ""
    return service.name, service.state, long, str(service.restarts or ""), service.image


def _data(sizes: Mapping[str, int] | None) -> str:
    if sizes is None:
        return f"not counted within {MEASURE_SECONDS:.0f} s"
    largest = sorted(sizes.items(), key=lambda pair: -pair[1])[:3]
    named = ", ".join(f"{name} {size(count)}" for name, count in largest)
    return size(sum(sizes.values())) + (f" ({named})" if named else "")


def _duration(seconds: float) -> str:
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86400)
    if days:
        return f"{days} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min" if minutes else f"{int(seconds)} s"
