"""Gathers what the page tells: the report, and what the plan and the bundle know beyond it. Secrets end here."""

from __future__ import annotations

import contextlib
import dataclasses
import platform
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from installer.bundle import manifest
from installer.commands.report import Report
from installer.core import digest, finding, layout
from installer.plan import Plan
from installer.release import envfile, masks


@dataclass(frozen=True, kw_only=True, slots=True)
class File:
    """A file of the bundle; `size` is in bytes."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """All that the page tells, without secrets. A field that the report gets later is in `report` by its name."""

    report: Mapping[str, Any]  # as in the report for programs
    server: str
    system: str
    engine: str
    user: str
    bundle: manifest.Manifest
    files: tuple[File, ...]
    host_checks: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...]  # those of the report that these checks do not tell
    settings: Mapping[str, str]  # those that are not Dify's defaults
    settings_total: int
    env: Path
    volumes: Path
    program: str  # the installed executable as it is typed in a shell
    option: str  # how another folder than the default one is named behind a command, with a blank before it


def gather(report: Report, plan: Plan) -> Facts:
    """Gather what is known at the end of a run."""
    mask, place, host = plan.engine.runner.mask, plan.place, plan.host
    example = _example()
    values = plan.settings.values if plan.settings else {}
    shown = masks.without_secrets(values, example)
    told = {finding.as_note(each) for each in plan.findings}
    version = ".".join(map(str, host.engine.version or ()))
    return Facts(
        report=_masked(dataclasses.asdict(report), mask),
        server=platform.node(),
        system=host.system.os_name,
        engine=f"{host.engine.name} {version}".strip(),
        user=host.user.name,
        bundle=plan.bundle,
        files=_files(plan.bundle),
        host_checks=tuple(_masked(finding.as_list(plan.findings), mask)),
        notes=tuple(_masked([each for each in report.notes if each not in told], mask)),
        settings={key: text for key, text in shown.items() if values[key] != example.get(key)},
        settings_total=len(values),
        env=place.env,
        volumes=place.volumes,
        program=shlex.quote(str(place.executable)),
        option="" if place.folder == layout.default_folder() else f" --dir {shlex.quote(str(place.folder))}",
    )


def _example() -> Mapping[str, str]:
    with contextlib.suppress(OSError):
        return envfile.parse((layout.bundled(layout.PROJECT) / layout.ENV_EXAMPLE).read_text("utf-8"))
    return {}


def _files(bundle: manifest.Manifest) -> tuple[File, ...]:
    """Return the files that SHA256SUMS lists, as far as they can be known here: the executable is the running one."""
    files = [File(name=each.name, size=each.size, sha256=each.sha256) for each in bundle.archives]
    if bundle.store is not None:
        files.append(File(name=bundle.store.name, size=bundle.store.size, sha256=bundle.store.sha256))
    running = layout.executable()
    with contextlib.suppress(OSError):
        if running is not None:
            size = running.stat().st_size
            files.insert(0, File(name=layout.EXECUTABLE, size=size, sha256=digest.hash_file(running)))
    return tuple(files)


def _masked(value: Any, mask: Callable[[str], str]) -> Any:
    """Return plain data with every text in it masked."""
    if isinstance(value, str):
        return mask(value)
    if isinstance(value, dict):
        return {key: _masked(each, mask) for key, each in value.items()}
    return [_masked(each, mask) for each in value] if isinstance(value, list | tuple) else value
