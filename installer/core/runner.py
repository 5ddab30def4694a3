"""The one module that starts programs.

Argument lists only, no shell. Each command is logged with its status and time;
secrets that have been announced are masked in the log. Children get the host's
environment, not the one that PyInstaller's bootloader made for us, and a process
group of their own, so that Ctrl-C reaches us alone and we end them: `interrupt`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import signal
import subprocess
import threading
import time
import weakref
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeAlias

from installer.core import errors

log = logging.getLogger("dify-installer.command")

# A child and what it started get this long to end after SIGTERM before they are killed: nobody who has pressed
# Ctrl-C waits longer than two seconds.
GRACE_SECONDS = 1.5
POLL_SECONDS = 0.02
# What a child that was ended has still in its pipes is there at once, unless somebody else holds them open.
DRAIN_SECONDS = 1.0
# A mask shorter than this would hide ordinary words in the log.
SHORTEST_SECRET = 6
MISSING_PROGRAM = 127
# ENOSPC as the C library and Go say it, the one with a capital letter.
NO_ROOM = "no space left on device"
# For `started`: we write to the child; its standard error goes where its standard output goes.
PIPE, WITH_STDOUT = subprocess.PIPE, subprocess.STDOUT
# What `started` gives; with `text` off its streams are of bytes.
Child: TypeAlias = "subprocess.Popen[str]"


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """How a command ended, and what it printed until then."""

    argv: tuple[str, ...]
    status: int  # the exit status; negative: killed by that signal
    stdout: str
    stderr: str
    seconds: float
    timed_out: bool = False  # it took too long, and we ended it

    @property
    def ok(self) -> bool:
        return self.status == 0 and not self.timed_out

    @property
    def ended_by_others(self) -> bool:
        """Whether it was told to end while it still had time: by Ctrl-C, or because another step failed."""
        return self.status == -signal.SIGTERM and not self.timed_out

    @property
    def last_words(self) -> str:
        """The last lines that the command printed, for an error message."""
        lines = (self.stderr.strip() or self.stdout.strip()).splitlines()[-5:]
        return "\n".join([*lines, f"no end after {self.seconds:.0f} s"] if self.timed_out else lines)


def host_environment(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment as it was before PyInstaller's bootloader changed it.

    The bootloader points LD_LIBRARY_PATH at the unpacked executable; a host program that
    inherits it loads our libraries and dies (PyInstaller manual, "LD_LIBRARY_PATH / LIBPATH
    considerations"). It keeps the earlier value in LD_LIBRARY_PATH_ORIG.
    """
    env = dict(os.environ if environ is None else environ)
    original = env.pop("LD_LIBRARY_PATH_ORIG", None)
    if original is not None:
        env["LD_LIBRARY_PATH"] = original
    elif any(name.startswith("_PYI_") for name in env):
        env.pop("LD_LIBRARY_PATH", None)
    return {name: value for name, value in env.items() if not name.startswith("_PYI_")}


class Children:
    """What runs now, of one runner and those made from it. Once they have been ended, none starts any more."""

    def __init__(self) -> None:
        # A signal's handler takes it as well, in the thread that it interrupts.
        self._lock = threading.RLock()
        self._running: set[subprocess.Popen[str]] = set()
        self._why: BaseException | None = None
        _EVERY.add(self)

    def launch(self, argv: Sequence[str], **options: Any) -> subprocess.Popen[str]:
        """Start a program that `end` will find, however soon it comes. Raises OSError, or why none may start.

        In a thread of its own: the exception of a signal's handler, which comes to the main thread between any
        two steps, would lose what has been started and is not known yet.
        """
        with ThreadPoolExecutor(1) as beside:
            return beside.submit(self._launch, list(argv), options).result()

    def _launch(self, argv: list[str], options: Mapping[str, Any]) -> subprocess.Popen[str]:
        with self._lock:
            if self._why is not None:
                raise self._why
            child: subprocess.Popen[str] = subprocess.Popen(argv, start_new_session=True, **options)
            self._running.add(child)
            return child

    def forget(self, child: subprocess.Popen[str]) -> None:
        """A child has ended."""
        with self._lock:
            self._running.discard(child)

    def close(self, why: BaseException) -> list[subprocess.Popen[str]]:
        """Let none start any more: who tries gets `why`. Returns what runs."""
        with self._lock:
            self._why = self._why or why
            return list(self._running)


