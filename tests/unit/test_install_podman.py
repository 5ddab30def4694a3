"""What dnf is told when podman is to be installed, and what is said of packages that are not signed."""

from __future__ import annotations

from pathlib import Path

import pytest

from installer.core import errors
from installer.engine import install_podman
from tests.unit.test_boot import called, program

# dnf 4.14 and dnf 5.2, in their own words.
REFUSALS = [
    "Package podman-5.4.2-1.x86_64.rpm is not signed\nError: GPG check FAILED",
    "Public key for podman-5.4.2-1.x86_64.rpm is not installed\nError: GPG check FAILED",
    "Signature verification failed.\nOpenPGP check for package podman has failed: No corresponding key was found.",
]


def test_packages_from_a_folder_must_be_signed(tmp_path: Path) -> None:
    (tmp_path / "podman.rpm").touch()
    install_podman.install(tmp_path, program(tmp_path, "dnf"))
    (line,) = called(tmp_path)
    words = line.split()
    assert "--setopt=localpkg_gpgcheck=1" in words[: words.index("install")]
    assert "--disablerepo=*" in words


@pytest.mark.parametrize("said", REFUSALS)
def test_a_missing_key_has_its_own_remedy(tmp_path: Path, said: str) -> None:
    (tmp_path / "said").write_text(said)
    runner = program(tmp_path, "dnf", f"cat {tmp_path}/said >&2; exit 1")
    with pytest.raises(errors.CommandFailed) as told:
        install_podman.install(tmp_path, runner)
    assert "rpm --import" in told.value.remedy
    with pytest.raises(errors.CommandFailed) as told:
        install_podman.install(None, runner)
    assert "rpm --import" not in told.value.remedy
