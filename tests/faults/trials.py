"""The faults: what each kind draws from its random numbers, and how it does that to a machine.

A trial is a pure function of its seed, its number and its kind: everything that is random is drawn before it begins.
Moments are given by the step of the run that has just ended and a delay, so that they mean the same on a slow machine.
"""

from __future__ import annotations

import contextlib
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from elftools.elf.elffile import ELFFile

from installer.core import errors
from tests.e2e.server import Server
from tests.faults import invariants, rig
from tests.faults.rig import Ended, Running

Parameters = dict[str, Any]
Verdict = Literal["held", "failed", "void"]

# Moments of an installation, as the step that has ended; and for how many seconds after it a fault may come.
# The longer that is, the more often it is drawn.
MOMENTS = {
    "": 2.5,
    "verify": 1.0,
    "preflight": 8.0,
    "images": 2.0,
    "podman-compose": 0.5,
    "settings": 12.0,
    "start": 3.0,
    "health": 2.0,
    "boot": 1.0,
}
# The same of an uninstallation, which names what it has removed.
REMOVALS = {"": 4.0, "boot": 9.0, "containers": 0.5, "networks": 0.3, "image store": 1.5, "images": 0.1}
STOP_SECONDS = 9.0
SIGNALS = ["KILL", "KILL", "INT", "TERM", "HUP"]
TARGETS = ["parent", "group", "tree", "child"]
# All that was started ends within two seconds of a signal; the rest is for a machine that is busy with other tests.
PROMPT_SECONDS = 5.0
# What a run that lost a program of its own may end with: its own doing, or a documented failure.
FAILED = {0, *range(4, 7)}
REFUSED = {2, 4, 5}
NO_ROOM = re.compile(r"no space left|\bfull\b|\bneeded\b", re.IGNORECASE)
TRACE = re.compile(r"Traceback \(most recent|unforeseen|--- Logging error")
# docs/troubleshooting.md, "the api says that a database or a role does not exist": a first start was cut off.
HALF_DATABASE = re.compile(r"(database|role) \S+ does not exist")
DATABASE_FOLDER = "/opt/dify/docker/volumes/db/data"
MEBIBYTE = 1024**2


class Void(Exception):
    """The fault did not take place, so that the trial shows nothing."""


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


