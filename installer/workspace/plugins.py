"""Plugins of the workspace: what is installed, what a package brings, and the way from the one to the other.

Source: Dify 1.11.3, controllers/console/workspace/plugin.py; plugin daemon 0.5.2, internal/service/install_plugin.go
and internal/tasks/. Its own upgrade is for packages of the marketplace and of GitHub alone; another package is removed
and the new one installed, as the console does it too: credentials and models stay, they are the api's.
"""

from __future__ import annotations

import re
import time
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from installer.core import errors
from installer.core.console import Console
from installer.workspace.client import Client, ConsoleError

BASE = "/workspaces/current/plugin"
PAGE = 256
POLL_SECONDS = 0.5
# The daemon ends an installation itself after ten minutes (setup_python_environment.go); several wait for each other.
LONGEST_SECONDS = 1500.0
# A task of an earlier run is waited for this long; one whose daemon was killed never ends.
JOIN_SECONDS = 60.0
# The daemon waits for its database, and is not part of what the console needs to answer.
DAEMON_SECONDS = 120.0
# Between two looks whether the daemon has been started again.
RESTART_SECONDS = 3.0
DAEMON_SILENT = "Failed to request plugin daemon"
LARGEST_MANIFEST = 1024 * 1024
LONGEST_WORDS = 500

# What the daemon puts before its own sentence.
_PREFIX = re.compile(r"^(req_id: \w+ )?(\w+Error: )?(failed to launch plugin: )?")

# How lines of uv begin that are for debugging.
_DEBUG_LINES = ("DEBUG ", "TRACE ")


@dataclass(frozen=True, kw_only=True, slots=True)
class Plugin:
    """A plugin that the workspace has; `name` is author/name."""

    name: str
    version: str
    identifier: str
    installation: str
    source: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """A file that brings a plugin."""

    path: Path
    name: str
    version: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Brought:
    """What became of a package; `version` is the one that the workspace has now, `before` the one that it had."""

    name: str
    version: str
    what: Literal["installed", "upgraded", "kept"]
    before: str = ""
    seconds: float = 0.0


@dataclass(kw_only=True, slots=True)
class _Job:
    """An installation that the daemon works at."""

    package: Package
    before: Plugin | None
    identifier: str
    task: str = ""
    began: float = field(default_factory=time.monotonic)
    ended: float = 0.0
    error: str = ""
    interrupted: bool = False  # the daemon was away while it worked at it

    @property
    def done(self) -> bool:
        return bool(self.ended)


def read_package(path: Path) -> Package:
    """Return what a package says of itself. Raises UsageError when it is none."""
    import yaml

    try:
        with zipfile.ZipFile(path) as archive:
            entry = archive.getinfo("manifest.yaml")
            if entry.file_size > LARGEST_MANIFEST:
                raise ValueError("its manifest is too large")
            manifest = yaml.safe_load(archive.read(entry))
        return Package(path=path, name=f"{manifest['author']}/{manifest['name']}", version=str(manifest["version"]))
    except (OSError, zipfile.BadZipFile, KeyError, TypeError, ValueError, yaml.YAMLError) as error:
        raise errors.UsageError(
            f"{path} is not a plugin's package: {error}",
            "give a file *.difypkg, as the marketplace or the build has it",
        ) from error


def await_daemon(client: Client, console: Console) -> None:
    """Wait until the plugin daemon answers the api. Raises ConsoleError."""
    deadline = time.monotonic() + DAEMON_SECONDS
    while True:
        try:
            list_installed(client)
        except ConsoleError as error:
            if DAEMON_SILENT not in error.words or time.monotonic() > deadline:
                raise
            console.waiting("the plugin daemon")
            time.sleep(POLL_SECONDS)
        else:
            console.waiting("")
            return


def list_installed(client: Client) -> list[Plugin]:
    """Return the plugins of the workspace by their names."""
    found: list[Plugin] = []
    page = 1
    while True:
        answer = client.get(f"{BASE}/list", page=page, page_size=PAGE)
        found += [
            Plugin(
                name=each["plugin_id"],
                version=each["version"],
                identifier=each["plugin_unique_identifier"],
                installation=each["id"],
                source=each["source"],
            )
            for each in answer["plugins"]
        ]
        if len(answer["plugins"]) < PAGE:
            return sorted(found, key=lambda each: each.name)
        page += 1


