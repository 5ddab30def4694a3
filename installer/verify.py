"""Verifies a bundle against its manifest: what is missing, changed, truncated or extra."""

from __future__ import annotations

from pathlib import Path

from installer import digest, errors, layout, manifest
from installer.console import Console

COPY_AGAIN = "copy it again from the machine that built the bundle and compare it with SHA256SUMS"


def embedded(payload: Path) -> manifest.Manifest:
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
    return path.stat().st_size != expected.size or digest.of_file(path) != expected.sha256


def paths(given: Path, bundle: manifest.Manifest) -> list[Path]:
    """Return where each archive of a bundle should be: `given` is their folder, or the only one, or one of them."""
    if not given.is_dir() and len(bundle.archives) == 1:
        return [given]
    folder = given if given.is_dir() else given.parent
    return [folder / each.name for each in bundle.archives]


def archive(path: Path, expected: manifest.Archive, console: Console) -> None:
    """Verify the image archive, all its bytes, on all processors; stop at the first damaged chunk.

    Raises BundleDamaged when it is missing, of another size, or changed, and says where.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise errors.BundleDamaged(
            f"the image archive {path} cannot be read: {error.strerror}",
            f"copy {expected.name} beside the executable, or name it with --images PATH",
        ) from error
    if size != expected.size:
        raise errors.BundleDamaged(
            f"the image archive {path} is {_compared(size, expected.size)}: it has {size} bytes, not {expected.size}",
            COPY_AGAIN,
        )
    with console.progress("verify images", size) as bar:
        chunks = digest.of_chunks(path, expected.chunk_bytes, bar.update)
        for index, (found, right) in enumerate(zip(chunks, expected.chunks, strict=True)):
            if found != right:
                start = index * expected.chunk_bytes
                end = min(start + expected.chunk_bytes, size)
                raise errors.BundleDamaged(
                    f"the image archive {path} is changed: bytes {start} to {end} are not what was built", COPY_AGAIN
                )


def _compared(size: int, expected: int) -> str:
    return "truncated" if size < expected else "too long, or of another bundle"
