"""A machine with the sample's bundle, and runs of the installer on it that can be ended in every way."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.server import Server
from tests.target.bundle import Bundle
from tests.target.machine import Machine

POLL_SECONDS = 0.02
# No command of the installer may take longer on a machine that is busy with other tests.
RUN_SECONDS = 400.0
# What the installer itself waits for a healthy stack; the rest of RUN_SECONDS is for the images.
HEALTHY_SECONDS = 240
# Files of others: next to ours, where ours go, and where our names begin.
FOREIGN = (
    *("/opt/theirs", "/var/tmp/theirs", "/tmp/theirs", "/dev/shm/theirs", "/usr/local/bin/theirs"),
    *("/tmp/.env.theirs", "/dev/shm/dify-theirs", "/etc/systemd/system/theirs.service"),
)
# Files that an administrator puts into the install folder once it is there.
FOREIGN_INSIDE = (
    *("/opt/dify/theirs", "/opt/dify/bin/theirs", "/opt/dify/logs/theirs.log", "/opt/dify/docker/theirs"),
    "/opt/dify/docker/volumes/app/storage/theirs",
)
DATABASE = "dify_db_postgres_1"


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended: `status` as subprocess gives it, None when it had to be ended by us."""

    status: int | None
    output: str
    seconds: float


class Running:
    """A command in the machine, in a session of its own; what it prints goes to the file `output`."""

    def __init__(self, server: Server, command: list[str], output: Path) -> None:
        self.output = output
        self.started = time.monotonic()
        with output.open("wb") as file:
            self._nsenter = subprocess.Popen(
                server.machine.command(["setsid", *command], server.user),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )
        self._outside = pid_namespace(os.getpid())
        self._inside = pid_namespace(server.machine.init())

    @property
    def text(self) -> str:
        """What it has printed so far."""
        return self.output.read_text(errors="replace")

    @property
    def over(self) -> bool:
        return self._nsenter.poll() is not None

    def main(self) -> int | None:
        """Return the process ID, on this host, of the command itself; None when it has ended."""
        return next(iter(children(self._nsenter.pid)), None)

    def tree(self) -> list[int]:
        """Return the command and what it has started; neither containers nor what watches over them."""
        main = self.main()
        return [] if main is None else [pid for pid in (main, *descendants(main)) if self._ours(pid)]

    def _ours(self, pid: int) -> bool:
        return comm(pid) != "conmon" and pid_namespace(pid) == self._inside

    def await_line(self, begins: str) -> bool:
        """Wait until it has printed a line that begins so; tell whether it has before it ended."""
        while not (found := re.search(rf"^{re.escape(begins)}\b", self.text, re.MULTILINE)) and not self.over:
            if time.monotonic() - self.started > RUN_SECONDS:
                return False
            time.sleep(POLL_SECONDS)
        return bool(found) and not self.over

    def send(self, number: signal.Signals, target: str, pick: float) -> bool:
        """Send a signal to the `parent` alone, its `group`, its `tree` or one `child`; tell whether one was there.

        `pick`, from 0 to 1, says which child it is, of those that are there when there is one at all.
        """
        if target == "child":
            return self._send_to_child(number, pick)
        main = self.main()
        if main is None or self.over:
            return False
        if target == "group" and os.getpgid(main) != os.getpgrp():
            os.killpg(os.getpgid(main), number)
        for pid in {"parent": [main], "group": [], "tree": self.tree()}[target]:
            kill(pid, number)
        return True

    def _send_to_child(self, number: signal.Signals, pick: float) -> bool:
        while not self.over and time.monotonic() - self.started < RUN_SECONDS:
            tree = self.tree()
            own = comm(tree[0]) if tree else ""
            others = [pid for pid in tree if comm(pid) not in ("", own)]
            if others and kill(others[int(pick * len(others))], number):
                return True
            time.sleep(POLL_SECONDS)
        return False

    def wait(self, seconds: float = RUN_SECONDS) -> Ended:
        """Wait for its end; after so many seconds, end it with all that it has started."""
        status: int | None
        try:
            status = self._nsenter.wait(seconds)
        except subprocess.TimeoutExpired:
            for pid in self.tree():
                kill(pid, signal.SIGKILL)
            self._nsenter.kill()
            self._nsenter.wait()
            status = None
        return Ended(status, self.text, time.monotonic() - self.started)


def children(pid: int) -> list[int]:
    """Return the processes that the threads of a process have started."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += map(int, path.read_text().split())
        except OSError:
            continue
    return found


def descendants(pid: int) -> Iterator[int]:
    """Yield the processes below a process, parents first."""
    for child in children(pid):
        yield child
        yield from descendants(child)


def comm(pid: int) -> str:
    """Return the name of a process; nothing when it has ended."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def pid_namespace(pid: int) -> str:
    """Return what names the world of processes that a process lives in."""
    try:
        return str(Path(f"/proc/{pid}/ns/pid").readlink())
    except OSError:
        return ""


def born(pid: int) -> str:
    """Return when a process began, in ticks since this host's boot; nothing when it has ended (proc(5), stat)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def kill(pid: int, number: signal.Signals) -> bool:
    """Send a signal; tell whether the process was there."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


class Lab:
    """The one machine that is alive. Trials that end well leave it to the next one."""

    def __init__(self, make: Callable[[], Machine], bundle: Bundle, newer: Bundle, folder: Path) -> None:
        """`make` boots a new machine, `newer` is the bundle for upgrades, `folder` is for what commands print."""
        self.make, self.bundle, self.newer, self.folder = make, bundle, newer, folder
        self._server: Server | None = None
        self._installed = False
        folder.mkdir(parents=True, exist_ok=True)

    def fresh(self) -> Server:
        """Return a new machine on which nothing is installed; files of others are there."""
        self.spoil()
        self._server = Server(self.make(), self.bundle)
        put_foreign(self._server, FOREIGN)
        return self._server

    def installed(self) -> Server:
        """Return a machine with a healthy installation. Raises AssertionError when there is none to be had."""
        if self._server is not None and self._installed:
            return self._server
        server = self.fresh()
        done = Running(server, install(), self.folder / "preparing.txt").wait()
        assert done.status == 0, f"a plain installation ends with {done.status}:\n{done.output}"
        self._installed = True
        return server

    def any(self) -> Server:
        """Return a machine that a trial without changes may use."""
        return self._server or self.fresh()

    def keep(self) -> None:
        """Say that the installation on the machine is a good one."""
        self._installed = True

    def spoil(self) -> None:
        """Throw the machine away."""
        if self._server is not None:
            self._server.machine.destroy()
        self._server, self._installed = None, False


def install(*options: str) -> list[str]:
    """Return the install command, the same one each time but for `options`."""
    return ["./dify-installer", "--ip", "10.0.0.5", "--timeout", str(HEALTHY_SECONDS), *options]


def put_foreign(server: Server, paths: tuple[str, ...]) -> None:
    """Write files of others, each with its own name in it, unless they are there."""
    lines = [f"[ -e {path} ] || {{ mkdir -p {Path(path).parent} && echo {path} > {path}; }}" for path in paths]
    server.machine.run("; ".join(lines))


def sql(server: Server, statement: str) -> str:
    """Run a statement in the sample's PostgreSQL, by its socket, and return what it prints. Raises AssertionError."""
    command = ["podman", "exec", DATABASE, "psql", "-U", "postgres", "-d", "dify", "-t", "-A", "-c", statement]
    return server.machine.run(command).stdout.strip()


def clear(folder: Path) -> None:
    """Make an empty folder of it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
