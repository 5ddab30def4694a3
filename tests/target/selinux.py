"""`make selinux RIG=PATH`: the whole installation on a virtual machine with SELinux enforcing, rootful and rootless.

The rig is a folder with `vmctl` and `mkvm.sh` for a machine whose policy denies a bind mount without a label, as
RHEL's does. The machine is emulated: each installation takes some ten minutes, so this is no part of `make test`. Needs
`make demo` to have made a bundle, or any other with `DIST=PATH`. With an image store root gets that and no archive, and
once more where squashfs is forbidden; the user gets it where there is no archive.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

from installer.core import layout
from tests.target import bundle

FEATURES = {
    "SELinux enforcing, rootful and rootless": "works; bind mounts are labelled",
    "SELinux enforcing, a bundle with an image store": "works; as container_ro_file_t where that is allowed",
    "SELinux, an install folder that must keep its labels": "refused: `--dir /opt/dify`",
}
ADDRESS = "10.0.2.15"
USERS = {
    "root": ("/root", "/opt/dify", []),
    "dify": ("/home/dify", "/home/dify/dify", ["--port", "8080", "--https-port", "8443"]),
}
# What podman-compose may take on the emulated machine, in seconds.
HEALTHY_SECONDS = 2400
# PostgreSQL asks for huge pages (`huge_pages = try`) and does without: no file of ours, and no fault.
PROBED = "tcontext=system_u:object_r:hugetlbfs_t"
# Our first question, whether the store may be given a label at its mount.
ASKED = '{ relabelfrom } for .* comm="mount"'
# As CIS has it ("Ensure squashfs kernel module is not available").
NO_SQUASHFS = "echo 'install squashfs /bin/false' > /etc/modprobe.d/cis.conf; modprobe --remove squashfs; true"
# What the api compiles after the workers have begun has its own categories under this policy: they compile for
# themselves (docs/hosts.md, "SELinux").
COMPILED = r'denied  \{ (read|unlink) \} for .* comm="python3" name="[^"]*\.pyc" .* tcontext=\S*:container_file_t:'
DENIALS = "grep -a 'denied.*permissive=0' /var/log/audit/audit.log || true"


class Rig:
    """The virtual machine; everything of it lies below `work`."""

    def __init__(self, folder: Path, work: Path) -> None:
        self.folder, self.work = folder, work

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(self.folder / "vmctl"), *arguments]
        return subprocess.run(command, env=self._environment(), capture_output=True, text=True, errors="replace")

    def make(self) -> None:
        """Make the machine's image, once (five minutes)."""
        if not (self.work / "image/manifest").exists():
            subprocess.run([str(self.folder / "mkvm.sh")], env=self._environment(), check=True)

    def run(self, user: str, command: str, *, seconds: float = 300, status: int | None = 0) -> str:
        """Run a shell line inside and return what it printed; fail when it ends with another status."""
        result = self("exec", "-u", user, "--timeout", f"{seconds:.0f}", command)
        if status is not None and result.returncode != status:
            raise SystemExit(f"{command}: status {result.returncode}\n{result.stdout}\n{result.stderr}")
        return result.stdout + result.stderr

    def denials(self) -> list[str]:
        """Return the kernel's denials since the machine booted."""
        return self.run("root", DENIALS).splitlines()

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "WORKDIR": str(self.work)}


def prove(rig: Rig, dist: Path, user: str, *, cis: bool = False) -> None:
    """Install as this user on a fresh machine; fail unless all is healthy and nothing was denied.

    With `cis` the machine forbids squashfs, and root unpacks the store.
    """
    home, folder, options = USERS[user]
    rig("destroy")
    started = rig("start", "--fresh", "--net", "lan", "-o", "os=rhel9.6")
    if started.returncode != 0:
        raise SystemExit(f"the machine does not start: {started.stderr}")
    stored = (dist / layout.STORE).exists() and (user == "root" or not (dist / layout.IMAGES).exists())
    mounted = stored and user == "root" and not cis
    files = [dist / layout.EXECUTABLE, dist / (layout.STORE if stored else layout.IMAGES)]
    pushed = rig("push", "-u", user, *map(str, files), home)
    if pushed.returncode != 0:
        raise SystemExit(pushed.stderr)
    assert rig.run("root", "getenforce").strip() == "Enforcing"
    if cis:
        rig.run("root", NO_SQUASHFS)
    who = f"{user}, without squashfs" if cis else user
    print(f"== {who}: {rig.run(user, 'podman --version').strip()}, SELinux enforcing", flush=True)
    refused = rig.run(user, f"./dify-installer preflight --ip {ADDRESS} --dir /usr/dify", status=4)
    assert "files in /usr/dify must keep their labels" in refused, refused
    before = rig.denials()
    arguments = " ".join(["--ip", ADDRESS, "--timeout", str(HEALTHY_SECONDS), *options])
    begun = time.monotonic()
    print(rig.run(user, f"./dify-installer {arguments}", seconds=HEALTHY_SECONDS + 600), flush=True)
    if mounted:
        # The reference policy's mount may give no label, RHEL's may (installer/store.py); it runs in both cases.
        shown = rig.run(user, "findmnt --noheadings --types squashfs --output TARGET,OPTIONS")
        assert "/opt/dify/stores/" in shown, shown
        print(f"== mounted: {shown.strip()}", flush=True)
    elif stored:
        tree = rig.run(user, f"ls -dZ {folder}/stores/*").strip()
        assert rig.run(user, "podman images --quiet --filter readonly=false").strip() == ""
        print(f"== unpacked: {tree}", flush=True)
    print(f"== installed in {(time.monotonic() - begun) / 60:.0f} minutes", flush=True)
    assert "run already" in rig.run(user, f"./dify-installer {arguments}", seconds=600)
    since = rig.denials()[len(before) :]
    compiled = [line for line in since if re.search(COMPILED, line)]
    denied = [line for line in since if PROBED not in line and not (mounted and re.search(ASKED, line))]
    denied = [line for line in denied if line not in compiled]
    assert not denied, "\n".join(denied)
    labels = rig.run(user, f"grep -cE ':[zZ]$' {folder}/docker/dify-compose.yaml").strip()
    asked = len(since) - len(compiled)
    print(f"== what the api has compiled was not read {len(compiled)} times")
    print(f"== nothing was denied but PostgreSQL's {asked} questions for huge pages; {labels} bind mounts are labelled")
    # The control: without a label the same mount is denied, and the denial is seen.
    unlabelled = "mkdir -p ~/unlabelled && echo x > ~/unlabelled/file && IMAGE=$(podman images -q | tail -1) && "
    unlabelled += "podman run --rm --entrypoint '[\"/bin/cat\"]' -v ~/unlabelled:/mnt $IMAGE /mnt/file"
    assert "Permission denied" in rig.run(user, unlabelled, status=1)
    assert len(rig.denials()) > len(before)
    print("== the control, a mount without a label, was denied", flush=True)


def main(rig_folder: Path, work: Path, dist: Path) -> None:
    """Prove both ways on a rig."""
    rig = Rig(rig_folder.resolve(), work.resolve())
    rig.make()
    try:
        for user in USERS:
            prove(rig, dist, user)
        if (dist / layout.STORE).exists():
            prove(rig, dist, "root", cis=True)
    finally:
        rig("destroy")


if __name__ == "__main__":
    default = bundle.WORK / "dist-sample"
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]) if len(sys.argv) > 3 else default)
