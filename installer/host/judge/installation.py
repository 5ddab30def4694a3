"""Judges the install folder, and what is in it already."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from installer.core import layout, marker
from installer.core.finding import Finding
from installer.host.facts import Host, Wanted

Findings = Iterable[Finding]
# So many names of what is in a folder are told.
SHOWN = 5


def folder(host: Host, wanted: Wanted) -> Findings:
    """The install folder is ours, empty or new; it can be written, not by others, and programs may run from it."""
    faults = [*_not_ours(host, wanted), *_not_usable(host, wanted), *_changed_by_others(host, wanted)]
    yield from faults
    if not faults:
        yield Finding(
            "folder", "ok", f"{wanted.folder} {'is there' if host.installation.folder_exists else 'can be made'}"
        )


def _not_ours(host: Host, wanted: Wanted) -> Findings:
    its = host.installation.ownership
    new = f"choose a folder that is new or empty, for example --dir {wanted.folder / 'dify'}"
    if layout.MARKER in its.names:
        yield Finding(
            "folder",
            "error",
            f"{wanted.folder / layout.MARKER}, by which an installation of ours is known, cannot be read",
            f"{new}; or, if all in this folder belongs to Dify, write it anew: `echo '{marker.EMPTY}' > "
            f"{shlex.quote(str(wanted.folder / layout.MARKER))}`",
        )
    elif its.kind == "foreign":
        shown = ", ".join(its.names[:SHOWN]) + (f" and {len(its.names) - SHOWN} more" if len(its.names) > SHOWN else "")
        what = f"was not made by dify-installer, and holds {shown}" if its.names else "is not a folder that can be used"
        yield Finding("folder", "error", f"{wanted.folder} {what}", new)
    elif its.kind == "another user's":
        yield Finding("folder", "error", f"the installation in {wanted.folder} belongs to another user", new)
    elif its.kind == "later":
        yield Finding(
            "folder",
            "error",
            f"{wanted.folder} was installed by a later version of dify-installer",
            f"use that version, or {new}",
        )
    for link in host.installation.links:
        yield Finding(
            "folder",
            "error",
            f"{link} is a symbolic link, and nothing is written through one",
            "put a folder in its place; if it is to lie on another disk, mount that there (`mount --bind`)",
        )


def _not_usable(host: Host, wanted: Wanted) -> Findings:
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


def _changed_by_others(host: Host, wanted: Wanted) -> Findings:
    """Whoever may change a folder on the way could put programs of his own into the place of ours.

    In a sticky folder, such as /tmp, he may not: that is enough for a user. It is not for root, whose unit starts our
    program at every boot: what cleans /tmp up would leave the name to whoever takes it first.
    """
    for each in host.installation.passed:
        strange = each.uid not in (0, host.user.uid)
        writable = bool(each.mode & 0o002) or (bool(each.mode & 0o020) and not each.private_group)
        sticky = bool(each.mode & 0o1000) and each.path != wanted.folder
        if strange or (writable and (host.user.root or not sticky)):
            other = "--dir /opt/dify" if host.user.root else "--dir ~/dify"
            mend = "" if strange or sticky else f"`chmod go-w {each.path}` if nobody else has to write there, or "
            yield Finding(
                "folder",
                "error",
                f"{each.path} belongs to {each.owner} and has mode {each.mode:04o}: others could put programs of "
                f"theirs into {wanted.folder}, which {host.user.name} would run",
                f"{mend}choose another folder, for example {other}",
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
