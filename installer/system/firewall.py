"""Tells firewalld of the stack, now and for good: the ports for browsers, the networks among containers.

Nothing is reloaded: that would throw away the rules that podman has made for containers that run (docs/decisions/009).
What we add is noted in the marker of the install folder, and taken away again; rules that were there before us stay.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable

from installer.core import layout, marker
from installer.core.marker import Rule
from installer.core.runner import Runner
from installer.engine.base import Engine

FIREWALL_SECONDS = 60.0
TRUSTED = "trusted"


def admit(ports: Collection[int], closed: Iterable[int], place: layout.Installation, engine: Engine) -> str:
    """Let the `closed` ones of our ports in and trust the stack's internal networks; take back what that was before.

    Says in words what came of it, and never fails for it, but for a marker that cannot be written (CommandFailed).
    """
    runner, subnets = engine.runner, engine.internal_subnets(layout.COMPOSE_PROJECT)
    wanted = [*_port_rules(closed, runner), *(Rule(TRUSTED, "source", subnet) for subnet in subnets)]
    # netavark makes firewalld trust every network but the internal ones, so that their DNS, and on
    # some kernels their traffic, is rejected (netavark#1055, podman#22807; seen with netavark 1.14).
    missing = [rule for rule in wanted if rule.kind == "port" or _firewall_cmd([], "query", [rule], runner)]
    before = marker.recorded(place).rules
    # Noted first: a run that is killed in between must not leave a rule that nobody knows.
    ours = {*before, *(rule for rule in missing if _firewall_cmd(["--permanent"], "query", [rule], runner))}
    marker.record_rules(place, ours)
    done = [_change("add", group, runner) for group in _grouped(missing)]
    stale = [rule for rule in before if not _still_wanted(rule, ports, subnets)]
    done += [_change("remove", group, runner) for group in _grouped(stale)]
    marker.record_rules(place, ours - set(stale))
    return "; ".join(done) or "firewalld knows all of it"


def withdraw(place: layout.Installation, runner: Runner) -> str:
    """Take away the rules that we have added; say in words what came of it. Raises CommandFailed as `admit` does.

    Where firewalld refuses, they stay noted, for the next time.
    """
    rules = marker.recorded(place).rules
    if not rules:
        return "no rules of ours"
    done = []
    for group in _grouped(rules):
        words = _change("remove", group, runner)
        if "refuses" not in words:
            marker.record_rules(place, set(marker.recorded(place).rules) - set(group))
        done.append(words)
    return "; ".join(done)


def find_gone(place: layout.Installation, runner: Runner) -> list[Rule]:
    """Return the rules of ours that a firewalld which runs does not have. Raises CommandFailed as `admit` does."""
    return [rule for rule in marker.recorded(place).rules if _firewall_cmd([], "query", [rule], runner)]


def _port_rules(ports: Iterable[int], runner: Runner) -> list[Rule]:
    """Return the rules that let ports in, in the zone that is the default one today."""
    if not (numbers := sorted(ports)):
        return []
    zone = runner.run(["firewall-cmd", "--get-default-zone"], timeout=FIREWALL_SECONDS, check=False).stdout.strip()
    return [Rule(zone or "public", "port", f"{number}/tcp") for number in numbers]


def _still_wanted(rule: Rule, ports: Collection[int], subnets: Collection[str]) -> bool:
    if rule.kind == "port":
        return rule.value in {f"{port}/tcp" for port in ports}
    # An engine that names no subnet at all was perhaps only asked at a bad moment.
    return rule.value in subnets or not subnets


def _grouped(rules: Iterable[Rule]) -> list[list[Rule]]:
    """Return the rules by zone and kind: one command changes all of a group."""
    return [list(group) for _, group in itertools.groupby(sorted(rules), lambda rule: (rule.zone, rule.kind))]


def _change(verb: str, rules: list[Rule], runner: Runner) -> str:
    """Add or remove rules of one zone for good and now; return it in words, or why it was refused."""
    what = f"{', '.join(rule.value for rule in rules)} in zone {rules[0].zone}"
    for form in (["--permanent"], []):
        if refused := _firewall_cmd(form, verb, rules, runner):
            return f"firewalld refuses to {verb} {what}: {refused}"
    return f"firewalld has {what}" if verb == "add" else f"firewalld no longer has {what}"


def _firewall_cmd(form: list[str], verb: str, rules: list[Rule], runner: Runner) -> str:
    """Run firewall-cmd; return nothing when it agrees, else what it says."""
    arguments = [*form, f"--zone={rules[0].zone}", *(f"--{verb}-{rule.kind}={rule.value}" for rule in rules)]
    result = runner.run(["firewall-cmd", *arguments], timeout=FIREWALL_SECONDS, check=False)
    return "" if result.ok else runner.mask(result.last_words) or f"status {result.status}"
