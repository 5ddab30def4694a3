"""Records what podman or docker answers to the commands of the installer, for tests/unit/test_recorded.py.

    python3 record.py podman --busybox /bin/busybox

makes images, networks, a volume and containers in every state that we know, asks the engine, writes the
answers to a folder of its own beside this file, named after the engine and its version, and removes all that
it made. Wanted are an engine without any container or image, so that the answers hold ours alone, and a
busybox that needs no libraries (Debian's busybox-static). Nothing is downloaded. README.md has the sources.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import platform
import re
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROJECT = "com.docker.compose.project"
OF_PROJECT = ("--filter", f"label={PROJECT}=dify")
WAIT_SECONDS = 60.0

# What is asked: by the file that keeps the answer, the arguments. IDS stands for all that the command before it
# has listed.
IDS = "IDS"
Questions = dict[str, tuple[str, ...]]
COMMON: Questions = {
    "version.txt": ("--version",),
    "image-ids.txt": ("image", "ls", "--quiet", "--no-trunc"),
    "image-inspect.json": ("image", "inspect", IDS),
    "networks.txt": ("network", "ls", "--format", "{{.Name}}", *OF_PROJECT),
    "volumes.txt": ("volume", "ls", "--format", "{{.Name}}", *OF_PROJECT),
}
PODMAN: Questions = {
    **COMMON,
    "ps.json": ("ps", "--all", "--no-trunc", "--format", "json"),
    "images.json": ("images", "--no-trunc", "--format", "json"),
    "networks.json": ("network", "ls", "--format", "json", *OF_PROJECT),
    "all-networks.json": ("network", "ls", "--format", "json"),
    "info.json": ("info", "--format", "json"),
}
DOCKER: Questions = {
    **COMMON,
    "container-ids.txt": ("ps", "--all", "--quiet", "--no-trunc"),
    "container-inspect.json": ("container", "inspect", IDS),
    "info.json": ("info", "--format", "{{json .}}"),
}
QUESTIONS = {"podman": PODMAN, "docker": DOCKER}

# Facts of the machine or of the moment, and what docker says at length of how a container was made.
DROPPED_KEYS = """
hostname kernel distribution cpus cpuUtilization memFree memTotal swapFree swapTotal uptime freeLocks idMappings
graphRootAllocated graphRootUsed linkmode emulatedArchitectures registries plugins
ID Name KernelVersion OperatingSystem OSVersion NCPU MemTotal SystemTime Plugins RegistryConfig CDISpecDirs
ContainerdCommit RuncCommit InitCommit Runtimes Warnings HttpProxy HttpsProxy NoProxy IndexServerAddress
HostConfig GraphDriver Mounts Log Path ResolvConfPath HostnamePath HostsPath LogPath Networks Bridge SandboxID
SandboxKey HairpinMode LinkLocalIPv6Address LinkLocalIPv6PrefixLen SecondaryIPAddresses SecondaryIPv6Addresses
EndpointID Gateway GlobalIPv6Address GlobalIPv6PrefixLen IPAddress IPPrefixLen IPv6Gateway MacAddress Hostname
Domainname AttachStdin AttachStdout AttachStderr OpenStdin StdinOnce
"""
DROPPED = frozenset(DROPPED_KEYS.split())
# In `info` they are the machine's; elsewhere a container's or an image's.
KEPT_OUTSIDE_INFO = frozenset({"ID", "Name"})


@dataclass(frozen=True, kw_only=True)
class Example:
    """A container to be made: `until` is what it is waited for, as status and health or restarts."""

    name: str
    options: tuple[str, ...] = ()
    command: tuple[str, ...] = ("sleep", "3600")
    image: str = "docker.io/recorded/two:1"
    of_project: bool = True
    until: str = "running"
    starts: bool = True


ONCE = "test -e /seen && exec sleep 3600; touch /seen; exit 1"
EXAMPLES = (
    Example(
        name="healthy",
        options=("--health-cmd", "true", "--health-interval", "1s", "--publish", "18080:80"),
        until="running healthy",
    ),
    Example(
        name="starting",
        options=(
            *("--health-cmd", "false", "--health-interval", "1s", "--health-start-period", "1h"),
            *("--publish", "18081-18083:81-83"),
        ),
        until="running starting",
    ),
    Example(
        name="unhealthy",
        options=(
            *("--health-cmd", "false", "--health-interval", "1s", "--health-retries", "1"),
            *("--publish", "127.0.0.1:18443:443"),
        ),
        until="running unhealthy",
    ),
    Example(
        name="unchecked",
        options=("--publish", "18053:53/udp", "--expose", "9000"),
        image="docker.io/recorded/one:1",
        of_project=False,
    ),
    Example(name="finished", command=("true",), until="exited"),
    Example(name="failed", command=("sh", "-c", "exit 3"), options=("--publish", "18084:84"), until="exited"),
    Example(name="created", options=("--publish", "18085:85"), starts=False, until="created"),
    Example(name="paused", options=("--publish", "18086:86"), of_project=False),
    Example(name="stopping", options=("--publish", "18087:87")),
    Example(
        name="restarted", command=("sh", "-c", ONCE), options=("--restart", "always"), until="running after 1 restarts"
    ),
    Example(
        name="given-up",
        command=("sh", "-c", "exit 3"),
        options=("--restart", "on-failure:2"),
        until="exited after 2 restarts",
    ),
)
NETWORKS = {
    "dify_inside": ("--internal", "--subnet", "10.201.1.0/24", "--label", f"{PROJECT}=dify"),
    "dify_outside": ("--subnet", "10.201.2.0/24", "--label", f"{PROJECT}=dify"),
    "other_inside": ("--internal", "--subnet", "10.201.3.0/24"),
}


class Engine:
    """podman or docker, as a command."""

    def __init__(self, name: str) -> None:
        self.name = name

    def run(self, *arguments: str) -> str:
        """Return what a command prints. Raises CalledProcessError."""
        return subprocess.run([self.name, *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout

    def state(self, name: str) -> str:
        """Return status, health and restarts of a container, in the words of `Example.until`."""
        (found,) = json.loads(self.run("container", "inspect", name))
        health = (found["State"].get("Health") or {}).get("Status") or ""
        restarts = found["RestartCount"]
        after = f"after {restarts} restarts" if restarts else ""
        return " ".join(filter(None, (found["State"]["Status"], health, after)))


def main() -> int:
    """Record, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=QUESTIONS)
    parser.add_argument("--busybox", type=Path, default=Path("/bin/busybox"), help="a static one")
    parser.add_argument("--without", action="append", default=[], help="a container that this host cannot have")
    parser.add_argument("--folder", type=Path, default=Path(__file__).resolve().parent)
    given = parser.parse_args()
    engine = Engine(given.engine)
    if engine.run("ps", "--all", "--quiet") or engine.run("images", "--quiet"):
        print(f"{given.engine} has containers or images already: they would be recorded too", file=sys.stderr)
        return 2
    try:
        load_images(engine, given.busybox)
        make_networks(engine)
        with running(engine, [each for each in EXAMPLES if each.name not in given.without]) as names:
            answers = ask(engine)
            times = {name: times_of(engine, name) for name in names}
    finally:
        clean(engine)
    version = re.search(r"\d+(\.\d+)+", answers["version.txt"])
    place = given.folder / f"{given.engine}-{version.group() if version else 'unknown'}"
    write(place, answers, times)
    print(place)
    return 0


