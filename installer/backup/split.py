"""A backup in numbered files, for media and file systems that take no larger one.

`NAME.tar.zst` becomes `NAME.1.tar.zst`, `NAME.2.tar.zst` and so on, as the archives of a bundle are numbered. One
behind the other they are the file that it would have been. `NAME.tar.zst.sha256` lists them as `sha256sum` does: by it
a missing one is known, and a damaged one is named.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from installer.backup import encryption
from installer.core import digest, errors, files
from installer.core.console import size

# What stays at the end of a numbered name.
SUFFIX = ".tar.zst"
ENCRYPTED = SUFFIX + encryption.SUFFIX
LIST = ".sha256"
NUMBERED = re.compile(rf"(?P<stem>.+)\.(?P<number>[1-9]\d*)(?P<suffix>|{re.escape(SUFFIX)}|{re.escape(ENCRYPTED)})")
LISTED = re.compile(r"(?P<sha256>[0-9a-f]{64})  (?P<name>.+)")
# Each stays open until all are written, and a process may have only so many open files.
MOST = 900
SMALLEST = 1024 * 1024


def numbered(path: Path, number: int) -> Path:
    """Return the name of one of the files, counted from 1, that a backup named `path` is cut into."""
    stem = path.name.removesuffix(encryption.SUFFIX).removesuffix(SUFFIX)
    return path.with_name(f"{stem}.{number}{path.name[len(stem) :]}")


def listing(path: Path) -> Path:
    """Return the name of the list of those files."""
    return path.with_name(path.name + LIST)


def common(path: Path) -> Path:
    """Return the name that a numbered file is a part of; another name stays as it is."""
    found = NUMBERED.fullmatch(path.name)
    return path.with_name(found["stem"] + found["suffix"]) if found else path


def require_possible(largest: int, at_most: int) -> None:
    """Raise UsageError for files so small that there would be too many of them, for `at_most` bytes in all."""
    if largest < SMALLEST or at_most > MOST * largest:
        least = max(SMALLEST, -(-at_most // MOST))
        raise errors.UsageError(
            f"files of {size(largest)} would be too many for {size(at_most)}", f"take a size from {size(least)} on"
        )


class _Cut(io.RawIOBase):
    """Writes into one file after the other; they take their names when the stack is left, the first one last."""

    def __init__(self, path: Path, largest: int, stack: contextlib.ExitStack) -> None:
        self._path, self._largest, self._stack = path, largest, stack
        self._file: IO[bytes] | None = None
        self._left, self._hashes = 0, list[Any]()

    def writable(self) -> bool:
        return True

    def write(self, content: Any, /) -> int:
        view = memoryview(content)
        written = 0
        while written < len(view):
            if self._file is None or not self._left:
                self._begin()
            assert self._file is not None
            piece = view[written : written + self._left]
            self._file.write(piece)
            self._hashes[-1].update(piece)
            self._left -= len(piece)
            written += len(piece)
        return written

    def _begin(self) -> None:
        if self._file is not None:
            self._file.flush()
        path = numbered(self._path, len(self._hashes) + 1)
        self._file = self._stack.enter_context(files.replacing(path, mode=0o600))
        self._hashes.append(hashlib.sha256())
        # 4 GiB is more than 32 bits can count, and 4G is to suit file systems that count so.
        self._left = self._largest - 1

    def listed(self) -> str:
        """Return the list, as sha256sum writes it."""
        names = [numbered(self._path, number).name for number in range(1, len(self._hashes) + 1)]
        return "".join(f"{each.hexdigest()}  {name}\n" for each, name in zip(self._hashes, names, strict=True))


@contextlib.contextmanager
def writing(path: Path, largest: int) -> Iterator[IO[bytes]]:
    """Write into files smaller than `largest` bytes, 0600, which are there when the block ends well, or none of them.

    Raises CommandFailed (disk).
    """
    with contextlib.ExitStack() as stack:
        told = stack.enter_context(files.replacing(listing(path), mode=0o600))
        target = _Cut(path, largest, stack)
        yield target  # type: ignore[misc]  # typeshed has no common type of files
        told.write(target.listed().encode())


def find(path: Path) -> tuple[Path, ...]:
    """Return the files that a backup is in, in their order: itself, or all of which one, or the common name, is given.

    Raises BackupRefused when it is not there, or one of them is missing.
    """
    whole = common(path)
    if path.is_file() and not (path != whole and listing(whole).is_file()):
        return (path,)
    whole = whole if listing(whole).is_file() else path
    if not listing(whole).is_file():
        if numbered(path, 1).is_file():
            raise errors.BackupRefused(
                f"{listing(path)} is missing, the list of the files that the backup is in",
                f"copy it there; or put them together by hand: `cat $(ls -v {numbered(path, 1).name} …) > {path.name}`",
            )
        raise errors.BackupRefused(f"there is no file {path}", "check the path")
    found = tuple(read_list(whole))
    if missing := [each.name for each in found if not each.is_file()]:
        raise errors.BackupRefused(
            f"of the {len(found)} files of {whole} these are missing: {', '.join(missing)}",
            f"copy them into {whole.parent}",
        )
    return found


def read_list(path: Path) -> dict[Path, str]:
    """Return the files that a backup was cut into, each with its SHA-256. Raises BackupRefused for no such list."""
    try:
        lines = [LISTED.fullmatch(line) for line in listing(path).read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise errors.BackupRefused(f"{listing(path)} cannot be read: {error}", "copy it again") from error
    names = [numbered(path, number) for number in range(1, len(lines) + 1)]
    if not lines or [line and line["name"] for line in lines] != [each.name for each in names]:
        raise errors.BackupRefused(f"{listing(path)} is not the list that was written", "copy it again")
    return {name: line["sha256"] for name, line in zip(names, lines, strict=True) if line}


def first(path: Path) -> Path:
    """Return the file that a backup begins in."""
    return path if path.is_file() else numbered(path, 1)


def measure(found: Sequence[Path]) -> int:
    """Return how many bytes the files of a backup have. Raises OSError."""
    return sum(each.stat().st_size for each in found)


class _Joined(io.RawIOBase):
    """Files read one behind the other; `advance` is told of the bytes."""

    def __init__(self, found: Sequence[Path], advance: Callable[[int], object]) -> None:
        self._waiting, self._advance = list(found), advance
        self._file: IO[bytes] | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        while self._file is not None or self._waiting:
            if self._file is None:
                self._file = self._waiting.pop(0).open("rb")
            data = self._file.read(len(buffer))
            if data:
                buffer[: len(data)] = data
                self._advance(len(data))
                return len(data)
            self._file.close()
            self._file = None
        return 0

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        super().close()


def joined(found: Sequence[Path], advance: Callable[[int], object]) -> IO[bytes]:
    """Return the files as one that is read to its end; it is to be closed. Reading raises OSError."""
    return _Joined(found, advance)  # type: ignore[return-value]  # typeshed has no common type of files


def find_damaged(path: Path) -> list[Path]:
    """Return those files of a backup that are not as they were written; none for one that was not cut."""
    whole = common(path) if listing(common(path)).is_file() else path
    if not listing(whole).is_file():
        return []
    return [each for each, sha256 in read_list(whole).items() if not _is(each, sha256)]


def _is(path: Path, sha256: str) -> bool:
    # A stick that is worn out gives an error instead of bytes.
    with contextlib.suppress(OSError):
        return digest.hash_file(path) == sha256
    return False


def find_backups(folder: Path, prefix: str) -> list[Path]:
    """Return the backups in a folder whose names begin so, each once, by the common name where it was cut."""
    found = {each for each in folder.glob(f"{prefix}*") if each.name.removesuffix(LIST).endswith((SUFFIX, ENCRYPTED))}
    lists = {each.with_name(each.name.removesuffix(LIST)) for each in found if each.name.endswith(LIST)}
    return sorted({*lists, *(each for each in found if common(each) == each and not each.name.endswith(LIST))})


def when_made(path: Path) -> float:
    """Return the time at which the last byte of a backup was written, in seconds since 1970. Raises OSError."""
    return (path if path.is_file() else listing(path)).stat().st_mtime


def remove(path: Path) -> None:
    """Remove a backup; the list goes last, so that one half removed is known as what it is. Raises CommandFailed."""
    found = [path] if path.is_file() else [*reversed(read_list(path)), listing(path)]
    for each in found:
        with files.telling(each):
            each.unlink(missing_ok=True)
