"""Tells firewalld of the stack, now and for good: the ports for browsers, the networks among containers.

Nothing is reloaded: that would throw away the rules that podman has made for containers that run (docs/decisions/009).
"""

from __future__ import annotations

from collections.abc import Iterable

from installer.core import layout
from installer.core.runner import Runner
from installer.engine.base import Engine

FIREWALL_SECONDS = 60.0


def admit(ports: Iterable[int], engine: Engine) -> str:
    """Let the ports in and trust the stack's internal networks; say in words what came of it, never fail for it."""
    done, runner = [], engine.runner
    if opened := sorted(ports):
        done.append(_both([f"--add-port={port}/tcp" for port in opened], runner))
    for subnet in engine.internal_subnets(layout.COMPOSE_PROJECT):
        # netavark makes firewalld trust every network but the internal ones, so that their DNS, and on
        # some kernels their traffic, is rejected (netavark#1055, podman#22807; seen with netavark 1.14).
        if _firewall_cmd(["--zone=trusted", f"--query-source={subnet}"], runner):
            done.append(_both(["--zone=trusted", f"--add-source={subnet}"], runner))
    return "; ".join(done) or "firewalld knows all of it"


def _both(arguments: list[str], runner: Runner) -> str:
    """Make a change for good and now; return it in words, or why it was refused."""
    for form in (["--permanent"], []):
        if refused := _firewall_cmd([*form, *arguments], runner):
            return f"firewalld refuses {' '.join(arguments)}: {refused}"
    return f"firewalld has {' '.join(arguments)}"


def _firewall_cmd(arguments: list[str], runner: Runner) -> str:
    """Run firewall-cmd; return nothing when it agrees, else what it says."""
    result = runner.run(["firewall-cmd", *arguments], timeout=FIREWALL_SECONDS, check=False)
    return "" if result.ok else runner.mask(result.last_words) or f"status {result.status}"
