"""Bundles that are damaged, and disks that are full."""

from __future__ import annotations

import contextlib
import random
import re
from collections.abc import Iterator
from pathlib import Path

from elftools.elf.elffile import ELFFile

from tests.faults import invariants, kills
from tests.faults.scene import ERROR, Parameters, Scene, Void, line_of

NO_ROOM = re.compile(r"no space left|\bfull\b|\bneeded\b", re.IGNORECASE)
MEBIBYTE = 1024**2
# Large enough for the sample, and what is mounted where.
FILE_SYSTEMS = {"folder": ("/opt/dify", 2048 * MEBIBYTE), "storage": ("/var/lib/containers", 3072 * MEBIBYTE)}


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


def draw_full_disk(rng: random.Random) -> Parameters:
    steps = ["preflight", "preflight", "images", "podman-compose", "settings", "settings", "start", "health", "boot"]
    after = rng.choice(steps)
    return {
        "full": rng.choice(list(FILE_SYSTEMS)),
        "after": after,
        "delay": round(rng.uniform(0, min(kills.MOMENTS[after], 5)), 2),
        "left": rng.choice([0, 4, 64, 1024]) * 1024,
    }


def fill_disk(scene: Scene, parameters: Parameters) -> None:
    machine, (path, size) = scene.server.machine, FILE_SYSTEMS[parameters["full"]]
    machine.run(f"mkdir -p {path} && mount -t tmpfs -o mode=0755,size={size} none {path}")
    running = scene.install("install")
    kills.await_moment(scene, "install", running, parameters)
    used, late = shrink(scene, path, parameters["left"]), running.over
    # A service that finds no room is a stack that is not healthy, with its own words.
    ended = scene.end("install", running, {0, 5, 6})
    if ended.status and not NO_ROOM.search(ended.output):
        scene.fail("cause", f"nothing says that {path} is full: {line_of(ended.output, ERROR)}")
    if ended.status == 0:
        scene.notes.append(f"it needed no more than {used} bytes")
    machine.run(f"mount -o remount,size={size} {path}")
    scene.keep_secrets()
    if late:
        raise Void("install had ended before its disk was full")


def shrink(scene: Scene, path: str, left: int) -> int:
    """Leave so many bytes of a file system in memory; return how many are in use. Its use may grow meanwhile."""
    command = f"used=$(df --block-size=1 --output=used {path} | tail -1); "
    command += f"mount -o remount,size=$((used + {left} + 4096)) {path} && echo $used"
    for _ in range(100):
        done = scene.server.machine.run(command, check=False)
        if done.returncode == 0:
            return int(done.stdout)
    raise Void(f"{path} cannot be made smaller: {done.stderr}")
