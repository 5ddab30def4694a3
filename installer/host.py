"""Observes the host: facts, no judgement. What cannot be found out is None, and stops nothing."""

from __future__ import annotations

import contextlib
import datetime
import getpass
import json
import os
import platform
import re
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from installer import layout, manifest
from installer.command import Runner

COMMAND_SECONDS = 20.0
PODMAN_SECONDS = 60.0

# Interpreters that may make podman-compose's environment: a plain python3 first, then the newest.
PYTHONS = ("python3", *(f"python3.{minor}" for minor in range(14, 8, -1)))
PYTHON_FACTS = "import sys, importlib.util as u; print(*sys.version_info[:2], bool(u.find_spec('venv')))"

MACHINES: dict[str, manifest.Architecture] = {"x86_64": "amd64", "aarch64": "arm64"}

Version = tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What a run wants of the host. `ports` are those on the host, by name; sizes are in bytes.

    `missing_bytes` are those of the images that are still to be loaded, `not_before` is a time that has
    certainly passed, `firewall` whether ports may be opened in firewalld.
    """

    folder: Path
    address: str | None
    ports: Mapping[str, int]
    architecture: manifest.Architecture
    largest_image_bytes: int
    missing_bytes: int
    not_before: datetime.datetime | None
    firewall: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Python:
    """An interpreter of the host."""

    path: Path
    version: Version
    has_venv: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Space:
    """Room for one purpose: `device` tells file systems apart, `options` are its mount options."""

    purpose: str
    path: Path
    free: int
    device: int
    kind: str
    options: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Listener:
    """Who holds a TCP port; `ours` when it is a container of this installation."""

    port: int
    holder: str
    ours: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Host:
    """What was seen. `podman_problem` is why `podman info` fails, empty when it does not."""

    os_id: str
    os_like: tuple[str, ...]
    os_version: str
    os_name: str
    architecture: str
    cpus: int
    memory: int | None
    user: str
    root: bool
    podman_version: Version | None
    podman_problem: str
    network_backend: str
    storage: Space | None
    install: Space | None
    temporary: Space | None
    folder_exists: bool
    folder_writable: bool
    has_env: bool
    has_data: bool
    listeners: tuple[Listener, ...] | None
    low_port: int
    addresses: tuple[str, ...] | None
    pythons: tuple[Python, ...]
    subuid: bool
    subgid: bool
    linger: bool
    session: bool
    selinux: Literal["enforcing", "permissive", "disabled"]
    container_selinux: bool | None
    firewalld: bool
    open_ports: tuple[int, ...]
    foreign: tuple[str, ...]
    now: datetime.datetime

    @property
    def selinux_enabled(self) -> bool:
        """Whether files need labels."""
        return self.selinux != "disabled"


def observe(wanted: Wanted, runner: Runner) -> Host:
    """Look at everything that preflight judges; takes about as long as the slowest command."""
    root = os.geteuid() == 0
    user = getpass.getuser()
    release = parse_os_release(_read(Path("/etc/os-release")))
    with ThreadPoolExecutor(8) as pool:
        version = pool.submit(_podman_version, runner)
        info = pool.submit(_podman_info, runner)
        containers = pool.submit(_containers, runner)
        sockets = pool.submit(_output, ["ss", "-Hltnp"], runner)
        addresses = pool.submit(_addresses, runner)
        pythons = pool.submit(_pythons, runner)
        selinux_package = pool.submit(_container_selinux, runner)
        firewall = pool.submit(_firewall, runner)
    described, problem = info.result()
    running = containers.result()
    active, open_ports = firewall.result()
    store = described.get("store") or {}
    place = layout.Installation(wanted.folder)
    return Host(
        os_id=release.get("ID", ""),
        os_like=tuple(release.get("ID_LIKE", "").split()),
        os_version=release.get("VERSION_ID", ""),
        os_name=release.get("PRETTY_NAME", "an unknown system"),
        architecture=MACHINES.get(platform.machine(), platform.machine()),
        cpus=len(os.sched_getaffinity(0)),
        memory=parse_memory(_read(Path("/proc/meminfo"))),
        user=user,
        root=root,
        podman_version=version.result(),
        podman_problem=problem,
        network_backend=str((described.get("host") or {}).get("networkBackend", "")),
        storage=_space("images", Path(store["graphRoot"])) if store.get("graphRoot") else None,
        install=_space("the install folder", wanted.folder),
        temporary=_space("podman's temporary files", _podman_temporary()),
        folder_exists=wanted.folder.is_dir(),
        folder_writable=os.access(_nearest(wanted.folder), os.W_OK | os.X_OK),
        has_env=_exists(place.env),
        has_data=_exists(place.volumes / "db/data"),
        listeners=_listeners(sockets.result(), running),
        low_port=int(_read(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")).strip() or 1024),
        addresses=addresses.result(),
        pythons=pythons.result(),
        subuid=has_ranges(_read(Path("/etc/subuid")), user, os.getuid()),
        subgid=has_ranges(_read(Path("/etc/subgid")), user, os.getuid()),
        linger=Path("/var/lib/systemd/linger", user).exists(),
        session=bool(os.environ.get("XDG_RUNTIME_DIR")) and Path(os.environ["XDG_RUNTIME_DIR"], "bus").exists(),
        selinux=selinux_mode(_read(Path("/sys/fs/selinux/enforce"))),
        container_selinux=selinux_package.result(),
        firewalld=active,
        open_ports=open_ports,
        foreign=_foreign(running, wanted.folder),
        now=datetime.datetime.now(datetime.UTC),
    )


# -- parsers: text in, facts out


def parse_os_release(text: str) -> dict[str, str]:
    """Return the assignments of os-release(5)."""
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return {key.strip(): value.strip().strip("\"'") for key, _, value in pairs}


def parse_memory(text: str) -> int | None:
    """Return MemTotal of /proc/meminfo in bytes."""
    found = re.search(r"^MemTotal:\s+(\d+) kB", text, re.MULTILINE)
    return int(found.group(1)) * 1024 if found else None


def parse_version(text: str) -> Version | None:
    """Return the first dotted number in a text."""
    found = re.search(r"(\d+(?:\.\d+)+)", text)
    return tuple(int(part) for part in found.group(1).split(".")) if found else None


def parse_listeners(text: str) -> dict[int, str]:
    """Return port -> process of `ss -Hltnp`; the process is empty where we may not see it."""
    found: dict[int, str] = {}
    for line in text.splitlines():
        columns = line.split(maxsplit=5)
        if len(columns) < 4 or not (port := columns[3].rpartition(":")[2]).isdecimal():
            continue
        process = re.search(r'\(\("([^"]+)",pid=(\d+)', columns[5] if len(columns) > 5 else "")
        found[int(port)] = f"{process.group(1)} (process {process.group(2)})" if process else found.get(int(port), "")
    return found


def has_ranges(text: str, user: str, uid: int) -> bool:
    """Tell whether subuid(5) or subgid(5) give a user at least 65536 IDs."""
    total = 0
    for line in text.splitlines():
        owner, _, rest = line.strip().partition(":")
        _, _, count = rest.partition(":")
        if owner in (user, str(uid)) and count.isdecimal():
            total += int(count)
    return total >= 65536


def selinux_mode(enforce: str) -> Literal["enforcing", "permissive", "disabled"]:
    """Return the mode from /sys/fs/selinux/enforce, which is not there when SELinux is off."""
    return {"1": "enforcing", "0": "permissive"}.get(enforce.strip(), "disabled")  # type: ignore[return-value]


# -- collectors


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", errors="replace")
    except OSError:
        return ""


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return True


def _output(command: list[str], runner: Runner) -> str | None:
    result = runner.run(command, timeout=COMMAND_SECONDS, check=False)
    return result.stdout if result.ok else None


def _json(command: list[str], runner: Runner, seconds: float = COMMAND_SECONDS) -> Any:
    result = runner.run(command, timeout=seconds, check=False)
    with contextlib.suppress(ValueError):
        return json.loads(result.stdout) if result.ok else None
    return None


def _podman_version(runner: Runner) -> Version | None:
    return parse_version(_output(["podman", "--version"], runner) or "")


def _podman_info(runner: Runner) -> tuple[dict[str, Any], str]:
    """Return what `podman info` says, and why it fails if it does."""
    result = runner.run(["podman", "info", "--format", "json"], timeout=PODMAN_SECONDS, check=False)
    if not result.ok:
        return {}, runner.masked(result.last_words) or f"status {result.status}"
    try:
        return json.loads(result.stdout), ""
    except ValueError:
        return {}, "its answer cannot be read"


def _containers(runner: Runner) -> list[dict[str, Any]]:
    return _json(["podman", "ps", "--all", "--format", "json"], runner, PODMAN_SECONDS) or []


def _addresses(runner: Runner) -> tuple[str, ...] | None:
    links = _json(["ip", "-json", "address"], runner)
    if links is None:
        return None
    return tuple(entry["local"] for link in links for entry in link.get("addr_info", ()) if "local" in entry)


def _pythons(runner: Runner) -> tuple[Python, ...]:
    found: dict[Path, Python] = {}
    for name in PYTHONS:
        program = shutil.which(name, path=runner.env.get("PATH"))
        if program is None or Path(program).resolve() in found:
            continue
        words = (_output([program, "-I", "-c", PYTHON_FACTS], runner) or "").split()
        if len(words) == 3:
            version = (int(words[0]), int(words[1]))
            found[Path(program).resolve()] = Python(path=Path(program), version=version, has_venv=words[2] == "True")
    return tuple(found.values())


def _container_selinux(runner: Runner) -> bool | None:
    """Tell whether the package with the policy for containers is there; None where no rpm can say."""
    result = runner.run(["rpm", "-q", "container-selinux"], timeout=COMMAND_SECONDS, check=False)
    return None if result.status == 127 else result.ok


def _firewall(runner: Runner) -> tuple[bool, tuple[int, ...]]:
    """Return whether firewalld runs, and the TCP ports that its default zone lets in, as far as we may ask."""
    if not runner.run(["systemctl", "is-active", "--quiet", "firewalld"], timeout=COMMAND_SECONDS, check=False).ok:
        return False, ()
    ports = (_output(["firewall-cmd", "--list-ports"], runner) or "").split()
    services = (_output(["firewall-cmd", "--list-services"], runner) or "").split()
    numbers = [int(port.partition("/")[0]) for port in ports if re.fullmatch(r"\d+/tcp", port)]
    numbers += [number for service, number in (("http", 80), ("https", 443)) if service in services]
    return True, tuple(numbers)


def _listeners(sockets: str | None, containers: list[dict[str, Any]]) -> tuple[Listener, ...] | None:
    if sockets is None:
        return None
    published = {
        port["host_port"] + offset: container
        for container in containers
        if container.get("State") == "running"
        for port in container.get("Ports") or ()
        for offset in range(port.get("range") or 1)
    }
    held = parse_listeners(sockets)
    return tuple(_listener(port, held.get(port, ""), published.get(port)) for port in sorted({*held, *published}))


def _listener(port: int, process: str, container: Mapping[str, Any] | None) -> Listener:
    if container is None:
        return Listener(port=port, holder=process or "another user's process", ours=False)
    ours = _project(container) == layout.COMPOSE_PROJECT
    return Listener(port=port, holder=f"the container {container['Names'][0]}", ours=ours)


def _project(container: Mapping[str, Any]) -> str:
    return str((container.get("Labels") or {}).get(layout.PROJECT_LABEL, ""))


def _foreign(containers: list[dict[str, Any]], folder: Path) -> tuple[str, ...]:
    """Return containers of our project's name that run from another folder: a Dify that somebody else started."""
    label = "com.docker.compose.project.working_dir"
    ours = str(layout.Installation(folder).project)
    return tuple(
        str(container["Names"][0])
        for container in containers
        if _project(container) == layout.COMPOSE_PROJECT and container["Labels"].get(label, ours) != ours
    )


