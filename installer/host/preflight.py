"""Judges a host: pure functions from facts to findings, each with its remedy.

Errors stop the installation, warnings do not. Nobody is ever told to switch SELinux off.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from installer.core.console import size
from installer.host.host import Host, Python, Space, Wanted

GIB = 1024**3

# RHEL's relatives by ID in os-release(5), and the releases that we support.
FAMILY = ("rhel", "centos", "rocky", "almalinux", "ol", "fedora")
RELEASES = ("8", "9", "10")
# Dify's documentation: 2 cores, 4 GiB; a kernel keeps some memory back, so 90% counts.
CPUS = 2
MEMORY = 4 * GIB
MEMORY_ACCEPTED = 0.9
# Below 4.6 podman-compose cannot wait for a healthy dependency: it skips the condition (measured).
PODMAN = (4, 6)
# Below 2.20 docker compose does not know `required: false`; Dify's own documents ask for 2.24.
DOCKER_COMPOSE = (2, 24)
# docker 20.10 says "invalid tar header" to a layer compressed with zstd, docker 26 takes it.
DOCKER_ZSTD = (23, 0)
INSTALL_PODMAN = (
    "as root, run the same command with --install-podman (dnf, from this host's repositories) or with --rpms FOLDER "
    "(podman's RPMs and all they need: `dnf download --resolve --alldeps podman` on a connected host of this release)"
)
# libpod/lock/shm: "failed to get new shm lock manager".
PODMANS_LOCKS = "podman keeps its locks in /dev/shm; as root: `mkdir -p /dev/shm && mount -t tmpfs tmpfs /dev/shm`"
PYTHON = (3, 9)
# Measured: loading takes 1.1 of the images' size in the storage; besides it, one spooled image for
# each load that runs, two of them on podman 4, in the install folder.
STORAGE_FACTOR = 1.1
SPOOLED = {True: 2, False: 1}
# `docker load` unpacks the whole archive beside its storage first.
STORAGE_FACTOR_DOCKER = 2.1
# podman-compose's environment, the executable's copy, logs; the databases when they are new.
INSTALL_BYTES = 1 * GIB
TEMPORARY_BYTES = GIB // 10
# Where relabelling would break the system; podman refuses some of these itself.
NOT_RELABELLED = ("/", "/home", "/opt", "/root", "/run", "/srv", "/tmp", "/var")
NOT_RELABELLED_BELOW = ("/bin", "/boot", "/dev", "/etc", "/lib", "/proc", "/sbin", "/sys", "/usr")
# The port for debugging plugins is nobody's but a developer's: it stays closed.
FOR_BROWSERS = ("http", "https")
NETWORK_KINDS = ("nfs", "nfs4", "cifs", "smb3")

Level = Literal["ok", "warning", "error"]
MARKS: dict[Level, str] = {"ok": "ok  ", "warning": "WARN", "error": "FAIL"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One judgement: the check's name, how it is, what was seen and what to do."""

    check: str
    level: Level
    message: str
    remedy: str = ""


def judge(host: Host, wanted: Wanted) -> tuple[Finding, ...]:
    """Return the findings of all checks that apply to this host, in the order of CHECKS."""
    return tuple(finding for check in CHECKS.values() for finding in check(host, wanted))


def failed(findings: Iterable[Finding]) -> bool:
    """Tell whether any finding stops the installation."""
    return any(finding.level == "error" for finding in findings)


def as_text(findings: Iterable[Finding]) -> str:
    """Return the findings for people, one a line, each remedy below its own."""
    lines = []
    for finding in findings:
        lines.append(f"{MARKS[finding.level]} {finding.check}: {finding.message}")
        if finding.remedy:
            lines.append(f"       do: {finding.remedy}")
    return "\n".join(lines)


def as_json(findings: Iterable[Finding]) -> str:
    """Return the findings for a machine: {"passed", "findings": [{check, level, message, remedy}]}."""
    listed = list(findings)
    top = {"passed": not failed(listed), "findings": [dataclasses.asdict(finding) for finding in listed]}
    return json.dumps(top, indent=2, ensure_ascii=False)


# -- the checks: each yields what it has to say, which may be nothing where it does not apply

Findings = Iterable[Finding]


