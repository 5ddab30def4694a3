"""The command `preflight --kubernetes`: judges the cluster that kubectl reaches, for a folder of `manifests`."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from pathlib import Path

from installer import plan
from installer.cluster import judge, look
from installer.commands import manifests
from installer.core import layout
from installer.core.finding import Finding, any_failed
from installer.core.runner import Runner
from installer.release import external, settings

# An image of one or two gigabytes over a slow line.
PULL_SECONDS = 900.0
CONNECT_SECONDS = 5.0


def look_at(folder: Path, runner: Runner, *, try_pull: bool, payload: Path | None = None) -> list[Finding]:
    """Return the findings; with `try_pull` a pod pulls an image, if nothing else is wrong, and is removed.

    `payload` is the executable's own unless given.

    Raises UsageError for a folder of something else, CommandFailed when that pod cannot be made.
    """
    wanted = look.read(folder)
    seen = look.look(wanted, runner)
    found = judge.judge(wanted, seen)
    if seen.version is not None:
        found += _judge_others(folder, payload or layout.bundled(""), runner)
    if try_pull and not any_failed(found):
        found.append(_pull(wanted, seen, runner))
    return found


def _judge_others(folder: Path, payload: Path, runner: Runner) -> list[Finding]:
    """Judge the services that run already as an installation would, if this machine reaches them."""
    example = (payload / layout.PROJECT / layout.ENV_EXAMPLE).read_text("utf-8")
    env = settings.read(folder / manifests.SETTINGS, example)
    runner.hide(env.secrets)
    unreached = [
        Finding(
            "reach",
            "info",
            f"{server.where} is not reached from this machine ({why}), and nothing of others was looked at",
            "ask again from one that does; once the folder is applied, `status --kubernetes` tells what pods wait for",
        )
        for server in external.find_all(env.resolved)
        if (why := _why_unreached(server.addresses.values()))
    ]
    trusted = folder / manifests.AUTHORITIES
    return unreached or plan.judge_others(env, trusted.read_bytes() if trusted.exists() else None)


def _why_unreached(addresses: Iterable[external.Address]) -> str:
    """Return why none of these is reached from here, or nothing."""
    told = ""
    for address in addresses:
        try:
            socket.create_connection(address, timeout=CONNECT_SECONDS).close()
        except OSError as error:
            told = str(error.strerror or error)
        else:
            return ""
    return told


def _pull(wanted: look.Wanted, seen: look.Seen, runner: Runner) -> Finding:
    if seen.namespace is None:
        return Finding("pull", "info", "not tried: the namespace is not there yet", "apply `prepare`, and ask again")
    image = look.image_to_try(wanted)
    failed = look.pull(wanted, image, runner, PULL_SECONDS)
    if failed:
        remedy = "see that nodes reach the registry and trust its authority, and that the pull secret holds its login"
        return Finding("pull", "error", f"{image}: {failed}", remedy)
    return Finding("pull", "ok", f"a node has pulled {image}")
