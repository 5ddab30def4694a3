"""Writes files so that an interruption leaves the old one or the new one, never half of one.

Nothing is written through a symbolic link: a file takes its place by a rename, and below an install folder, which is
known by its marker, no folder on the way may be a link. Containers can lay links into what they mount.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from installer.core import errors, layout

REMOVE_SECONDS = 5.0
# How the names of temporary files end: what is called so and not locked, a killed run has left.
TEMPORARY = ".dify-installer-tmp"
OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
MAKE_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# Signatures of a file's content (evm(7), IMA): those of the old content are wrong for the new one.
OF_CONTENT = ("security.ima", "security.evm")
REMEDIES = {
    errno.ENOSPC: "make room on its file system",
    errno.EDQUOT: "make room: the disk quota of this user is used up",
    errno.EROFS: "its file system is mounted read-only: mount it for writing, or give another folder",
    errno.EISDIR: "a folder is where a file belongs: move it away",
    errno.ENOTDIR: "a file is where a folder belongs: move it away",
    errno.EACCES: "see that its folder is yours (`ls -ld`), or give a folder of yours with --dir",
    errno.EPERM: "see whether it is protected (`lsattr`: `chattr -i` takes that away)",
}


class _Target(io.FileIO):
    """A temporary file that tells of its own failures: those of what is read meanwhile are not its."""

    def __init__(self, descriptor: int, temporary: Path, path: Path) -> None:
        super().__init__(descriptor, "wb")
        self.name = str(temporary)
        self._path = path

    def write(self, data: Any, /) -> int:
        with telling(self._path):
            return super().write(data)


@contextlib.contextmanager
def replacing(path: Path, *, mode: int = 0o644, sync: bool = True) -> Iterator[IO[bytes]]:
    """Open a temporary file beside `path`, its path is its `name`; when the block ends well it takes `path`'s place.

    The mode is set whatever the umask is: a hardened host has 077, and containers must read
    what we write. Without `sync` the disk has the content some time later, which a power failure can come
    before: `sync` below is to follow. Raises CommandFailed when the disk refuses; nothing is left behind then.
    """
    with _opened(path.parent) as folder:
        name = f".{path.name[:100]}.{secrets.token_hex(4)}{TEMPORARY}"
        with telling(path):
            number = os.open(name, MAKE_FILE, 0o600, dir_fd=folder)
        try:
            _mark_used(number)
            target = io.BufferedWriter(_Target(number, path.with_name(name), path))
            try:
                yield target
                target.flush()
                with telling(path):
                    os.fchmod(number, mode)
                    if sync:
                        os.fsync(number)
            finally:
                # Not the buffer: after a failure it would try to write what is left.
                target.raw.close()
            with telling(path):
                os.replace(name, path.name, src_dir_fd=folder, dst_dir_fd=folder)
                if sync:
                    os.fsync(folder)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=folder)


def write(path: Path, content: str | bytes, *, mode: int = 0o644) -> None:
    """Write a whole file at once. Raises CommandFailed when the disk refuses."""
    with replacing(path, mode=mode) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def rewrite(path: Path, content: str) -> None:
    """Replace the content of an administrator's file; a new one is made with mode 0644.

    Owner, mode and extended attributes, with them SELinux' label, stay as they are; of a link it is the target that is
    replaced. Raises CommandFailed when the disk refuses.
    """
    target = path.resolve()
    with telling(target):
        try:
            before = os.open(target, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            write(target, content)
            return
    try:
        status = os.fstat(before)
        with replacing(target, mode=stat.S_IMODE(status.st_mode)) as file:
            with telling(target):
                os.fchown(file.fileno(), status.st_uid, status.st_gid)
                _copy_attributes(before, file.fileno())
            file.write(content.encode())
    finally:
        os.close(before)


def _copy_attributes(source: int, target: int) -> None:
    """Copy extended attributes, where the file system has any."""
    try:
        names = os.listxattr(source)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return
        raise
    for name in names:
        if name not in OF_CONTENT:
            os.setxattr(target, name, os.getxattr(source, name))


def sync(path: Path) -> None:
    """Wait until the disk has all of a file, and its name. Raises CommandFailed when the disk refuses."""
    with telling(path), path.open("rb") as file:
        os.fsync(file.fileno())
    with _opened(path.parent) as folder, telling(path):
        os.fsync(folder)


def folder(path: Path, mode: int = 0o755) -> None:
    """Make a folder and its parents if need be; a new one gets `mode` whatever the umask is.

    Raises CommandFailed when that is refused, or when a link is on the way to it below an install folder.
    """
    base = _install_folder(path) or next(each for each in (path, *path.parents) if each.is_dir())
    with telling(path):
        here = os.open(base, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in path.relative_to(base).parts:
            made = False
            with telling(path), contextlib.suppress(FileExistsError):
                os.mkdir(part, 0o700, dir_fd=here)
                made = True
            inner = _enter(here, part, path, OPEN_FOLDER if made else os.O_PATH | OPEN_FOLDER)
            os.close(here)
            here = inner
            if made:
                with telling(path):
                    os.fchmod(here, mode)
    finally:
        os.close(here)


def remove(path: Path) -> None:
    """Remove a folder with all below it, if it is there; wait a little for who may still be writing in it.

    A program that was ended may leave a child behind for a moment. What cannot be removed stays, and so does a link.
    """
    deadline = time.monotonic() + REMOVE_SECONDS
    while path.exists() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        if not path.exists() or time.monotonic() > deadline:
            return
        time.sleep(0.05)


def remove_temporaries(path: Path) -> list[Path]:
    """Remove, and return, the temporary files in a folder that a killed run of this user has left.

    One that another process is writing is locked. A folder that is not there, or not ours to look at, has none.
    """
    removed = []
    with contextlib.suppress(OSError, errors.CommandFailed), _opened(path) as folder:
        for name in [each.name for each in os.scandir(folder)]:
            if name.startswith(".") and name.endswith(TEMPORARY) and _is_abandoned(name, folder):
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=folder)
                    removed.append(path / name)
    return removed


def _is_abandoned(name: str, folder: int) -> bool:
    """Tell whether a temporary is a file, or a link, of ours that nobody is writing."""
    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if status.st_uid != os.geteuid():
        return False
    if stat.S_ISLNK(status.st_mode):
        return True
    if not stat.S_ISREG(status.st_mode):
        return False
    number = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        fcntl.flock(number, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(number)
    return True


def _mark_used(number: int) -> None:
    """Lock a temporary file for as long as this process has it open; a file system without locks does without."""
    with contextlib.suppress(OSError):
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)


def holds_anything(path: Path) -> bool:
    """Tell whether a folder exists and is not empty; one that we may not read counts as full."""
    try:
        return any(path.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return False
    except PermissionError:
        return True


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    """Open a folder; below an install folder, no link is followed. Raises CommandFailed."""
    base = _install_folder(path) or path
    with telling(path):
        here = os.open(base, OPEN_FOLDER)
    try:
        for part in path.relative_to(base).parts:
            inner = _enter(here, part, path, OPEN_FOLDER)
            os.close(here)
            here = inner
        yield here
    finally:
        os.close(here)


def _install_folder(path: Path) -> Path | None:
    """Return the install folder that a path is in: the outermost one, since a container could lay a marker as well."""
    found = [each for each in (path, *path.parents) if os.path.lexists(each / layout.MARKER)]
    return found[-1] if found else None


def _enter(here: int, part: str, path: Path, flags: int) -> int:
    """Open a folder in a folder, unless it is a link. Raises CommandFailed, naming the `path` that it leads to."""
    with telling(path):
        try:
            return os.open(part, flags | os.O_NOFOLLOW, dir_fd=here)
        except OSError:
            status = os.stat(part, dir_fd=here, follow_symlinks=False)
            if not stat.S_ISLNK(status.st_mode):
                raise
    raise errors.CommandFailed(
        f"{part!r} on the way to {path} is a symbolic link, and nothing is written through one in the install folder",
        "put a folder in its place; if it is to lie on another disk, mount that there (`mount --bind`)",
    )


@contextlib.contextmanager
def telling(path: Path) -> Iterator[None]:
    """Turn an OSError of the block into a CommandFailed that names `path`, the cause, and what helps."""
    try:
        yield
    except OSError as error:
        remedy = REMEDIES.get(error.errno or 0, "see that it can be written, or give a folder of yours with --dir")
        raise errors.CommandFailed(
            f"{path} cannot be written: {error.strerror}", f"{remedy}; then run the same command again"
        ) from error


@contextlib.contextmanager
def reading(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading; raises CommandFailed that names it where it cannot be opened."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise errors.CommandFailed(
            f"{path} cannot be read: {error.strerror}", "see that it is there and yours to read"
        ) from error
    with file:
        yield file


def read_secret(path: Path) -> str:
    """Return the password in a file. Raises UsageError when it cannot be read, or others may read it, too."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            text = file.read(4096).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise errors.UsageError(f"{path} cannot be read: {error}", "name a file with the password alone") from error
    if mode & 0o077:
        raise errors.UsageError(f"{path} holds a password, and others may read it", f"chmod 600 {path}")
    return text.strip("\r\n")