# Tells when the daemon was started, in seconds since the epoch, 0 where nobody knows.
Started = Callable[[], int]


def bring(client: Client, packages: Sequence[Package], console: Console, started: Started) -> list[Brought]:
    """Install what is missing, upgrade what is older, and leave alone what is there; all at the same time.

    Every installation is watched to its end, and begun again when the daemon was. Raises WorkspaceFailed with the
    daemon's words for each that failed.
    """
    there = {each.name: each for each in list_installed(client)}
    running = _running_tasks(client)
    brought, jobs = [], []
    for package in _newest(packages):
        before = there.get(package.name)
        if before is not None and not _is_newer(package, before):
            brought.append(Brought(name=package.name, version=before.version, what="kept"))
        else:
            jobs.append(_begin(client, package, before, running))
    _watch(client, jobs, console, LONGEST_SECONDS, started)
    failed = [job for job in jobs if job.error]
    for job in failed:
        _put_back(client, job, console)
    if failed:
        raise errors.WorkspaceFailed(
            "; ".join(f"the plugin {job.package.name} {job.package.version} fails: {job.error}" for job in failed),
            _remedy(failed[0].error),
        )
    return sorted((*brought, *(_outcome(job) for job in jobs)), key=lambda each: each.name)


def remove(client: Client, name: str) -> Plugin | None:
    """Remove a plugin by its name, author/name or the name alone; None when there is none. Raises UsageError."""
    found = [each for each in list_installed(client) if name in (each.name, each.name.partition("/")[2])]
    if len(found) > 1:
        raise errors.UsageError(
            f"{name} may be {' or '.join(each.name for each in found)}", "write the author before it, as AUTHOR/NAME"
        )
    for plugin in found:
        _uninstall(client, plugin)
        return plugin
    return None


def _newest(packages: Iterable[Package]) -> list[Package]:
    """Return one package for each plugin."""
    newest: dict[str, Package] = {}
    for package in packages:
        other = newest.get(package.name)
        if other is None or _order(package.version) > _order(other.version):
            newest[package.name] = package
    return list(newest.values())


def _is_newer(package: Package, there: Plugin) -> bool:
    # "remote" is a plugin that is being written and debugged: it is not ours to replace.
    return there.source != "remote" and _order(package.version) > _order(there.version)