def load_images(engine: Engine, busybox: Path) -> None:
    """Load an image with one name, one with two, and one that has lost its name to another."""
    base = layer({"bin/busybox": busybox.read_bytes()}, links=("sh", "sleep", "true", "false", "test", "touch"))
    with tempfile.TemporaryDirectory() as folder:
        for number, (names, layers) in enumerate(
            (
                (["docker.io/recorded/one:1"], [base, layer({"old": b"1"})]),
                (["docker.io/recorded/one:1"], [base]),
                (["docker.io/recorded/two:1", "docker.io/recorded/two:latest"], [base, layer({"two": b"2"})]),
            )
        ):
            path = Path(folder, f"{number}.tar")
            path.write_bytes(archive(names, layers))
            engine.run("load", "--input", str(path))


def layer(files: dict[str, bytes], links: tuple[str, ...] = ()) -> bytes:
    """Return a tar file, the same at each call; the links lead to busybox."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o755
            tar.addfile(entry, io.BytesIO(data))
        for name in links:
            entry = tarfile.TarInfo(f"bin/{name}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(entry)
    return packed.getvalue()


def archive(names: list[str], layers: list[bytes]) -> bytes:
    """Return an image as `docker load` takes it (moby, image/spec/v1.2.md)."""
    digests = [hashlib.sha256(data).hexdigest() for data in layers]
    machine = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
    config = json.dumps(
        {
            "architecture": machine,
            "os": "linux",
            "created": "2026-01-01T00:00:00Z",
            "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"]},
            "history": [{"created": "2026-01-01T00:00:00Z"} for _ in layers],
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest in digests]},
        }
    ).encode()
    config_name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = [{"Config": config_name, "RepoTags": names, "Layers": [f"{digest}/layer.tar" for digest in digests]}]
    files = {f"{digest}/layer.tar": data for digest, data in zip(digests, layers, strict=True)}
    return layer({config_name: config, **files, "manifest.json": json.dumps(manifest).encode()})


def make_networks(engine: Engine) -> None:
    """Make networks and a volume, some of them the project's."""
    for name, options in NETWORKS.items():
        engine.run("network", "create", *options, name)
    engine.run("volume", "create", "--label", f"{PROJECT}=dify", "dify_data")
    engine.run("volume", "create", "other_data")


