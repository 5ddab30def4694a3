"""The one module that starts programs.

Argument lists only, no shell. Each command is logged with its status and time;
secrets that have been announced are masked in the log. Children get the host's
environment, not the one that PyInstaller's bootloader made for us, and a process
group of their own, so that Ctrl-C reaches us alone and we end them in order.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from installer.core import errors

log = logging.getLogger("dify-installer.command")

# A child and what it started get this long to end after SIGTERM before they are killed.
GRACE_SECONDS = 10.0
POLL_SECONDS = 0.02
# A mask shorter than this would hide ordinary words in the log.
SHORTEST_SECRET = 6
MISSING_PROGRAM = 127


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """How a command ended: `status` is the exit status (negative: killed by that signal)."""

    argv: tuple[str, ...]
    status: int
    stdout: str
    stderr: str
    seconds: float

    @property
    def ok(self) -> bool:
        return self.status == 0

    @property
    def last_words(self) -> str:
        """The last lines that the command printed, for an error message."""
        text = self.stderr.strip() or self.stdout.strip()
        return "\n".join(text.splitlines()[-5:])


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


class Runner:
    """Runs programs of the host and logs them."""

    def __init__(self, env: Mapping[str, str] | None = None) -> None:
        self.env = host_environment(env)
        self._secrets: set[str] = set()
        self._active: set[subprocess.Popen[str]] = set()

    def only(self, names: Collection[str]) -> Runner:
        """Return a runner whose programs see only these variables of the environment."""
        return self._with({name: value for name, value in self.env.items() if name in names})

    def without(self, prefixes: tuple[str, ...]) -> Runner:
        """Return a runner whose programs do not see the variables that begin so."""
        return self._with({name: value for name, value in self.env.items() if not name.startswith(prefixes)})

    def also(self, variables: Mapping[str, str]) -> Runner:
        """Return a runner whose programs see these variables too."""
        return self._with({**self.env, **variables})

    def _with(self, env: Mapping[str, str]) -> Runner:
        result = Runner(env)
        result._secrets = self._secrets
        result._active = self._active
        return result

    def end_all(self) -> None:
        """End what other threads are running: they get their results at once then."""
        for child in list(self._active):
            _end_group(child)

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
    ) -> Result:
        """Run `argv` to its end, at most `timeout` seconds.

        `env` is added to the host's environment. A program that is missing gives status 127.
        Raises CommandFailed when it fails or takes too long and `check` is set.
        """
        started = time.monotonic()
        try:
            with self.started(argv, env=env, cwd=cwd, stdin=subprocess.PIPE if input is not None else None) as child:
                stdout, stderr = child.communicate(input, timeout=timeout)
                status = child.returncode
        except subprocess.TimeoutExpired:
            status, stdout, stderr = -signal.SIGTERM, "", f"no end after {timeout:.0f} s"
        except OSError as error:
            status, stdout, stderr = MISSING_PROGRAM, "", f"{argv[0]}: {error.strerror}"
        result = Result(
            argv=tuple(argv), status=status, stdout=stdout, stderr=stderr, seconds=time.monotonic() - started
        )
        self.record(result)
        if check and not result.ok:
            raise self.failure(result)
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

        Raises OSError when the program cannot be started.
        """
        child = subprocess.Popen(
            list(argv),
            env={**self.env, **(env or {})},
            cwd=cwd,
            stdin=subprocess.DEVNULL if stdin is None else stdin,
            stdout=stdout,
            stderr=stderr,
            text=text,
            errors="replace" if text else None,
            start_new_session=True,
        )
        self._active.add(child)
        try:
            yield child
            if child.poll() is None:
                _end_group(child)
        except BaseException:
            _end_group(child)
            raise
        finally:
            self._active.discard(child)
            _close(child)

    def ended(self, argv: Sequence[str], status: int, output: bytes, seconds: float) -> Result:
        """Describe and log a command that was `started`, with all that it printed."""
        text = output.decode(errors="replace")
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
        if result.status == MISSING_PROGRAM:
            message = f"`{result.argv[0]}` cannot be started"
        return errors.CommandFailed(f"{message}: {words}" if words else message, remedy)


def _end_group(child: subprocess.Popen[str]) -> None:
    """End a child and all that it started, and wait until they are gone.

    The child alone is not enough: podman-compose ends at once, while the podman that it has started
    goes on and holds a port; what a container keeps running has a process group of its own.
    """
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + GRACE_SECONDS
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, number)
            while time.monotonic() < deadline:
                child.poll()
                os.killpg(child.pid, 0)
                time.sleep(POLL_SECONDS)
            continue
        break
    child.poll()


def _close(child: subprocess.Popen[str]) -> None:
    for stream in (child.stdin, child.stdout, child.stderr):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
