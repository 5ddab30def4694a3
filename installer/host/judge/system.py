"""Judges the operating system and the machine."""

from __future__ import annotations

from collections.abc import Iterable

from installer.core.console import size
from installer.core.finding import Finding
from installer.host.facts import Host, Python, Wanted

GIB = 1024**3

# RHEL's relatives by ID in os-release(5), and the releases that we support.
FAMILY = ("rhel", "centos", "rocky", "almalinux", "ol", "fedora")
RELEASES = ("8", "9", "10")
# Dify's documentation: 2 cores, 4 GiB; a kernel keeps some memory back, so 90% counts.
CPUS = 2
MEMORY = 4 * GIB
MEMORY_ACCEPTED = 0.9
PYTHON = (3, 9)
# Where relabelling would break the system; podman refuses some of these itself.
NOT_RELABELLED = ("/", "/home", "/opt", "/root", "/run", "/srv", "/tmp", "/var")
NOT_RELABELLED_BELOW = ("/bin", "/boot", "/dev", "/etc", "/lib", "/proc", "/sbin", "/sys", "/usr")

Findings = Iterable[Finding]


def operating_system(host: Host, _wanted: Wanted) -> Findings:
    """RHEL 8, 9 or 10 or a relative; another system is a warning."""
    related = host.system.os_id in FAMILY or any(name in FAMILY for name in host.system.os_like)
    if related and host.system.os_version.split(".")[0] in RELEASES:
        yield Finding("system", "ok", host.system.os_name)
    else:
        yield Finding(
            "system",
            "warning",
            f"{host.system.os_name} is not RHEL 8, 9 or 10",
            "nothing, if podman works as it should here",
        )


def architecture(host: Host, wanted: Wanted) -> Findings:
    """The processor is of the bundle's architecture."""
    if host.system.architecture == wanted.architecture:
        yield Finding("architecture", "ok", host.system.architecture)
    else:
        yield Finding(
            "architecture",
            "error",
            f"this host is {host.system.architecture}, the bundle is for {wanted.architecture}",
            f"build a bundle for it: `make bundle ARCH={host.system.architecture}`",
        )


def cpu(host: Host, _wanted: Wanted) -> Findings:
    """At least 2 processors."""
    if host.system.cpus >= CPUS:
        yield Finding("cpu", "ok", f"{host.system.cpus} processors")
    else:
        yield Finding(
            "cpu", "error", f"{host.system.cpus} processor, Dify needs {CPUS}", "give the machine more processors"
        )


def memory(host: Host, _wanted: Wanted) -> Findings:
    """At least 4 GiB of memory, of which 90% is accepted."""
    if host.system.memory is None:
        yield Finding(
            "memory", "warning", "how much there is cannot be found out", f"see that it is at least {size(MEMORY)}"
        )
    elif host.system.memory >= MEMORY * MEMORY_ACCEPTED:
        yield Finding("memory", "ok", size(host.system.memory))
    else:
        yield Finding(
            "memory", "error", f"{size(host.system.memory)}, Dify needs {size(MEMORY)}", "give the machine more memory"
        )


def clock(host: Host, wanted: Wanted) -> Findings:
    """The clock is not behind the newest image of the bundle."""
    if wanted.not_before is not None and host.system.now < wanted.not_before:
        yield Finding(
            "clock",
            "error",
            f"it says {host.system.now:%Y-%m-%d %H:%M} UTC, "
            f"but the bundle has an image of {wanted.not_before:%Y-%m-%d}: logins and certificates would fail",
            "as root: `timedatectl set-time 'YYYY-MM-DD HH:MM'`, or let chronyd set it",
        )
    else:
        yield Finding("clock", "ok", f"{host.system.now:%Y-%m-%d %H:%M} UTC")


def selinux(host: Host, wanted: Wanted) -> Findings:
    """SELinux's mode, its policy for containers, and an install folder that may be labelled."""
    if host.system.selinux == "disabled":
        yield Finding("selinux", "ok", "off: no labels are needed")
        return
    if not host.engine.labels:
        yield Finding("selinux", "ok", f"{host.system.selinux}; docker's daemon does not confine containers with it")
        return
    if host.system.container_selinux is False:
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
        yield Finding("selinux", "ok", f"{host.system.selinux}: what containers mount will be labelled")


def usable_pythons(host: Host) -> list[Python]:
    """Return the interpreters that can make podman-compose's environment, the preferred first."""
    return [each for each in host.system.pythons if each.version >= PYTHON and each.has_venv]


def python(host: Host, _wanted: Wanted) -> Findings:
    """A Python from 3.9 on for podman-compose; without one the executable serves instead."""
    if not host.engine.needs_podman_compose:
        return
    good = usable_pythons(host)
    if good:
        yield Finding("python", "ok", f"{good[0].path} ({'.'.join(map(str, good[0].version))}) for podman-compose")
    else:
        yield Finding("python", "ok", "none from 3.9 on with venv: the installer itself serves as podman-compose")
