"""A backup that is encrypted: only its key opens it, and what is damaged is never taken."""

from __future__ import annotations

import errno
import io
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pyrage
import pytest

from installer.backup import encryption, file, split
from installer.commands import backup
from installer.core import errors
from tests.unit.test_backup import HEAD, told

CONTENT = os.urandom(3_000_000)
Key = tuple[str, Path]


def of_age(folder: Path) -> Key:
    made = pyrage.x25519.Identity.generate()
    private = folder / "key.txt"
    private.write_text(f"# created: today\n# public key: {made.to_public()}\n{made}\n")
    return str(made.to_public()), private


def of_ssh(folder: Path, passphrase: str = "") -> Key:
    private = folder / "id_ed25519"
    private.unlink(missing_ok=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-f", str(private)], check=True)
    return str(private.with_suffix(".pub")), private


def write(path: Path, public: str, content: bytes = CONTENT, largest: int | None = None) -> Path:
    with file.writing(path, HEAD, largest, encryption.read_recipients(public)) as writer:
        writer.add("settings", [b"SECRET_KEY=hidden"], told)
        writer.add("files/app", file.in_pieces(io.BytesIO(content)), told)
    return path


@pytest.mark.parametrize("make", [of_age, of_ssh])
@pytest.mark.parametrize("largest", [None, split.SMALLEST])
def test_what_was_encrypted_is_read_with_its_key(
    tmp_path: Path, make: Callable[[Path], Key], largest: int | None
) -> None:
    public, private = make(tmp_path)
    path = write(tmp_path / "b.tar.zst.age", public, largest=largest)
    found = split.find(path)
    assert (len(found) > 1) == bool(largest)
    assert b"hidden" not in b"".join(each.read_bytes() for each in found)
    with file.reading(path, identity=private) as reader:
        assert {name: b"".join(pieces) for name, pieces in reader} == {
            "settings": b"SECRET_KEY=hidden",
            "files/app": CONTENT,
        }
    if largest:
        assert split.find(found[1]) == found


def test_without_its_key_it_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "b", of_age(tmp_path)[0])
    with pytest.raises(errors.BackupRefused, match="b is encrypted") as refused:
        file.verify(path, told)
    assert "--identity" in refused.value.remedy
    _, other = of_ssh(tmp_path)
    with pytest.raises(errors.BackupRefused, match="is not the key that"):
        file.verify(path, told, other)


@pytest.mark.parametrize("place", [40, 1_000_000, -20_000, -1])
def test_one_that_is_damaged_is_refused(tmp_path: Path, place: int) -> None:
    public, private = of_age(tmp_path)
    path = write(tmp_path / "b", public)
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(errors.BackupRefused):
        file.verify(path, told, private)
    path.write_bytes(content[:place])
    with pytest.raises(errors.BackupRefused):
        file.verify(path, told, private)


def test_the_reader_may_stop_anywhere(tmp_path: Path) -> None:
    public, private = of_age(tmp_path)
    path = write(tmp_path / "b", public)
    for _ in range(3):
        with file.reading(path, identity=private) as reader:
            assert next(iter(reader))[0] == "settings"


class Full(io.RawIOBase):
    """A disk that fills."""

    def __init__(self) -> None:
        self.left = 1_000_000

    def writable(self) -> bool:
        return True

    def write(self, content: object, /) -> int:
        size = len(content)  # type: ignore[arg-type]
        self.left -= size
        if self.left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return size


def test_a_disk_that_fills_is_told_as_that(tmp_path: Path) -> None:
    recipients = encryption.read_recipients(of_age(tmp_path)[0])
    with pytest.raises(OSError, match="No space left") as failed:  # noqa: SIM117 - the inner one fails
        with encryption.encrypting(Full(), recipients) as stream:  # type: ignore[arg-type]
            for _ in range(10):
                stream.write(CONTENT)
    assert failed.value.errno == errno.ENOSPC


def test_an_error_of_the_block_goes_through(tmp_path: Path) -> None:
    recipients = encryption.read_recipients(of_age(tmp_path)[0])
    with pytest.raises(BrokenPipeError, match="another"), encryption.encrypting(io.BytesIO(), recipients):
        raise BrokenPipeError("another")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "has no public key"),
        (b"age1nonsense", "is no public key"),
        (b"\xff\xfe", "cannot be read: it is no text"),
        (b"-----BEGIN OPENSSH PRIVATE KEY-----\nabc\n", "is a private key"),
    ],
)
def test_what_is_no_public_key_is_refused(tmp_path: Path, content: bytes, why: str) -> None:
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(errors.UsageError, match=why):
        encryption.read_recipients(str(tmp_path / "key"))


def test_a_private_key_in_its_place_is_not_shown(tmp_path: Path) -> None:
    private = of_age(tmp_path)[1]
    with pytest.raises(errors.UsageError) as refused:
        encryption.read_recipients(str(private))
    assert "AGE-SECRET" not in f"{refused.value.message} {refused.value.remedy}"


def test_a_private_key_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "b", of_ssh(tmp_path)[0])
    _, locked = of_ssh(tmp_path, "passphrase")
    with pytest.raises(errors.UsageError, match="no private key that can be used") as refused:
        file.verify(path, told, locked)
    assert "ssh-keygen -p" in refused.value.remedy
    with pytest.raises(errors.UsageError, match="has no private key"):
        file.verify(path, told, path.parent / "id_ed25519.pub")
    with pytest.raises(errors.UsageError, match="cannot be read"):
        file.verify(path, told, path.parent / "missing")


def test_only_the_noted_ones_of_those_that_tell_nothing_are_removed(tmp_path: Path) -> None:
    public, _ = of_age(tmp_path)
    made = [write(tmp_path / f"{backup.PREFIX}{number}{split.ENCRYPTED}", public, b"x") for number in range(3)]
    for number, path in enumerate(made):
        os.utime(path, (number, number))
    newest = write(tmp_path / f"{backup.PREFIX}9{split.ENCRYPTED}", public, largest=split.SMALLEST)
    noted = [str(each) for each in (made[0], made[1], newest)]
    assert backup.remove_old(newest, 2, HEAD, noted) == [made[0].name]
    assert made[2].exists()
