"""Judges the install folder, and what is in it already."""

from __future__ import annotations

from collections.abc import Iterable

from installer.core.finding import Finding
from installer.host.facts import Host, Wanted

Findings = Iterable[Finding]


def folder(host: Host, wanted: Wanted) -> Findings:
    """The install folder can be written, and programs may run from it."""
    if not host.installation.folder_writable:
        yield Finding(
            "folder",
            "error",
            f"{host.user.name} cannot write {wanted.folder}",
            "run as root, or give a folder of your own with --dir",
        )
    elif host.room.install is not None and "noexec" in host.room.install.options:
        yield Finding(
            "folder",
            "error",
            f"{wanted.folder} is on a file system mounted noexec: podman-compose could not run from there",
            "give a folder on another file system with --dir",
        )
    else:
        yield Finding(
            "folder", "ok", f"{wanted.folder} {'is there' if host.installation.folder_exists else 'can be made'}"
        )


def installation(host: Host, wanted: Wanted) -> Findings:
    """What is there already: an installation of ours, data without their `.env`, or a Dify of somebody else."""
    if host.installation.other_dify:
        yield Finding(
            "installation",
            "warning",
            f"another Dify runs here, which somebody else started: {', '.join(host.installation.other_dify)}",
            "nothing of it is touched; this one is installed beside it, with ports and data of its own",
        )
    if host.installation.conflicting:
        yield Finding(
            "installation",
            "error",
            f"containers named dify run already, from another folder: {', '.join(host.installation.conflicting)}",
            "give that installation's folder with --dir to take it over; or remove its containers first "
            "(`podman-compose down` or `docker compose down` there: its data stay in its folder)",
        )
    if host.installation.has_env:
        yield Finding("installation", "ok", f"{wanted.folder} is repaired; its settings, secrets and data are kept")
    elif host.installation.has_data:
        yield Finding(
            "installation",
            "error",
            f"{wanted.folder} holds a database, but no .env: its secrets are lost, and new ones would lock you out",
            f"put its .env back into {wanted.folder}/docker; or, if the data may go, move docker/volumes away",
        )
    elif not host.installation.conflicting:
        yield Finding("installation", "ok", "none yet")
