"""Unpacks an image store into a folder: a program of its own, which for a user runs among his subordinate IDs.

It needs no tool of the host. Every byte is proved before it is looked at, each processor has a process, and what an
earlier run has written whole is not written again. It ends when the installer does: standard input is closed then.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import gc
import json
import os
import select
import stat
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from installer.core import digest, errors
from installer.images import squashfs
from installer.images.squashfs import Content, Node, Reader

# What one process takes at a time, of the packed file.
RUN_BYTES = 16 * 1024**2
# Beside the one that is read: the last one, and the one that a block goes on in.
KEPT_CHUNKS = 3
# What an upper folder of a user's own overlay has in place of root's attributes (overlayfs, "User xattr").
ROOTS, USERS = b"trusted.overlay.", b"user.overlay."
NO_DEVICE = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What is to be unpacked and where: `chunks` are the SHA-256 of each `chunk_bytes` of the source.

    `own_ids` tells that a user does it among his subordinate IDs.
    """

    source: str
    folder: str
    size: int
    chunk_bytes: int
    chunks: tuple[str, ...]
    own_ids: bool
    workers: int


class Proved:
    """The bytes of a file, each proved before anybody has them."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._file = os.open(request.source, os.O_RDONLY | os.O_CLOEXEC)
        # While the tree is read, the disk reads on.
        os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_WILLNEED)
        self._kept: dict[int, bytes] = {}

    def read(self, position: int, size: int) -> bytes:
        """Return `size` bytes from a position on, fewer at the end. Raises Damaged, OSError."""
        each, parts = self._request.chunk_bytes, []
        end = min(position + size, self._request.size)
        while position < end:
            number, offset = divmod(position, each)
            part = self._chunk(number)[offset : offset + end - position]
            parts.append(part)
            position += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _chunk(self, number: int) -> bytes:
        if number not in self._kept:
            start = number * self._request.chunk_bytes
            size = min(self._request.chunk_bytes, self._request.size - start)
            data = _read_all(self._file, start, size)
            if digest.hash_bytes(data) != self._request.chunks[number]:
                raise squashfs.Damaged(f"bytes {start} to {start + size} are not what was built")
            while len(self._kept) >= KEPT_CHUNKS:
                del self._kept[next(iter(self._kept))]
            self._kept[number] = data
        return self._kept[number]


def _read_all(file: int, position: int, size: int) -> bytes:
    parts = []
    while size and (part := os.pread(file, size, position)):
        parts.append(part)
        position, size = position + len(part), size - len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


@dataclass(slots=True)
class Job:
    """Files whose content begins in one piece of the packed file, and how large that piece is."""

    bytes: int
    whole: list[Node] = field(default_factory=list)
    small: dict[int, list[Node]] = field(default_factory=dict)  # by the fragment that has all of their bytes


def main() -> int:
    """Do what standard input asks for; return the exit code."""
    # There is nothing to collect, and it would look at each of the many files again and again.
    gc.disable()
    request = read_request(sys.stdin.buffer.readline())
    try:
        os.chdir(request.folder)
        unpack(request)
    except (OSError, squashfs.Damaged, errors.CommandFailed) as error:
        _say(request, error)
        return 1
    return 0


def _say(request: Request, error: Exception) -> None:
    os.write(2, f"{request.source}: {error}\n".encode())


def write_request(request: Request) -> str:
    """Return a request as one line."""
    return json.dumps(dataclasses.asdict(request)) + "\n"


def read_request(line: bytes) -> Request:
    """Return the request of a line."""
    fields = json.loads(line)
    return Request(**{**fields, "chunks": tuple(fields["chunks"])})


def unpack(request: Request) -> None:
    """Unpack into the working directory; what it has whole already stays as it is.

    Raises Damaged for bytes that are not what was built, OSError, CommandFailed when one of its processes has failed.
    """
    # Of a run that was killed, the processes end a moment later.
    lock = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fcntl.flock(lock, fcntl.LOCK_EX)
    reader = Reader(Proved(request))
    nodes = list(reader.walk())
    folders = [node for node in nodes if stat.S_ISDIR(node.mode)]
    _make_folders(folders)
    first: dict[int, bytes] = {}
    links = [node for node in nodes if first.setdefault(node.inode, node.path) != node.path]
    again = {node.path for node in links}
    others = [node for node in nodes if not stat.S_ISDIR(node.mode) and node.path not in again]
    _write(_list_jobs([node for node in others if node.content], reader, request), reader, request)
    for node in others:
        if node.content is None:
            _make_special(node, request)
    for node in links:
        _unlink(node.path)
        os.link(first[node.inode], node.path, follow_symlinks=False)
    for node in reversed(folders):
        _describe(node.path or b".", node, request)
    os.close(lock)


def _make_folders(folders: Iterable[Node]) -> None:
    for node in folders:
        if node.path:
            with contextlib.suppress(FileExistsError):
                os.mkdir(node.path, 0o700)


def _list_jobs(nodes: Iterable[Node], reader: Reader, request: Request) -> list[Job]:
    """Return the files in the order in which their content lies in the packed file."""
    jobs: dict[int, Job] = {}
    for node in nodes:
        content = node.content
        assert content is not None
        alone = content.fragment is not None and not content.blocks
        position = reader.fragments[content.fragment or 0][0] if alone else content.start
        start = position // RUN_BYTES * RUN_BYTES
        job = jobs.setdefault(start, Job(bytes=min(RUN_BYTES, request.size - start)))
        if alone:
            assert content.fragment is not None
            job.small.setdefault(content.fragment, []).append(node)
        else:
            job.whole.append(node)
    for job in jobs.values():
        job.whole.sort(key=lambda node: node.content.start if node.content else 0)
    return [jobs[start] for start in sorted(jobs)]


def _write(jobs: Sequence[Job], reader: Reader, request: Request) -> None:
    """Write all files, with a process for each processor; raises CommandFailed when one fails."""
    queue, filled = os.pipe()
    # Which of the jobs are left: a reader takes one number at a time, and none gets half of one.
    numbers = b"".join(number.to_bytes(4) for number in range(len(jobs)))
    fcntl.fcntl(filled, fcntl.F_SETPIPE_SZ, max(4096, len(numbers)))
    os.write(filled, numbers)
    os.close(filled)
    started = []
    for _ in range(request.workers):
        if (child := os.fork()) == 0:
            os._exit(_work(queue, jobs, reader, request))
        started.append(child)
    os.close(queue)
    statuses = [os.waitpid(child, 0)[1] for child in started]
    if any(statuses):
        raise errors.CommandFailed("not all of it was unpacked")


def _work(queue: int, jobs: Sequence[Job], reader: Reader, request: Request) -> int:
    """Do one job after the other until there is none; return an exit code."""
    try:
        while number := os.read(queue, 4):
            job = jobs[int.from_bytes(number)]
            for fragment, nodes in job.small.items():
                _require_installer()
                _write_small(nodes, reader, fragment, request)
            for node in job.whole:
                _require_installer()
                _write_whole(node, reader, request)
            os.write(1, b"%d\n" % job.bytes)
    except (OSError, squashfs.Damaged) as error:
        _say(request, error)
        return 1
    return 0


def _require_installer() -> None:
    """End where the installer has ended: its end of standard input is closed then, and never written to before."""
    if select.select([0], [], [], 0)[0]:
        os._exit(1)


def _write_small(nodes: Sequence[Node], reader: Reader, fragment: int, request: Request) -> None:
    """Write the files whose bytes are all in one fragment."""
    start, stored, _ = reader.fragments[fragment]
    data = None
    for node in nodes:
        file = _create(node)
        if file is None:
            continue
        try:
            # Where an earlier run has written all of them, nothing is read.
            data = data or memoryview(reader.block(start, stored))
            assert node.content is not None
            _put(file, data[node.content.offset : node.content.offset + node.content.size])
            _describe(file, node, request)
        finally:
            os.close(file)


def _write_whole(node: Node, reader: Reader, request: Request) -> None:
    """Write a file that has blocks of its own, or nothing."""
    content = node.content
    assert content is not None
    file = _create(node)
    if file is None:
        return
    try:
        _put_content(file, content, reader)
        _describe(file, node, request)
    finally:
        os.close(file)


def _put_content(file: int, content: Content, reader: Reader) -> None:
    position = content.start
    for stored in content.blocks:
        if stored:
            _put(file, memoryview(reader.block(position, stored)))
            position += stored & ~squashfs.CONTENT_PLAIN
        else:
            os.lseek(file, reader.block_bytes, os.SEEK_CUR)
    if content.fragment is not None:
        start, stored, _ = reader.fragments[content.fragment]
        left = content.size % reader.block_bytes
        _put(file, memoryview(reader.block(start, stored))[content.offset : content.offset + left])
    if 0 in content.blocks:
        os.ftruncate(file, content.size)


def _put(file: int, data: memoryview) -> None:
    while data:
        data = data[os.write(file, data) :]


def _create(node: Node) -> int | None:
    """Return a new file, or None for one that an earlier run has written whole."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(node.path, flags, 0o600)
    except FileExistsError:
        if _is_there(node):
            return None
        _unlink(node.path)
        return os.open(node.path, flags, 0o600)


