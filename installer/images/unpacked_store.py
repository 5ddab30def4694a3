"""Unpacks the image store where it may not be mounted: for root on a host that forbids squashfs, and for users.

A program of ours does it, `unpack`; a user's runs among his subordinate IDs, as his podman does (docs/decisions/027).
A run that was killed is taken up. What is unpacked serves at once, while the disk still writes it: `on_disk` waits for
that. Where the host went down before, all of it is begun anew.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from installer.bundle import manifest, verify
from installer.core import digest, errors, files, layout, marker
from installer.core.console import Bar, Console, size
from installer.core.runner import PIPE, WITH_STDOUT
from installer.engine.base import Engine
from installer.host.facts import Host
from installer.images import image_store, inventory, unpack
from installer.images.image_store import LABEL, Store

# Of a storage, what says which images and layers it has.
DESCRIPTIONS = "overlay-[il]*/**/*"
SYNC_SECONDS = 3600.0
# Between one write-out and the next.
WRITE_OUT_SECONDS = 1.0


def bring(
    source: Path,
    bundle: manifest.Manifest,
    place: layout.Installation,
    engine: Engine,
    found: Host,
    console: Console,
) -> None:
    """Bring every image of the bundle into podman's sight, from the packed store in `source`, or one unpacked before.

    The disk may not have all of it then: see `on_disk`. Raises BundleDamaged when the store is not what was built,
    CommandFailed when there is no room for it or podman does not see in it what was built; what was changed is as
    before then. After Ctrl-C the next run goes on.
    """
    assert bundle.store is not None
    image_store.clear(place)
    configuration = image_store.read_configuration(engine)
    store = image_store.store_of(place, bundle.store)
    if not store.tree.exists():
        store = dataclasses.replace(store, folder=_choose_folder(place, configuration.graph_root))
    try:
        if not store.is_unpacked:
            _unpack(source, store, bundle, engine, found, console)
        image_store.name(image_store.prove(bundle, store, configuration, engine))
        own = dataclasses.replace(store, folder=place.stores)
        with files.telling(own.file):
            own.file.unlink(missing_ok=True)
    except Exception:
        tidying = dataclasses.replace(engine, runner=engine.runner.for_tidying())
        image_store.remove(store, tidying)
        raise


def _choose_folder(place: layout.Installation, graph_root: Path) -> Path:
    """Return where stores are unpacked: in the install folder, if podman's storage is on the same file system.

    Else in podman's storage: there is the room for images, and what overlay needs of a file system. The marker tells
    where that is. Raises CommandFailed.
    """
    if not graph_root.is_dir() or graph_root.stat().st_dev == place.folder.stat().st_dev:
        return place.stores
    folder = graph_root / f"dify-installer-{digest.hash_bytes(str(place.folder).encode())[:8]}"
    marker.record_stores(place, folder)
    return folder


def unpacked_bytes(bundle: manifest.Manifest) -> int:
    """Return how much room the images of a bundle take."""
    return sum(inventory.layer_sizes(bundle.images, bundle).values())


def _unpack(
    source: Path, store: Store, bundle: manifest.Manifest, engine: Engine, found: Host, console: Console
) -> None:
    """Unpack a store; of what podman reads of it to know its images, the disk has all then."""
    assert bundle.store is not None
    _begin(store, unpacked_bytes(bundle), engine, found)
    request = unpack.Request(
        source=str(source.absolute()),
        folder=str(store.tree),
        size=bundle.store.size,
        chunk_bytes=bundle.store.chunk_bytes,
        chunks=bundle.store.chunks,
        own_ids=os.geteuid() != 0,
        workers=digest.workers(),
    )
    with console.progress("unpack images", bundle.store.size) as bar, _written_out(store, engine):
        failure = _run(request, engine, bar)
    if failure is not None:
        # It says itself what it has found; whether the file is the cause, and where, this tells.
        verify.check_file(source, bundle.store, console)
        raise failure
    for path in sorted(store.tree.glob(DESCRIPTIONS)):
        # Half of one, and no command of podman's would work at the next boot, for nobody's containers.
        if path.is_file():
            files.sync(path)
    files.write(store.note, image_store.boot_id() + image_store.UNPACKED, mode=0o600)


@contextlib.contextmanager
def on_disk(place: layout.Installation, engine: Engine, console: Console) -> Iterator[None]:
    """Let the disk write what was unpacked while the block runs; after that it has it.

    Raises CommandFailed.
    """
    unpacked = [store for store in image_store.list_stores(place) if store.state() == "unpacked"]
    with ThreadPoolExecutor(1) as beside:
        writing = [(store, beside.submit(_sync, store, engine)) for store in unpacked]
        try:
            yield
        except Exception:
            # What has failed is not the images.
            with contextlib.suppress(errors.CommandFailed):
                _await(writing, console)
            raise
        _await(writing, console)


def _await(writing: Sequence[tuple[Store, Future[None]]], console: Console) -> None:
    """Wait until the disk has these stores, and note that it has. Raises CommandFailed."""
    for store, job in writing:
        if not job.done():
            console.waiting("the disk, which writes the images")
        job.result()
        console.waiting("")
        with files.telling(store.note):
            store.note.unlink()


@contextlib.contextmanager
def _written_out(store: Store, engine: Engine) -> Iterator[None]:
    """Let the disk write what the block writes while it does: else it begins at a tenth of the memory."""
    ended = threading.Event()

    def write_out() -> None:
        while not ended.wait(WRITE_OUT_SECONDS):
            _sync(store, engine)

    with ThreadPoolExecutor(1) as beside:
        job = beside.submit(write_out)
        try:
            yield
        finally:
            ended.set()
    job.result()


def _sync(store: Store, engine: Engine) -> None:
    engine.runner.run(["sync", "--file-system", str(store.tree)], timeout=SYNC_SECONDS)


def _begin(store: Store, needed: int, engine: Engine, found: Host) -> None:
    """Make the folder, unless it was begun in this boot: what a power failure leaves half written, nothing tells."""
    if store.state() == "begun":
        return
    if store.tree.exists():
        image_store.remove_tree(store, engine)
    files.folder(store.folder, mode=0o700)
    status = os.statvfs(store.folder)
    if (free := status.f_bavail * status.f_frsize) < needed:
        raise errors.CommandFailed(
            f"the image store needs {size(needed)} in {store.folder} once it is unpacked, and {size(free)} are free",
            f"make {size(needed - free)} of room there",
        )
    files.folder(store.tree, mode=0o700)
    if found.engine.labels:
        # What is made in a folder gets its label.
        with contextlib.suppress(OSError):
            os.setxattr(store.tree, "security.selinux", LABEL.encode() + b"\0")
    files.write(store.note, image_store.boot_id(), mode=0o600)


def _run(request: unpack.Request, engine: Engine, bar: Bar) -> errors.CommandFailed | None:
    """Run the program; return how it failed, if it did."""
    running = layout.executable()
    program = [str(running)] if running else [sys.executable, "-m", "installer"]
    command = engine.as_owner([*program, layout.UNPACK])
    began, words, done = time.monotonic(), [], 0
    try:
        with engine.runner.started(command, stdin=PIPE, stderr=WITH_STDOUT) as child:
            assert child.stdin is not None
            assert child.stdout is not None
            with contextlib.suppress(BrokenPipeError):
                child.stdin.write(unpack.write_request(request))
                child.stdin.flush()
            for line in child.stdout:
                if line.strip().isdecimal():
                    step = min(int(line), request.size - done)
                    bar.update(step)
                    done += step
                else:
                    words.append(line)
            status = child.wait()
    except OSError as error:
        return errors.CommandFailed(f"`{command[0]}` cannot be started: {error.strerror}")
    result = engine.runner.ended(command, status, "".join(words).encode(), time.monotonic() - began)
    return None if result.ok else engine.runner.failure(result)
