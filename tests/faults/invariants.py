"""What must hold after every fault, once the same install command has run again."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from installer.core import layout
from tests.e2e.server import Server
from tests.faults import rig
from tests.target.bundle import Bundle

ENV = "/opt/dify/docker/.env"
# Values that stand there are no secrets of this host.
EXAMPLE = "/opt/dify/docker/.env.example"
# Settings that must never change by themselves, or lie anywhere but in `.env` and its kept copies.
SECRET = re.compile(r"(SECRET|PASSWORD|KEYS?|TOKEN|BROKER_URL)$")
SHORTEST_SECRET = 8
# Where a program may leave files for a while.
TEMPORARY = "/tmp /var/tmp /dev/shm /run /var/lib /opt /root"
# The names that Python's tempfile makes beside a file of ours: `.NAME.` and eight of its characters.
TEMPORARY_NAME = re.compile(r"\.[^/]+\.(?!\d{8}$)[a-z0-9_]{8}")
# A program of ours that outlives its run. systemd and conmon look after containers; they are no such thing.
PROGRAMS = "dify-installer|podman-compose|podman (pull|stop|start|run|create|rm|wait)"
SERVICES = 11
STATUS_SECONDS = 120.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """What is known of a machine before a fault; `row` is in the database, or empty where there is none."""

    secrets: dict[str, str] = field(default_factory=dict)
    row: str = ""
    foreign: str = ""


def content(server: Server, path: str) -> str:
    """Return a file's text, as it is seen inside, where a file system may be mounted; nothing when there is none."""
    return server.machine.run(["cat", path], check=False).stdout


def read_secrets(server: Server) -> dict[str, str]:
    """Return the secrets of `.env`, as they stand there; none when there is no such file."""
    pairs = [
        line.partition("=")[::2]
        for line in content(server, ENV).splitlines()
        if "=" in line and not line.startswith("#")
    ]
    return {key: value.strip("'\"") for key, value in pairs if SECRET.search(key) and value.strip("'\"")}


def remember(server: Server, row: str) -> Memory:
    """Look at an installation before a fault: put a row into its database and files of others into its folder."""
    rig.put_foreign(server, rig.FOREIGN_INSIDE)
    rig.sql(server, f"create table if not exists kept (note text); insert into kept values ('{row}')")
    return Memory(secrets=read_secrets(server), row=row, foreign=foreign(server))


def foreign(server: Server) -> str:
    """Return names, modes, owners, times and contents of the files of others."""
    paths = " ".join((*rig.FOREIGN, *rig.FOREIGN_INSIDE))
    seen = server.machine.run(f"for f in {paths}; do stat -c '%n %a %u %Y' $f && cat $f; done 2>/dev/null", check=False)
    return seen.stdout


def status(server: Server, _memory: Memory) -> Iterator[str]:
    """`status` says that all is well."""
    try:
        looked = server.run("./dify-installer", "status", timeout=STATUS_SECONDS)
    except subprocess.TimeoutExpired:
        yield f"no answer within {STATUS_SECONDS:.0f} s"
        return
    if looked.returncode != 0:
        yield f"{looked.returncode}: {_first(looked.stdout, 'FAIL') or _first(looked.stderr)}"


def secrets(server: Server, memory: Memory) -> Iterator[str]:
    """Secrets are what they were."""
    now = read_secrets(server)
    changed = sorted(key for key, value in memory.secrets.items() if now.get(key) != value)
    if changed:
        yield f"changed: {', '.join(changed)}"


def row(server: Server, memory: Memory) -> Iterator[str]:
    """The row is in the database."""
    if not memory.row:
        return
    try:
        count = rig.sql(server, f"select count(*) from kept where note = '{memory.row}'")
    except AssertionError as error:
        count = _first(str(error).partition("\n")[2])
    if count != "1":
        yield f"found {count} times"


def leftovers(server: Server, _memory: Memory) -> Iterator[str]:
    """No temporary file of ours is left."""
    ours = "find /opt/dify /etc/systemd/system /etc/containers /usr/local/bin"
    commands = [
        "ls -d /opt/dify/tmp",
        # The log of an error that was not foreseen is no leftover: it was told.
        rf"find {TEMPORARY} -maxdepth 1 ! -name '*.log' \( -name '_MEI*' -o -name 'dify-installer-*' \)",
        f"{ours} -path /opt/dify/docker/volumes -prune -o -name '.*' -print",
    ]
    found = server.machine.run("; ".join(f"{command} 2>/dev/null" for command in commands), check=False).stdout.split()
    theirs = set(rig.FOREIGN + rig.FOREIGN_INSIDE)
    for path in found:
        name = Path(path).name
        if path not in theirs and (not name.startswith(".") or TEMPORARY_NAME.fullmatch(name)):
            yield path


