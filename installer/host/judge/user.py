"""Judges what the user has who installs without root."""

from __future__ import annotations

from collections.abc import Iterable

from installer.core.finding import Finding
from installer.host.facts import Host, Wanted

Findings = Iterable[Finding]


def sub_ids(host: Host, _wanted: Wanted) -> Findings:
    """Without root, the user has subordinate user and group IDs."""
    if not host.engine.rootless:
        return
    missing = [
        name for name, there in (("/etc/subuid", host.user.subuid), ("/etc/subgid", host.user.subgid)) if not there
    ]
    if missing:
        yield Finding(
            "subordinate ids",
            "error",
            f"{host.user.name} has no 65536 IDs in {' and '.join(missing)}: its containers cannot have users",
            f"as root: `usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {host.user.name}`, "
            "then as this user: `podman system migrate`",
        )
    else:
        yield Finding("subordinate ids", "ok", "in /etc/subuid and /etc/subgid")


def session(host: Host, _wanted: Wanted) -> Findings:
    """Without root, the user has a session with a bus of its own."""
    if not host.engine.rootless:
        return
    if host.user.session:
        yield Finding("session", "ok", "the user's bus is there")
    else:
        yield Finding(
            "session",
            "error",
            f"{host.user.name} has no session of its own (XDG_RUNTIME_DIR, bus): `su` and `sudo -u` do not make one",
            f"as root: `loginctl enable-linger {host.user.name}`; then run the same command again, or log in by ssh",
        )


def linger(host: Host, _wanted: Wanted) -> Findings:
    """Without root, the user's services live on after the logout; the installer tries to switch that on."""
    if not host.engine.rootless:
        return
    if host.user.linger:
        yield Finding("linger", "ok", "services live on after the logout")
    else:
        yield Finding(
            "linger",
            "warning",
            f"the services of {host.user.name} end with the last session",
            f"the installer tries to change that; if it may not, as root: `loginctl enable-linger {host.user.name}`",
        )
