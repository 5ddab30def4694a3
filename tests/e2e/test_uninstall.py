"""Uninstalling: what goes, what stays, and that an installation afterwards has its secrets and data again."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from installer.release import masks
from tests.e2e.conftest import MachineMaker
from tests.e2e.server import Server
from tests.target.bundle import Bundle

# All files with their owners, modes, sizes and times, folders without times; what engines and systemd keep of
# themselves is asked of them.
FILES = """
import os, stat
LEFT_OUT = (
    *("/proc", "/sys", "/dev", "/run", "/tmp", "/var/log", "/var/cache"),
    *("/var/lib/containers", "/var/lib/docker", "/var/lib/containerd", "/home/dify/.local/share/containers"),
    *("/var/lib/systemd/random-seed", "/var/lib/systemd/timers"),
)
# systemd's own, which come and go with services that a bus call starts (PrivateTmp=, systemd.exec(5)).
PRIVATE = "/var/tmp/systemd-private-"
for folder, folders, files in os.walk("/"):
    folders[:] = [
        name for name in folders
        if (path := os.path.join(folder, name)) not in LEFT_OUT and not path.startswith(PRIVATE)
    ]
    for name in (*folders, *files):
        path = os.path.join(folder, name)
        if path not in LEFT_OUT:
            seen = os.lstat(path)
            when = "" if stat.S_ISDIR(seen.st_mode) else f"{seen.st_size} {seen.st_mtime_ns}"
            print(path, oct(seen.st_mode), seen.st_uid, seen.st_gid, when)