def _podman_temporary() -> Path:
    """Return where podman spools besides TMPDIR, which we point into the install folder."""
    return Path("/var/tmp")


def _nearest(path: Path) -> Path:
    """Return the nearest folder that exists: where a new one would be made."""
    while not _exists(path) and path != path.parent:
        path = path.parent
    return path


def _space(purpose: str, path: Path) -> Space | None:
    with contextlib.suppress(OSError):
        nearest = _nearest(path)
        status = os.statvfs(nearest)
        kind, options = mount_of(nearest, _read(Path("/proc/self/mountinfo")))
        return Space(
            purpose=purpose,
            path=path,
            free=status.f_bavail * status.f_frsize,
            device=nearest.stat().st_dev,
            kind=kind,
            options=options,
        )
    return None


def mount_of(path: Path, mountinfo: str) -> tuple[str, tuple[str, ...]]:
    """Return file system type and mount options of what holds `path` (proc_pid_mountinfo(5))."""
    best = -1
    answer: tuple[str, tuple[str, ...]] = ("", ())
    for line in mountinfo.splitlines():
        left, separator, right = line.partition(" - ")
        columns = left.split()
        if not separator or len(columns) < 6:
            continue
        point = columns[4].encode().decode("unicode_escape")
        if path.is_relative_to(point) and len(point) >= best:
            best, answer = len(point), (right.split()[0], tuple(columns[5].split(",")))
    return answer
