"""The command `preflight --kubernetes`: judges the cluster that kubectl reaches, for a folder of `manifests`."""

from __future__ import annotations

from pathlib import Path

from installer.cluster import judge, look
from installer.core.finding import Finding, any_failed
from installer.core.runner import Runner

# An image of one or two gigabytes over a slow line.
PULL_SECONDS = 900.0


def look_at(folder: Path, runner: Runner, *, try_pull: bool) -> list[Finding]:
    """Return the findings; with `try_pull` a pod pulls an image, if nothing else is wrong, and is removed.

    Raises UsageError for a folder of something else, CommandFailed when that pod cannot be made.
    """
    wanted = look.read(folder)
    seen = look.look(wanted, runner)
    found = judge.judge(wanted, seen)
    if try_pull and not any_failed(found):
        found.append(_pull(wanted, seen, runner))
    return found


def _pull(wanted: look.Wanted, seen: look.Seen, runner: Runner) -> Finding:
    if seen.namespace is None:
        return Finding("pull", "info", "not tried: the namespace is not there yet", "apply `prepare`, and ask again")
    image = look.image_to_try(wanted)
    failed = look.pull(wanted, image, runner, PULL_SECONDS)
    if failed:
        remedy = "see that nodes reach the registry and trust its authority, and that the pull secret holds its login"
        return Finding("pull", "error", f"{image}: {failed}", remedy)
    return Finding("pull", "ok", f"a node has pulled {image}")