"""
# What stays, as docs/host-changes.md tells: podman's own folder, firewalld's files of zones whose rules are as before,
# and for a user linger and folders on the way.
STAYS = {
    "podman root": {
        "/etc/containers/networks",
        *(f"/etc/firewalld/zones/{zone}.xml{old}" for zone in ("public", "trusted") for old in ("", ".old")),
    },
    "podman dify": {
        *("/var/lib/systemd/linger/dify", "/home/dify/.config", "/home/dify/.config/systemd"),
        *("/home/dify/.config/systemd/user", "/home/dify/.local", "/home/dify/.local/bin", "/home/dify/.local/share"),
    },
    "docker root": set(),
}
LABEL = "label=com.docker.compose.project=dify"
ROW = "select note from kept"


@pytest.fixture(scope="module", params=["podman root", "podman dify", "docker root"], ids=lambda each: each.split())
def server(request: pytest.FixtureRequest, lasting_machine: MachineMaker, sample: Bundle) -> Iterator[Server]:
    """A server on which nothing is installed yet; the tests below run on it in their order."""
    engine, user = request.param.split()
    machine = lasting_machine(engine)
    if (engine, user) == ("podman", "root"):
        machine.run("systemctl enable --now firewalld")
    with Server(machine, sample, user, engine=engine) as made:
        yield made


@pytest.fixture(scope="module")
def before(server: Server) -> set[str]:
    """The whole host before anything is installed; an engine that is asked makes folders of its own first."""
    whole(server)
    return whole(server)


def listed(server: Server, *command: str) -> list[str]:
    """Return what a listing of the engine names."""
    shown = server.run(server.engine, *command)
    assert shown.returncode == 0, shown.stderr
    return shown.stdout.split()


def images(server: Server) -> list[str]:
    return listed(server, "images", "--format", "{{.Repository}}:{{.Tag}}")


def sql(server: Server, statement: str) -> str:
    command = ["psql", "-U", "postgres", "-d", "dify", "-h", "127.0.0.1", "-t", "-A", "-c", statement]
    password = f"PGPASSWORD={server.env()['DB_PASSWORD']}"
    done = server.run(server.engine, "exec", "-e", password, server.container("db_postgres"), *command)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def whole(server: Server) -> set[str]:
    """Return a line for all that a host has: files, rules of the firewall, units, what the engine holds."""
    machine = server.machine
    seen = machine.run(["python3", "-c", FILES]).stdout
    rules = "firewall-cmd --list-all-zones; firewall-cmd --permanent --list-all-zones"
    seen += machine.run(rules, check=False).stdout
    scopes = [[], ["--user"]] if server.user != "root" else [[]]
    for scope in scopes:
        units = ["systemctl", *scope, "list-unit-files", "--no-legend", "--no-pager"]
        # Those that come and go with sessions and programs are no files.
        seen += "".join(f"{line}\n" for line in server.run(*units).stdout.splitlines() if " transient " not in line)
    for what in ("images", "ps", "volume ls", "network ls"):
        everything = ["--all"] if what in ("images", "ps") else []
        seen += "".join(f"{what}: {line}\n" for line in listed(server, *what.split(), *everything, "--quiet"))
    return set(seen.splitlines())


def unit(server: Server) -> str:
    """Return what systemd knows of the unit."""
    scope = [] if server.user == "root" else ["--user"]
    return server.run("systemctl", *scope, "show", "--property=LoadState,ActiveState", "dify.service").stdout


def assert_gone(server: Server) -> None:
    """Nothing of the stack is left in the engine and in systemd; what holds data is."""
    assert listed(server, "ps", "--all", "--quiet", "--filter", LABEL) == []
    assert listed(server, "network", "ls", "--quiet", "--filter", LABEL) == []
    assert set(unit(server).split()) == {"LoadState=not-found", "ActiveState=inactive"}
    units = "/etc/systemd/system" if server.user == "root" else f"{server.home}/.config/systemd/user"
    assert server.run("find", units, "-name", "dify.service").stdout == ""
    path = "/usr/local/bin" if server.user == "root" else f"{server.home}/.local/bin"
    assert not server.run("find", path, "-name", "podman-compose").stdout
    kept = set(server.run("ls", "-A", server.folder).stdout.split())
    # The list of our images stays as long as others use one of them.
    reports = {"install-report.json", "install-report.html"}
    assert kept - {"images.json"} == {"docker", "logs", *reports, ".dify-installer.json", "disk-history.json"}
    assert ("images.json" in kept) == bool(images(server))


def kill_in_the_middle(server: Server) -> None:
    """Start to uninstall, and take the program away while it stops the stack."""
    # The first process of the api does not answer, so that what comes after it is waited for.
    api = server.run(server.engine, "inspect", "--format", "{{.State.Pid}}", server.container("api")).stdout.strip()
    server.machine.run(["kill", "-STOP", api])
    killed = server.machine.start(["./dify-installer", "uninstall"], user=server.user)
    deadline = time.monotonic() + 60
    while server.container("nginx") in server.containers():
        assert time.monotonic() < deadline
    server.machine.run(["pkill", "-KILL", "--full", "dify-installer uninstall"])
    killed.wait(30)
    server.machine.run(["kill", "-CONT", api])


def test_where_nothing_is_installed(server: Server, before: set[str]) -> None:
    refused = server.installer("uninstall")
    assert refused.returncode == 2
    assert f"there is no installation in {server.folder}" in refused.stderr
    assert not server.machine.exists(server.folder)
    assert whole(server) == before


@pytest.mark.feature("`uninstall`, then an installation again", "works; settings, secrets and data are kept")
def test_interrupted_and_again_all_goes_but_settings_data_and_what_others_use(server: Server) -> None:
    server.install()
    sql(server, "create table kept (note text); insert into kept values ('a row')")
    (redis,) = [name for name in images(server) if "/redis:" in f"/{name}"]
    options = ["--detach", "--pull=never", "--name=other", "--stop-timeout=1", "--entrypoint=sleep"]
    listed(server, "run", *options, redis, "infinity")
    theirs = [f"{server.folder}/{name}" for name in ("bin/my-script", "tmp/backup.sql", "logs/install-other.log")]
    server.run("sh", "-c", 'for path; do mkdir -p "${path%/*}" && echo theirs > "$path"; done', "sh", *theirs)
    kill_in_the_middle(server)
    # The copy in the install folder removes itself.
    done = server.run(f"{server.folder}/bin/dify-installer", "uninstall")
    assert done.returncode == 0, done.stderr
    assert "for good: " in done.stderr.splitlines()[-1]
    assert f"rm -rf {server.folder} " not in f"{done.stderr.splitlines()[-1]} "
    for path in theirs:
        assert server.machine.read(path) == "theirs\n"
    server.run("rm", "-r", f"{server.folder}/bin", f"{server.folder}/tmp", theirs[-1])
    assert_gone(server)
    assert images(server) == [redis]
    assert "in use by others, and left: " in done.stderr
    assert set(server.containers()) == {"other"}
    assert server.machine.exists(f"{server.folder}/docker/.env")


def test_once_more(server: Server) -> None:
    listed(server, "rm", "--force", "other")
    again = server.installer("uninstall")
    assert again.returncode == 0, again.stderr
    assert_gone(server)
    assert images(server) == []
    assert server.installer("uninstall", "--silent").stderr == ""


def test_an_installation_afterwards_has_secrets_and_data_again(server: Server) -> None:
    before = masks.secret_values(server.env())
    server.install()
    assert masks.secret_values(server.env()) == before
    assert sql(server, ROW) == "a row"
    assert server.installer("status").returncode == 0


def test_what_is_told_removes_the_rest(server: Server, before: set[str]) -> None:
    # Stopping in order has been shown; some containers take their ten seconds for it.
    server.run("sh", "-c", f"{server.engine} kill $({server.engine} ps --quiet)")
    if (server.engine, server.user) != ("podman", "root"):
        purge(server)
        assert_as_before(server, before)
        return
    done = server.installer("uninstall")
    assert done.returncode == 0, done.stderr
    command = done.stderr.splitlines()[-1].partition("for good: ")[2]
    removed = server.run("sh", "-c", command)
    assert removed.returncode == 0, removed.stderr
    assert not server.machine.exists(server.folder)
    assert_as_before(server, before)


def assert_as_before(server: Server, before: set[str]) -> None:
    """The host is as it was, but for what is told to stay."""
    now = whole(server)
    assert before - now == set()
    assert {line.split()[0] for line in now - before} <= STAYS[f"{server.engine} {server.user}"]


def purge(server: Server) -> None:
    """Remove the rest by the option for that, which wants the folder's name, and takes nothing of others."""
    before = server.containers()
    refused = server.installer("uninstall", "--purge-data", "data")
    assert refused.returncode == 2
    assert "--purge-data dify" in refused.stderr
    assert server.containers() == before
    server.run("sh", "-c", f"echo theirs > {server.folder}/theirs")
    done = server.installer("uninstall", "--purge-data", "dify")
    assert done.returncode == 0, done.stderr
    assert server.run("ls", "-A", server.folder).stdout.split() == ["theirs"]
    server.run("rm", "-r", server.folder)