def operating_system(host: Host, _wanted: Wanted) -> Findings:
    """RHEL 8, 9 or 10 or a relative; another system is a warning."""
    related = host.os_id in FAMILY or any(name in FAMILY for name in host.os_like)
    if related and host.os_version.split(".")[0] in RELEASES:
        yield Finding("system", "ok", host.os_name)
    else:
        yield Finding(
            "system", "warning", f"{host.os_name} is not RHEL 8, 9 or 10", "nothing, if podman works as it should here"
        )


def architecture(host: Host, wanted: Wanted) -> Findings:
    """The processor is of the bundle's architecture."""
    if host.architecture == wanted.architecture:
        yield Finding("architecture", "ok", host.architecture)
    else:
        yield Finding(
            "architecture",
            "error",
            f"this host is {host.architecture}, the bundle is for {wanted.architecture}",
            f"build a bundle for it: `make bundle ARCH={host.architecture}`",
        )


def cpu(host: Host, _wanted: Wanted) -> Findings:
    """At least 2 processors."""
    if host.cpus >= CPUS:
        yield Finding("cpu", "ok", f"{host.cpus} processors")
    else:
        yield Finding("cpu", "error", f"{host.cpus} processor, Dify needs {CPUS}", "give the machine more processors")


def memory(host: Host, _wanted: Wanted) -> Findings:
    """At least 4 GiB of memory, of which 90% is accepted."""
    if host.memory is None:
        yield Finding(
            "memory", "warning", "how much there is could not be determined", f"see that it is {size(MEMORY)}"
        )
    elif host.memory >= MEMORY * MEMORY_ACCEPTED:
        yield Finding("memory", "ok", size(host.memory))
    else:
        yield Finding(
            "memory", "error", f"{size(host.memory)}, Dify needs {size(MEMORY)}", "give the machine more memory"
        )


def podman(host: Host, wanted: Wanted) -> Findings:
    """podman is there, 4.6 or later, and works for this user; or it is to be installed."""
    if host.engine != "podman":
        return
    if host.engine_version is None:
        yield _no_podman(host, wanted)
        return
    version = ".".join(map(str, host.engine_version))
    if host.engine_version < PODMAN:
        yield Finding(
            "podman",
            "error",
            f"podman {version} cannot wait until a service is healthy; 4.6 can",
            "as root: `dnf update podman` (RHEL 8.9, 9.3 and later have 4.6 or newer)",
        )
    elif host.engine_problem:
        yield Finding(
            "podman",
            "error",
            f"podman {version} does not work for {host.user}: {host.engine_problem}",
            PODMANS_LOCKS
            if "shm lock" in host.engine_problem
            else "see that `podman info` works for this user; after a change of subuid: `podman system migrate`",
        )
    else:
        yield Finding("podman", "ok", f"podman {version} works for {host.user}")


def _no_podman(host: Host, wanted: Wanted) -> Finding:
    if not wanted.install_podman:
        return Finding("podman", "error", "podman is not installed", INSTALL_PODMAN)
    if not host.root:
        return Finding("podman", "error", "podman is not installed, and only root may install it", INSTALL_PODMAN)
    if not host.dnf:
        return Finding("podman", "error", "podman is not installed, and there is no dnf for it", INSTALL_PODMAN)
    return Finding("podman", "ok", "podman is not installed yet: dnf will do that")


def docker(host: Host, wanted: Wanted) -> Findings:
    """On a docker host: the engine works for this user, and docker compose is there, 2.24 or later."""
    if host.engine != "docker":
        return
    if host.emulated:
        yield Finding(
            "docker", "error", "`docker` is podman here, under another name (podman-docker)", "leave out --runtime"
        )
        return
    if host.engine_version is None:
        yield Finding(
            "docker", "error", "docker is not installed", "install docker's packages, or leave out --runtime for podman"
        )
        return
    version = ".".join(map(str, host.engine_version))
    if host.engine_problem:
        yield Finding(
            "docker",
            "error",
            f"docker {version} does not work for {host.user}: {host.engine_problem}",
            "as root: `systemctl enable --now docker`; a user must be in the group docker (`usermod -aG docker "
            f"{host.user}`, then log in anew)",
        )
    elif host.compose_version is None or host.compose_version < DOCKER_COMPOSE:
        found = ".".join(map(str, host.compose_version or ())) or "none"
        yield Finding(
            "docker",
            "error",
            f"Dify's compose file needs docker compose 2.24 or later; there is {found}",
            "as root: `dnf install docker-compose-plugin`, from the repository or the RPMs that docker came from",
        )
    elif wanted.compressed and host.engine_version < DOCKER_ZSTD:
        yield Finding(
            "docker",
            "error",
            f"docker {version} cannot read this bundle, whose layers are compressed with zstd; 23 can",
            "build the bundle without COMPRESS=1, or bring a newer docker",
        )
    else:
        compose = ".".join(map(str, host.compose_version))
        yield Finding("docker", "ok", f"docker {version} with compose {compose} works for {host.user}")