def _is_there(node: Node) -> bool:
    """Tell whether an earlier run of this boot has written a file whole: its time is set last."""
    status = os.lstat(node.path)
    assert node.content is not None
    whole = stat.S_ISREG(status.st_mode) and status.st_size == node.content.size
    return whole and status.st_mtime_ns == node.mtime * 10**9


def _make_special(node: Node, request: Request) -> None:
    """Make a link, a device, a pipe or a socket; a user's devices are left out but for whiteouts.

    podman does so, too (containers/storage, pkg/archive/archive.go, "cannot create a device if running in user
    namespace"). A whiteout, device 0, may be made by everybody since Linux 5.8 (vfs_mknod() in fs/namei.c).
    """
    _unlink(node.path)
    if stat.S_ISLNK(node.mode):
        os.symlink(node.target, node.path)
    else:
        major, minor = (node.device & 0xFFF00) >> 8, (node.device & 0xFF) | ((node.device >> 12) & 0xFFF00)
        try:
            os.mknod(node.path, node.mode, os.makedev(major, minor))
        except PermissionError:
            is_device = stat.S_ISCHR(node.mode) or stat.S_ISBLK(node.mode)
            if not request.own_ids or not is_device or node.device == NO_DEVICE:
                raise
            return
    _describe(node.path, node, request)


