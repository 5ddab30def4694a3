"""What happens to a backup, a restore, an upgrade or a way back while it runs: killed, without power, room or database.

What must hold: the state before or the state after, never half of one; a file that is proved, or none; and the same
command works again.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator

from installer.core import errors
from tests.faults import damage, kills, rig
from tests.faults.scene import ERROR, Parameters, Scene, Void, line_of

KEPT = "/root/kept"
WAIT_SECONDS = 120
BACKUP = ["./dify-installer", "backup", KEPT]
# A database whose disk is full is waited for until it is too long.
RESTORE = ["sh", "-c", f"exec ./dify-installer restore $(ls {KEPT}/*.tar.zst | head -1) --timeout {WAIT_SECONDS}"]
OWN = "/opt/dify/bin/dify-installer"
UPGRADE = ["sh", "-c", f"cd newer && exec ./dify-installer --ip 10.0.0.5 --timeout {WAIT_SECONDS}"]
RESTORING = "/opt/dify/.dify-installer-restore.json"
STORE = "dify_weaviate_1"
# Seconds that these take on a quiet machine; a fault comes within them.
SECONDS = {"backup": 5.0, "restore": 22.0, "upgrade": 35.0, "rollback": 18.0}
# A container that was stopped for us runs again so soon after we are gone.
STARTED_SECONDS = 30.0
MEBIBYTE = 1024**2
# Bytes that no compression makes smaller, so that a disk can fill with them.
LARGE = "head -c 60M /dev/urandom > /opt/dify/docker/volumes/app/storage/large"
NO_LARGE = "rm -f /opt/dify/docker/volumes/app/storage/large"
DATABASE_PID = f"podman inspect --format '{{{{.State.Pid}}}}' {rig.DATABASE}"


def _draw(rng: random.Random, command: str) -> Parameters:
    return {"after": "", "delay": round(rng.uniform(0.5, SECONDS[command]), 2)}


def draw_kill_of_backup(rng: random.Random) -> Parameters:
    return _draw(rng, "backup") | kills.draw_signal(rng)


def kill_backup(scene: Scene, parameters: Parameters) -> None:
    _empty(scene)
    before = scene.server.machine.run("date +%s").stdout.strip()
    with _judged(lambda: _judge_backups(scene)):
        with _to_its_end(scene):
            kills.kill(scene, "backup", scene.start("backup", BACKUP), parameters)
        _await_store(scene, int(before))


def _empty(scene: Scene) -> None:
    scene.server.machine.run(f"rm -rf {KEPT} && mkdir {KEPT}")


@contextlib.contextmanager
def _judged(judge: Callable[[], None]) -> Iterator[None]:
    """Judge what came of the block; also where its fault did not take place, as what it began is to be tidied up."""
    try:
        yield
    except Void:
        judge()
        raise
    judge()


@contextlib.contextmanager
def _to_its_end(scene: Scene) -> Iterator[None]:
    """Wait for what goes on where only the first process of a run was killed, as that keeps others out."""
    try:
        yield
    finally:
        deadline = time.monotonic() + rig.RUN_SECONDS
        running = "pgrep --full '^[^ ]*dify-installer (backup|restore|rollback|--ip)'"
        while scene.server.machine.run(running, check=False).returncode == 0 and time.monotonic() < deadline:
            time.sleep(rig.POLL_SECONDS)


def _await_store(scene: Scene, since: int) -> None:
    """The vector store, which may have been stopped for its copy, runs."""
    asked = ["podman", "inspect", "--format", "{{.State.Running}}", STORE]
    deadline = time.monotonic() + STARTED_SECONDS
    while scene.server.machine.run(asked, check=False).stdout.strip() != "true":
        if time.monotonic() > deadline:
            scene.fail("store", f"{STORE} does not run {time.time() - since:.0f} s after the backup began")
            return
        time.sleep(0.5)


def _judge_backups(scene: Scene) -> None:
    """Each file that has a backup's name is one, and the next backup leaves nothing else there."""
    machine = scene.server.machine
    for path in machine.run(f"ls {KEPT}").stdout.split():
        scene.run("verify", ["./dify-installer", "backup", "--verify", f"{KEPT}/{path}"], {0})
    scene.run("backup again", BACKUP, {0})
    found = machine.run(f"ls -A {KEPT}").stdout.split()
    if others := [name for name in found if name.startswith(".")]:
        scene.fail("leftovers", ", ".join(others))
    for name in found:
        scene.run("verify again", ["./dify-installer", "backup", "--verify", f"{KEPT}/{name}"], {0})


# -- a restore


def draw_kill_of_restore(rng: random.Random) -> Parameters:
    return _draw(rng, "restore") | kills.draw_signal(rng) | {"again": rng.choice(["restore", "start"])}


def draw_power_cut_of_restore(rng: random.Random) -> Parameters:
    return _draw(rng, "restore") | {"again": rng.choice(["restore", "start"])}


