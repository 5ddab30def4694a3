"""An image store is read without the kernel, and unpacked with all that a layer is made of.

`recorded/tree.squashfs` was made of CONTENT, and of what the first test says, by
`mksquashfs TREE FILE -b 4096 -comp zstd -Xcompression-level 15 -mkfs-time 0 -nopad`.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from installer.core import errors, layout
from installer.images import squashfs, unpack

STORE = Path(__file__).parent / "recorded/tree.squashfs"
ROOT = Path(__file__).resolve().parent.parent.parent
LINES = b"".join(b"line %d\n" % number for number in range(1200))
CONTENT = {
    "folder/blocks": LINES,
    "folder/same": LINES,
    "folder/small": b"small\n",
    "folder/inner/other": b"other\n",
    "folder/nothing": b"",
    "folder/random": b"".join(hashlib.sha256(bytes([number])).digest() for number in range(150)),
    "hole": bytes(20000) + b"end",
}
SECONDS = 10**9
Asked = Callable[..., unpack.Request]


@pytest.fixture
def installer() -> Iterator[None]:
    """An installer that has started this program, and does not end: it has the other end of standard input."""
    before, (read, write) = os.dup(0), os.pipe()
    os.dup2(read, 0)
    yield
    os.dup2(before, 0)
    for each in (before, read, write):
        os.close(each)


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installer: None) -> Asked:
    """Ask for the recorded store, in the working directory; owners and attributes are noted: only root may set them."""
    folder = tmp_path / "out"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def asked(source: Path = STORE, *, own_ids: bool = True, chunk_bytes: int = 1000) -> unpack.Request:
        data = STORE.read_bytes()
        chunks = (data[start : start + chunk_bytes] for start in range(0, len(data), chunk_bytes))
        return unpack.Request(
            source=str(source),
            folder=str(folder),
            size=len(data),
            chunk_bytes=chunk_bytes,
            chunks=tuple(hashlib.sha256(chunk).hexdigest() for chunk in chunks),
            own_ids=own_ids,
            workers=2,
        )

    return asked


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[object]]:
    """What was to be done that only root may do: by the name of the function, its arguments but for the file's own."""
    calls: dict[str, list[object]] = {name: [] for name in ("chown", "fchown", "setxattr")}
    for name, found in calls.items():
        monkeypatch.setattr(os, name, lambda *given, _found=found, **_named: _found.append(given))
    return calls


def nodes() -> dict[str, squashfs.Node]:
    data = STORE.read_bytes()
    source = SimpleNamespace(read=lambda position, size: data[position : position + size])
    return {os.fsdecode(node.path): node for node in squashfs.Reader(source).walk()}


def test_everything_that_a_layer_has_is_read() -> None:
    found = nodes()
    assert list(found)[:2] == ["", "folder"]
    assert {name for name, node in found.items() if node.content} == {*CONTENT, "hard"}
    assert all(
        node.content.size == len(CONTENT[name]) for name, node in found.items() if node.content and name in CONTENT
    )
    assert found["hard"].inode == found["folder/small"].inode
    assert (found["folder/small"].uid, found["folder/small"].gid) == (1001, 33)
    assert stat.filemode(found["folder/blocks"].mode) == "-rwsr-xr-x"
    assert stat.filemode(found["folder/inner"].mode) == "drwxr-s---"
    assert found["soft"].target == b"folder/small"
    assert stat.S_ISFIFO(found["pipe"].mode)
    assert (stat.S_ISCHR(found["folder/.white"].mode), found["folder/.white"].device) == (True, 0)
    assert found["null"].device == 0x103
    long = (b"user.long", b"v" * 200)
    assert set(found["folder"].xattrs) == {(b"trusted.overlay.opaque", b"y"), long}
    assert found["folder/inner"].xattrs == (long,)
    assert {node.mtime for node in found.values()} == {SECONDS}


