"""Judges how an installation fares over the months: disks, restarts, memory, clock, certificate, backups."""

from __future__ import annotations

import datetime
import json
import re
import shutil
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from installer.core.finding import Finding
from installer.core.runner import Runner
from installer.engine.base import Container, Engine

ASK_SECONDS = 30.0
# Below these PostgreSQL and the vector stores begin to fail; Weaviate itself refuses to write at 90 % (its documents,
# DISK_USE_READONLY_PERCENTAGE).
LEAST_SHARE, LEAST_BYTES = 0.12, 2_000_000_000
# Whoever has to ask an authority for a new certificate needs some weeks.
CERTIFICATE_DAYS = 30
BACKUP_DAYS = 8
# What a kernel writes of what SELinux, or the lack of memory, has ended or denied.
DENIED = re.compile(r"avc:\s+denied")
KILLED = re.compile(r"oom-kill|Out of memory: Killed process")


def judge_disks(folders: Iterable[tuple[str, Path]]) -> list[Finding]:
    """Judge the room of file systems, each named after all that is on it."""
    by_device: dict[int, list[tuple[str, Path]]] = {}
    for what, path in folders:
        if path.exists():
            by_device.setdefault(path.stat().st_dev, []).append((what, path))
    return [_disk(", ".join(what for what, _ in same), same[0][1]) for same in by_device.values()]


def _disk(what: str, path: Path) -> Finding:
    usage = shutil.disk_usage(path)
    share = usage.free / usage.total
    seen = f"{path}: {usage.free / 1e9:.1f} GB of {usage.total / 1e9:.1f} GB are free ({share:.0%})"
    check = f"disk for {what}"
    if usage.free < LEAST_BYTES / 4:
        return Finding(check, "error", seen, "make room, or give the file system more: the databases stop without it")
    if share < LEAST_SHARE or usage.free < LEAST_BYTES:
        return Finding(check, "warning", seen, "make room soon; Weaviate takes no more vectors at 90 %")
    return Finding(check, "ok", seen)


def judge_containers(found: Sequence[Container], engine: Engine) -> list[Finding]:
    """Judge how often containers were started again, and whether one ran out of memory."""
    restarted = [f"{each.service} {each.restarts} times" for each in found if each.restarts]
    killed = _out_of_memory(found, engine)
    findings = [
        Finding("restarts", "warning", f"started again: {', '.join(restarted)}", "see why: dify-installer logs SERVICE")
        if restarted
        else Finding("restarts", "ok", "no container was started again by the engine")
    ]
    if killed:
        remedy = "give the host more memory, or its programs less: they were ended by the kernel"
        findings.append(Finding("memory", "error", f"ended for lack of memory: {', '.join(killed)}", remedy))
    return findings


def _out_of_memory(found: Sequence[Container], engine: Engine) -> list[str]:
    names = [each.name for each in found]
    if not names:
        return []
    form = "{{.Name}} {{.State.OOMKilled}}"
    shown = engine.run(["inspect", "--format", form, *names], timeout=ASK_SECONDS, check=False).stdout
    return [line.split()[0].lstrip("/") for line in shown.splitlines() if line.endswith(" true")]


def judge_kernel(runner: Runner) -> list[Finding]:
    """Judge what the kernel wrote in the last day: denials of SELinux, and programs ended for lack of memory."""
    command = ["journalctl", "--dmesg", "--since=-24h", "--no-pager", "--output=cat", "--quiet"]
    result = runner.run(command, timeout=ASK_SECONDS, check=False)
    if not result.ok:
        return [Finding("kernel's log", "info", "this user may not read it; as root, doctor looks into it")]
    lines = result.stdout.splitlines()
    denied = [line for line in lines if DENIED.search(line)]
    killed = [line for line in lines if KILLED.search(line)]
    findings = []
    if denied:
        seen = f"SELinux denied {len(denied)} times in the last day, last: {denied[-1][:200]}"
        findings.append(Finding("SELinux", "warning", seen, "`ausearch -m AVC -ts recent` tells more"))
    if killed:
        seen = f"the kernel ended {len(killed)} programs for lack of memory in the last day"
        findings.append(Finding("memory of the host", "warning", seen, "give the host more memory"))
    return findings or [Finding("kernel's log", "ok", "nothing denied, nothing ended for lack of memory in a day")]


def judge_clock(runner: Runner) -> Finding:
    """Judge whether something keeps the clock right: with a wrong one nobody can sign in."""
    shown = runner.run(["timedatectl", "show", "--property=NTPSynchronized"], timeout=ASK_SECONDS, check=False)
    if shown.stdout.strip() == "NTPSynchronized=yes":
        return Finding("clock", "ok", "it is synchronised")
    now = time.strftime("%Y-%m-%d %H:%M:%S %Z")
    return Finding("clock", "warning", f"nothing keeps it right; it says {now}", "name your time server to chronyd")


def judge_certificate(days: int | None) -> list[Finding]:
    """Judge how long the certificate is still good, in days; without https there is nothing to judge."""
    if days is None:
        return []
    seen = f"{days} days left"
    if days < 0:
        return [Finding("certificate", "error", "it has ended", "install with the new one: --tls-cert, --tls-key")]
    if days < CERTIFICATE_DAYS:
        return [Finding("certificate", "warning", seen, "ask for a new one: --tls-cert, --tls-key take it")]
    return [Finding("certificate", "ok", seen)]


def judge_backup(note: Path, now: datetime.datetime) -> Finding:
    """Judge when the last backup was made, by the note of it."""
    try:
        fields = json.loads(note.read_bytes())
        age = (now - datetime.datetime.fromisoformat(fields["made"])).days
        seen = f"the last is of {fields['made']}: {fields['file']}"
    except (OSError, ValueError, KeyError, TypeError):
        return Finding("backup", "warning", "none was made", "dify-installer backup PATH --every daily")
    if age > BACKUP_DAYS:
        return Finding("backup", "warning", f"{seen}, {age} days ago", "dify-installer backup PATH --every daily")
    return Finding("backup", "ok", seen)