@contextlib.contextmanager
def running(engine: Engine, examples: list[Example]) -> Iterator[list[str]]:
    """Have all containers in the states that they are for."""
    stopper: subprocess.Popen[bytes] | None = None
    for example in examples:
        start(engine, example)
    for example in examples:
        wait_for(engine, example.name, example.until)
    names = [example.name for example in examples]
    if "paused" in names:
        engine.run("pause", "paused")
    try:
        if "stopping" in names:
            # It never ends by SIGTERM: a kernel sends none to a process 1 that does not ask for it.
            stopper = subprocess.Popen([engine.name, "stop", "-t", "600", "stopping"], stdout=subprocess.DEVNULL)
            # docker has no such state.
            if engine.name == "podman":
                wait_for(engine, "stopping", "stopping")
        yield names
    finally:
        if stopper:
            stopper.kill()
            stopper.wait()


def start(engine: Engine, example: Example) -> None:
    """Make a container and start it, if it is to be started."""
    service = {
        PROJECT: "dify",
        "com.docker.compose.service": example.name,
        "com.docker.compose.project.working_dir": "/opt/dify/docker",
    }
    labels = [f"--label={key}={value}" for key, value in service.items()] if example.of_project else []
    first = ("run", "--detach") if example.starts else ("create",)
    engine.run(*first, "--name", example.name, *labels, *example.options, example.image, *example.command)


def wait_for(engine: Engine, name: str, until: str) -> None:
    """Wait until a container is as `Engine.state` says it. Raises TimeoutError."""
    deadline = time.monotonic() + WAIT_SECONDS
    while (state := engine.state(name)) != until:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{name} is {state} after {WAIT_SECONDS:.0f} s, not {until}")
        time.sleep(0.2)


def ask(engine: Engine) -> dict[str, str]:
    """Return the answers, by the name of their file."""
    answers: dict[str, str] = {}
    listed = ""
    for file, arguments in QUESTIONS[engine.name].items():
        ids = list(dict.fromkeys(listed.split()))
        words = [word for part in arguments for word in (ids if part == IDS else [part])]
        listed = answers[file] = engine.run(*words)
    return answers


def times_of(engine: Engine, name: str) -> list[int]:
    """Return when a container was made and last started, 0 for never; in seconds, as coreutils' `date` reads them."""
    # podman prints Go's form, as "2026-01-31 12:00:00.123456789 +0000 UTC": the zone's name is one too many.
    asked = engine.run("container", "inspect", "--format", "{{.Created}}|{{.State.StartedAt}}", name).strip()
    moments = [re.sub(r" [A-Z]+$", "", moment) for moment in asked.split("|")]
    seconds = [subprocess.check_output(["date", "+%s", "--date", moment], text=True) for moment in moments]
    return [max(0, int(second)) for second in seconds]


def clean(engine: Engine) -> None:
    """Remove what was made."""
    for name in engine.run("ps", "--all", "--format", "{{.Names}}").split():
        for command in (("unpause", name), ("kill", name), ("rm", "--force", name)):
            subprocess.run([engine.name, *command], capture_output=True)
    ids = dict.fromkeys(engine.run("images", "--quiet", "--no-trunc").split())
    subprocess.run([engine.name, "rmi", "--force", *ids], capture_output=True)
    subprocess.run([engine.name, "network", "rm", *NETWORKS], capture_output=True)
    subprocess.run([engine.name, "volume", "rm", "dify_data", "other_data"], capture_output=True)


def write(place: Path, answers: dict[str, str], times: dict[str, list[int]]) -> None:
    """Write the answers, without what is of this machine."""
    place.mkdir(exist_ok=True)
    for file, text in answers.items():
        kept = text
        if file.endswith(".json"):
            dropped = DROPPED if file == "info.json" else DROPPED - KEPT_OUTSIDE_INFO
            kept = lay_out(strip(json.loads(text), dropped))
        (place / file).write_text(kept)
    (place / "times.json").write_text(lay_out(times))


def strip(value: Any, dropped: frozenset[str]) -> Any:
    """Return JSON without some keys, at whatever depth."""
    if isinstance(value, dict):
        return {key: strip(each, dropped) for key, each in value.items() if key not in dropped}
    return [strip(each, dropped) for each in value] if isinstance(value, list) else value


def lay_out(value: Any) -> str:
    """Return JSON with a line for each entry of the outermost list or object."""
    if isinstance(value, list):
        return "[\n" + ",\n".join(map(json.dumps, value)) + "\n]\n"
    return "{\n" + ",\n".join(f"{json.dumps(key)}: {json.dumps(each)}" for key, each in value.items()) + "\n}\n"


if __name__ == "__main__":
    raise SystemExit(main())