def _order(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


def _running_tasks(client: Client) -> dict[str, str]:
    """Return the tasks of an earlier run that the daemon still works at, by their packages' identifiers."""
    return {
        plugin["plugin_unique_identifier"]: task["id"]
        for task in client.get(f"{BASE}/tasks", page=1, page_size=PAGE)["tasks"] or []
        for plugin in task["plugins"] or []
        if plugin["status"] in ("pending", "running")
    }


def _begin(client: Client, package: Package, before: Plugin | None, running: dict[str, str]) -> _Job:
    """Give the daemon a package and have it installed; what is refused at once is the job's error."""
    job = _Job(package=package, before=before, identifier="")
    try:
        path = package.path
        job.identifier = client.upload(f"{BASE}/upload/pkg", "pkg", path.name, path.read_bytes())["unique_identifier"]
        if job.identifier in running and _joined(client, job, running[job.identifier]):
            return job
        if before is not None:
            _uninstall(client, before)
    except ConsoleError as error:
        _fail(job, error.words or error.message)
    else:
        _install(client, job)
    return job


def _joined(client: Client, job: _Job, task: str) -> bool:
    """Wait for a task of an earlier run; tell whether it has installed the plugin."""
    job.task = task
    _watch(client, [job], Console(silent=True), JOIN_SECONDS)
    good = not job.error
    if not good:
        job.error, job.ended = "", 0.0
    return good


def _install(client: Client, job: _Job) -> None:
    """Have an uploaded package installed. One at a time: of several the daemon gets the data of the first alone, and
    fails (services/plugin/plugin_service.py, `install_from_local_pkg`)."""
    try:
        answer = client.post(f"{BASE}/install/pkg", {"plugin_unique_identifiers": [job.identifier]})
    except ConsoleError as error:
        _fail(job, error.words or error.message)
        return
    job.task = answer["task_id"]
    if answer["all_installed"]:
        job.ended = time.monotonic()


def _uninstall(client: Client, plugin: Plugin) -> None:
    client.post(f"{BASE}/uninstall", {"plugin_installation_id": plugin.installation})


def _watch(
    client: Client, jobs: Sequence[_Job], console: Console, seconds: float, started: Started = lambda: 0
) -> None:
    """Wait until every job has ended."""
    deadline = time.monotonic() + seconds
    since, looked = started(), time.monotonic()
    while waiting := [job for job in jobs if not job.done]:
        if time.monotonic() - looked > RESTART_SECONDS:
            # A restart is quick, and may fall between two questions.
            before, since, looked = since, started(), time.monotonic()
            for job in waiting if since != before else ():
                job.interrupted = True
        for job in waiting:
            _look(client, job)
            if not job.done and time.monotonic() > deadline:
                _fail(job, "the daemon does not come to an end with it")
        left = [job.package.name for job in jobs if not job.done]
        console.waiting(f"plugins: {', '.join(left)}" if left else "")
        if left:
            time.sleep(POLL_SECONDS)


def _look(client: Client, job: _Job) -> None:
    try:
        task: dict[str, Any] = client.get(f"{BASE}/tasks/{job.task}")["task"]
    except ConsoleError as error:
        if DAEMON_SILENT in error.words:
            job.interrupted = True
        else:
            _fail(job, error.words or error.message)
        return
    if task["status"] in ("pending", "running") and job.interrupted:
        # A daemon that was killed leaves its tasks as they were, and goes on with none of them.
        job.interrupted = False
        _install(client, job)
    elif task["status"] == "success":
        job.ended = time.monotonic()
    elif task["status"] == "failed":
        _fail(job, "; ".join(each["message"] for each in task["plugins"] if each["status"] == "failed"))


def _fail(job: _Job, words: str) -> None:
    job.error = _plain(words) or "no reason is given"
    job.ended = time.monotonic()


def _plain(words: str) -> str:
    """Return the daemon's own sentence: it puts uv's whole output, that for debugging too, before and behind it."""
    text = _PREFIX.sub("", words).removesuffix("\n\nfailed to init environment")
    lines = [line for line in text.rpartition("error: ")[2].splitlines() if not line.startswith(_DEBUG_LINES)]
    return " ".join(" ".join(lines).split())[:LONGEST_WORDS]


def _put_back(client: Client, job: _Job, console: Console) -> None:
    """Install again what was there before a package that failed; its environment may still be on the disk."""
    if job.before is None:
        return
    again = _Job(package=job.package, before=None, identifier=job.before.identifier)
    try:
        if job.before.name in {each.name for each in list_installed(client)}:
            return
        _install(client, again)
        _watch(client, [again], console, LONGEST_SECONDS)
    except ConsoleError as error:
        _fail(again, error.words or error.message)
    outcome = f"; version {job.before.version} could not be put back: {again.error}" if again.error else ""
    job.error += outcome or f"; version {job.before.version} has been put back"


def _outcome(job: _Job) -> Brought:
    return Brought(
        name=job.package.name,
        version=job.package.version,
        what="upgraded" if job.before else "installed",
        before=job.before.version if job.before else "",
        seconds=round(job.ended - job.began, 2),
    )


def _remedy(words: str) -> str:
    """Return what to do about an installation that failed, from the daemon's words."""
    if "bad signature" in words:
        return "take the package as its author signed it, or sign your own with `python -m build plugin --sign`"
    if any(each in words for each in ("No solution found", "--find-links", "not found in the provided package")):
        return "wheels that it needs are missing: make a file of it with `python -m build plugin`, and add that"
    if any(each in words for each in ("dns error", "error sending request", "Failed to fetch")):
        return "the daemon asks the internet: see that PIP_EXTRA_ARGS in docker/.env says what the installer wrote"
    if DAEMON_SILENT in words:
        return "the plugin daemon does not answer: look at `dify-installer status`"
    return "look at the log of the plugin daemon"
