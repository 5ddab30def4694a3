"""Runs the playbook in ansible/ against machines over real ssh, whose server is started there for each connection.

The machines have no way out and no way in; a connection's bytes go through the command's own input and output.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.target import machine as machines
from tests.target.machine import Machine

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER = ROOT / "ansible"
LOCK = ROOT / "specs/ansible.lock"


def environment(work: Path) -> Path:
    """Return the folder of the programs of ansible-core and ansible-lint, installed once from specs/ansible.lock."""
    folder = work / "ansible"
    complete = folder / "complete"
    if not complete.is_file() or complete.read_text() != LOCK.read_text():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        command = [str(folder / "bin/pip"), "install", "--quiet", "--disable-pip-version-check", "--require-hashes"]
        subprocess.run([*command, "--requirement", str(LOCK)], check=True)
        complete.write_text(LOCK.read_text())
    return folder / "bin"


class Fleet:
    """Machines by their names in an inventory, reached by ssh as root with a key of `folder`."""

    def __init__(
        self, programs: Path, folder: Path, hosts: Mapping[str, Machine], variables: Mapping[str, Any]
    ) -> None:
        self._programs, self._folder = programs, folder
        self.reports = folder / "reports"
        key = folder / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        listed = {}
        for name, machine in hosts.items():
            machine.path("/root/.ssh").mkdir(mode=0o700, exist_ok=True)
            machine.path("/root/.ssh/authorized_keys").write_text(key.with_suffix(".pub").read_text())
            machine.run("mkdir -p /run/sshd")
            proxy = shlex.join(machine.command(["/usr/sbin/sshd", "-i", "-o", "UsePAM=no"]))
            options = (
                f"-o ProxyCommand={shlex.quote(proxy)} -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
            )
            listed[name] = {"ansible_ssh_common_args": options}
        inventory = {
            "dify": {
                "hosts": listed,
                "vars": {
                    "ansible_user": "root",
                    "ansible_ssh_private_key_file": str(key),
                    "ansible_python_interpreter": "/usr/bin/python3",
                    "dify_address": machines.ADDRESS,
                    "dify_reports": str(self.reports),
                    **variables,
                },
            }
        }
        # JSON is YAML.
        (folder / "inventory.yml").write_text(json.dumps(inventory))

    def play(self, *options: str) -> tuple[subprocess.CompletedProcess[str], dict[str, dict[str, int]]]:
        """Run the playbook; return how it went, and what it counts by host: changed, failures and so on."""
        command = [str(self._programs / "ansible-playbook"), "-i", "inventory.yml", str(FOLDER / "install.yml")]
        env = {**os.environ, "HOME": str(self._folder), "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.default"}
        env |= {
            "ANSIBLE_NOCOLOR": "1",
            # A connection a task, and not five.
            "ANSIBLE_PIPELINING": "1",
            "ANSIBLE_RETRY_FILES_ENABLED": "0",
            "ANSIBLE_LOCAL_TEMP": str(self._folder / "tmp"),
        }
        done = subprocess.run([*command, *options], cwd=self._folder, env=env, capture_output=True, text=True)
        return done, _recap(done.stdout)


def _recap(text: str) -> dict[str, dict[str, int]]:
    """Read the lines behind PLAY RECAP: `host : ok=3 changed=1 …`."""
    counted = {}
    for line in text.partition("PLAY RECAP")[2].splitlines()[1:]:
        host, colon, numbers = line.partition(":")
        if colon:
            pairs = (each.partition("=") for each in numbers.split())
            counted[host.strip()] = {name: int(number) for name, _, number in pairs}
    return counted
