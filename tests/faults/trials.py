"""The trials: what each kind needs, draws and does; running one; what came of it.

A trial is a pure function of its seed, its number and its kind: everything that is random is drawn before it begins.
"""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from installer.core import errors
from tests.faults import damage, invariants, kills, life, rig, states
from tests.faults.scene import ERROR, TRACE, Parameters, Scene, Void, line_of

Verdict = Literal["held", "failed", "void"]

# docs/troubleshooting.md, "the api says that a database or a role does not exist": a first start was cut off.
HALF_DATABASE = re.compile(r"(database|role) \S+ does not exist")
DATABASE_FOLDER = "/opt/dify/docker/volumes/db/data"


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a trial will do."""

    seed: int
    number: int
    kind: str
    parameters: Parameters


@dataclass(kw_only=True, slots=True)
class Result:
    """What came of a trial: `exit_codes` by the name of the run, None for one that had to be ended."""

    seed: int
    number: int
    kind: str
    parameters: Parameters
    exit_codes: dict[str, int | None]
    seconds: float
    verdict: Verdict
    reason: str
    broken: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault: the machine that it `needs`, what it draws, and what it does."""

    needs: Literal["fresh", "installed", "any"]
    draw: Callable[[random.Random], Parameters]
    act: Callable[[Scene, Parameters], None]


KINDS: dict[str, Kind] = {
    "install killed": Kind("fresh", kills.draw_kill, kills.kill_install),
    "install killed twice": Kind("fresh", kills.draw_two_kills, kills.kill_install_twice),
    "change killed": Kind("installed", kills.draw_kill_of_change, kills.kill_change),
    "stop killed": Kind("installed", kills.draw_kill_of_stop, kills.kill_stop),
    "start killed": Kind("installed", kills.draw_kill_of_stop, kills.kill_start),
    "uninstall killed": Kind("installed", kills.draw_kill_of_uninstall, kills.kill_uninstall),
    "power cut": Kind("installed", kills.draw_power_cut, kills.cut_power),
    "install power cut": Kind("fresh", kills.draw_power_cut_of_install, kills.cut_power_of_install),
    "archive damaged, verify": Kind("any", damage.draw_damage, damage.verify_damaged_archive),
    "executable damaged, verify": Kind("any", damage.draw_damage, damage.verify_damaged_executable),
    "archive damaged, install": Kind("fresh", damage.draw_damage, damage.install_damaged_archive),
    "disk full": Kind("fresh", damage.draw_full_disk, damage.fill_disk),
    "file broken": Kind("installed", states.draw_broken_file, states.break_file),
    ".env broken": Kind("installed", states.draw_broken_env, states.break_env),
    "containers broken": Kind("installed", states.draw_broken_containers, states.break_containers),
    "conmons killed": Kind("installed", states.draw_killed_conmons, states.kill_conmons),
    "images broken": Kind("installed", states.draw_broken_images, states.break_images),
    "runs at once": Kind("installed", kills.draw_concurrent, kills.run_at_once),
    "backup killed": Kind("installed", life.draw_kill_of_backup, life.kill_backup),
    "backup, disk full": Kind("installed", life.draw_full_disk_of_backup, life.fill_disk_of_backup),
    "restore killed": Kind("installed", life.draw_kill_of_restore, life.kill_restore),
    "restore, power cut": Kind("installed", life.draw_power_cut_of_restore, life.cut_power_of_restore),
    "upgrade killed": Kind("installed", life.draw_kill_of_upgrade, life.kill_upgrade),
    "upgrade, power cut": Kind("installed", life.draw_power_cut_of_upgrade, life.cut_power_of_upgrade),
    "rollback killed": Kind("installed", life.draw_kill_of_rollback, life.kill_rollback),
    "restore or upgrade, disk full": Kind("fresh", life.draw_full_disk_of_change, life.fill_disk_of_change),
    "database killed": Kind("installed", life.draw_dead_database, life.kill_database),
}


