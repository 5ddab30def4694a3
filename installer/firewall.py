"""Opens the ports in firewalld, now and for good."""

from __future__ import annotations

from collections.abc import Iterable

from installer.command import Runner

FIREWALL_SECONDS = 60.0


def add_ports(ports: Iterable[int], runner: Runner) -> str:
    """Let TCP ports in, in the default zone; return in words what came of it, never fail for it.

    Both times without a reload, which would throw away the rules that podman has made for
    containers that run (netavark#1055 and podman#22807 tell of the same).
    """
    wanted = sorted(ports)
    adding = [f"--add-port={port}/tcp" for port in wanted]
    for form in (["--permanent"], []):
        command = ["firewall-cmd", "--quiet", *form, *adding]
        result = runner.run(command, timeout=FIREWALL_SECONDS, check=False)
        if not result.ok:
            return f"firewalld refuses: `{' '.join(command)}`: {runner.masked(result.last_words)}"
    return f"firewalld lets {', '.join(map(str, wanted))} in"
