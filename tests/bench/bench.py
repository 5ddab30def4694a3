"""`make bench`: our ways against what an expert types by hand, side by side on the same machine and images.

By hand: `sha256sum -c SHA256SUMS && podman load -i dify-images.tar && podman-compose up -d`, in a project that is
prepared already. Ours: the archive loaded, or the store of `make bundle` mounted. Every run gets a machine and
file systems of its own: after a large removal ext4 creates files many times slower for a while, and would spoil the
next run. Runs of the ways alternate; the table shows medians.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import yaml

from installer.core import layout
from installer.release import dify
from tests.bench import ballast, host_load, report
from tests.bench.target import BUNDLE, arguments, booted, set_cache, watched
from tests.target import bundle as bundles
from tests.target import machine as machines
from tests.target.bundle import Bundle
from tests.target.machine import Machine
from tests.target.registry import Registry

PREPARED = "/srv/prepared"
URL = f"http://{machines.ADDRESS}/console/api/setup"
ANSWERS = f"until curl --silent --fail --output /dev/null {URL}; do sleep 0.5; done"
INSTALL = f"cd {BUNDLE} && ./dify-installer --ip {machines.ADDRESS}"
BY_HAND = "cd /opt/dify/docker && ./../bin/podman-compose --project-name dify --file dify-compose.yaml"
# What is typed later, by way. What a reboot begins with is not measured: it has the stack come back by itself.
SETTING, RESTART, REBOOT = "a changed setting", "a restart", "a reboot"
OURS_LATER = {
    SETTING: f"{INSTALL} --no-boot --set LOG_LEVEL=DEBUG",
    RESTART: "/opt/dify/bin/dify-installer restart",
    REBOOT: INSTALL,
}
LATER = {
    "loaded": OURS_LATER,
    "mounted": OURS_LATER,
    "by hand": {
        SETTING: f"sed -i 's/^LOG_LEVEL=.*/LOG_LEVEL=DEBUG/' /opt/dify/docker/.env && {BY_HAND} up --detach",
        RESTART: f"{BY_HAND} restart",
        REBOOT: "systemctl enable podman-restart",
    },
}


@dataclass(kw_only=True, slots=True)
class Run:
    """One measured run: wall seconds of the whole and of its steps, processor seconds, peaks in bytes.

    `again` are the seconds of a second run right after it, with nothing to do. `later` are those of what people do
    with an installation, by its name, until Dify answers.
    """

    way: str
    cache: str
    seconds: float = 0.0
    steps: dict[str, float] = field(default_factory=dict)
    again: float = 0.0
    later: dict[str, float] = field(default_factory=dict)
    cpu: float = 0.0
    memory: int = 0
    disk: dict[str, int] = field(default_factory=dict)


def main() -> None:
    """Measure, keep every run in WORK/bench/runs.json, and write the table and the plot."""
    kept, rounds = arguments(__doc__, rounds=3)
    work = kept / "bench"
    made = _bundle(kept)
    bundles_of = _folders(made, work)
    base = machines.base_root(kept)
    prepared, podman = _prepared(bundles_of["loaded"], made, base, work)
    ways: dict[str, tuple[Path, Callable[[Machine, Run], None]]] = {
        "loaded": (bundles_of["loaded"], ours),
        "mounted": (bundles_of["mounted"], ours),
        "by hand": (bundles_of["loaded"], by_hand),
        "floors": (bundles_of["loaded"], floors),
    }
    runs = []
    for number in range(rounds):
        for cache in ("cold", "warm"):
            for way, (folder, measure) in ways.items():
                run = Run(way=way, cache=cache)
                with booted(base, {BUNDLE: folder, PREPARED: prepared}, work) as machine:
                    set_cache(cache, folder)
                    with watched(machine, run):
                        measure(machine, run)
                    if cache == "cold" and way in LATER:
                        afterwards(machine, run, LATER[way])
                runs.append(run)
                print(f"round {number + 1}, {cache}: {way} {run.seconds:.1f} s {run.steps}", flush=True)
    alone = host_load.measure(made, work / "host", rounds)
    report.write(runs, alone, describe(made, podman), startup(made.executable))


def startup(executable: Path) -> dict[str, float]:
    """Return the seconds of commands that people wait for, warm: the medians of five."""
    commands = {"--help": ["--help"], "preflight": ["preflight", "--ip", "127.0.0.1"]}
    return {name: median(_seconds([str(executable), *command]) for _ in range(5)) for name, command in commands.items()}


def _seconds(command: list[str]) -> float:
    begun = time.monotonic()
    subprocess.run(command, capture_output=True)
    return time.monotonic() - begun


def describe(made: Bundle, podman: str) -> dict[str, str]:
    """Return what the figures depend on: machine, engine and bundle."""
    bundle = json.loads((made.payload / layout.MANIFEST).read_text())
    layers = {layer for image in bundle["images"] for layer in image["layers"]}
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {
        "processors": f"{os.cpu_count()} × {cpu.group(1) if cpu else platform.machine()}",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1024**3:.0f} GiB",
        "kernel": platform.release(),
        "engine": f"{podman}, rootful, overlay on ext4",
        "bundle": f"{made.archive.stat().st_size / 1e9:.2f} GB, {len(bundle['images'])} images, {len(layers)} layers",
        **({"image store": f"{bundle['store']['size'] / 1e9:.2f} GB, squashfs"} if bundle["store"] else {}),
        "day": time.strftime("%Y-%m-%d"),
    }


# -- the ways


def ours(machine: Machine, run: Run) -> None:
    """The whole installation; its steps are those of its report."""
    begun = time.monotonic()
    machine.run(f"{INSTALL} --no-boot", timeout=1200)
    run.seconds = time.monotonic() - begun
    steps = json.loads(machine.read("/opt/dify/install-report.json"))["steps"]
    run.steps = {step["name"]: step["seconds"] for step in steps}
    begun = time.monotonic()
    machine.run(f"{INSTALL} --no-boot", timeout=1200)
    run.again = time.monotonic() - begun


def by_hand(machine: Machine, run: Run) -> None:
    """What an expert types, in a project that he has prepared, and the wait until Dify answers."""
    machine.run(f"cp -a {PREPARED}/. /opt/dify && rm -rf /opt/dify/logs")
    commands = {
        "sha256sum -c": f"cd {BUNDLE} && sha256sum -c SHA256SUMS",
        "podman load": f"podman load --quiet --input {BUNDLE}/{layout.IMAGES}",
        "podman-compose up -d": f"{BY_HAND} up --detach",
        "until it answers": ANSWERS,
    }
    for name, command in commands.items():
        begun = time.monotonic()
        machine.run(command, timeout=1200)
        run.steps[name] = time.monotonic() - begun
    run.seconds = sum(run.steps.values())


def afterwards(machine: Machine, run: Run, commands: dict[str, str]) -> None:
    """What comes later: a setting is changed, the stack is restarted, the host is rebooted."""
    for name, command in commands.items():
        machine.run("sync")
        begun = time.monotonic()
        machine.run(command, timeout=1200)
        if name == REBOOT:
            machine.kill()
            begun = time.monotonic()
            machine.boot()
        machine.run(ANSWERS, timeout=1200)
        run.later[name] = time.monotonic() - begun


def floors(machine: Machine, run: Run) -> None:
    """What no way can beat: reading the archive, and unpacking its layers with tar."""
    archive = machine.path(f"{BUNDLE}/{layout.IMAGES}")
    begun = time.monotonic()
    with archive.open("rb", buffering=0) as file:
        while file.read(16 * 1024 * 1024):
            pass
    run.steps["read the file"] = time.monotonic() - begun
    begun = time.monotonic()
    for number, (offset, size) in enumerate(_layers(archive)):
        target = machine.path(f"/var/lib/containers/layer-{number}")
        target.mkdir()
        with archive.open("rb", buffering=0) as file:
            file.seek(offset)
            cut = subprocess.Popen(["head", "--bytes", str(size)], stdin=file, stdout=subprocess.PIPE)
            subprocess.run(["tar", "--extract", "--directory", str(target)], stdin=cut.stdout, check=True)
            cut.wait()
    run.steps["tar -x of the layers"] = time.monotonic() - begun
    run.seconds = sum(run.steps.values())


def _layers(archive: Path) -> list[tuple[int, int]]:
    with tarfile.open(archive) as members:
        return [(each.offset_data, each.size) for each in members if each.name.endswith(".tar")]


# -- the machines


def _bundle(work: Path) -> Bundle:
    source = _with_beat(work / "bench/source")
    with Registry(work / "registry") as registry:
        return bundles.make("bench", source, registry, work, ballast.layers(work / "bench"), ["--images", "both"])


def _with_beat(source: Path) -> Path:
    """Return the sample with a third service of the api's image, as Dify has: its worker once more, as the beat."""
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(bundles.SAMPLE, source)
    path = source / layout.PROJECT / layout.COMPOSE_FILE
    text = path.read_text()
    (worker,) = re.findall(r"^  worker:\n(?:    .*\n|\n)+", text, re.MULTILINE)
    beat = worker.replace("  worker:", "  worker_beat:", 1).replace("MODE: worker", "MODE: beat")
    path.write_text(text.replace(worker, worker + beat, 1))
    return source