# Those of every runner that is in use.
_EVERY: weakref.WeakSet[Children] = weakref.WeakSet()


def interrupt(why: BaseException) -> None:
    """End what every runner runs, from the handler of a signal: at once by SIGTERM, after the grace by SIGKILL.

    None starts any more; who tries gets `why`. Python does not end before they have.
    """
    children = [child for each in list(_EVERY) for child in each.close(why)]
    threading.Thread(target=_end, args=(children,)).start()


def kill_all() -> None:
    """Kill what every runner still runs: somebody has pressed Ctrl-C a second time."""
    stopped = errors.CommandFailed("the run is being ended")
    _signal([child for each in list(_EVERY) for child in each.close(stopped)], signal.SIGKILL)


class Runner:
    """Runs programs of the host and logs them."""

    def __init__(self, env: Mapping[str, str] | None = None) -> None:
        self.env = host_environment(env)
        self._secrets: set[str] = set()
        self._children = Children()

    def only(self, names: Collection[str]) -> Runner:
        """Return a runner whose programs see only these variables of the environment."""
        return self._with({name: value for name, value in self.env.items() if name in names})

    def without(self, prefixes: tuple[str, ...]) -> Runner:
        """Return a runner whose programs do not see the variables that begin so."""
        return self._with({name: value for name, value in self.env.items() if not name.startswith(prefixes)})

    def also(self, variables: Mapping[str, str]) -> Runner:
        """Return a runner whose programs see these variables too."""
        return self._with({**self.env, **variables})

    def for_tidying(self) -> Runner:
        """Return a runner that takes back what was begun: its programs start although all others have been ended."""
        result = Runner(self.env)
        result._secrets = self._secrets
        return result

    def _with(self, env: Mapping[str, str]) -> Runner:
        result = Runner(env)
        result._secrets = self._secrets
        result._children = self._children
        return result

    def end_all(self) -> None:
        """End what other threads are running, and let none start any more: CommandFailed is what they get.

        They have their results at once then, and at the latest after the grace.
        """
        _end(self._children.close(errors.CommandFailed("no program is started any more: another step has failed")))

    def hide(self, secrets: Sequence[str]) -> None:
        """Mask these values in everything that is logged or quoted from now on."""
        self._secrets.update(value for value in secrets if len(value) >= SHORTEST_SECRET)

    def mask(self, text: str) -> str:
        """Return `text` without the announced secrets."""
        # Longest first: a secret may be a part of another (the password inside the broker URL).
        for secret in sorted(self._secrets, key=len, reverse=True):
            text = text.replace(secret, "********")
        return text

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float,
        env: Mapping[str, str] | None = None,
        input: str | None = None,
        cwd: Path | None = None,
        check: bool = True,
        remedy: str = "",
    ) -> Result:
        """Run `argv` to its end, at most `timeout` seconds.

        `env` is added to the host's environment. A program that is missing gives status 127; one that takes too
        long is ended, and what it has printed is kept. Raises CommandFailed, with `remedy`, when it fails or takes
        too long and `check` is set.
        """
        started = time.monotonic()
        timed_out = False
        try:
            with self.started(argv, env=env, cwd=cwd, stdin=subprocess.PIPE if input is not None else None) as child:
                stdout, stderr, timed_out = communicate(child, input, timeout)
                status = child.returncode
        except OSError as error:
            status, stdout, stderr = MISSING_PROGRAM, "", f"{argv[0]}: {error.strerror}"
        result = Result(
            argv=tuple(argv),
            status=status,
            stdout=stdout,
            stderr=stderr,
            seconds=time.monotonic() - started,
            timed_out=timed_out,
        )
        self.record(result)
        if check and not result.ok:
            raise self.failure(result, remedy)
        return result

    @contextlib.contextmanager
    def started(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdin: int | None = None,
        stdout: int | IO[bytes] = subprocess.PIPE,
        stderr: int | IO[bytes] = subprocess.PIPE,
        text: bool = True,
    ) -> Iterator[subprocess.Popen[str]]:
        """Start `argv`; whatever happens inside the block, the child has ended after it.

        Raises OSError when the program cannot be started, and CommandFailed after `end_all`.
        """
        child = self._children.launch(
            argv,
            env={**self.env, **(env or {})},
            cwd=cwd,
            stdin=subprocess.DEVNULL if stdin is None else stdin,
            stdout=stdout,
            stderr=stderr,
            text=text,
            # The host's programs write UTF-8, as podman's JSON is, whatever our own locale is.
            encoding="utf-8" if text else None,
            errors="replace" if text else None,
        )
        try:
            yield child
            # Killed by somebody else, podman-compose leaves the podman behind that it has started.
            if child.poll() is None or child.returncode < 0:
                _end([child])
        except BaseException:
            _end([child])
            raise
        finally:
            self._children.forget(child)
            _close(child)

    def ended(self, argv: Sequence[str], status: int, output: bytes, seconds: float) -> Result:
        """Describe and log a command that was `started`, with all that it printed."""
        text = output.decode("utf-8", errors="replace")
        result = Result(argv=tuple(argv), status=status, stdout="", stderr=text, seconds=seconds)
        self.record(result, with_output=True)
        return result

    def record(self, result: Result, *, with_output: bool = False) -> None:
        """Write a command, its status and its time to the log; its output when it failed, or if asked to."""
        log.info("status=%d seconds=%.2f $ %s", result.status, result.seconds, self.mask(shlex.join(result.argv)))
        if result.ok and not with_output:
            return
        for name, text in (("stdout", result.stdout), ("stderr", result.stderr)):
            for line in self.mask(text).splitlines():
                log.info("  %s: %s", name, line)

    def failure(self, result: Result, remedy: str = "") -> errors.CommandFailed:
        """Make the error that tells of a failed command, its output quoted and masked."""
        words = self.mask(result.last_words)
        message = f"`{self.mask(shlex.join(result.argv))}` failed with status {result.status}"
        if result.timed_out:
            message = f"`{self.mask(shlex.join(result.argv))}` took too long"
        elif result.status == MISSING_PROGRAM:
            message = f"`{result.argv[0]}` cannot be started"
        if NO_ROOM in words.lower() and "room" not in remedy:
            remedy = "make room on the file system that it names; then run the same command again"
        return errors.CommandFailed(f"{message}: {words}" if words else message, remedy)


