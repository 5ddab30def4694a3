"""The user's own kubectl: what it is asked, a program inside a pod, and a port of a Service on this machine.

kubectl brings every way to sign in that a company has, and who applies the folder has it. The library, kubernetes 37.0
of PyPI, is 74 MB of files to freeze, and has ways of its own.
"""

from __future__ import annotations

import contextlib
import json
import re
import select
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from installer.cluster.site import Object
from installer.core import errors
from installer.core.runner import WITH_STDOUT, Result, Runner

ASK_SECONDS = 30.0
FORWARDED = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+) ")


def ask(runner: Runner, *arguments: str) -> Result:
    """Return how kubectl ended, and what it said."""
    return runner.run(["kubectl", *arguments], timeout=ASK_SECONDS, check=False)


def get(runner: Runner, kind: str, name: str, *arguments: str) -> Any:
    """Return an object, or what was asked of it; None where it is not there or may not be seen."""
    output = () if any(each.startswith("--output") for each in arguments) else ("--output=json",)
    found = ask(runner, "get", kind, name, *arguments, *output)
    if not found.ok:
        return None
    return json.loads(found.stdout) if output else found.stdout


def list_all(runner: Runner, kind: str, *arguments: str) -> list[Object] | None:
    """Return all objects of a kind; None where they may not be seen."""
    found = ask(runner, "get", kind, *arguments, "--output=json")
    return list(json.loads(found.stdout)["items"]) if found.ok else None


def log_command(namespace: str, which: str) -> str:
    """Return, for people, the command that shows the log of a pod or of those of a selector, all of its containers."""
    return f"kubectl --namespace {namespace} logs {which} --all-containers"


@dataclass(frozen=True, slots=True)
class Pods:
    """The pods of a namespace as containers that can be asked from inside (`checks.inside.Runtime`)."""

    runner: Runner
    namespace: str

    def execute(self, container: str, command: Sequence[str], *, timeout: float, input: str) -> Result:
        """Run a program in the first container of a pod, with `input` on its standard input."""
        enter = ["kubectl", "--namespace", self.namespace, "exec", "--stdin", container, "--"]
        return self.runner.run([*enter, *command], timeout=timeout, input=input, check=False)

    def log_commands(self, names: Iterable[str]) -> str:
        """Return, for people, the commands that show the logs of these workloads or pods."""
        return ", ".join(f"`{log_command(self.namespace, name)}`" for name in names)

    @contextlib.contextmanager
    def forwarded(self, service: str, port: int) -> Iterator[int]:
        """Have a port of this machine, whose number is given, lead to a Service. Raises CommandFailed."""
        command = ["kubectl", "--namespace", self.namespace, "port-forward", "--address=127.0.0.1"]
        command += ["--pod-running-timeout=5s", f"service/{service}", f":{port}"]
        with self.runner.started(command, stderr=WITH_STDOUT) as child:
            assert child.stdout is not None
            there, _, _ = select.select([child.stdout], [], [], ASK_SECONDS)
            told = child.stdout.readline() if there else f"no answer within {ASK_SECONDS:.0f} s"
            found = FORWARDED.search(told)
            if found is None:
                raise errors.CommandFailed(
                    f"no port can be forwarded to {service}: {told.strip()}",
                    f"see whether its pods run, and whether you may: kubectl --namespace {self.namespace} auth can-i "
                    "create pods/portforward",
                )
            yield int(found[1])
