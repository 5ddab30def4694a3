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

from installer.bundle import manifest
from installer.core import errors, layout
from installer.core.runner import Runner
from installer.engine import engine
from installer.engine.engine import Container, Engine
from installer.release import compose

COMMAND_SECONDS = 20.0
ENGINE_SECONDS = 60.0

# Interpreters that may make podman-compose's environment: a plain python3 first, then the newest.
PYTHONS = ("python3", *(f"python3.{minor}" for minor in range(14, 8, -1)))
PYTHON_FACTS = "import sys, importlib.util as u; print(*sys.version_info[:2], bool(u.find_spec('venv')))"

MACHINES: dict[str, manifest.Architecture] = {"x86_64": "amd64", "aarch64": "arm64"}

Version = tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What a run wants of the host. `ports` are those on the host, by name; sizes are in bytes.

    `missing_bytes` are those of the images that are still to be loaded, `store_bytes` those of an image store that is
    to be copied into the install folder, `compressed` whether layers to be loaded are, with zstd, `not_before` is a
    time that has certainly passed, `firewall` whether ports may be opened in firewalld, `api_image` the name, without
    its tag, of the image by which another Dify is known, `install_podman` whether podman may be installed.
    """

    folder: Path
    address: str | None
    ports: Mapping[str, int]
    architecture: manifest.Architecture
    largest_image_bytes: int
    missing_bytes: int
    store_bytes: int = 0
    compressed: bool = False
    not_before: datetime.datetime | None
    firewall: bool = True
    api_image: str = ""
    install_podman: bool = False


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
    """What was seen.

    `engine_problem` is why `podman info` or `docker info` fails, empty when it does not; `compose_version`
    is that of docker compose; `emulated` says that `docker` is podman under another name; `rootless` that
    the engine has no more rights than a user; `labels` that SELinux confines its containers.
    `conflicting` are containers of our project's name from another folder, `other_dify` those of a Dify
    of another name, with the folder where it lies.
    """

    os_id: str
    os_like: tuple[str, ...]
    os_version: str
    os_name: str
    architecture: str
    cpus: int
    memory: int | None
    user: str
    root: bool
    engine: engine.Name
    engine_version: Version | None
    engine_problem: str
    compose_version: Version | None
    emulated: bool
    dnf: bool
    rootless: bool
    labels: bool
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
    conflicting: tuple[str, ...]
    other_dify: tuple[str, ...]
    now: datetime.datetime


def observe(wanted: Wanted, engine: Engine) -> Host:
    """Look at everything that preflight judges; takes about as long as the slowest command."""
    root = os.geteuid() == 0
    user = getpass.getuser()
    runner = engine.runner
    release = parse_os_release(_read(Path("/etc/os-release")))
    with ThreadPoolExecutor(8) as pool:
        version = pool.submit(_output, [engine.name, "--version"], runner)
        info = pool.submit(_info, engine)
        containers = pool.submit(_containers, engine)
        compose_version = pool.submit(_compose_version, engine)
        sockets = pool.submit(_output, ["ss", "-Hltnp"], runner)
        addresses = pool.submit(_addresses, runner)
        pythons = pool.submit(_pythons, runner)
        selinux_package = pool.submit(_container_selinux, runner)
        firewall = pool.submit(_firewall, runner)
    described, problem = info.result()
    running = containers.result()
    active, open_ports = firewall.result()
    version_text = version.result() or ""
    mode = selinux_mode(_read(Path("/sys/fs/selinux/enforce")))
    graph_root = described.graph_root
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
        engine=engine.name,
        engine_version=parse_version(version_text),
        engine_problem=problem,
        compose_version=compose_version.result(),
        emulated=engine.name == "docker" and "podman" in version_text,
        dnf=shutil.which("dnf", path=runner.env.get("PATH")) is not None,
        rootless=described.rootless,
        labels=mode != "disabled" and described.labels,
        network_backend=described.network_backend,
        storage=_space("images", graph_root) if graph_root else None,
        install=_space("the install folder", wanted.folder),
        temporary=_space("podman's temporary files", _podman_temporary()) if engine.name == "podman" else None,
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
        selinux=mode,
        container_selinux=selinux_package.result(),
        firewalld=active,
        open_ports=open_ports,
        conflicting=tuple(each.name for each in running if _conflicts(each, place)),
        other_dify=tuple(
            f"{each.name} ({each.folder or 'in an unknown folder'})"
            for each in running
            if _is_another_dify(each, wanted.api_image)
        ),
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


def _json(command: list[str], runner: Runner) -> Any:
    result = runner.run(command, timeout=COMMAND_SECONDS, check=False)
    with contextlib.suppress(ValueError):
        return json.loads(result.stdout) if result.ok else None
    return None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Info:
    """What we read of `podman info` and `docker info`."""

    graph_root: Path | None = None
    network_backend: str = ""
    rootless: bool = False
    labels: bool = False


def _info(engine: Engine) -> tuple[_Info, str]:
    """Return what the engine says of itself, and why it says nothing if it does not."""
    form = "json" if engine.name == "podman" else "{{json .}}"
    result = engine.run(["info", "--format", form], timeout=ENGINE_SECONDS, check=False)
    # docker's client answers something even when its daemon does not run.
    try:
        answer = json.loads(result.stdout)
    except ValueError:
        answer = {}
    problem = "; ".join(answer.get("ServerErrors") or ()) if isinstance(answer, dict) else ""
    if not result.ok or problem or not isinstance(answer, dict) or not answer:
        words = problem or engine.runner.masked(result.last_words) or f"status {result.status}"
        return _Info(rootless=os.geteuid() != 0 and engine.name == "podman"), words
    return (_podman_info if engine.name == "podman" else _docker_info)(answer), ""


def _podman_info(answer: Mapping[str, Any]) -> _Info:
    host, root = answer.get("host") or {}, (answer.get("store") or {}).get("graphRoot")
    return _Info(
        graph_root=Path(root) if root else None,
        network_backend=str(host.get("networkBackend", "")),
        rootless=os.geteuid() != 0,
        # podman labels wherever SELinux is on.
        labels=True,
    )


def _docker_info(answer: Mapping[str, Any]) -> _Info:
    root = answer.get("DockerRootDir")
    # As "name=selinux": docker confines containers only if its daemon is told to (`selinux-enabled`).
    options = {option.partition(",")[0] for option in answer.get("SecurityOptions") or ()}
    return _Info(
        graph_root=Path(root) if root else None,
        rootless="name=rootless" in options,
        labels="name=selinux" in options,
    )


def _containers(engine: Engine) -> list[Container]:
    try:
        return engine.containers()
    except errors.CommandFailed:
        return []


def _compose_version(engine: Engine) -> Version | None:
    """Return the version of docker compose, the plugin; podman-compose we bring ourselves."""
    if engine.name != "docker":
        return None
    return parse_version(_output(["docker", "compose", "version", "--short"], engine.runner) or "")


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


def _listeners(sockets: str | None, containers: list[Container]) -> tuple[Listener, ...] | None:
    if sockets is None:
        return None
    published = {port: each for each in containers if each.state == "running" for port in each.ports}
    held = parse_listeners(sockets)
    return tuple(_listener(port, held.get(port, ""), published.get(port)) for port in sorted({*held, *published}))


def _listener(port: int, process: str, container: Container | None) -> Listener:
    if container is None:
        return Listener(port=port, holder=process or "another user's process", ours=False)
    ours = container.project == layout.COMPOSE_PROJECT
    return Listener(port=port, holder=f"the container {container.name}", ours=ours)


def _conflicts(container: Container, place: layout.Installation) -> bool:
    """Tell whether a container has our project's name, but comes from another folder."""
    return container.project == layout.COMPOSE_PROJECT and container.folder not in ("", str(place.project))


def _is_another_dify(container: Container, api_image: str) -> bool:
    """Tell whether a container runs Dify's api, under another project's name or none: somebody's own Dify."""
    if not api_image or container.state != "running" or container.project == layout.COMPOSE_PROJECT:
        return False
    with contextlib.suppress(errors.UsageError):
        return compose.full_reference(container.image).rpartition(":")[0] == api_image
    return False


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
