"""Installs podman itself, when that was asked for: with dnf, from the host's repositories or from a folder of RPMs."""

from __future__ import annotations

import re
from pathlib import Path

from installer.core.runner import Runner

# Some 40 packages from a slow disk, and the relabelling that container-selinux begins.
INSTALL_SECONDS = 1800.0
# dnf checks no signature of a package in a file unless it is told to (dnf.conf(5), localpkg_gpgcheck: "The default is
# False"); the files have come by some medium, and are installed as root.
SIGNED = "--setopt=localpkg_gpgcheck=1"
# What dnf 4 and dnf 5 say of a package whose signature is missing, of an unknown key, or wrong.
UNSIGNED = re.compile(
    r"is not signed|not installed\. Failing package|public key for .* is not installed|gpg check failed"
    r"|signature verification failed|no corresponding key",
    re.IGNORECASE,
)
IMPORT_KEYS = (
    "if these packages are from your distribution, import the key that it signs with, then run the same command again: "
    "`rpm --import /etc/pki/rpm-gpg/RPM-GPG-KEY-redhat-release` on RHEL (`ls /etc/pki/rpm-gpg` shows those of others); "
    "`rpm --checksig *.rpm` shows which package is at fault. An unsigned package is not installed"
)


def install(rpms: Path | None, runner: Runner) -> None:
    """Install podman and what it needs. Raises CommandFailed with dnf's own words.

    With a folder of RPMs, as `dnf download --resolve --alldeps podman` makes one, no repository is asked: dnf
    would wait for those that an air-gapped host cannot reach. Each package must be signed with a key that rpm knows.
    """
    if rpms is None:
        command = ["dnf", "--assumeyes", "install", "podman"]
    else:
        packages = sorted(str(path) for path in rpms.glob("*.rpm"))
        command = ["dnf", "--assumeyes", "--disablerepo=*", SIGNED, "install", *packages]
    result = runner.run(command, timeout=INSTALL_SECONDS, check=False)
    if rpms is not None and not result.ok and UNSIGNED.search(f"{result.stdout}\n{result.stderr}"):
        raise runner.failure(result, IMPORT_KEYS)
    if not result.ok:
        raise runner.failure(
            result,
            "give dnf a repository that has podman (an installation medium, Satellite), or a folder with the RPMs of "
            "podman and all that it needs: --rpms FOLDER; then run the same command again",
        )