def communicate(child: subprocess.Popen[str], input: str | None, timeout: float) -> tuple[str, str, bool]:
    """Feed a child and read it to its end; one that takes longer than `timeout` seconds is ended.

    Returns standard output, standard error, and whether it took too long.
    """
    try:
        return *child.communicate(input, timeout=timeout), False
    except subprocess.TimeoutExpired:
        _end([child])
    try:
        return *child.communicate(timeout=DRAIN_SECONDS), True
    except subprocess.TimeoutExpired as expired:
        return _decoded(expired.stdout), _decoded(expired.stderr), True


def _decoded(output: str | bytes | None) -> str:
    return output.decode("utf-8", errors="replace") if isinstance(output, bytes) else output or ""


def _signal(children: Sequence[subprocess.Popen[str]], number: signal.Signals) -> None:
    for child in children:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, number)


def _end(children: Sequence[subprocess.Popen[str]]) -> None:
    """End children and all that they started, all at the same time, and wait until they are gone.

    A child alone is not enough: podman-compose ends at once, while the podman that it has started
    goes on and holds a port; what a container keeps running has a process group of its own.
    """
    left = list(children)
    for number in (signal.SIGTERM, signal.SIGKILL):
        _signal(left, number)
        deadline = time.monotonic() + GRACE_SECONDS
        while (left := [child for child in left if _is_alive(child)]) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)


def _is_alive(child: subprocess.Popen[str]) -> bool:
    """Tell whether anything of a child's group is left."""
    child.poll()
    try:
        os.killpg(child.pid, 0)
    except ProcessLookupError:
        return False
    return True


def _close(child: subprocess.Popen[str]) -> None:
    for stream in (child.stdin, child.stdout, child.stderr):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