def _folders(made: Bundle, work: Path) -> dict[str, Path]:
    """Return the bundle as it is copied for each of our ways: with the archive, or with the store."""
    folders = {}
    for way, images in (("loaded", layout.IMAGES), ("mounted", layout.STORE)):
        folder = folders[way] = work / way
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name in (layout.EXECUTABLE, images):
            os.link(made.folder / name, folder / name)
        sums = made.checksums.read_text().splitlines(keepends=True)
        (folder / layout.CHECKSUMS).write_text("".join(line for line in sums if (folder / line.split()[1]).exists()))
    return folders


def _prepared(folder_of_bundle: Path, made: Bundle, base: Path, work: Path) -> tuple[Path, str]:
    """Return the project as an expert would have prepared it (installed once, without data), and podman's version.

    The version is asked in the booted machine: without /proc podman does not start.
    """
    folder = work / "prepared"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with booted(base, {BUNDLE: folder_of_bundle, PREPARED: folder}, work) as machine:
        machine.run(
            f"cd {BUNDLE} && ./dify-installer --ip {machines.ADDRESS} --no-boot && /opt/dify/bin/dify-installer stop"
        )
        machine.run(f"cp -a /opt/dify/. {PREPARED} && rm -rf {PREPARED}/docker/volumes {PREPARED}/docker/.applied")
        podman = machine.run("podman --version").stdout.strip()
    shutil.copytree(made.payload / "docker/volumes", folder / "docker/volumes")
    shutil.rmtree(folder / "compiled")
    _start_as_upstream(folder / "docker/dify-compose.yaml")
    return folder, podman


def _start_as_upstream(path: Path) -> None:
    """Take out of a rendered file what makes the start faster: nobody adds that by hand (docs/decisions/023)."""
    document = yaml.safe_load(path.read_text())
    for service in document["services"].values():
        environment = service.get("environment")
        if isinstance(environment, dict) and environment.pop("BASH_ENV", None):
            environment.pop("PYTHONPYCACHEPREFIX")
            if environment.pop(dify.AWAIT_MIGRATION, None):
                environment[dify.MIGRATION_SWITCH] = "true"
            ours = (f":{layout.API_START_INSIDE}", f":{layout.COMPILED_INSIDE}")
            service["volumes"] = [each for each in service["volumes"] if not any(name in each for name in ours)]
    path.write_text(yaml.safe_dump(document, sort_keys=False))


if __name__ == "__main__":
    main()
