"""`make bench`: our ways against what an expert types by hand, side by side on the same machine and images.

By hand: `sha256sum -c SHA256SUMS && podman load -i dify-images.tar && podman-compose up -d`, in a project that is
prepared already. Ours: the archive loaded, or the store mounted, or unpacked where it may not be. In the first round
also rootless, with docker, and what people do later. Every run gets a machine and file systems of its own: after a
large removal ext4 creates files many times slower for a while, and would spoil the next run. Runs of the ways
alternate; the table shows medians.

With `--bundle` the same is measured with a bundle that is there already, of Dify's own images.
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
from typing import Literal

import yaml

from installer.core import layout
from installer.release import dify
from tests.bench import ballast, host_load, push, report
from tests.bench.hosts import DOCKER, ROOTFUL, ROOTLESS, UPDATED, Host
from tests.bench.target import BUNDLE, await_rest, booted, parser, set_cache, watched
from tests.target import bundle as bundles
from tests.target import machine as machines
from tests.target.bundle import Bundle
from tests.target.machine import Machine
from tests.target.registry import Registry

PREPARED = "/srv/prepared"
# Of x-shared-env (Dify 1.11.3, docker-compose.yaml). podman-compose takes its time for each.
VARIABLES = 676
# What is typed later, by way. What a reboot begins with is not measured: it has the stack come back by itself.
SETTING, RESTART, UPDATE, REBOOT = "a changed setting", "a restart", "an update of one image", "a reboot"
OURS_LATER = {
    SETTING: f"{ROOTFUL.install()} --no-boot --set LOG_LEVEL=DEBUG",
    RESTART: "/opt/dify/bin/dify-installer restart",
    UPDATE: f"{ROOTFUL.install(UPDATED)} --no-boot",
    REBOOT: ROOTFUL.install(UPDATED),
}
LATER = {
    "loaded": OURS_LATER,
    "mounted": OURS_LATER,
    "by hand": {
        SETTING: f"sed -i 's/^LOG_LEVEL=.*/LOG_LEVEL=DEBUG/' /opt/dify/docker/.env && {ROOTFUL.compose} up --detach",
        # `podman-compose restart` starts nothing again that needs init_permissions, which has ended (podman 5.4: "some
        # dependencies of container … are not started").
        RESTART: f"{ROOTFUL.compose} down && {ROOTFUL.compose} up --detach",
        # podman-compose goes on with a container whose image is an older one of that name.
        UPDATE: " && ".join(
            (*ROOTFUL.load(UPDATED).values(), f"{ROOTFUL.compose} down", f"{ROOTFUL.compose} up --detach")
        ),
        REBOOT: "systemctl enable podman-restart",
    },
}


@dataclass(frozen=True, slots=True)
class Way:
    """A way to a Dify that answers: by which images, and what is done; `first` is done before, and not measured."""

    name: str
    host: Host
    images: Literal["loaded", "mounted"]
    measure: Callable[[Machine, Run, Host], None]
    caches: tuple[str, ...] = ("cold",)
    first: str = ""


@dataclass(kw_only=True, slots=True)
class Run:
    """One measured run: wall seconds of the whole and of its steps, processor seconds, peaks in bytes.

    `again` are the seconds of a second run right after it, with nothing to do. `later` are those of what people do
    with an installation, by its name, until Dify answers.
    """

    way: str
    cache: str
    host: str
    seconds: float = 0.0
    steps: dict[str, float] = field(default_factory=dict)
    again: float = 0.0
    later: dict[str, float] = field(default_factory=dict)
    cpu: float = 0.0
    memory: int = 0
    disk: dict[str, int] = field(default_factory=dict)


def main() -> None:
    """Measure, and write the table, its runs and the plot after each round."""
    options = parser(__doc__, rounds=3)
    options.add_argument("--bundle", type=Path, metavar="FOLDER", help="what `make bundle IMAGES=both` has made there")
    options.add_argument("--payload", type=Path, default=bundles.ROOT / "payload", help="what went into that bundle")
    given = options.parse_args()
    kept, rounds = given.work.resolve(), given.rounds
    push.require_skopeo()
    work = kept / "bench"
    made, updated = (_given(given.bundle, given.payload), None) if given.bundle else _bundles(kept)
    folders = _folders(made, work / "first")
    later = _folders(updated, work / "updated") if updated else {}
    prepared, podman = {}, ""
    for host in HOSTS:
        prepared[host.name], version = prepare(host, folders["loaded"], made, kept)
        podman = podman or version
    alone = host_load.measure(made, work / "host", rounds)
    sent = push.measure(made, work / "registry", rounds)
    described, started = describe(made, podman), startup(made.executable)
    runs = []
    for number in range(rounds):
        for way, cache in _turns(number):
            bound = {BUNDLE: folders[way.images], PREPARED: prepared[way.host.name]}
            bound |= {UPDATED: later[way.images]} if later else {}
            run = Run(way=way.name, cache=cache, host=way.host.name)
            with booted(machines.base_root(kept, way.host.engine), bound, work, way.host.disks) as machine:
                if way.host.user != "root":
                    machine.login(way.host.user)
                machine.run(way.first or "true")
                set_cache(cache, folders[way.images])
                with watched(machine, run, way.host.disks):
                    way.measure(machine, run, way.host)
                if number == 0 and way.host is ROOTFUL and cache == "cold" and way.name in LATER:
                    afterwards(machine, run, LATER[way.name] if later else _without_update(LATER[way.name]))
            runs.append(run)
            print(
                f"round {number + 1}, {cache}, {way.host.name}: {way.name} {run.seconds:.1f} s {run.steps}", flush=True
            )
        # A round takes the better part of an hour: what ends the next one does not take this one along.
        report.write(report.REAL if given.bundle else report.STAND_IN, runs, alone, sent, described, started)


def _without_update(commands: dict[str, str]) -> dict[str, str]:
    """Return what is typed later where there is no second bundle."""
    return {name: command.replace(UPDATED, BUNDLE) for name, command in commands.items() if name != UPDATE}


def _turns(number: int) -> list[tuple[Way, str]]:
    """Return the ways of a round, and the cache of each: those with one cache alone have their turn once."""
    ways = [way for way in WAYS if way.caches == BOTH or number == 0]
    return [(way, cache) for cache in BOTH for way in ways if cache in way.caches]


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


def ours(machine: Machine, run: Run, host: Host) -> None:
    """The whole installation, and the same once more."""
    install(machine, run, host)
    begun = time.monotonic()
    machine.run(f"{host.install()} --no-boot", user=host.user, timeout=1200)
    run.again = time.monotonic() - begun


def install(machine: Machine, run: Run, host: Host) -> None:
    """The whole installation; its steps are those of its report."""
    begun = time.monotonic()
    machine.run(f"{host.install()} --no-boot", user=host.user, timeout=3600)
    run.seconds = time.monotonic() - begun
    steps = json.loads(machine.read(f"{host.folder}/install-report.json"))["steps"]
    run.steps = {step["name"]: step["seconds"] for step in steps}


def by_hand(machine: Machine, run: Run, host: Host) -> None:
    """What an expert types, in a project that he has prepared, and the wait until Dify answers."""
    machine.run(f"mkdir -p {host.folder} && cp -a {PREPARED}/. {host.folder} && rm -rf {host.folder}/logs")
    commands = {
        **host.load(),
        f"{COMPOSES[host.engine]} up -d": f"{host.compose} up --detach",
        "until it answers": host.answers,
    }
    for name, command in commands.items():
        begun = time.monotonic()
        machine.run(command, user=host.user, timeout=1200)
        run.steps[name] = time.monotonic() - begun
    run.seconds = sum(run.steps.values())


def afterwards(machine: Machine, run: Run, commands: dict[str, str]) -> None:
    """What comes later: a setting is changed, the stack restarted, an image updated, the host rebooted.

    Each begins with a stack at rest. Dify answers while its workers still import, and as the first process of a
    container Python hears no SIGTERM then: it was killed after its 20 s, by hand and by us, or not, as it fell out.
    """
    for name, command in commands.items():
        machine.run("sync")
        await_rest()
        begun = time.monotonic()
        machine.run(command, timeout=1200)
        if name == REBOOT:
            machine.kill()
            begun = time.monotonic()
            machine.boot()
        machine.run(ROOTFUL.answers, timeout=1200)
        run.later[name] = time.monotonic() - begun


def floors(machine: Machine, run: Run, _host: Host) -> None:
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


def _bundles(work: Path) -> tuple[Bundle, Bundle]:
    """Build the bundle, and one of the same Dify in which the image of the web page is another one."""
    source, layers = with_beat(work / "bench/source"), ballast.layers(work / "bench")
    changed = work / "bench/changed.tar"
    with tarfile.open(changed, "w") as archive:
        archive.addfile(tarfile.TarInfo("changed"))
    newer = {**layers, "web": [*layers["web"], changed]}
    with Registry(work / "registry") as registry:
        made = bundles.make("bench", source, registry, work, layers, ["--images", "both"])
        return made, bundles.make("bench-updated", source, registry, work, newer, ["--images", "both"])


def _given(folder: Path, payload: Path) -> Bundle:
    """Return the bundle that lies in a folder. Raises SystemExit if it has no archive or no store."""
    made = Bundle(name="given", folder=folder.resolve(), checkout=folder.resolve(), payload=payload.resolve())
    for path in (made.executable, made.archive, made.folder / layout.STORE, made.payload / layout.MANIFEST):
        if not path.is_file():
            raise SystemExit(f"{path} is missing: the benchmark compares both (make bundle IMAGES=both)")
    return made


def with_beat(source: Path) -> Path:
    """Return the sample with what costs time in Dify's file: a third service of the api's image, and its variables."""
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(bundles.SAMPLE, source)
    path = source / layout.PROJECT / layout.COMPOSE_FILE
    text = path.read_text()
    (worker,) = re.findall(r"^  worker:\n(?:    .*\n|\n)+", text, re.MULTILINE)
    beat = worker.replace("  worker:", "  worker_beat:", 1).replace("MODE: worker", "MODE: beat")
    shared = re.search(r"^x-shared-env:.*\n((?:  .*\n)+)", text, re.MULTILINE)
    assert shared is not None
    more = range(VARIABLES - shared[1].count("\n"))
    added = "".join(f"  MORE_{number}: ${{MORE_{number}:-{number}}}\n" for number in more)
    path.write_text(text.replace(worker, worker + beat, 1).replace(shared[1], shared[1] + added, 1))
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
        keep_sums(made, folder)
    return folders


def keep_sums(made: Bundle, folder: Path) -> None:
    """Write the checksums of those files of a bundle that are in a folder."""
    lines = made.checksums.read_text().splitlines(keepends=True)
    (folder / layout.CHECKSUMS).write_text("".join(line for line in lines if (folder / line.split()[1]).exists()))


def prepare(host: Host, folder_of_bundle: Path, made: Bundle, kept: Path) -> tuple[Path, str]:
    """Return the project as an expert would have prepared it (installed once, without data), and the engine's version.

    The version is asked in the booted machine: without /proc podman does not start.
    """
    folder = kept / "bench/prepared" / host.engine / host.user
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    base, bound = machines.base_root(kept, host.engine), {BUNDLE: folder_of_bundle, PREPARED: folder}
    with booted(base, bound, kept / "bench", host.disks) as machine:
        if host.user != "root":
            machine.login(host.user)
        machine.run(
            f"{host.install()} --no-boot && {host.folder}/bin/dify-installer stop", user=host.user, timeout=1200
        )
        machine.run(f"cp -a {host.folder}/. {PREPARED} && rm -rf {PREPARED}/docker/volumes {PREPARED}/docker/.applied")
        version = machine.run(f"{host.engine} --version", user=host.user).stdout.strip()
    volumes = folder / "docker/volumes"
    shutil.copytree(made.payload / "docker/volumes", volumes)
    owner = (folder / "docker").stat()
    for path in (volumes, *volumes.rglob("*")):
        os.chown(path, owner.st_uid, owner.st_gid)
    shutil.rmtree(folder / "compiled")
    _start_as_upstream(folder / host.rendered)
    return folder, version


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


HOSTS = (ROOTFUL, ROOTLESS, DOCKER)
COMPOSES = {"podman": "podman-compose", "docker": "docker compose"}
BOTH = ("cold", "warm")
WAYS = (
    Way("loaded", ROOTFUL, "loaded", ours, BOTH),
    Way("mounted", ROOTFUL, "mounted", ours, BOTH),
    Way("by hand", ROOTFUL, "loaded", by_hand, BOTH),
    Way("floors", ROOTFUL, "loaded", floors, BOTH),
    Way("unpacked", ROOTFUL, "mounted", ours, first=machines.NO_LOOPS),
    Way("loaded", ROOTLESS, "loaded", ours),
    Way("unpacked", ROOTLESS, "mounted", ours),
    Way("by hand", ROOTLESS, "loaded", by_hand),
    Way("loaded", DOCKER, "loaded", ours),
    Way("by hand", DOCKER, "loaded", by_hand),
)


if __name__ == "__main__":
    main()
