"""Judges the file systems: room for everything, and of a kind that serves."""

from __future__ import annotations

from collections.abc import Iterable

from installer.core.console import size
from installer.core.finding import Finding
from installer.host.facts import Host, Space, Wanted

GIB = 1024**3
# podman-compose's environment, the executable's copy, logs; the databases when they are new.
INSTALL_BYTES = 1 * GIB
TEMPORARY_BYTES = GIB // 10
NETWORK_KINDS = ("nfs", "nfs4", "cifs", "smb3")

Findings = Iterable[Finding]


def space(host: Host, wanted: Wanted) -> Findings:
    """Room for the images, for podman's temporary files and in the install folder, each file system once."""
    spooled = wanted.largest_image_bytes * host.engine.spooled_images
    copied, unpacked = (wanted.store_bytes, 0) if host.mounts_stores else (0, wanted.unpacked_bytes)
    new = copied + wanted.kept_bytes + (0 if host.installation.has_data else INSTALL_BYTES)
    needs = [
        (host.room.storage, int(wanted.missing_bytes * host.engine.storage_factor) + unpacked),
        (host.room.install, spooled + new),
        (host.room.temporary, TEMPORARY_BYTES),
    ]
    by_device: dict[int, list[tuple[Space, int]]] = {}
    for where, needed in needs:
        if where is not None:
            by_device.setdefault(where.device, []).append((where, needed))
    for group in by_device.values():
        yield _room(group, host.engine.storage_setting)
    if host.room.storage is None and not host.engine.problem and host.engine.version:
        yield Finding(
            "space",
            "warning",
            f"where {host.engine.name} keeps its images is unknown",
            f"see `{host.engine.name} info`",
        )


def _room(group: list[tuple[Space, int]], setting: str) -> Finding:
    total, free = sum(needed for _, needed in group), group[0][0].free
    parts = ", ".join(f"{size(needed)} for {where.purpose} ({where.path})" for where, needed in group)
    if free >= total:
        return Finding("space", "ok", f"{size(free)} free; needed: {parts}")
    return Finding(
        "space",
        "error",
        f"{size(free)} free, {size(total)} needed: {parts}",
        f"make {size(total - free)} of room there, choose another --dir, or move the images: {setting}",
    )


def storage(host: Host, _wanted: Wanted) -> Findings:
    """The engine's storage is not on a network file system."""
    if host.room.storage is None or host.room.storage.kind not in NETWORK_KINDS:
        return
    yield Finding(
        "storage",
        "error" if host.engine.rootless else "warning",
        f"{host.room.storage.path} is on {host.room.storage.kind}, which does not keep the owners that containers need",
        f"put the storage onto a local disk: {host.engine.storage_setting}",
    )