def kill_restore(scene: Scene, parameters: Parameters) -> None:
    _back_up_and_go_on(scene)
    with _judged(lambda: _judge_restore(scene, parameters["again"])), _to_its_end(scene):
        kills.kill(scene, "restore", scene.start("restore", RESTORE), parameters)


def cut_power_of_restore(scene: Scene, parameters: Parameters) -> None:
    _back_up_and_go_on(scene)
    with _judged(lambda: _judge_restore(scene, parameters["again"])):
        kills.cut(scene, "restore", scene.start("restore", RESTORE), parameters)


def _back_up_and_go_on(scene: Scene) -> None:
    """Have a backup, and a row that it has not."""
    _empty(scene)
    # Of a trial before.
    rig.sql(scene.server, "delete from kept where note = 'since'")
    scene.run("backup", BACKUP, {0})
    rig.sql(scene.server, "insert into kept values ('since')")


def _judge_restore(scene: Scene, again: str) -> None:
    """After the fault one command brings the state before, or the backup's, and all of it."""
    machine = scene.server.machine
    interrupted = machine.exists(RESTORING)
    scene.run("start", ["./dify-installer", "start"], {0}) if again == "start" else scene.run("again", RESTORE, {0})
    since = rig.sql(scene.server, "select count(*) from kept where note = 'since'")
    if again == "restore" and since != "0":
        scene.fail("restore", "what was written since the backup is there")
    if again == "start" and interrupted and since != "1":
        scene.fail("put back", "what was written since the backup is gone")
    machine.run("rm -rf /opt/dify/docker/volumes.before-*")


# -- an upgrade, and the way back


def draw_kill_of_upgrade(rng: random.Random) -> Parameters:
    return _draw(rng, "upgrade") | kills.draw_signal(rng) | {"again": rng.choice(["upgrade", "start"])}


def draw_power_cut_of_upgrade(rng: random.Random) -> Parameters:
    return _draw(rng, "upgrade") | {"again": rng.choice(["upgrade", "start"])}


def draw_kill_of_rollback(rng: random.Random) -> Parameters:
    return _draw(rng, "rollback") | kills.draw_signal(rng) | {"again": rng.choice(["rollback", "start"])}


def kill_upgrade(scene: Scene, parameters: Parameters) -> None:
    _carry_newer(scene)
    with _judged(lambda: _judge_upgrade(scene, parameters["again"])), _to_its_end(scene):
        kills.kill(scene, "upgrade", scene.start("upgrade", UPGRADE), parameters)


def cut_power_of_upgrade(scene: Scene, parameters: Parameters) -> None:
    _carry_newer(scene)
    with _judged(lambda: _judge_upgrade(scene, parameters["again"])):
        kills.cut(scene, "upgrade", scene.start("upgrade", UPGRADE), parameters)


def kill_rollback(scene: Scene, parameters: Parameters) -> None:
    _carry_newer(scene)
    scene.run("upgrade", UPGRADE, {0})
    with _judged(lambda: _judge_rollback(scene, parameters["again"])), _to_its_end(scene):
        kills.kill(scene, "rollback", scene.start("rollback", [OWN, "rollback"]), parameters)


def _judge_rollback(scene: Scene, again: str) -> None:
    # Where it had come to its end, there is nothing to go back to.
    scene.run("again", [OWN, again], {0, 2} if again == "rollback" else {0})
    if scene.server.machine.exists("/opt/dify/previous"):
        scene.run("rollback after all", [OWN, "rollback"], {0})
    _tidy(scene)


def _carry_newer(scene: Scene) -> None:
    machine = scene.server.machine
    machine.run("mkdir -p /root/newer")
    for path in (scene.newer.executable, scene.newer.archive):
        if not machine.exists(f"/root/newer/{path.name}"):
            scene.server.put(path, f"newer/{path.name}", mode=0o755)


def _judge_upgrade(scene: Scene, again: str) -> None:
    """One command ends it: the newer version runs, or the older one is back; a person goes back from the newer one."""
    if again == "upgrade":
        scene.run("again", UPGRADE, {0})
    else:
        scene.run("start", [OWN, "start"], {0})
    if rig.sql(scene.server, f"select count(*) from kept where note = '{scene.memory.row}'") != "1":
        scene.fail("row", "it is gone after the upgrade")
    if scene.server.machine.exists("/opt/dify/previous"):
        scene.run("rollback", [OWN, "rollback"], {0})
    _tidy(scene)


def _tidy(scene: Scene) -> None:
    """Remove what was put aside and the newer version's images, as the commands say."""
    scene.run("prune", [OWN, "prune"], {0})
    scene.server.machine.run("rm -rf /opt/dify/docker.after-* /opt/dify/docker.failed-* /opt/dify/docker.before-*")


# -- a disk that fills


def draw_full_disk_of_backup(rng: random.Random) -> Parameters:
    return {"delay": round(rng.uniform(1.5, 5), 2), "left": rng.choice([0, 64, 4096]) * 1024}


