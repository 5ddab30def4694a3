"""`make demo`: builds the sample's bundle, installs it on a target machine and shows the report."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from build import glibc_floor
from tests.target import bundle, machine, steps
from tests.target.registry import Registry


def main(work: Path) -> int:
    """Run the whole way once and return the installer's exit code."""
    steps.say(
        "the demo: a bundle of the sample is built here and installed on an air-gapped machine, in some 3 minutes"
    )
    with ThreadPoolExecutor(1) as beside:
        base = beside.submit(machine.base_root, work)
        made = make_bundle(work)
        root = base.result()
    steps.say(
        "an air-gapped target machine boots: systemd, podman, no network; it says that it is RHEL 9.6 (about 5 s)"
    )
    folder = work / "machines" / "demo"
    shutil.rmtree(folder, ignore_errors=True)
    with machine.Machine.clone(root, folder) as target:
        target.push(made.executable, "/root/dify-installer", mode=0o755)
        target.push(made.archive, "/root/dify-images.tar")
        steps.say("the installer runs on it (about 15 s; its log is the last line but one)")
        print(f"target# ./dify-installer --ip {machine.ADDRESS}", flush=True)
        status = subprocess.run(target.command(f"./dify-installer --ip {machine.ADDRESS}")).returncode
        steps.say("the demo is over: the target machine is switched off and removed")
        return status


def make_bundle(work: Path) -> bundle.Bundle:
    """Build the sample's bundle, frozen with this machine's own Python where the target can run that."""
    options = ["--own-python"] if glibc_floor.of_this_machine() <= machine.GLIBC else []
    if options:
        steps.say(
            f"for the demo alone, the executable is frozen with this machine's Python {platform.python_version()}; "
            "`make bundle` freezes with a portable CPython, which it builds"
        )
    with Registry(work / "registry") as registry:
        made = bundle.prepare("sample", bundle.SAMPLE, registry, work)
        log = work / "build.log"
        with steps.step("the build: pull, save, collect wheels, freeze, check", 45, log):
            command = bundle.command(made, work, *options)
            env = {**bundle.environment(registry), **bundle.containers_conf(work)}
            steps.show(bundle.contained(command), log, cwd=bundle.ROOT, env=env)
    return made


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else bundle.WORK))