@dataclass(kw_only=True, slots=True)
class Scene:
    """The machine of a trial and what is seen on it; `broken` are pairs of what does not hold and how."""

    server: Server
    folder: Path
    memory: invariants.Memory
    codes: dict[str, int | None] = field(default_factory=dict)
    broken: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    # Of the install command, which is the same one each time.
    options: tuple[str, ...] = ()

    def start(self, name: str, command: list[str]) -> Running:
        """Start a command; what it prints is kept under its name."""
        return Running(self.server, command, self.folder / f"{name}.txt")

    def install(self, name: str) -> Running:
        return self.start(name, rig.install(*self.options))

    def end(self, name: str, running: Running, allowed: Collection[int]) -> Ended:
        """Wait for a run and judge its exit code: no run may hang, or end without a message that was foreseen."""
        ended = running.wait()
        self.codes[name] = ended.status
        if ended.status is None:
            self.fail("hang", f"{name} does not end within {rig.RUN_SECONDS:.0f} s")
        elif TRACE.search(ended.output):
            self.fail("traceback", f"{name}: {_line(ended.output, TRACE)}")
        elif ended.status not in allowed:
            self.fail("exit code", f"{name} ends with {ended.status}: {_line(ended.output, re.compile('error'))}")
        return ended

    def run(self, name: str, command: list[str], allowed: Collection[int]) -> Ended:
        return self.end(name, self.start(name, command), allowed)

    def fail(self, what: str, how: str) -> None:
        self.broken.append((what, how))


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault: the machine that it `needs`, what it draws, and what it does."""

    needs: Literal["fresh", "installed", "any"]
    draw: Callable[[random.Random], Parameters]
    act: Callable[[Scene, Parameters], None]


# -- runs that are killed


def _signal(rng: random.Random) -> Parameters:
    return {"signal": rng.choice(SIGNALS), "target": rng.choice(TARGETS), "pick": round(rng.random(), 3)}


def _moment(rng: random.Random, moments: dict[str, float]) -> Parameters:
    (after,) = rng.choices(list(moments), list(moments.values()))
    return {"after": after, "delay": round(rng.uniform(0, moments[after]), 2)}


def draw_kill(rng: random.Random) -> Parameters:
    return _moment(rng, MOMENTS) | _signal(rng)


def draw_two_kills(rng: random.Random) -> Parameters:
    # The first one before the stack is all there: the second finds half an installation.
    first = _moment(rng, {step: MOMENTS[step] for step in ("preflight", "images", "settings")}) | _signal(rng)
    return {"first": first, "second": draw_kill(rng)}


def draw_kill_of_change(rng: random.Random) -> Parameters:
    moments = {step: MOMENTS[step] for step in ("preflight", "podman-compose", "settings", "start")}
    return {"level": rng.choice(["DEBUG", "WARNING", "ERROR"])} | _moment(rng, moments) | _signal(rng)


def draw_kill_of_stop(rng: random.Random) -> Parameters:
    return {"after": "", "delay": round(rng.uniform(0.2, STOP_SECONDS), 2)} | _signal(rng)


def draw_kill_of_uninstall(rng: random.Random) -> Parameters:
    return _moment(rng, REMOVALS) | _signal(rng)


def kill_install(scene: Scene, parameters: Parameters) -> None:
    _kill(scene, "install", scene.install("install"), parameters)


def kill_install_twice(scene: Scene, parameters: Parameters) -> None:
    first = scene.install("first")
    tree = _kill(scene, "first", first, parameters["first"])
    # Where the parent alone was killed, the run goes on without it, and keeps others out.
    _await_gone(tree, rig.RUN_SECONDS)
    scene.memory = _with_secrets(scene)
    _kill(scene, "second", scene.install("second"), parameters["second"])


def kill_change(scene: Scene, parameters: Parameters) -> None:
    scene.options = ("--set", f"LOG_LEVEL={parameters['level']}")
    _kill(scene, "change", scene.install("change"), parameters)


def kill_stop(scene: Scene, parameters: Parameters) -> None:
    _kill(scene, "stop", scene.start("stop", ["./dify-installer", "stop"]), parameters)


def kill_start(scene: Scene, parameters: Parameters) -> None:
    scene.run("stop", ["./dify-installer", "stop"], {0})
    _kill(scene, "start", scene.start("start", ["./dify-installer", "start"]), parameters)


def kill_uninstall(scene: Scene, parameters: Parameters) -> None:
    _kill(scene, "uninstall", scene.start("uninstall", ["./dify-installer", "uninstall"]), parameters)


def _kill(scene: Scene, name: str, running: Running, parameters: Parameters) -> dict[int, str]:
    """Kill a run at its moment and judge how it ends; return what it had started, by process, and when each began."""
    _await_moment(scene, name, running, parameters)
    number, target = signal.Signals[f"SIG{parameters['signal']}"], parameters["target"]
    tree = {pid: rig.born(pid) for pid in running.tree()}
    if not running.send(number, target, parameters["pick"]):
        scene.end(name, running, {0})
        raise Void(f"{name} had ended before" if target != "child" else f"{name} had no child any more")
    sent = time.monotonic()
    own = {0, -number, 128 + number}
    scene.end(name, running, {"child": FAILED, "tree": FAILED | own}.get(target, own))
    if number != signal.SIGKILL and target != "child":
        _judge_end(scene, name, tree, time.monotonic() - sent)
    return tree


def _judge_end(scene: Scene, name: str, tree: dict[int, str], seconds: float) -> None:
    """What was asked to end is prompt, and takes along what it has started."""
    if seconds > PROMPT_SECONDS:
        scene.fail("slow end", f"{name} takes {seconds:.1f} s to end")
    if left := _await_gone(tree, PROMPT_SECONDS):
        scene.fail("orphans", f"{name} leaves {', '.join(rig.comm(pid) for pid in left)}")


def _await_gone(tree: dict[int, str], seconds: float) -> list[int]:
    """Wait until these processes have ended; return those that have not."""
    deadline = time.monotonic() + seconds
    while left := [pid for pid, since in tree.items() if since and rig.born(pid) == since]:
        if time.monotonic() > deadline:
            break
        time.sleep(rig.POLL_SECONDS)
    return left


def _await_moment(scene: Scene, name: str, running: Running, parameters: Parameters) -> None:
    if parameters["after"] and not running.await_line(parameters["after"]):
        # Nothing has been done to it yet.
        scene.end(name, running, {0})
        raise Void(f"{name} had ended before its moment")
    time.sleep(parameters["delay"])


def _with_secrets(scene: Scene) -> invariants.Memory:
    """Remember the secrets that a first run has written, if there were none before."""
    return replace(scene.memory, secrets=scene.memory.secrets or invariants.read_secrets(scene.server))


# -- the power


def draw_power_cut(rng: random.Random) -> Parameters:
    during = rng.choice(["nothing", "change", "stop", "uninstall"])
    delay = round(rng.uniform(0.5, 12), 2)
    return {"during": during, "after": "", "delay": delay}


def cut_power(scene: Scene, parameters: Parameters) -> None:
    commands = {
        "nothing": ["true"],
        "change": rig.install("--set", "LOG_LEVEL=DEBUG"),
        "stop": ["./dify-installer", "stop"],
        "uninstall": ["./dify-installer", "uninstall"],
    }
    running = scene.start(parameters["during"], commands[parameters["during"]])
    _cut(scene, parameters["during"], running, parameters)


def draw_power_cut_of_install(rng: random.Random) -> Parameters:
    return _moment(rng, {step: MOMENTS[step] for step in ("preflight", "images", "settings", "start")})


def cut_power_of_install(scene: Scene, parameters: Parameters) -> None:
    _cut(scene, "install", scene.install("install"), parameters)


def _cut(scene: Scene, name: str, running: Running, parameters: Parameters) -> None:
    _await_moment(scene, name, running, parameters)
    scene.memory = _with_secrets(scene)
    scene.server.machine.kill()
    running.wait(30)
    scene.server.machine.boot()
    # /tmp and /dev/shm are memory: what others had there went with the power.
    rig.put_foreign(scene.server, rig.FOREIGN)
    scene.memory = replace(scene.memory, foreign=invariants.foreign(scene.server))


# -- bundles that are damaged


def draw_damage(rng: random.Random) -> Parameters:
    # The ends of a file have its index, its configurations, its seal.
    where = rng.choice([rng.random(), rng.random(), rng.random() / 1000, 1 - rng.random() / 1000])
    return {
        "how": rng.choice(["flip", "flip", "zeros", "truncated", "longer"]),
        "where": round(where, 6),
        "bit": rng.randrange(8),
        "length": rng.choice([1, 512, 65536]),
    }


def verify_damaged_archive(scene: Scene, parameters: Parameters) -> None:
    path = scene.server.machine.path("/root/dify-images.tar")
    with _restored(scene, path):
        damage(path, parameters)
        scene.run("verify", ["./dify-installer", "verify"], {3})


def verify_damaged_executable(scene: Scene, parameters: Parameters) -> None:
    path = scene.server.machine.path("/root/damaged")
    scene.server.put(scene.server.bundle.executable, "damaged", mode=0o755)
    position = damage(path, parameters)
    ended = scene.run("verify", ["./damaged", "verify", "--images", "dify-images.tar"], _refusals(scene, position))
    path.unlink()
    if not ended.output and ended.status is not None and ended.status > 0:
        scene.fail("silence", "a damaged executable says nothing")
    # A bootloader that was stopped half-way is not asked to clean up: it is what is damaged.
    scene.server.machine.run("rm -rf /tmp/_MEI*")


def _refusals(scene: Scene, position: int) -> set[int]:
    """Return with what an executable may end that is damaged there: 3, or else what its bootloader or the kernel says.

    docs/exit-codes.md: where so much of it is damaged that even its bootloader cannot start, its message stands for
    ours, or a signal; a shell has its own words for what is no program any more.
    """
    with scene.server.bundle.executable.open("rb") as file:
        content = ELFFile(file).get_section_by_name("pydata")
        assert content is not None
        inside = content["sh_offset"] <= position < content["sh_offset"] + content["sh_size"]
    return {3, 255} if inside else {3, 126, 127, 255, *range(-31, 0)}


def install_damaged_archive(scene: Scene, parameters: Parameters) -> None:
    path = scene.server.machine.path("/root/dify-images.tar")
    with _restored(scene, path):
        damage(path, parameters)
        ended = scene.end("install", scene.install("install"), {0, 3})
    if ended.status == 0:
        # Only what no image is made of may be damaged then.
        for what in invariants.images(scene.server, scene.memory):
            scene.fail("accepted", what)
    foreign = set(invariants.stored(scene.server).values()) - set(invariants.manifest(scene.server.bundle).values())
    for identity in foreign:
        scene.fail("accepted", f"an image {identity[:12]}")


def damage(path: Path, parameters: Parameters) -> int:
    """Damage a file and return the first position that is not as it was."""
    size = path.stat().st_size
    position = min(int(size * parameters["where"]), size - 1)
    with path.open("r+b") as file:
        if parameters["how"] == "truncated":
            file.truncate(position)
        elif parameters["how"] == "longer":
            position = file.seek(0, 2)
            file.write(b"\0" * parameters["length"])
        else:
            file.seek(position)
            old = file.read(parameters["length"] if parameters["how"] == "zeros" else 1)
            new = bytes(len(old)) if parameters["how"] == "zeros" else bytes([old[0] ^ 1 << parameters["bit"]])
            if new == old:
                raise Void("there were zeros already")
            file.seek(position)
            file.write(new)
    return position


@contextlib.contextmanager
def _restored(scene: Scene, path: Path) -> Iterator[None]:
    """Put the good archive back in the end."""
    try:
        yield
    finally:
        scene.server.put(scene.server.bundle.archive, path.name)


# -- disks that are full


# Large enough for the sample, and what is mounted where.
FILE_SYSTEMS = {"folder": ("/opt/dify", 2048 * MEBIBYTE), "storage": ("/var/lib/containers", 3072 * MEBIBYTE)}


def draw_full_disk(rng: random.Random) -> Parameters:
    steps = ["preflight", "preflight", "images", "podman-compose", "settings", "settings", "start", "health", "boot"]
    after = rng.choice(steps)
    return {
        "full": rng.choice(list(FILE_SYSTEMS)),
        "after": after,
        "delay": round(rng.uniform(0, min(MOMENTS[after], 5)), 2),
        "left": rng.choice([0, 4, 64, 1024]) * 1024,
    }


def fill_disk(scene: Scene, parameters: Parameters) -> None:
    machine, (path, size) = scene.server.machine, FILE_SYSTEMS[parameters["full"]]
    machine.run(f"mkdir -p {path} && mount -t tmpfs -o mode=0755,size={size} none {path}")
    running = scene.install("install")
    _await_moment(scene, "install", running, parameters)
    used, late = _shrink(scene, path, parameters["left"]), running.over
    # A service that finds no room is a stack that is not healthy, with its own words.
    ended = scene.end("install", running, {0, 5, 6})
    if ended.status and not NO_ROOM.search(ended.output):
        scene.fail("cause", f"nothing says that {path} is full: {_line(ended.output, re.compile('error'))}")
    if ended.status == 0:
        scene.notes.append(f"it needed no more than {used} bytes")
    machine.run(f"mount -o remount,size={size} {path}")
    scene.memory = _with_secrets(scene)
    if late:
        raise Void("install had ended before its disk was full")


def _shrink(scene: Scene, path: str, left: int) -> int:
    """Leave so many bytes of a file system in memory; return how many are in use. Its use may grow meanwhile."""
    command = f"used=$(df --block-size=1 --output=used {path} | tail -1); "
    command += f"mount -o remount,size=$((used + {left} + 4096)) {path} && echo $used"
    for _ in range(100):
        done = scene.server.machine.run(command, check=False)
        if done.returncode == 0:
            return int(done.stdout)
    raise Void(f"{path} cannot be made smaller: {done.stderr}")


# -- states that were broken by hand

FILES = {
    "compose": "/opt/dify/docker/dify-compose.yaml",
    "upstream": "/opt/dify/docker/docker-compose.yaml",
    "applied": "/opt/dify/docker/.applied",
    "report": "/opt/dify/install-report.json",
    "executable": "/opt/dify/bin/dify-installer",
    "podman-compose": "/opt/dify/podman-compose/bin/podman-compose",
    "python": "/opt/dify/podman-compose/pyvenv.cfg",
    "venv": "/opt/dify/podman-compose",
    "unit": "/etc/systemd/system/dify.service",
}


def draw_broken_file(rng: random.Random) -> Parameters:
    return {"file": rng.choice(list(FILES))} | _breaking(rng, ["random", "empty", "missing", "directory"])


def draw_broken_env(rng: random.Random) -> Parameters:
    return {"keep": round(rng.random(), 3)} | _breaking(
        rng, ["random", "empty", "missing", "directory", "half", "half"]
    )


def _breaking(rng: random.Random, ways: list[str]) -> Parameters:
    return {
        "how": rng.choice(ways),
        "bytes": rng.randrange(2**32),
        "length": rng.choice([1, 100, 3000]),
        "command": rng.choice(["status", "start", "stop", ""]),
    }


def break_file(scene: Scene, parameters: Parameters) -> None:
    path = FILES[parameters["file"]]
    _break(scene, path, parameters)
    if parameters["command"]:
        _ask(scene, parameters["command"])
    if parameters["how"] == "directory":
        # Who puts a folder there may be told to take it away; a file of ours is written anew.
        ended = scene.end("install", scene.install("install"), {0, *REFUSED})
        if ended.status:
            if path not in ended.output:
                scene.fail("cause", f"nothing names {path}")
            scene.server.machine.run(f"rmdir {path}")


def break_env(scene: Scene, parameters: Parameters) -> None:
    """A `.env` that is not what it was is refused, or repaired without a change of any secret."""
    machine = scene.server.machine
    kept = machine.path(invariants.ENV).read_bytes()
    _break(scene, invariants.ENV, parameters)
    if parameters["command"]:
        _ask(scene, parameters["command"])
    ended = scene.end("install", scene.install("install"), {0, *REFUSED})
    if ended.status == 0 and (changed := list(invariants.secrets(scene.server, scene.memory))):
        scene.fail("secrets", f"with a broken .env: {changed[0]}")
    machine.run(f"rm -rf {invariants.ENV}")
    machine.path(invariants.ENV).write_bytes(kept)
    machine.path(invariants.ENV).chmod(0o600)


def _break(scene: Scene, path: str, parameters: Parameters) -> None:
    target = scene.server.machine.path(path)
    old = target.read_bytes() if target.is_file() else b""
    mode = target.stat().st_mode & 0o777
    scene.server.machine.run(f"rm -rf {path}")
    if parameters["how"] == "directory":
        target.mkdir()
    elif parameters["how"] != "missing":
        content = {
            "random": random.Random(parameters["bytes"]).randbytes(parameters["length"]),
            "half": old[: int(len(old) * parameters.get("keep", 0))],
        }
        target.write_bytes(content.get(parameters["how"], b""))
        target.chmod(mode)


def _ask(scene: Scene, command: str) -> None:
    """Run a command that finds the broken state: whatever it says, it is something that was foreseen."""
    options = [] if command == "stop" else ["--timeout", "30"] if command == "start" else []
    scene.run(command, ["./dify-installer", command, *options], {0, 2, 4, 5, 6})


def draw_broken_containers(rng: random.Random) -> Parameters:
    how = rng.choice(["rm --force --time 0", "stop --time 1", "kill", "pause", "stop --time 10"])
    return {"how": how, "share": rng.choice([0.1, 0.4, 1.0]), "pick": rng.randrange(2**32)}


def break_containers(scene: Scene, parameters: Parameters) -> None:
    names = scene.server.machine.run(["podman", "ps", "--format", "{{.Names}}"]).stdout.split()
    scene.server.machine.run(["podman", *parameters["how"].split(), *_some(names, parameters)], check=False)


def draw_killed_conmons(rng: random.Random) -> Parameters:
    return {"share": rng.choice([0.1, 0.4, 1.0]), "pick": rng.randrange(2**32), "wait": rng.choice([0, 3])}


def kill_conmons(scene: Scene, parameters: Parameters) -> None:
    """Kill what watches over containers; these go on, unseen by podman."""
    # By the container that it is for: process IDs are others each time.
    shown = scene.server.machine.run(["pgrep", "--exact", "--list-full", "conmon"]).stdout.splitlines()
    found = {line.partition(" -n ")[2].split()[0]: line.split()[0] for line in shown if " -n " in line}
    picked = [found[name] for name in _some(list(found), parameters)]
    scene.server.machine.run(["kill", "-KILL", *picked])
    time.sleep(parameters["wait"])


def draw_broken_images(rng: random.Random) -> Parameters:
    how = rng.choice(["untag", "rmi --force", "tag"])
    return {"how": how, "share": rng.choice([0.1, 0.4, 1.0]), "pick": rng.randrange(2**32)}


def break_images(scene: Scene, parameters: Parameters) -> None:
    names = _some(list(invariants.manifest(scene.server.bundle)), parameters)
    if parameters["how"] == "tag":
        # Another image of the bundle gets their names.
        other = sorted(invariants.manifest(scene.server.bundle))[0]
        commands = [["podman", "tag", other, name] for name in names if name != other]
    else:
        commands = [["podman", *parameters["how"].split(), name] for name in names]
    for command in commands:
        scene.server.machine.run(command, check=False)


def _some(names: list[str], parameters: Parameters) -> list[str]:
    """Return a share of these, one at least: the same ones for the same parameters."""
    number = max(1, round(len(names) * parameters["share"]))
    return random.Random(parameters["pick"]).sample(sorted(names), number)


# -- runs at the same time


def draw_concurrent(rng: random.Random) -> Parameters:
    commands = ["install", "install", "install", "stop", "start", "status", "uninstall"]
    number = rng.choice([2, 2, 3])
    return {"commands": [[rng.choice(commands), round(rng.uniform(0, 4), 2)] for _ in range(number)]}


def run_at_once(scene: Scene, parameters: Parameters) -> None:
    """Each run has its turn or is refused."""
    running: list[tuple[str, str, Running]] = []
    started = time.monotonic()
    for number, (command, delay) in enumerate(sorted(parameters["commands"], key=lambda pair: pair[1])):
        time.sleep(max(0.0, started + delay - time.monotonic()))
        name = f"{number}-{command}"
        called = rig.install() if command == "install" else ["./dify-installer", command]
        running.append((name, command, scene.start(name, called)))
    allowed = {"install": {0, 7}, "uninstall": {0, 2, 7}, "status": {0, 5, 6}}
    for name, command, run in running:
        scene.end(name, run, allowed.get(command, {0, 5, 6, 7}))


KINDS: dict[str, Kind] = {
    "install killed": Kind("fresh", draw_kill, kill_install),
    "install killed twice": Kind("fresh", draw_two_kills, kill_install_twice),
    "change killed": Kind("installed", draw_kill_of_change, kill_change),
    "stop killed": Kind("installed", draw_kill_of_stop, kill_stop),
    "start killed": Kind("installed", draw_kill_of_stop, kill_start),
    "uninstall killed": Kind("installed", draw_kill_of_uninstall, kill_uninstall),
    "power cut": Kind("installed", draw_power_cut, cut_power),
    "install power cut": Kind("fresh", draw_power_cut_of_install, cut_power_of_install),
    "archive damaged, verify": Kind("any", draw_damage, verify_damaged_archive),
    "executable damaged, verify": Kind("any", draw_damage, verify_damaged_executable),
    "archive damaged, install": Kind("fresh", draw_damage, install_damaged_archive),
    "disk full": Kind("fresh", draw_full_disk, fill_disk),
    "file broken": Kind("installed", draw_broken_file, break_file),
    ".env broken": Kind("installed", draw_broken_env, break_env),
    "containers broken": Kind("installed", draw_broken_containers, break_containers),
    "conmons killed": Kind("installed", draw_killed_conmons, kill_conmons),
    "images broken": Kind("installed", draw_broken_images, break_images),
    "runs at once": Kind("installed", draw_concurrent, run_at_once),
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
    if broken or planned.kind == "disk full":
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
    return Scene(server=server, folder=folder, memory=memory)


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
    scene.memory = _with_secrets(scene)
    ended = _again(scene, "again")
    if ended.status == errors.NotHealthy.exit_code and HALF_DATABASE.search(ended.output):
        scene.server.machine.run(f"mv {DATABASE_FOLDER} /root/half-a-database")
        scene.notes.append("its half database was moved away, as docs/troubleshooting.md says")
        ended = _again(scene, "again without the half database")
    if ended.status != 0:
        scene.fail("again", f"the same command ends with {ended.status}: {_line(ended.output, re.compile('error'))}")
    elif (level := _level(scene)) not in scene.options and scene.options:
        scene.fail("setting", f"containers have {level}, asked was {scene.options[1]}")
    for what, how in invariants.broken(scene.server, scene.memory, healthy=ended.status == 0):
        scene.fail(what, how)


def _level(scene: Scene) -> str:
    """Return the setting that changes ask for, as the api's container has it."""
    shown = scene.server.machine.run("podman exec dify_api_1 printenv LOG_LEVEL", check=False)
    return f"LOG_LEVEL={shown.stdout.strip()}"


def _again(scene: Scene, name: str) -> Ended:
    """Run the install command; while another run is active, which may be what a kill has left, wait for that."""
    deadline = time.monotonic() + rig.RUN_SECONDS
    while (ended := scene.install(name).wait()).status == errors.AlreadyRunning.exit_code:
        if time.monotonic() > deadline:
            break
        time.sleep(1)
    scene.codes[name] = ended.status
    return ended


def _line(text: str, wanted: re.Pattern[str]) -> str:
    """Return the line that says what is wanted, and the one after it; else the last one."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for number, line in enumerate(lines):
        if wanted.search(line):
            return " / ".join(lines[number : number + 2])[:300]
    return lines[-1][:300] if lines else "(no output)"