def fill_disk_of_backup(scene: Scene, parameters: Parameters) -> None:
    machine = scene.server.machine
    _empty(scene)
    machine.run(f"{LARGE} && mount -t tmpfs -o size={200 * MEBIBYTE} none {KEPT}")
    try:
        running = scene.start("backup", BACKUP)
        time.sleep(parameters["delay"])
        damage.shrink(scene, KEPT, parameters["left"])
        ended = scene.end("backup", running, {0, 4, 5})
        # Refused before it began (4), or ended by it.
        if ended.status == errors.CommandFailed.exit_code and not damage.NO_ROOM.search(ended.output):
            scene.fail("cause", f"nothing says that {KEPT} is full: {line_of(ended.output, ERROR)}")
        if ended.status and (left := machine.run(f"ls -A {KEPT}").stdout.split()):
            scene.fail("leftovers", ", ".join(left))
        machine.run(f"mount -o remount,size={400 * MEBIBYTE} {KEPT}")
        _judge_backups(scene)
        if not ended.status:
            raise Void("the backup had ended before its disk was full")
    finally:
        machine.run(f"umount {KEPT}; {NO_LARGE}", check=False)


def draw_full_disk_of_change(rng: random.Random) -> Parameters:
    command = rng.choice(["restore", "upgrade"])
    delay = round(rng.uniform(2, SECONDS[command]), 2)
    return {"command": command, "delay": delay, "left": rng.choice([0, 64, 1024]) * 1024}


def fill_disk_of_change(scene: Scene, parameters: Parameters) -> None:
    """The install folder's file system fills while its data are exchanged or copied."""
    machine = scene.server.machine
    machine.run(f"mkdir -p /opt/dify && mount -t tmpfs -o mode=0755,size={2048 * MEBIBYTE} none /opt/dify")
    scene.run("install", rig.install(), {0})
    scene.keep_secrets()
    rig.sql(scene.server, "create table kept (note text)")
    machine.run(LARGE)
    if parameters["command"] == "restore":
        _back_up_and_go_on(scene)
    else:
        rig.sql(scene.server, "insert into kept values ('since')")
        _carry_newer(scene)
    command = RESTORE if parameters["command"] == "restore" else UPGRADE
    running = scene.start(parameters["command"], command)
    time.sleep(parameters["delay"])
    damage.shrink(scene, "/opt/dify", parameters["left"])
    ended = scene.end(parameters["command"], running, {0, 4, 5, 6})
    machine.run(f"mount -o remount,size={2048 * MEBIBYTE} /opt/dify")
    if ended.status == 0:
        raise Void(f"{parameters['command']} had ended before its disk was full")
    if ended.status == errors.CommandFailed.exit_code and not damage.NO_ROOM.search(ended.output):
        scene.fail("cause", f"nothing says that /opt/dify is full: {line_of(ended.output, ERROR)}")
    scene.run("start", [OWN, "start"], {0})
    if rig.sql(scene.server, "select count(*) from kept where note = 'since'") != "1":
        scene.fail("put back", "what was there before is not there")
    _tidy(scene)


# -- a database that stops


def draw_dead_database(rng: random.Random) -> Parameters:
    command = rng.choice(["backup", "restore"])
    return {"command": command, "delay": round(rng.uniform(1, SECONDS[command]), 2), "again": "start"}


def kill_database(scene: Scene, parameters: Parameters) -> None:
    machine = scene.server.machine
    _back_up_and_go_on(scene)
    running = scene.start(parameters["command"], BACKUP if parameters["command"] == "backup" else RESTORE)
    time.sleep(parameters["delay"])
    killed = machine.run(f"kill -KILL $({DATABASE_PID})", check=False).returncode == 0 and not running.over
    ended = scene.end(parameters["command"], running, {0, 5, 6})
    _await_database(scene)
    if parameters["command"] == "restore":
        _judge_restore_of_dead_database(scene, ended.status == 0)
    else:
        scene.run("start", ["./dify-installer", "start"], {0})
        _judge_backups(scene)
    if not killed:
        raise Void("there was no database at that moment")


def _judge_restore_of_dead_database(scene: Scene, done: bool) -> None:
    scene.run("start", ["./dify-installer", "start"], {0})
    since = rig.sql(scene.server, "select count(*) from kept where note = 'since'")
    if since != ("0" if done else "1"):
        scene.fail("put back", f"the restore has {'ended' if done else 'failed'}, and the row since then is {since}")
    scene.server.machine.run("rm -rf /opt/dify/docker/volumes.before-*")


def _await_database(scene: Scene) -> None:
    """Let the engine start it again, if it does."""
    deadline = time.monotonic() + STARTED_SECONDS
    ready = f"podman exec {rig.DATABASE} pg_isready --quiet --username postgres"
    while scene.server.machine.run(ready, check=False).returncode != 0 and time.monotonic() < deadline:
        time.sleep(0.5)
