"""Looks at the host: starts programs and reads files, and judges nothing."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import platform
import re
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from installer.bundle import manifest
from installer.core import errors, layout, login
from installer.core.runner import Runner
from installer.engine.base import Container, Description, Engine, Version
from installer.host import ownership, parse
from installer.host.facts import (
    EngineFacts,
    Host,
    InstallationFacts,
    Listener,
    NetworkFacts,
    Python,
    RoomFacts,
    Space,
    SystemFacts,
    UserFacts,
    Wanted,
)
from installer.release import compose

COMMAND_SECONDS = 20.0

# Interpreters that may make podman-compose's environment: a plain python3 first, then the newest.
PYTHONS = ("python3", *(f"python3.{minor}" for minor in range(14, 8, -1)))
PYTHON_FACTS = "import sys, importlib.util as u; print(*sys.version_info[:2], bool(u.find_spec('venv')))"

MACHINES: dict[str, manifest.Architecture] = {"x86_64": "amd64", "aarch64": "arm64"}


def observe(wanted: Wanted, engine: Engine) -> Host:
    """Look at everything that is judged; takes about as long as the slowest command."""
    runner = engine.runner
    pool = ThreadPoolExecutor(8)
    try:
        version = pool.submit(engine.version)
        description = pool.submit(engine.describe)
        containers = pool.submit(_containers, engine)
        compose_version = pool.submit(engine.compose_version)
        sockets = pool.submit(_output, ["ss", "-Hltnp"], runner)
        addresses = pool.submit(_addresses, runner)
        pythons = pool.submit(_pythons, runner)
        selinux_package = pool.submit(_container_selinux, runner)
        firewall = pool.submit(_firewall, runner)
        squashfs = pool.submit(_has_squashfs, runner)
        described, running = description.result(), containers.result()
        return Host(
            system=_system(pythons, selinux_package, squashfs, runner),
            engine=_engine(engine, version.result(), described, compose_version.result()),
            room=_room(wanted.folder, described.graph_root, engine.temporary),
            installation=_installation(wanted, running),
            network=_network(sockets.result(), addresses.result(), firewall.result(), running),
            user=_user(),
        )
    except BaseException:
        # Ctrl-C, while a program hangs: nobody waits for its answer any more.
        pool.shutdown(wait=False, cancel_futures=True)
        runner.end_all()
        raise
    finally:
        pool.shutdown()


def _system(
    pythons: Future[tuple[Python, ...]],
    selinux_package: Future[bool | None],
    squashfs: Future[bool],
    runner: Runner,
) -> SystemFacts:
    release = parse.parse_os_release(_read(Path("/etc/os-release")))
    return SystemFacts(
        os_id=release.get("ID", ""),
        os_like=tuple(release.get("ID_LIKE", "").split()),
        os_version=release.get("VERSION_ID", ""),
        os_name=release.get("PRETTY_NAME", "an unknown system"),
        architecture=MACHINES.get(platform.machine(), platform.machine()),
        cpus=len(os.sched_getaffinity(0)),
        memory=parse.parse_memory(_read(Path("/proc/meminfo"))),
        now=datetime.datetime.now(datetime.UTC),
        selinux=_selinux_mode(),
        container_selinux=selinux_package.result(),
        pythons=pythons.result(),
        dnf=shutil.which("dnf", path=runner.env.get("PATH")) is not None,
        squashfs=squashfs.result(),
    )


def _engine(
    engine: Engine, version: tuple[Version | None, str], described: Description, compose_version: Version | None
) -> EngineFacts:
    number, text = version
    return EngineFacts(
        name=engine.name,
        version=number,
        problem=described.problem,
        compose_version=compose_version,
        emulated="podman" in text and engine.name not in text,
        rootless=described.rootless,
        labels=_selinux_mode() != "disabled" and described.labels,
        network_backend=described.network_backend,
        needs_podman_compose=engine.needs_podman_compose,
        asks_firewall=engine.asks_firewall,
        storage_setting=engine.storage_setting[described.rootless],
        storage_factor=engine.storage_factor,
        spooled_images=engine.spooled_images(number),
        open_database=_open_database(engine, described.graph_root),
    )


def _open_database(engine: Engine, graph_root: Path | None) -> Path | None:
    """Return the file with the containers' settings, if every local user can read it: it, and all folders above."""
    for name in engine.databases if graph_root else ():
        assert graph_root is not None
        path = graph_root / name
        with contextlib.suppress(OSError):
            if path.stat().st_mode & 0o004 and all(each.stat().st_mode & 0o001 for each in path.parents):
                return path
    return None


def _room(folder: Path, graph_root: Path | None, temporary: Path | None) -> RoomFacts:
    return RoomFacts(
        storage=_space("images", graph_root) if graph_root else None,
        install=_space("the install folder", folder),
        temporary=_space("the engine's temporary files", temporary) if temporary else None,
    )


def _installation(wanted: Wanted, running: list[Container]) -> InstallationFacts:
    place = layout.Installation(wanted.folder)
    return InstallationFacts(
        folder_exists=wanted.folder.is_dir(),
        folder_writable=os.access(_nearest(wanted.folder), os.W_OK | os.X_OK),
        ownership=ownership.find_ownership(place),
        links=tuple(ownership.list_links(place)),
        passed=tuple(ownership.list_passed(wanted.folder)),
        has_env=_exists(place.env),
        has_data=_exists(place.volumes / "db/data"),
        conflicting=tuple(each.name for each in running if _conflicts(each, place)),
        other_dify=tuple(
            f"{each.name} ({each.folder or 'in an unknown folder'})"
            for each in running
            if _is_another_dify(each, wanted.api_image)
        ),
    )