def secrets_elsewhere(server: Server, _memory: Memory) -> Iterator[str]:
    """No secret lies in a log, a report, a rendered or a temporary file."""
    known = content(server, EXAMPLE)
    values = {value for value in read_secrets(server).values() if len(value) >= SHORTEST_SECRET and value not in known}
    places = "/opt/dify /tmp /var/tmp /dev/shm /etc/systemd/system"
    left_out = "--exclude-dir=volumes --exclude-dir=podman-compose --exclude=.env --exclude='.env.before*'"
    found = server.machine.run(
        f"grep --recursive --files-with-matches --fixed-strings --file=- {left_out} {places}",
        input="".join(f"{value}\n" for value in sorted(values)),
        check=False,
    ).stdout.split()
    yield from found if values else []


def manifest(bundle: Bundle) -> dict[str, str]:
    """Return reference -> ID of the images of a bundle."""
    described = json.loads((bundle.folder / layout.MANIFEST).read_bytes())
    return {image["reference"]: image["id"] for image in described["images"]}


def stored(server: Server) -> dict[str, str]:
    """Return name -> ID of the images that podman has; one without a name is named by its ID."""
    shown = server.machine.run(["podman", "images", "--no-trunc", "--format", "{{.ID}} {{.Repository}}:{{.Tag}}"])
    pairs = [line.split(" ", 1) for line in shown.stdout.splitlines()]
    return {identity if "<none>" in name else name: identity.removeprefix("sha256:") for identity, name in pairs}


def images(server: Server, _memory: Memory) -> Iterator[str]:
    """The images are the manifest's, and so are those that containers were made from."""
    wanted, found = manifest(server.bundle), stored(server)
    for name, identity in wanted.items():
        if found.get(name) != identity:
            yield f"{name} is {found.get(name, 'missing')[:12]}"
    yield from (f"{name} is not of the bundle" for name in sorted(set(found) - set(wanted)))
    shown = server.machine.run(["podman", "ps", "--all", "--no-trunc", "--format", "{{.Names}} {{.ImageID}}"])
    for line in shown.stdout.splitlines():
        name, identity = line.split()
        if identity not in wanted.values():
            yield f"{name} runs another image: {identity[:12]}"


def containers(server: Server, _memory: Memory) -> Iterator[str]:
    """Each service has one container, which runs, or has ended as it should."""
    shown = server.machine.run(["podman", "ps", "--all", "--format", "{{.Names}} {{.State}}"]).stdout.splitlines()
    bad = [line for line in shown if line.split()[1] not in ("running", "exited")]
    bad += [line for line in shown if "exited" in line and "init_permissions" not in line]
    yield from bad
    if len(shown) != SERVICES:
        yield f"{len(shown)} containers, not {SERVICES}"


def processes(server: Server, _memory: Memory) -> Iterator[str]:
    """Nothing that we started goes on."""
    # podman's clean-up after a container, by conmon, and health checks by systemd are no runs of ours.
    found = server.machine.run(
        ["pgrep", "--full", "--list-full", f"^([^ ]*/)?(python[^ ]* )?[^ ]*({PROGRAMS})"], check=False
    )
    yield from found.stdout.splitlines()


def unit(server: Server, _memory: Memory) -> Iterator[str]:
    """The stack comes back at the next boot."""
    shown = server.machine.run(["systemctl", "is-enabled", layout.UNIT], check=False).stdout.strip()
    active = server.machine.run(["systemctl", "is-active", layout.UNIT], check=False).stdout.strip()
    if (shown, active) != ("enabled", "active"):
        yield f"{shown}, {active}"


def report(server: Server, _memory: Memory) -> Iterator[str]:
    """The report says that all is done."""
    text = content(server, f"/opt/dify/{layout.REPORT}")
    try:
        said = json.loads(text).get("result")
    except ValueError:
        said = repr(text[:40])
    if said != "done":
        yield f"it says {said}"


def untouched(server: Server, memory: Memory) -> Iterator[str]:
    """Files of others are as they were."""
    before, now = memory.foreign.splitlines(), foreign(server).splitlines()
    yield from sorted({line.split()[0] for line in set(before) ^ set(now)})


Invariant = Callable[[Server, Memory], Iterator[str]]
# What holds even where the same command does not end as it should.
ALWAYS: dict[str, Invariant] = {
    "secrets": secrets,
    "secrets elsewhere": secrets_elsewhere,
    "files of others": untouched,
}
# What holds once it has ended with 0.
HEALTHY: dict[str, Invariant] = {
    "status": status,
    "row": row,
    "leftovers": leftovers,
    "images": images,
    "containers": containers,
    "processes": processes,
    "unit": unit,
    "report": report,
}


def broken(server: Server, memory: Memory, *, healthy: bool) -> Iterator[tuple[str, str]]:
    """Yield the name of each invariant that does not hold, and what was seen; `healthy` says what to expect."""
    for name, look in {**ALWAYS, **(HEALTHY if healthy else {})}.items():
        if seen := list(look(server, memory)):
            yield name, ", ".join(seen[:4])


def _first(text: str, word: str = "") -> str:
    return next((line.strip() for line in text.splitlines() if word in line and line.strip()), "")