def network(host: Host, _wanted: Wanted) -> Findings:
    """podman's network backend lets containers find each other by name."""
    if host.network_backend == "netavark":
        yield Finding("network", "ok", "netavark, containers find each other by name")
    elif host.network_backend:
        yield Finding(
            "network",
            "warning",
            f"podman's network backend is {host.network_backend}: containers may not find each other by name",
            "as root: `dnf install netavark aardvark-dns`, then `podman system reset` if no container matters here",
        )


def space(host: Host, wanted: Wanted) -> Findings:
    """Room for the images, for podman's temporary files and in the install folder, each file system once."""
    if host.engine == "podman":
        spooled, factor = wanted.largest_image_bytes * SPOOLED[(host.engine_version or PODMAN) < (5, 0)], STORAGE_FACTOR
    else:
        spooled, factor = 0, STORAGE_FACTOR_DOCKER
    needs = [
        (host.storage, int(wanted.missing_bytes * factor)),
        (host.install, spooled + wanted.store_bytes + (0 if host.has_data else INSTALL_BYTES)),
        (host.temporary, TEMPORARY_BYTES),
    ]
    by_device: dict[int, list[tuple[Space, int]]] = {}
    for where, needed in needs:
        if where is not None:
            by_device.setdefault(where.device, []).append((where, needed))
    for group in by_device.values():
        yield _room(group)
    if host.storage is None and not host.engine_problem and host.engine_version:
        yield Finding(
            "space", "warning", f"where {host.engine} keeps its images is unknown", f"see `{host.engine} info`"
        )


def _room(group: list[tuple[Space, int]]) -> Finding:
    total, free = sum(needed for _, needed in group), group[0][0].free
    parts = ", ".join(f"{size(needed)} for {where.purpose} ({where.path})" for where, needed in group)
    if free >= total:
        return Finding("space", "ok", f"{size(free)} free; needed: {parts}")
    return Finding(
        "space",
        "error",
        f"{size(free)} free, {size(total)} needed: {parts}",
        f"make {size(total - free)} of room there, choose another --dir, or move the images "
        "(podman: graphroot in storage.conf; docker: data-root in daemon.json)",
    )


LOW_PORT_KEY = "net.ipv4.ip_unprivileged_port_start"
PORT_OPTIONS = {"http": "--port 8080", "https": "--https-port 8443", "plugin debugging": "--plugin-port 15003"}


def ports(host: Host, wanted: Wanted) -> Findings:
    """The ports are free, or held by this installation; else who holds them."""
    if host.listeners is None:
        yield Finding("ports", "warning", "who listens where could not be determined (`ss` failed)", "check by hand")
        return
    held = {listener.port: listener for listener in host.listeners if not listener.ours}
    taken = [(name, port) for name, port in wanted.ports.items() if port in held]
    for name, port in taken:
        yield Finding(
            "ports",
            "error",
            f"port {port} ({name}) is held by {held[port].holder}",
            f"stop it, or choose another port: {PORT_OPTIONS[name]}",
        )
    if not taken:
        yield Finding("ports", "ok", f"{', '.join(map(str, wanted.ports.values()))} are free or ours")


def low_ports(host: Host, wanted: Wanted) -> Findings:
    """Without root, ports below the kernel's limit (1024) cannot be opened."""
    if not host.rootless:
        return
    low = {name: port for name, port in wanted.ports.items() if port < host.low_port}
    if low:
        options = " ".join(PORT_OPTIONS[name] for name in low)
        yield Finding(
            "low ports",
            "error",
            f"{host.user} may not open {', '.join(map(str, low.values()))}: for users, ports begin at {host.low_port}",
            f"choose others: {options}; or as root: `sysctl -w {LOW_PORT_KEY}={min(low.values())}`, "
            "and the same setting in /etc/sysctl.d/90-dify.conf",
        )
    else:
        yield Finding("low ports", "ok", f"no port below {host.low_port}")


