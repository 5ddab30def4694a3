"""Installs podman itself, when that was asked for: with dnf, from the host's repositories or from a folder of RPMs."""

from __future__ import annotations

from pathlib import Path

from installer.core.runner import Runner

# Some 40 packages from a slow disk, and the relabelling that container-selinux begins.
INSTALL_SECONDS = 1800.0


def install(rpms: Path | None, runner: Runner) -> None:
    """Install podman and what it needs. Raises CommandFailed with dnf's own words.

    With a folder of RPMs, as `dnf download --resolve --alldeps podman` makes one, no repository is asked: dnf
    would wait for those that an air-gapped host cannot reach.
    """
    if rpms is None:
        command = ["dnf", "--assumeyes", "install", "podman"]
    else:
        packages = sorted(str(path) for path in rpms.glob("*.rpm"))
        command = ["dnf", "--assumeyes", "--disablerepo=*", "install", *packages]
    runner.run(
        command,
        timeout=INSTALL_SECONDS,
        remedy="give dnf a repository that has podman (an installation medium, Satellite), or a folder with the RPMs "
        "of podman and all that it needs: --rpms FOLDER; then run the same command again",
    )
