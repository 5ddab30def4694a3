"""Judges the container engine."""

from __future__ import annotations

from collections.abc import Iterable

from installer.core.finding import Finding
from installer.host.facts import Host, Wanted

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

Findings = Iterable[Finding]


def podman(host: Host, wanted: Wanted) -> Findings:
    """podman is there, 4.6 or later, and works for this user; or it is to be installed."""
    if host.engine.version is None:
        yield _no_podman(host, wanted)
        return
    version = ".".join(map(str, host.engine.version))
    if host.engine.version < PODMAN:
        yield Finding(
            "podman",
            "error",
            f"podman {version} cannot wait until a service is healthy; 4.6 can",
            "as root: `dnf update podman` (RHEL 8.9, 9.3 and later have 4.6 or newer)",
        )
    elif host.engine.problem:
        yield Finding(
            "podman",
            "error",
            f"podman {version} does not work for {host.user.name}: {host.engine.problem}",
            PODMANS_LOCKS
            if "shm lock" in host.engine.problem
            else "see that `podman info` works for this user; after a change of subuid: `podman system migrate`",
        )
    else:
        yield Finding("podman", "ok", f"podman {version} works for {host.user.name}")


def _no_podman(host: Host, wanted: Wanted) -> Finding:
    if not wanted.install_podman:
        return Finding("podman", "error", "podman is not installed", INSTALL_PODMAN)
    if not host.user.root:
        return Finding("podman", "error", "podman is not installed, and only root may install it", INSTALL_PODMAN)
    if not host.system.dnf:
        return Finding("podman", "error", "podman is not installed, and dnf is missing, too", INSTALL_PODMAN)
    return Finding("podman", "ok", "podman is not installed yet: dnf will do that")


def docker(host: Host, wanted: Wanted) -> Findings:
    """On a docker host: the engine works for this user, and docker compose is there, 2.24 or later."""
    if host.engine.emulated:
        yield Finding(
            "docker", "error", "`docker` is podman here, under another name (podman-docker)", "leave out --runtime"
        )
        return
    if host.engine.version is None:
        yield Finding(
            "docker", "error", "docker is not installed", "install docker's packages, or leave out --runtime for podman"
        )
        return
    version = ".".join(map(str, host.engine.version))
    if host.engine.problem:
        yield Finding(
            "docker",
            "error",
            f"docker {version} does not work for {host.user.name}: {host.engine.problem}",
            "as root: `systemctl enable --now docker`; a user must be in the group docker (`usermod -aG docker "
            f"{host.user.name}`, then log in again)",
        )
    elif host.engine.compose_version is None or host.engine.compose_version < DOCKER_COMPOSE:
        found = ".".join(map(str, host.engine.compose_version or ())) or "none"
        yield Finding(
            "docker",
            "error",
            f"Dify's compose file needs docker compose 2.24 or later; there is {found}",
            "as root: `dnf install docker-compose-plugin`, from the repository or the RPMs that docker came from",
        )
    elif wanted.compressed and host.engine.version < DOCKER_ZSTD:
        yield Finding(
            "docker",
            "error",
            f"docker {version} cannot read this bundle, whose layers are compressed with zstd; 23 can",
            "build the bundle without COMPRESS=1, or bring a newer docker",
        )
    else:
        compose = ".".join(map(str, host.engine.compose_version))
        yield Finding("docker", "ok", f"docker {version} with compose {compose} works for {host.user.name}")


def database(host: Host, _wanted: Wanted) -> Findings:
    """podman's database, which holds the settings of its containers, can only be read by its owner."""
    path = host.engine.open_database
    if path is None:
        yield Finding("database", "ok", "no other user can read the settings of the containers")
        return
    # 0700 is what podman itself gives a storage that it makes (containers/storage, store.go, GetStore).
    folder = path.parent.parent if path.parent.name == "libpod" else path.parent
    yield Finding(
        "database",
        "warning",
        f"every local user can read {path}, where podman keeps the settings of its containers, passwords included",
        f"as its owner: `chmod 0700 {folder}`, the mode that podman gives it by itself; containers do not notice",
    )


def network(host: Host, _wanted: Wanted) -> Findings:
    """podman's network backend lets containers find each other by name."""
    if host.engine.network_backend == "netavark":
        yield Finding("network", "ok", "netavark, containers find each other by name")
    elif host.engine.network_backend:
        yield Finding(
            "network",
            "warning",
            f"podman's network backend is {host.engine.network_backend}: containers may not find each other by name",
            "as root: `dnf install netavark aardvark-dns`, then `podman system reset` if no container matters here",
        )