def address(host: Host, wanted: Wanted) -> Findings:
    """The address given is one of this host's."""
    if wanted.address is None or not any(character in wanted.address for character in ".:"):
        return
    if wanted.address.replace(".", "").isdecimal() or ":" in wanted.address:
        if host.addresses is None or wanted.address in host.addresses:
            yield Finding("address", "ok", wanted.address)
        else:
            mine = ", ".join(each for each in host.addresses if not each.startswith(("127.", "::1", "fe80")))
            yield Finding(
                "address",
                "warning",
                f"{wanted.address} is none of this host's addresses ({mine or 'it has none'})",
                "right behind a load balancer or NAT; else give one of its own with --ip",
            )


def usable_pythons(host: Host) -> list[Python]:
    """Return the interpreters that can make podman-compose's environment, the preferred first."""
    return [each for each in host.pythons if each.version >= PYTHON and each.has_venv]


def python(host: Host, _wanted: Wanted) -> Findings:
    """A Python from 3.9 on for podman-compose; without one the executable serves instead."""
    if host.engine != "podman":
        return
    good = usable_pythons(host)
    if good:
        yield Finding("python", "ok", f"{good[0].path} ({'.'.join(map(str, good[0].version))}) for podman-compose")
    else:
        yield Finding("python", "ok", "none from 3.9 on with venv: the installer itself serves as podman-compose")


def sub_ids(host: Host, _wanted: Wanted) -> Findings:
    """Without root, the user has subordinate user and group IDs."""
    if not host.rootless:
        return
    missing = [name for name, there in (("/etc/subuid", host.subuid), ("/etc/subgid", host.subgid)) if not there]
    if missing:
        yield Finding(
            "subordinate ids",
            "error",
            f"{host.user} has no 65536 IDs in {' and '.join(missing)}: its containers cannot have users",
            f"as root: `usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {host.user}`, "
            "then as this user: `podman system migrate`",
        )
    else:
        yield Finding("subordinate ids", "ok", "in /etc/subuid and /etc/subgid")


def session(host: Host, _wanted: Wanted) -> Findings:
    """Without root, the user has a session with a bus of its own."""
    if not host.rootless:
        return
    if host.session:
        yield Finding("session", "ok", "the user's bus is there")
    else:
        yield Finding(
            "session",
            "error",
            f"{host.user} has no session of its own (XDG_RUNTIME_DIR, bus): `su` and `sudo -u` do not make one",
            f"as root: `loginctl enable-linger {host.user}`; then run the same command again, or log in by ssh",
        )


def linger(host: Host, _wanted: Wanted) -> Findings:
    """Without root, the user's services live on after the logout; the installer tries to switch that on."""
    if not host.rootless:
        return
    if host.linger:
        yield Finding("linger", "ok", "services live on after the logout")
    else:
        yield Finding(
            "linger",
            "warning",
            f"the services of {host.user} end with the last session",
            f"the installer tries to change that; if it may not, as root: `loginctl enable-linger {host.user}`",
        )


def storage(host: Host, _wanted: Wanted) -> Findings:
    """The engine's storage is not on a network file system."""
    if host.storage is None or host.storage.kind not in NETWORK_KINDS:
        return
    yield Finding(
        "storage",
        "error" if host.rootless else "warning",
        f"{host.storage.path} is on {host.storage.kind}, which does not keep the owners that containers need",
        "put the storage onto a local disk: "
        + ("`data-root` in daemon.json" if host.engine == "docker" else f"`graphroot` in {_storage_conf(host)}"),
    )


def _storage_conf(host: Host) -> str:
    return "~/.config/containers/storage.conf" if host.rootless else "/etc/containers/storage.conf"


def selinux(host: Host, wanted: Wanted) -> Findings:
    """SELinux's mode, its policy for containers, and an install folder that may be labelled."""
    if host.selinux == "disabled":
        yield Finding("selinux", "ok", "off: no labels are needed")
        return
    if not host.labels:
        yield Finding("selinux", "ok", f"{host.selinux}; docker's daemon does not confine containers with it")
        return
    if host.container_selinux is False:
        yield Finding(
            "selinux",
            "error",
            "the policy for containers is not installed",
            "as root: `dnf install container-selinux`",
        )
    elif (folder := str(wanted.folder)) in NOT_RELABELLED or f"{folder}/".startswith(
        tuple(f"{each}/" for each in NOT_RELABELLED_BELOW)
    ):
        yield Finding(
            "selinux", "error", f"files in {folder} must keep their labels", "choose another folder: --dir /opt/dify"
        )
    else:
        yield Finding("selinux", "ok", f"{host.selinux}: what containers mount will be labelled")


