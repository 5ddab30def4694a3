"""Judges a host: pure functions from facts to findings, each with its remedy.

Errors stop the installation, warnings do not. Nobody is ever told to switch SELinux off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from installer.core.finding import Finding
from installer.host.facts import Host, Wanted
from installer.host.judge import engine, installation, network, space, system, user

Check = Callable[[Host, Wanted], Iterable[Finding]]

# In the order in which they are told; each yields what it has to say, which may be nothing where it does not apply.
CHECKS: dict[str, Check] = {
    "system": system.operating_system,
    "architecture": system.architecture,
    "cpu": system.cpu,
    "memory": system.memory,
    "podman": engine.podman,
    "docker": engine.docker,
    "database": engine.database,
    "network": engine.network,
    "subordinate ids": user.sub_ids,
    "session": user.session,
    "linger": user.linger,
    "storage": space.storage,
    "space": space.space,
    "folder": installation.folder,
    "installation": installation.installation,
    "ports": network.ports,
    "low ports": network.low_ports,
    "address": network.address,
    "firewall": network.firewall,
    "selinux": system.selinux,
    "python": system.python,
    "clock": system.clock,
}
# Those of one engine alone.
ONLY: dict[str, tuple[str, ...]] = {"podman": ("podman",), "database": ("podman",), "docker": ("docker",)}


def judge(host: Host, wanted: Wanted) -> tuple[Finding, ...]:
    """Return the findings of all checks that apply to this host, in the order of CHECKS."""
    return tuple(
        finding
        for name, check in CHECKS.items()
        if host.engine.name in ONLY.get(name, (host.engine.name,))
        for finding in check(host, wanted)
    )
