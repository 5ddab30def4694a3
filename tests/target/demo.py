"""`make demo`: builds the sample's bundle, installs it on a target machine and shows the report."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.target import bundle, machine
from tests.target.registry import Registry


def main(work: Path) -> int:
    """Run the whole way once and return the installer's exit code."""
    print("== a registry with the sample's images, and the build on this connected machine", flush=True)
    with Registry(work / "registry") as registry:
        made = bundle.make("sample", bundle.SAMPLE, registry, work)
    print("\n== an air-gapped target machine: systemd, podman, no network; as RHEL 9.6", flush=True)
    folder = work / "machines" / "demo"
    shutil.rmtree(folder, ignore_errors=True)
    with machine.Machine.clone(machine.base_root(work), folder) as target:
        target.push(made.executable, "/root/dify-installer", mode=0o755)
        target.push(made.archive, "/root/dify-images.tar")
        print(f"target# ./dify-installer --ip {machine.ADDRESS}", flush=True)
        return subprocess.run(target.command(f"./dify-installer --ip {machine.ADDRESS}")).returncode


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else bundle.WORK))