def closed_ports(host: Host, wanted: Wanted) -> list[int]:
    """Return the ports for browsers that firewalld does not let in, as far as we may ask it."""
    if not host.firewalld or host.engine == "docker":
        return []
    return [port for name, port in wanted.ports.items() if name in FOR_BROWSERS and port not in host.open_ports]


def firewall(host: Host, wanted: Wanted) -> Findings:
    """firewalld lets the ports in; as root the installer opens them, unless --no-firewall."""
    closed = closed_ports(host, wanted)
    if host.engine == "docker" and host.firewalld:
        yield Finding("firewall", "ok", "docker lets the ports that it publishes past firewalld")
    elif not closed:
        yield Finding("firewall", "ok", "firewalld lets the ports in" if host.firewalld else "firewalld does not run")
    elif host.root and wanted.firewall:
        yield Finding("firewall", "ok", f"{', '.join(map(str, closed))} will be opened in firewalld")
    else:
        adding = " ".join(f"--add-port={port}/tcp" for port in closed)
        yield Finding(
            "firewall",
            "warning",
            f"firewalld may keep others from {', '.join(map(str, closed))}",
            f"as root: `firewall-cmd --permanent {adding} && firewall-cmd {adding}`",
        )


def installation(host: Host, wanted: Wanted) -> Findings:
    """What is there already: an installation of ours, data without their `.env`, or a Dify of somebody else."""
    if host.other_dify:
        yield Finding(
            "installation",
            "warning",
            f"another Dify runs here, which somebody else started: {', '.join(host.other_dify)}",
            "nothing of it is touched; this one is installed beside it, with ports and data of its own",
        )
    if host.conflicting:
        yield Finding(
            "installation",
            "error",
            f"containers named dify run already, from another folder: {', '.join(host.conflicting)}",
            "give that installation's folder with --dir to take it over; or remove its containers first "
            "(`podman-compose down` or `docker compose down` there: its data stay in its folder)",
        )
    if host.has_env:
        yield Finding("installation", "ok", f"{wanted.folder} is repaired; its settings, secrets and data are kept")
    elif host.has_data:
        yield Finding(
            "installation",
            "error",
            f"{wanted.folder} holds a database, but no .env: its secrets are lost, and new ones would lock you out",
            f"put its .env back into {wanted.folder}/docker; or, if the data may go, move docker/volumes away",
        )
    elif not host.conflicting:
        yield Finding("installation", "ok", "none yet")


def folder(host: Host, wanted: Wanted) -> Findings:
    """The install folder can be written, and programs may run from it."""
    if not host.folder_writable:
        yield Finding(
            "folder",
            "error",
            f"{host.user} cannot write {wanted.folder}",
            "run as root, or give a folder of your own with --dir",
        )
    elif host.install is not None and "noexec" in host.install.options:
        yield Finding(
            "folder",
            "error",
            f"{wanted.folder} is on a file system mounted noexec: podman-compose could not run from there",
            "give a folder on another file system with --dir",
        )
    else:
        yield Finding("folder", "ok", f"{wanted.folder} {'is there' if host.folder_exists else 'can be made'}")


def clock(host: Host, wanted: Wanted) -> Findings:
    """The clock is not behind the newest image of the bundle."""
    if wanted.not_before is not None and host.now < wanted.not_before:
        yield Finding(
            "clock",
            "error",
            f"it says {host.now:%Y-%m-%d %H:%M} UTC, but the bundle has an image of {wanted.not_before:%Y-%m-%d}: "
            "logins and certificates would fail",
            "as root: `timedatectl set-time 'YYYY-MM-DD HH:MM'`, or let chronyd set it",
        )
    else:
        yield Finding("clock", "ok", f"{host.now:%Y-%m-%d %H:%M} UTC")


CHECKS: dict[str, Callable[[Host, Wanted], Findings]] = {
    "system": operating_system,
    "architecture": architecture,
    "cpu": cpu,
    "memory": memory,
    "podman": podman,
    "docker": docker,
    "network": network,
    "subordinate ids": sub_ids,
    "session": session,
    "linger": linger,
    "storage": storage,
    "space": space,
    "folder": folder,
    "installation": installation,
    "ports": ports,
    "low ports": low_ports,
    "address": address,
    "firewall": firewall,
    "selinux": selinux,
    "python": python,
    "clock": clock,
}
