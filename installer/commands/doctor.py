"""Judges an installation that has run for a while, and packs for a support desk what it takes to help."""

from __future__ import annotations

import datetime
import io
import json
import tarfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from installer import plan
from installer.bundle import verify
from installer.checks import barriers, changes, known_servers, models, names, trend, upkeep
from installer.commands import overview, status
from installer.commands.overview import Overview
from installer.core import errors, files, finding, layout
from installer.core.finding import Finding
from installer.core.runner import Runner
from installer.engine import choose
from installer.engine.base import Container, Engine
from installer.host import observe
from installer.host.judge import network
from installer.release import envfile, masks, settings
from installer.stack import applied, project, state
from installer.system import boot_unit, firewall

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
    """Judge all that may go wrong over the months; changes nothing but the note of the disk's trend.

    Raises CommandFailed when nothing is installed, NotHealthy when `.env` has lost too much.
    """
    engine = choose.choose_engine(None, place, runner)
    lost = changes.judge_settings(place)
    glance, checked = _look(place, engine, lost)
    found = state.list_containers(engine)
    now = datetime.datetime.now(datetime.UTC)
    disks = [("data", place.volumes), ("backups and logs", place.folder)]
    if (root := engine.describe().graph_root) is not None:
        disks.append(("images", root))
    findings = [
        *checked,
        *_judge_inside(place, found, engine),
        *upkeep.judge_disks(disks),
        trend.judge(trend.note(place, glance.data_bytes, now.date())),
        *upkeep.judge_containers(found, engine),
        *upkeep.judge_kernel(runner),
        upkeep.judge_clock(runner),
        *upkeep.judge_certificate(glance.certificate_days),
        upkeep.judge_backup(place.last_backup, now),
        *_judge_firewall(place, engine),
        *barriers.judge_denials(barriers.find_denials(runner), place),
        *lost,
        *_judge_changes(place, glance, engine),
    ]
    return Judged(glance=glance, findings=tuple(findings))


def _look(place: layout.Installation, engine: Engine, lost: Sequence[Finding]) -> tuple[Overview, list[Finding]]:
    """Look as `status` does. Raises NotHealthy where `.env` has `lost` so much that this makes no sense."""
    try:
        return status.look(place, engine)
    except (errors.PreflightFailed, errors.UsageError) as error:
        if lost:
            raise errors.NotHealthy(lost[0].seen, lost[0].remedy) from error
        raise


def _judge_inside(place: layout.Installation, found: list[Container], engine: Engine) -> list[Finding]:
    """Judge what the containers reach: names, and the model servers that were named last."""
    document, servers = project.read_installed(place, engine), known_servers.read(place)
    probe = layout.bundled(layout.PROBE)
    return [
        *plan.judge_others(settings.load(place), plan.installed_authorities(place)),
        *names.check_names(document, found, [each.url for each in servers], probe, engine),
        *models.ask_again(servers, found, models.host_authorities(place), probe, engine),
    ]


def _judge_firewall(place: layout.Installation, engine: Engine) -> list[Finding]:
    """Judge firewalld, where it runs and the engine's ports depend on it."""
    if not engine.asks_firewall or not observe.runs_firewalld(engine.runner):
        return []
    ports = settings.load(place).ports
    wanted = [port for name, port in ports.items() if name in network.FOR_BROWSERS]
    gone = firewall.find_gone(place, engine.runner)
    return barriers.judge_firewall(observe.open_ports(engine.runner), wanted, gone)


def _judge_changes(place: layout.Installation, glance: Overview, engine: Engine) -> list[Finding]:
    """Judge what was changed by hand."""
    edited = applied.find_edited(place, engine)
    told = set(map(changes.edited_in_words, edited))
    payload = layout.bundled("")
    different = project.find_different(verify.check_embedded(payload), payload, place)
    return changes.judge_files(
        edited,
        [each for each in glance.changed if each not in told],
        [str(path.relative_to(place.project)) for path, _ in different],
        place.env.name,
    )


def pack(place: layout.Installation, judged: Judged, path: Path, runner: Runner) -> list[str]:
    """Write logs, states, versions and settings to `path`, a tar.gz, 0600, without a secret; return what is in it.

    Raises CommandFailed (disk), UsageError when there is such a file.
    """
    require_new(path)
    engine = choose.choose_engine(None, place, runner)
    runner.hide(own_secrets(place))
    return write(path, _texts(place, judged, engine), runner)


def require_new(path: Path) -> None:
    """Raise UsageError when there is such a file."""
    if path.exists():
        raise errors.UsageError(f"{path} exists already", "name another file")


def write(path: Path, texts: Iterable[tuple[str, str]], runner: Runner) -> list[str]:
    """Write texts, each with its name, to a tar.gz, 0600, masked; return the names. Raises CommandFailed (disk)."""
    packed = []
    with files.replacing(path.absolute(), mode=0o600) as target, tarfile.open(fileobj=target, mode="w:gz") as archive:
        for name, text in texts:
            content = masks.scrub(runner.mask(text)).encode()
            entry = tarfile.TarInfo(f"dify-doctor/{name}")
            entry.size, entry.mode, entry.mtime = len(content), 0o600, int(time.time())
            archive.addfile(entry, io.BytesIO(content))
            packed.append(name)
    return packed


def own_secrets(place: layout.Installation) -> list[str]:
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
    example = (place.project / layout.ENV_EXAMPLE).read_text("utf-8")
    yield "settings.txt", shown_settings(settings.load(place), example)
    for path in (place.report, engine.written_file(place), place.applied, place.disk_history, place.model_servers):
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


def shown_settings(env: settings.Settings, example: str) -> str:
    """Return the settings as they may be shown; `example` is the text of upstream's."""
    shown = masks.without_secrets(env.values, envfile.parse(example))
    return "\n".join(f"{key}={value}" for key, value in sorted(shown.items())) + "\n"


def _questions(engine: Engine) -> Iterator[tuple[str, list[str]]]:
    yield from ASKED
    yield "engine.txt", [engine.name, "info"]
    yield "containers.txt", [engine.name, "ps", "--all"]
    yield "images.txt", [engine.name, "images", "--digests"]
    scope = boot_unit.scope()
    yield "unit.txt", ["systemctl", *scope, "status", "--no-pager", layout.UNIT]


def told(packed: Sequence[str], path: Path) -> str:
    """Say in words what was packed."""
    return f"{path}: {len(packed)} files, secrets masked; look through it before you send it"
