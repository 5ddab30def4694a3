"""One run at a time for each install folder (docs/decisions/013)."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from installer.core import digest, errors, layout

ROOTS = Path("/run/dify-installer")
RUNTIME = Path("/run/user")
# Our own release takes the file away, which the next run may meet in between.
ATTEMPTS = 100
LENT = f"lent to {layout.UNIT}"


@dataclass(frozen=True, slots=True)
class Held:
    """The lock while it is held; `descriptor` is None in the unit's own process, which works under its caller's."""

    descriptor: int | None

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        """Let the systemd unit work under this lock for the length of the block: it is we who start it."""
        self.say(f"{os.getpid()} {LENT}")
        try:
            yield
        finally:
            self.say(f"{os.getpid()}")

    def give_up(self) -> None:
        """Free the lock before its block ends: what is left of the block only looks, and another run takes over."""
        if self.descriptor is not None:
            fcntl.flock(self.descriptor, fcntl.LOCK_UN)

    def say(self, words: str) -> None:
        """Write into the lock who holds it, for those who are refused."""
        if self.descriptor is not None:
            os.ftruncate(self.descriptor, 0)
            os.pwrite(self.descriptor, f"{words}\n".encode(), 0)


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[Held]:
    """Hold the lock of an install folder for the length of the block.

    It is a file that only this user can open, locked with flock(2): the kernel frees it with the process, however that
    ends. No child has it. Raises AlreadyRunning, with the other's process ID, and CommandFailed where no such file can
    be made.
    """
    path = _folder() / f"{digest.hash_bytes(os.fsencode(os.path.realpath(folder)))}.lock"
    descriptor = _acquire(path, folder)
    if descriptor is None:
        yield Held(None)
        return
    held = Held(descriptor)
    held.say(f"{os.getpid()}")
    try:
        yield held
    finally:
        # While it is still locked: whoever has opened it by now sees that it is no longer the file of that name. One
        # that was given up may be another run's by now.
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                path.unlink()
        os.close(descriptor)


def _folder() -> Path:
    """Return the folder of this user's locks, which nobody else can enter. Raises CommandFailed.

    Never below the install folder, which may not exist yet; for users where systemd keeps what ends with a boot, if
    there is such a place, whatever the environment says: every run must find the same.
    """
    user = os.geteuid()
    runtime = RUNTIME / str(user)
    if user == 0:
        folder = ROOTS
    elif runtime.is_dir() and runtime.stat().st_uid == user:
        folder = runtime / ROOTS.name
    else:
        folder = _home(user) / ".local/state" / ROOTS.name
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise errors.CommandFailed(
            f"{folder}, where the lock of a run is kept, cannot be made: {error.strerror}", "see that it can be made"
        ) from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != user or status.st_mode & 0o077:
        raise errors.CommandFailed(
            f"{folder}, where the lock of a run is kept, is open to others", f"remove it: `rm -r {folder}`"
        )
    return folder


def _home(user: int) -> Path:
    try:
        return Path(pwd.getpwuid(user).pw_dir)
    except KeyError:
        return Path.home()


def _acquire(path: Path, folder: Path) -> int | None:
    """Open and lock the file of that name; None for the unit, to which its holder has lent it."""
    for _ in range(ATTEMPTS):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            said = os.pread(descriptor, 100, 0).decode(errors="replace").strip()
            os.close(descriptor)
            if said.endswith(LENT) and _in_unit():
                return None
            process = said.partition(" ")[0]
            raise errors.AlreadyRunning(
                f"another run is active for {folder}{f' (process {process})' if process else ''}",
                "wait for it to end, then run the command again",
            ) from error
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        os.close(descriptor)
    raise errors.AlreadyRunning(
        f"other runs for {folder} begin and end all the time", "wait for them to end, then run the command again"
    )


def _in_unit() -> bool:
    """Tell whether systemd has started this process as our unit: nobody puts it there by chance (cgroups(7))."""
    with contextlib.suppress(OSError):
        groups = Path("/proc/self/cgroup").read_text("utf-8").splitlines()
        return any(line.endswith(f"/{layout.UNIT}") for line in groups)
    return False