def _unlink(path: bytes) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _describe(what: bytes | int, node: Node, request: Request) -> None:
    """Give a file its owner, attributes, mode and time, in this order: each may change what was before it."""
    if isinstance(what, int):
        os.fchown(what, node.uid, node.gid)
    else:
        os.chown(what, node.uid, node.gid, follow_symlinks=False)
    for name, value in node.xattrs:
        _set_attribute(what, name, value, request)
    if isinstance(what, int):
        os.fchmod(what, stat.S_IMODE(node.mode))
    elif not stat.S_ISLNK(node.mode):
        os.chmod(what, stat.S_IMODE(node.mode))
    nanoseconds = node.mtime * 10**9
    if isinstance(what, int):
        os.utime(what, ns=(nanoseconds, nanoseconds))
    else:
        os.utime(what, ns=(nanoseconds, nanoseconds), follow_symlinks=False)


def _set_attribute(what: bytes | int, name: bytes, value: bytes, request: Request) -> None:
    if request.own_ids and name.startswith(ROOTS):
        name = USERS + name.removeprefix(ROOTS)
    try:
        if isinstance(what, int):
            os.setxattr(what, name, value)
        else:
            os.setxattr(what, name, value, follow_symlinks=False)
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror}: the attribute {name.decode()}") from error
