"""Packs plugins into an image of their own, which rides in the archive as every other image does.

So they are in the two files that are copied, are proved by the layer's SHA-256, take no time at the executable's start,
and also reach a store, a differential bundle or a registry (docs/decisions/015).
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from build import archive
from build.failure import BuildError
from build.images import Pulled
from build.spec import EPOCH
from build.store import CREATED
from installer.bundle import manifest
from installer.core import digest, files, layout
from installer.core.runner import Runner

LOAD_SECONDS = 600.0


def make(
    contents: Mapping[str, bytes], architecture: manifest.Architecture, program: str, work: Path, runner: Runner
) -> Pulled:
    """Load an image that holds these files (relative path -> content) below `/plugins` into the engine.

    The same files give the same image. Raises CommandFailed when the engine or the disk fails.
    """
    layer = _layer(contents)
    diff_id = digest.hash_bytes(layer)
    reference = f"{layout.PLUGINS_IMAGE}:{diff_id[:12]}"
    path = work / "plugins-image.tar"
    with files.replacing(path) as file:
        writer = archive.Writer(work, file, frozenset())
        archive.add_layer(writer, io.BytesIO(layer))  # type: ignore[arg-type]
        identity = archive.add_config(writer, _config(diff_id, architecture))
        described = manifest.Image(
            reference=reference, id=identity, digest="", size=len(layer), layers=(diff_id,), archive=0, index=0
        )
        archive.finish(writer, [described])
    result = runner.run([program, "load", "--quiet", "--input", str(path)], timeout=LOAD_SECONDS, check=False)
    path.unlink()
    if not result.ok:
        raise BuildError(f"{program} cannot load the image of the plugins: {runner.mask(result.last_words)}")
    return Pulled(reference=reference, id=identity, digest="", size=len(layer), created=CREATED)


def _layer(contents: Mapping[str, bytes]) -> bytes:
    made = io.BytesIO()
    folder = layout.PLUGINS_INSIDE.removeprefix("/")
    write_tar(made, {f"{folder}/{name}": content for name, content in sorted(contents.items())})
    return made.getvalue()


def write_tar(file: IO[bytes], contents: Mapping[str, bytes]) -> None:
    """Write files into a tar, in their order; the same files give the same bytes."""
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in contents.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = len(content), 0o444, int(EPOCH)
            tar.addfile(entry, io.BytesIO(content))


def _config(diff_id: str, architecture: manifest.Architecture) -> bytes:
    # It is never run, and still needs a command: `docker create` refuses an image without one.
    config = {
        "architecture": architecture,
        "os": "linux",
        "created": CREATED,
        "config": {"Cmd": ["/none"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{diff_id}"]},
        "history": [{"created": CREATED, "created_by": "dify-installer"}],
    }
    return json.dumps(config, sort_keys=True, separators=(",", ":")).encode()
