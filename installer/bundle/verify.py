"""Verifies a bundle against its manifest: what is missing, changed, truncated or extra."""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from installer.bundle import manifest
from installer.core import digest, errors, layout
from installer.core.console import Console

# A configuration, or the list of the images; a larger one is not read.
LARGEST_TEXT = 16 * 1024 * 1024
COPY_AGAIN = "copy it again from the machine that built the bundle and compare it with SHA256SUMS"


def check_embedded(payload: Path) -> manifest.Manifest:
    """Verify every file that the executable carries and return its manifest.

    Raises BundleDamaged with every fault in one message.
    """
    path = payload / layout.MANIFEST
    try:
        bundle = manifest.loads(path.read_bytes())
    except OSError as error:
        raise errors.BundleDamaged(f"the manifest cannot be read: {error}", COPY_AGAIN) from error
    expected = {file.path: file for file in bundle.files}
    present = {found.relative_to(payload).as_posix() for found in payload.rglob("*") if not found.is_dir()}
    faults = [f"{name} is extra" for name in sorted(present - {layout.MANIFEST} - set(expected))]
    faults += [f"{name} is missing" for name in sorted(set(expected) - present)]
    faults += [
        f"{name} is changed" for name in sorted(present & set(expected)) if _differs(payload / name, expected[name])
    ]
    if faults:
        raise errors.BundleDamaged(f"the executable is damaged: {'; '.join(faults)}", COPY_AGAIN)
    return bundle


def _differs(path: Path, expected: manifest.File) -> bool:
    return path.stat().st_size != expected.size or digest.hash_file(path) != expected.sha256


def archive_paths(given: Path, bundle: manifest.Manifest) -> list[Path]:
    """Return where each archive of a bundle should be: `given` is their folder, or the only one, or one of them."""
    if not given.is_dir() and len(bundle.archives) == 1:
        return [given]
    folder = given if given.is_dir() else given.parent
    return [folder / each.name for each in bundle.archives]


def check_bundle(given: Path, bundle: manifest.Manifest, console: Console) -> list[str]:
    """Verify all bytes of every file beside the executable; return their names.

    Images are in the archives and, if the bundle was built with one, in the store: one of the two may have been left
    behind. Raises BundleDamaged.
    """
    found: list[tuple[Path, manifest.BigFile]] = list(zip(archive_paths(given, bundle), bundle.archives, strict=True))
    if bundle.store is not None and (beside := store_path(given, bundle.store)).is_file():
        here = [pair for pair in found if pair[0].is_file()]
        found = [*(found if here else []), (beside, bundle.store)]
    for path, expected in found:
        check_file(path, expected, console)
    return [path.name for path, _ in found]


def store_path(given: Path, described: manifest.BigFile) -> Path:
    """Return where the image store of a bundle should be: in the folder of its archives."""
    return (given if given.is_dir() else given.parent) / described.name


def check_file(
    path: Path,
    expected: manifest.BigFile,
    console: Console,
    label: str = "verify images",
    copy_to: IO[bytes] | None = None,
    clone: Path | None = None,
) -> None:
    """Verify an image archive or store, all its bytes, on all processors; stop at the first damaged chunk.

    What is verified is written to `copy_to`, if one is given. The bytes of a `clone` are verified in place of `path`'s.
    Raises BundleDamaged when it is missing, of another size, or changed, and says where; CommandFailed when it cannot
    be copied.
    """
    size = _size(clone or path, expected)
    with console.progress(label, size) as bar:
        chunks = digest.hash_chunks(clone or path, expected.chunk_bytes, bar.update, copy_to)
        try:
            for number, (found, right) in enumerate(zip(chunks, expected.chunks, strict=True)):
                if found != right:
                    start = number * expected.chunk_bytes
                    end = min(start + expected.chunk_bytes, size)
                    raise _changed(path, f"bytes {start} to {end} are not what was built")
        except OSError as error:
            raise errors.BundleDamaged(f"{path} cannot be read: {error.strerror}", COPY_AGAIN) from error


def check_index(path: Path, expected: manifest.Archive, images: Sequence[manifest.Image]) -> None:
    """Verify an image archive but for the content of its layers: its size, its members, the configurations.

    That is what makes podman's own proof ours: podman compares every layer with its SHA-256 in the configuration
    before it unpacks it (containers/image, copy/digesting_reader.go and storage/storage_dest.go), and the
    configuration is the one that was built, which is proved here. `images` are those of the archive, in their order.
    Raises BundleDamaged.
    """
    size = _size(path, expected)
    content = {layout.ARCHIVE_INDEX: digest.hash_bytes(manifest.archive_index(images))}
    content |= {f"{image.id}.json": image.id for image in images}
    layers = {f"{layer}.tar" for image in images for layer in image.layers}
    left = {*content, *layers}
    try:
        with tarfile.open(path, "r:") as members:
            for member in members:
                if member.name not in left or not member.isreg():
                    raise _changed(path, f"{member.name!r} does not belong into it")
                left.discard(member.name)
                if member.name in layers:
                    _require_inside(member, size, path)
                elif not _is(members.extractfile(member), member.size, content[member.name]):
                    raise _changed(path, f"{member.name} is not what was built")
    except (tarfile.TarError, OSError) as error:
        raise _changed(path, str(error)) from error
    if left:
        raise _changed(path, f"{min(left)} is missing in it")


def _size(path: Path, expected: manifest.BigFile) -> int:
    """Return the size of a file, which is the one expected. Raises BundleDamaged."""
    try:
        size = path.stat().st_size
    except OSError as error:
        remedy = f"copy {expected.name} beside the executable, or name it with --images PATH"
        if isinstance(expected, manifest.Archive):
            remedy += "; docker needs it, and a bundle without it is made with it by `make bundle IMAGES=both`"
        raise errors.BundleDamaged(f"{path} cannot be read: {error.strerror}", remedy) from error
    if size != expected.size:
        raise errors.BundleDamaged(
            f"{path} is {_compared(size, expected.size)}: it has {size} bytes, not {expected.size}",
            COPY_AGAIN,
        )
    return size


def _require_inside(member: tarfile.TarInfo, size: int, path: Path) -> None:
    if member.offset_data + member.size > size:
        raise _changed(path, f"{member.name} goes beyond its end")


def _is(content: IO[bytes] | None, size: int, sha256: str) -> bool:
    return content is not None and size <= LARGEST_TEXT and digest.hash_bytes(content.read()) == sha256


def _changed(path: Path, how: str) -> errors.BundleDamaged:
    return errors.BundleDamaged(f"{path} is changed: {how}", COPY_AGAIN)


def _compared(size: int, expected: int) -> str:
    return "truncated" if size < expected else "too long, or of another bundle"