@pytest.mark.parametrize("chunk_bytes", [1000, 64 * 1024**2])
def test_it_is_unpacked_as_it_was(asked: Asked, noted: dict[str, list[object]], chunk_bytes: int) -> None:
    unpack.unpack(asked(chunk_bytes=chunk_bytes))
    assert {name: Path(name).read_bytes() for name in CONTENT} == CONTENT
    assert Path("hard").samefile("folder/small")
    assert Path("soft").readlink() == Path("folder/small")
    assert stat.filemode(Path("folder/blocks").stat().st_mode) == "-rwsr-xr-x"
    assert stat.filemode(Path("folder/inner").stat().st_mode) == "drwxr-s---"
    assert Path("hole").stat().st_blocks * 512 < 20000
    white = Path("folder/.white").lstat()
    assert (stat.S_ISCHR(white.st_mode), white.st_rdev) == (True, 0)
    assert {path.lstat().st_mtime_ns for path in Path().rglob("*")} == {SECONDS * 10**9}
    # What tells overlay that a folder hides those below: a user may not set root's.
    assert (b"folder", b"user.overlay.opaque", b"y") in noted["setxattr"]


def test_root_keeps_the_attributes_of_root(asked: Asked, noted: dict[str, list[object]]) -> None:
    Path("folder").mkdir()
    unpack._describe(b"folder", nodes()["folder"], asked(own_ids=False))
    assert (b"folder", b"trusted.overlay.opaque", b"y") in noted["setxattr"]


def test_a_user_does_without_devices_but_not_without_whiteouts(
    asked: Asked, noted: dict[str, list[object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_given: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "mknod", refused)
    found = nodes()
    unpack._make_special(found["null"], asked())
    assert not Path("null").exists()
    Path("folder").mkdir()
    with pytest.raises(PermissionError):
        unpack._make_special(found["folder/.white"], asked())
    with pytest.raises(PermissionError):
        unpack._make_special(found["null"], asked(own_ids=False))
    assert noted["chown"] == []


def test_what_is_whole_stays_and_what_is_not_is_written_again(asked: Asked, noted: dict[str, list[object]]) -> None:
    unpack.unpack(asked())
    whole = Path("folder/blocks").stat().st_ino
    half = Path("folder/same")
    os.truncate(half, 5000)
    # A file of another time was not finished: its time is set last.
    os.utime("folder/random", (1, 1))
    Path("folder/small").unlink()
    unpack.unpack(asked())
    assert {name: Path(name).read_bytes() for name in CONTENT} == CONTENT
    assert Path("folder/blocks").stat().st_ino == whole
    assert Path("hard").samefile("folder/small")
    assert noted["fchown"] == []


@pytest.mark.parametrize("position", [0, 0.4, 0.999])
def test_not_one_damaged_byte_is_looked_at(
    asked: Asked, noted: dict[str, list[object]], tmp_path: Path, position: float, capfd: pytest.CaptureFixture[str]
) -> None:
    data = bytearray(STORE.read_bytes())
    data[int(len(data) * position)] ^= 1
    source = tmp_path / "damaged"
    source.write_bytes(data)
    with pytest.raises((squashfs.Damaged, errors.CommandFailed)) as raised:
        unpack.unpack(asked(source))
    # Each process tells what it has found.
    assert "are not what was built" in f"{raised.value}{capfd.readouterr().err}"
    assert noted["chown"] == []


def test_another_format_is_refused() -> None:
    for data, told in ((b"hsqs", "too short"), (bytes(200), "no squashfs 4.0 with zstd")):
        source = io.BytesIO(data)
        with pytest.raises(squashfs.Damaged, match=told):
            squashfs.Reader(SimpleNamespace(read=lambda _position, size, source=source: source.read(size)))


def test_it_ends_when_the_installer_does(asked: Asked) -> None:
    program = [sys.executable, "-m", "installer", layout.UNPACK]
    line = unpack.write_request(asked())
    ended = subprocess.run(program, cwd=ROOT, input=line, text=True, capture_output=True, check=False)
    # Its input has ended before the first file: nothing is unpacked any more.
    assert ended.returncode == 1
    assert not Path("folder/blocks").exists()