def plan(seed: int, number: int, kind: str = "") -> Plan:
    """Return the trial of this seed and number; of a kind of one's own choice, if one is given.

    Each round of trials has every kind once, in an order of its own.
    """
    order = list(KINDS)
    random.Random(f"{seed}/{number // len(KINDS)}").shuffle(order)
    chosen = kind or order[number % len(KINDS)]
    return Plan(
        seed=seed, number=number, kind=chosen, parameters=KINDS[chosen].draw(random.Random(f"{seed}/{number}/{chosen}"))
    )


def run(planned: Plan, lab: rig.Lab) -> Result:
    """Run a trial and judge it. What its commands print is kept unless it held."""
    started = time.monotonic()
    folder = lab.folder / f"{planned.seed}-{planned.number}-{re.sub('[^a-z]+', '-', planned.kind)}"
    rig.clear(folder)
    scene, void = None, ""
    try:
        scene = prepare(planned, lab, folder)
        void = _act(scene, planned)
    except (AssertionError, OSError, LookupError, subprocess.SubprocessError) as error:
        # A machine that does not even answer us shows nothing, and is of no use to the next trial.
        void = f"the rig: {type(error).__name__}: {error}"
        lab.spoil()
    broken = scene.broken if scene else []
    # A file system in memory would not outlive the next power cut.
    if broken or planned.kind in ("disk full", "restore or upgrade, disk full"):
        lab.spoil()
    elif not void and KINDS[planned.kind].needs != "any":
        lab.keep()
    verdict: Verdict = "failed" if broken else "void" if void else "held"
    if verdict == "held":
        shutil.rmtree(folder)
    reasons = [*(f"{what}: {how}" for what, how in broken), *filter(None, [void]), *(scene.notes if scene else [])]
    return Result(
        seed=planned.seed,
        number=planned.number,
        kind=planned.kind,
        parameters=planned.parameters,
        exit_codes=scene.codes if scene else {},
        seconds=round(time.monotonic() - started, 1),
        verdict=verdict,
        reason="; ".join(reasons),
        broken=sorted({what for what, _ in broken}),
    )


def prepare(planned: Plan, lab: rig.Lab, folder: Path) -> Scene:
    """Bring about the machine that a trial needs, and remember what must not change on it."""
    needs = KINDS[planned.kind].needs
    server = {"fresh": lab.fresh, "installed": lab.installed, "any": lab.any}[needs]()
    if needs == "installed":
        memory = invariants.remember(server, f"{planned.seed}/{planned.number}/{planned.kind}")
    else:
        memory = invariants.Memory(foreign=invariants.foreign(server))
    return Scene(server=server, folder=folder, memory=memory, newer=lab.newer)


def _act(scene: Scene, planned: Plan) -> str:
    """Do what the trial does, and look what the same command makes of it; return why it is void, if it is."""
    kind, void = KINDS[planned.kind], ""
    try:
        kind.act(scene, planned.parameters)
    except Void as nothing:
        void = str(nothing)
    if kind.needs != "any":
        recover(scene)
    return void


def recover(scene: Scene) -> None:
    """Run the same install command again, and look whether all is as it must be."""
    scene.keep_secrets()
    ended = scene.install_again("again")
    if ended.status == errors.NotHealthy.exit_code and HALF_DATABASE.search(ended.output):
        scene.server.machine.run(f"mv {DATABASE_FOLDER} /root/half-a-database")
        scene.notes.append("its half database was moved away, as docs/troubleshooting.md says")
        ended = scene.install_again("again without the half database")
    if TRACE.search(ended.output):
        scene.fail("traceback", f"again: {line_of(ended.output, TRACE)}")
    if ended.status != 0:
        scene.fail("again", f"the same command ends with {ended.status}: {line_of(ended.output, ERROR)}")
    elif (level := _level(scene)) not in scene.options and scene.options:
        scene.fail("setting", f"containers have {level}, asked was {scene.options[1]}")
    for what, how in invariants.broken(scene.server, scene.memory, healthy=ended.status == 0):
        scene.fail(what, how)


def _level(scene: Scene) -> str:
    """Return the setting that changes ask for, as the api's container has it."""
    shown = scene.server.machine.run("podman exec dify_api_1 printenv LOG_LEVEL", check=False)
    return f"LOG_LEVEL={shown.stdout.strip()}"
