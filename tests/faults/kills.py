"""Runs that are killed at a moment, by a signal or with the power, and runs at the same time.

A moment is the step of the run that has just ended, and a delay: so it means the same on a slow machine.
"""

from __future__ import annotations

import random
import signal
import time
from dataclasses import replace

from tests.faults import invariants, rig
from tests.faults.rig import Running
from tests.faults.scene import FAILED, Parameters, Scene, Void

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


def draw_signal(rng: random.Random) -> Parameters:
    return {"signal": rng.choice(SIGNALS), "target": rng.choice(TARGETS), "pick": round(rng.random(), 3)}


def _moment(rng: random.Random, moments: dict[str, float]) -> Parameters:
    (after,) = rng.choices(list(moments), list(moments.values()))
    return {"after": after, "delay": round(rng.uniform(0, moments[after]), 2)}


def draw_kill(rng: random.Random) -> Parameters:
    return _moment(rng, MOMENTS) | draw_signal(rng)


def draw_two_kills(rng: random.Random) -> Parameters:
    # The first one before the stack is all there: the second finds half an installation.
    first = _moment(rng, {step: MOMENTS[step] for step in ("preflight", "images", "settings")}) | draw_signal(rng)
    return {"first": first, "second": draw_kill(rng)}


def draw_kill_of_change(rng: random.Random) -> Parameters:
    moments = {step: MOMENTS[step] for step in ("preflight", "podman-compose", "settings", "start")}
    return {"level": rng.choice(["DEBUG", "WARNING", "ERROR"])} | _moment(rng, moments) | draw_signal(rng)


def draw_kill_of_stop(rng: random.Random) -> Parameters:
    return {"after": "", "delay": round(rng.uniform(0.2, STOP_SECONDS), 2)} | draw_signal(rng)


def draw_kill_of_uninstall(rng: random.Random) -> Parameters:
    return _moment(rng, REMOVALS) | draw_signal(rng)


def kill_install(scene: Scene, parameters: Parameters) -> None:
    kill(scene, "install", scene.install("install"), parameters)


def kill_install_twice(scene: Scene, parameters: Parameters) -> None:
    first = scene.install("first")
    tree = kill(scene, "first", first, parameters["first"])
    # Where the parent alone was killed, the run goes on without it, and keeps others out.
    _await_gone(tree, rig.RUN_SECONDS)
    scene.keep_secrets()
    kill(scene, "second", scene.install("second"), parameters["second"])


def kill_change(scene: Scene, parameters: Parameters) -> None:
    scene.options = ("--set", f"LOG_LEVEL={parameters['level']}")
    kill(scene, "change", scene.install("change"), parameters)


def kill_stop(scene: Scene, parameters: Parameters) -> None:
    kill(scene, "stop", scene.start("stop", ["./dify-installer", "stop"]), parameters)


def kill_start(scene: Scene, parameters: Parameters) -> None:
    scene.run("stop", ["./dify-installer", "stop"], {0})
    kill(scene, "start", scene.start("start", ["./dify-installer", "start"]), parameters)


def kill_uninstall(scene: Scene, parameters: Parameters) -> None:
    kill(scene, "uninstall", scene.start("uninstall", ["./dify-installer", "uninstall"]), parameters)


def kill(scene: Scene, name: str, running: Running, parameters: Parameters) -> dict[int, str]:
    """Kill a run at its moment and judge how it ends; return what it had started, by process, and when each began."""
    await_moment(scene, name, running, parameters)
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


def await_moment(scene: Scene, name: str, running: Running, parameters: Parameters) -> None:
    if parameters["after"] and not running.await_line(parameters["after"]):
        # Nothing has been done to it yet.
        scene.end(name, running, {0})
        raise Void(f"{name} had ended before its moment")
    time.sleep(parameters["delay"])


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
    cut(scene, parameters["during"], running, parameters)


def draw_power_cut_of_install(rng: random.Random) -> Parameters:
    return _moment(rng, {step: MOMENTS[step] for step in ("preflight", "images", "settings", "start")})


def cut_power_of_install(scene: Scene, parameters: Parameters) -> None:
    cut(scene, "install", scene.install("install"), parameters)


def cut(scene: Scene, name: str, running: Running, parameters: Parameters) -> None:
    await_moment(scene, name, running, parameters)
    scene.keep_secrets()
    scene.server.machine.kill()
    running.wait(30)
    scene.server.machine.boot()
    # /tmp and /dev/shm are memory: what others had there went with the power.
    rig.put_foreign(scene.server, rig.FOREIGN)
    scene.memory = replace(scene.memory, foreign=invariants.foreign(scene.server))


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
