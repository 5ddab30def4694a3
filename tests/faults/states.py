"""States that were broken by hand: files, containers, what watches over them, images."""

from __future__ import annotations

import random
import time

from tests.faults import invariants
from tests.faults.scene import REFUSED, Parameters, Scene

FILES = {
    "compose": "/opt/dify/docker/dify-compose.yaml",
    "upstream": "/opt/dify/docker/docker-compose.yaml",
    "applied": "/opt/dify/docker/.applied",
    "report": "/opt/dify/install-report.json",
    "page": "/opt/dify/install-report.html",
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
        other = min(invariants.manifest(scene.server.bundle))
        commands = [["podman", "tag", other, name] for name in names if name != other]
    else:
        commands = [["podman", *parameters["how"].split(), name] for name in names]
    for command in commands:
        scene.server.machine.run(command, check=False)


def _some(names: list[str], parameters: Parameters) -> list[str]:
    """Return a share of these, one at least: the same ones for the same parameters."""
    number = max(1, round(len(names) * parameters["share"]))
    return random.Random(parameters["pick"]).sample(sorted(names), number)
