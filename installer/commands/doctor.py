"""Judges an installation that has run for a while, and packs for a support desk what it takes to help."""

from __future__ import annotations

import datetime
import io
import json
import tarfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from installer.checks import upkeep
from installer.commands import overview, status
from installer.commands.overview import Overview
from installer.core import errors, files, finding, layout
from installer.core.finding import Finding
from installer.core.runner import Runner
from installer.engine import choose
from installer.engine.base import Engine
from installer.release import envfile, masks, settings
from installer.stack import state
from installer.system import boot_unit

LOG_SECONDS = 60.0
# Of each container, and of our own runs: enough to see what happened, small enough for a mail.
LOG_LINES = 2000
OWN_LOGS = 10
# What a support desk asks first, of the host.
ASKED: tuple[tuple[str, list[str]], ...] = (
    ("kernel.txt", ["uname", "-a"]),
    ("disks.txt", ["df", "-hT"]),
    ("memory.txt", ["free", "-m"]),
    ("release.txt", ["cat", "/etc/os-release"]),
    ("addresses.txt", ["ip", "-brief", "address"]),
    ("ports.txt", ["ss", "-Htln"]),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """An installation at a glance, and what was found."""

    glance: Overview
    findings: tuple[Finding, ...]


def judge(place: layout.Installation, runner: Runner) -> Judged:
    """Judge all that may go wrong over the months; changes nothing. Raises CommandFailed when nothing is installed."""
    engine = choose.choose_engine(None, place, runner)
    glance, checked = status.look(place, engine)
    found = state.list_containers(engine)
    disks = [("data", place.volumes), ("backups and logs", place.folder)]
    if (root := engine.describe().graph_root) is not None:
        disks.append(("images", root))
    findings = [
        *checked,
        *upkeep.judge_disks(disks),
        *upkeep.judge_containers(found, engine),
        *upkeep.judge_kernel(runner),
        upkeep.judge_clock(runner),
        *upkeep.judge_certificate(glance.certificate_days),
        upkeep.judge_backup(place.last_backup, datetime.datetime.now(datetime.UTC)),
        *upkeep.judge_changes(glance.changed),
    ]
    return Judged(glance=glance, findings=tuple(findings))


def pack(place: layout.Installation, judged: Judged, path: Path, runner: Runner) -> list[str]:
    """Write logs, states, versions and settings to `path`, a tar.gz, 0600, without a secret; return what is in it.

    Raises CommandFailed (disk), UsageError when there is such a file.
    """
    if path.exists():
        raise errors.UsageError(f"{path} exists already", "name another file")
    engine = choose.choose_engine(None, place, runner)
    runner.hide(_own_secrets(place))
    names = []
    with files.replacing(path.absolute(), mode=0o600) as target, tarfile.open(fileobj=target, mode="w:gz") as archive:
        for name, text in _texts(place, judged, engine):
            content = masks.scrub(runner.mask(text)).encode()
            entry = tarfile.TarInfo(f"dify-doctor/{name}")
            entry.size, entry.mode, entry.mtime = len(content), 0o600, int(time.time())
            archive.addfile(entry, io.BytesIO(content))
            names.append(name)
    return names


def _own_secrets(place: layout.Installation) -> list[str]:
    """Return the secrets of an installation that do not stand in its `.env`."""
    paths = [place.admin_password, place.key]
    lines = [
        line.strip() for path in paths if path.is_file() for line in path.read_text("utf-8", "replace").split("\n")
    ]
    return [line for line in lines if line and not line.startswith("-----")]


def _texts(place: layout.Installation, judged: Judged, engine: Engine) -> Iterator[tuple[str, str]]:
    """Give what is packed, by its name; secrets are masked by whoever packs."""
    found = {"overview": overview.as_fields(judged.glance), "findings": finding.as_list(judged.findings)}
    yield "doctor.json", json.dumps(found, indent=1, ensure_ascii=False)
    yield "doctor.txt", overview.as_text(judged.glance, time.time()) + "\n" + finding.as_text(judged.findings)
    yield "settings.txt", _settings(place)
    for path in (place.report, engine.written_file(place), place.applied):
        if path.is_file():
            yield path.name, path.read_text("utf-8", "replace")
    for path in sorted(place.logs.glob("*.log"), key=lambda each: each.stat().st_mtime)[-OWN_LOGS:]:
        yield f"installer/{path.name}", path.read_text("utf-8", "replace")
    for container in state.list_ours(place, engine):
        command = ["logs", "--timestamps", "--tail", str(LOG_LINES), container.name]
        result = engine.run(command, timeout=LOG_SECONDS, check=False)
        yield f"containers/{container.service}.log", result.stdout + result.stderr
    for name, command in _questions(engine):
        result = engine.runner.run(command, timeout=LOG_SECONDS, check=False)
        yield f"host/{name}", result.stdout + result.stderr


def _settings(place: layout.Installation) -> str:
    """Return the settings as they may be shown."""
    env = settings.load(place)
    shown = masks.without_secrets(env.values, envfile.parse((place.project / layout.ENV_EXAMPLE).read_text("utf-8")))
    return "\n".join(f"{key}={value}" for key, value in sorted(shown.items())) + "\n"


def _questions(engine: Engine) -> Iterator[tuple[str, list[str]]]:
    yield from ASKED
    yield "engine.txt", [engine.name, "info"]
    yield "containers.txt", [engine.name, "ps", "--all"]
    yield "images.txt", [engine.name, "images", "--digests"]
    scope = boot_unit.scope()
    yield "unit.txt", ["systemctl", *scope, "status", "--no-pager", layout.UNIT]


def told(names: Sequence[str], path: Path) -> str:
    """Say in words what was packed."""
    return f"{path}: {len(names)} files, secrets masked; look through it before you send it"