def _network(
    sockets: str | None,
    addresses: tuple[str, ...] | None,
    firewall: tuple[bool, tuple[int, ...]],
    running: list[Container],
) -> NetworkFacts:
    active, open_ports = firewall
    return NetworkFacts(
        listeners=_listeners(sockets, running),
        low_port=int(_read(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")).strip() or 1024),
        addresses=addresses,
        firewalld=active,
        open_ports=open_ports,
    )


def _user() -> UserFacts:
    user, uid = login.user_name(), os.getuid()
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return UserFacts(
        name=user,
        uid=os.geteuid(),
        root=os.geteuid() == 0,
        subuid=parse.has_ranges(_read(Path("/etc/subuid")), user, uid),
        subgid=parse.has_ranges(_read(Path("/etc/subgid")), user, uid),
        linger=Path("/var/lib/systemd/linger", user).exists(),
        session=bool(runtime) and Path(str(runtime), "bus").exists(),
    )


def _selinux_mode() -> Literal["enforcing", "permissive", "disabled"]:
    return parse.selinux_mode(_read(Path("/sys/fs/selinux/enforce")))


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


def _containers(engine: Engine) -> list[Container]:
    try:
        return engine.containers()
    except errors.CommandFailed:
        return []


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


def _has_squashfs(runner: Runner) -> bool:
    """Tell whether the kernel has squashfs, or may load it; where nothing can say, it counts as not.

    A host forbids it by a command in place of the module, or by a list of those that are not loaded by themselves
    (modprobe.d(5), "install" and "blacklist").
    """
    if "squashfs" in _read(Path("/proc/filesystems")).split():
        return True
    command = ["modprobe", "--dry-run", "--verbose", "--use-blacklist", "squashfs"]
    return "insmod " in (_output(command, runner) or "")


def _firewall(runner: Runner) -> tuple[bool, tuple[int, ...]]:
    """Return whether firewalld runs, and the TCP ports that its default zone lets in, as far as we may ask."""
    if not runs_firewalld(runner):
        return False, ()
    return True, open_ports(runner) or ()


def runs_firewalld(runner: Runner) -> bool:
    """Tell whether firewalld runs."""
    return runner.run(["systemctl", "is-active", "--quiet", "firewalld"], timeout=COMMAND_SECONDS, check=False).ok


def open_ports(runner: Runner) -> tuple[int, ...] | None:
    """Return the TCP ports that firewalld lets into its default zone; None where we may not ask."""
    listed = _output(["firewall-cmd", "--list-ports"], runner)
    if listed is None:
        return None
    ports = listed.split()
    services = (_output(["firewall-cmd", "--list-services"], runner) or "").split()
    numbers = [int(port.partition("/")[0]) for port in ports if re.fullmatch(r"\d+/tcp", port)]
    numbers += [number for service, number in (("http", 80), ("https", 443)) if service in services]
    return tuple(numbers)


def _listeners(sockets: str | None, containers: list[Container]) -> tuple[Listener, ...] | None:
    if sockets is None:
        return None
    published = {port: each for each in containers if each.is_alive for port in each.ports}
    held = parse.parse_listeners(sockets)
    for port, holder in held.items():
        if holder is not None and port not in published and (its := _find_published(port, holder, containers)):
            published[port] = its
    return tuple(_listener(port, held.get(port), published.get(port)) for port in sorted({*held, *published}))


def _find_published(port: int, holder: parse.Holder, containers: list[Container]) -> Container | None:
    """Return the container for which a process of podman's holds a port, although podman says that it has ended.

    For root that is its monitor, which names the container in its command line; rootless, one process for each. While
    podman starts a container again that has ended, which a restart policy has it do, it holds the port itself.
    """
    try:
        process = Path(f"/proc/{holder.process}")
        words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
        if process.stat().st_uid != os.geteuid():
            return None
    except OSError:
        return None
    publishing = [each for each in containers if port in each.ports]
    alone = all(each.project == layout.COMPOSE_PROJECT for each in publishing)
    known = holder.name.startswith("rootlessport") or (holder.name == "podman" and alone)
    return next((each for each in publishing if known or each.name in words), None)


def _listener(port: int, holder: parse.Holder | None, container: Container | None) -> Listener:
    if container is None:
        return Listener(port=port, holder=str(holder or "another user's process"), ours=False)
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


def _nearest(path: Path) -> Path:
    """Return the nearest folder that exists: where a new one would be made."""
    while not _exists(path) and path != path.parent:
        path = path.parent
    return path


def _space(purpose: str, path: Path) -> Space | None:
    with contextlib.suppress(OSError):
        nearest = _nearest(path)
        status = os.statvfs(nearest)
        kind, options = parse.mount_of(nearest, _read(Path("/proc/self/mountinfo")))
        return Space(
            purpose=purpose,
            path=path,
            free=status.f_bavail * status.f_frsize,
            device=nearest.stat().st_dev,
            kind=kind,
            options=options,
        )
    return None
