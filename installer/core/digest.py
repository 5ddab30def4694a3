"""SHA-256 of files, in chunks and on all processors.

OpenSSL's SHA-256, which hashlib uses, releases the interpreter's lock: threads are enough
to keep every core busy.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

from installer.core import files

# What is read at once; more does not make hashing faster.
BLOCK_BYTES = 1024 * 1024
# A file of 4 GiB has 64 chunks: enough to keep cores busy and to say where damage is.
CHUNK_BYTES = 64 * 1024 * 1024

Advance = Callable[[int], object]


def hash_bytes(data: bytes) -> str:
    """Return the SHA-256 of `data` as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def hash_file(path: Path, advance: Advance | None = None) -> str:
    """Return the SHA-256 of a file; `advance` is told of each block's bytes. Raises OSError."""
    return _of_range(path, 0, path.stat().st_size, advance)


def hash_chunks(
    path: Path, chunk_bytes: int = CHUNK_BYTES, advance: Advance | None = None, copy_to: IO[bytes] | None = None
) -> Iterator[str]:
    """Yield the SHA-256 of each `chunk_bytes` of a file, in their order, computed in parallel.

    What is hashed is also written to `copy_to`, at the same place. Raises OSError for what cannot be read, and
    CommandFailed for what cannot be written.
    """
    size = path.stat().st_size
    starts = range(0, size, chunk_bytes)
    with ThreadPoolExecutor(workers()) as pool:
        jobs = [
            pool.submit(_of_range, path, start, min(start + chunk_bytes, size), advance, copy_to) for start in starts
        ]
        try:
            for job in jobs:
                yield job.result()
        finally:
            # The caller may stop at the first difference, or be interrupted: the rest need not be read.
            pool.shutdown(wait=True, cancel_futures=True)


def workers() -> int:
    """Return how many threads can hash at the same time here."""
    return max(1, len(os.sched_getaffinity(0)))


def _of_range(path: Path, start: int, end: int, advance: Advance | None, copy_to: IO[bytes] | None = None) -> str:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        for block in _blocks(file.read, end - start):
            digest.update(block)
            if copy_to is not None:
                with files.telling(Path(copy_to.name)):
                    _write_at(copy_to.fileno(), block, start)
            start += len(block)
            if advance is not None:
                advance(len(block))
    return digest.hexdigest()


def _write_at(descriptor: int, block: bytes, position: int) -> None:
    """Write all of a block: pwrite(2) may write a part of it."""
    view = memoryview(block)
    while view:
        written = os.pwrite(descriptor, view, position)
        view, position = view[written:], position + written


def _blocks(read: Callable[[int], bytes | None], left: int) -> Iterable[bytes]:
    while left > 0:
        block = read(min(BLOCK_BYTES, left))
        if not block:
            return
        left -= len(block)
        yield block
