"""A target machine: systemd as PID 1, podman, firewalld, no network but loopback and a LAN of its own.

It is a container of systemd-nspawn with a private network: air-gapped for real, up in a few
seconds, and a fresh copy for each test. It shows everything but SELinux and RHEL's own kernel.
Needs root, `mmdebstrap` and `systemd-container`.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import os
import secrets
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal

from tests.target import rpms, steps

# The machine's address on its own LAN, which exists only inside.
ADDRESS = "10.0.0.5"
USER = "dify"
USER_ID = 1000
BOOT_SECONDS = 60.0
# Where systemd has the groups of its units, with the first cgroups.
CGROUPS = Path("/sys/fs/cgroup/systemd")
# A host that lets nobody set a loop device up finds out when it mounts a store, which is unpacked then.
NO_LOOPS = "for device in /dev/loop*; do umount $device && rm -f $device; done"
# Debian 13's: what runs here may need no newer one.
GLIBC = (2, 41)
# Disks that are being removed: three minutes for the machines of one module were seen on a busy disk.
_REMOVALS: list[subprocess.Popen[bytes]] = []
# The kernel ends what a killed test has started (prctl(2), PR_SET_PDEATHSIG; execve keeps it).
DIES_WITH_US = ("setpriv", "--pdeathsig", "TERM")

PACKAGES = (
    "systemd systemd-sysv dbus dbus-user-session libpam-systemd python3 python3-venv curl iproute2 procps nftables "
    "iptables firewalld login passwd util-linux openssl crun openssh-server"
)
PODMAN = "podman netavark aardvark-dns fuse-overlayfs passt slirp4netns uidmap"
KINDS = {
    "podman": PODMAN,
    "docker": "docker.io docker-cli docker-compose",
    # No engine yet, but the real dnf and RPMs of podman.
    "dnf": f"{PODMAN} dnf rpm createrepo-c gnupg",
}

# Nobody reads on these machines: a third of the files of a root, and of the time to copy and remove it.
LEAN = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "info", "lintian", "locale", "man")]

OS_RELEASE = """\
NAME="Red Hat Enterprise Linux"
VERSION="9.6 (Plow)"
ID="rhel"
ID_LIKE="fedora"
VERSION_ID="9.6"
PLATFORM_ID="platform:el9"
PRETTY_NAME="Red Hat Enterprise Linux 9.6 (Plow)"
"""

LAN = f"""\
[Unit]
Description=The LAN of this machine
Before=network.target network-online.target
DefaultDependencies=no
After=systemd-sysctl.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/ip link add lan0 type bridge
ExecStart=/usr/sbin/ip address add {ADDRESS}/24 dev lan0
ExecStart=/usr/sbin/ip link set lan0 up
[Install]
WantedBy=multi-user.target
"""

# On a host with cgroups v1 or hybrid the machine cannot limit resources.
CONTAINERS_CONF = """\
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
cgroups = "disabled"
[engine]
env = ["PODMAN_IGNORE_CGROUPSV1_WARNING=1"]
"""
DOCKER_DAEMON = """\
{
  "default-ulimits": {"nofile": {"Name": "nofile", "Soft": 1024, "Hard": 1024}},
  "runtimes": {"crun": {"path": "/usr/bin/crun", "runtimeArgs": ["--cgroup-manager=disabled"]}},
  "default-runtime": "crun"
}
"""


def unified_host() -> bool:
    """Tell whether this host has cgroups v2 alone."""
    return Path("/sys/fs/cgroup/cgroup.controllers").exists()


def base_root(work: Path, kind: Literal["podman", "docker", "dnf"] = "podman") -> Path:
    """Return the root that machines are copied from; made once (a minute) and kept below `work`."""
    chosen = f"{PACKAGES} {KINDS[kind]}"
    made_of = (chosen, *LEAN, OS_RELEASE, LAN, CONTAINERS_CONF, DOCKER_DAEMON, str(unified_host()), rpms.SPEC, "1")
    recipe = "\n".join(made_of)
    base = work / f"base-{kind}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    if base.is_dir():
        return base
    partial = base.with_name(f"{base.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    packages = ",".join(chosen.split())
    command = ["mmdebstrap", "--variant=minbase", *LEAN, f"--include={packages}", "trixie", str(partial)]
    log = work / f"base-{kind}.log"
    with steps.step(f"the target machine's disk: Debian 13 with systemd and {kind}", 30, log):
        steps.run([*command, *mirrors()], log)
        _furnish(partial)
        if kind == "dnf":
            rpms.furnish(partial)
        partial.rename(base)
    return base


def mirrors() -> list[str]:
    """Return the mirror that this machine's own apt uses, if it is Debian's; else mmdebstrap knows one."""
    if "ID=debian" not in Path("/etc/os-release").read_text().splitlines():
        return []
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(SITE)"], check=True, capture_output=True, text=True
    ).stdout.split()
    return [site for site in dict.fromkeys(listed) if "security" not in site][:1]


def _furnish(root: Path) -> None:
    """Make a Debian root look like RHEL 9.6 where the installer looks."""
    for name in ("etc/os-release", "usr/lib/os-release"):
        (root / name).unlink(missing_ok=True)
        (root / name).write_text(OS_RELEASE)
    (root / "etc/redhat-release").write_text("Red Hat Enterprise Linux release 9.6 (Plow)\n")
    (root / "etc/hostname").write_text("target\n")
    (root / "etc/hosts").write_text(f"127.0.0.1 localhost\n{ADDRESS} target\n")
    (root / "etc/resolv.conf").unlink(missing_ok=True)
    (root / "etc/resolv.conf").write_text("")
    (root / "etc/systemd/system/lan.service").write_text(LAN)
    if not unified_host():
        for name, text in (("containers/containers.conf", CONTAINERS_CONF), ("docker/daemon.json", DOCKER_DAEMON)):
            (root / "etc" / name).parent.mkdir(exist_ok=True)
            (root / "etc" / name).write_text(text)
    (root / "etc/systemd/journald.conf").write_text("[Journal]\nStorage=volatile\nRuntimeMaxUse=16M\n")
    commands = (
        f"useradd --create-home --shell /bin/bash --uid {USER_ID} {USER}",
        "systemctl enable lan.service",
        "systemctl disable firewalld.service ssh.service ssh.socket",
        "systemctl mask systemd-modules-load.service systemd-networkd-wait-online.service",
    )
    for command in commands:
        subprocess.run(["chroot", str(root), *command.split()], check=True, capture_output=True)


@atexit.register
def await_removals() -> None:
    """Wait until the disks of machines that were destroyed are gone."""
    for removal in _REMOVALS:
        removal.wait()


class Machine:
    """A machine on a root of its own; as a context manager it boots, and is destroyed at the end."""

    address = ADDRESS

    def __init__(self, root: Path) -> None:
        self.root = root
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._group: Path | None = None
        self._sessions: list[subprocess.Popen[bytes]] = []
        atexit.register(self.kill)

    @classmethod
    def clone(cls, base: Path, folder: Path) -> Machine:
        """Copy `base` (300 MB) to `folder`."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-a", "--reflink=auto", "--no-target-directory", str(base), str(folder)], check=True)
        return cls(folder)

    def __enter__(self) -> Machine:
        self.boot()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.destroy()

    # -- power

    def boot(self) -> None:
        """Boot and wait until systemd has started what it starts."""
        for device in ("/dev/fuse", "/dev/net/tun"):
            Path(device).chmod(0o666)
        command = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", f"--directory={self.root}"]
        command += ["--private-network", "--capability=all", "--bind=/dev/fuse", "--bind=/dev/net/tun"]
        # For image stores; loop devices belong to the kernel, all machines share them.
        command += [
            f"--bind={device}" for device in ("/dev/loop-control", *sorted(map(str, Path("/dev").glob("loop[0-9]*"))))
        ]
        command += ["--system-call-filter=add_key keyctl bpf @all", "--resolv-conf=off", "--timezone=off", "--boot"]
        # Asked to end, nspawn takes the power away at once: that is what a test which was killed leaves to it.
        command += ["--kill-signal=SIGKILL"]
        env = dict(os.environ)
        if not unified_host():
            command += ["--setenv=SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1", "systemd.unified_cgroup_hierarchy=0"]
            env |= {"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "0", "SYSTEMD_SECCOMP": "0"}
            # Units of several machines would share their groups, and one machine would take away another's ("Failed to
            # attach to cgroup", seen once in 160 boots, five machines at a time).
            self._group = CGROUPS / f"dify-{os.getpid()}-{secrets.token_hex(4)}"
            self._group.mkdir()
            begun = f"echo $$ > {self._group}/cgroup.procs; umount /sys/fs/cgroup/unified 2>/dev/null; exec "
            command = ["unshare", "--mount", "sh", "-c", begun + shlex.join(command)]
        log = self.root.with_name(f"{self.root.name}.console").open("ab")
        self._nspawn = subprocess.Popen(
            [*DIES_WITH_US, *command], env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
        log.close()
        self._await_boot()

    def _await_boot(self) -> None:
        deadline = time.monotonic() + BOOT_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(subprocess.SubprocessError, LookupError, OSError):
                state = self.run("systemctl is-system-running", check=False, timeout=10).stdout.strip()
                if state in ("running", "degraded"):
                    return
            time.sleep(0.1)
        raise TimeoutError(f"{self.root} did not boot: see {self.root}.console")

    def poweroff(self) -> None:
        """Shut down as a host does, units stopped in order."""
        self.run("systemctl poweroff --no-block", check=False, timeout=30)
        if self._nspawn is not None:
            self._nspawn.wait(180)
        self._nspawn = None
        self._clear_away()

    def kill(self) -> None:
        """Take the power away."""
        if self._nspawn is None:
            return
        with contextlib.suppress(OSError, LookupError):
            os.kill(self.init(), signal.SIGKILL)
        # nspawn itself is asked, not killed: it would leave a machine behind that has not come as far as systemd.
        self._nspawn.terminate()
        self._nspawn.wait(60)
        self._nspawn = None
        self._clear_away()

    def _clear_away(self) -> None:
        """Wait for sessions to end, and remove the groups, the innermost first; one in use is left to the host."""
        while self._sessions:
            # They have ended with the machine.
            self._sessions.pop().wait(60)
        if self._group is not None:
            for folder, _, _ in os.walk(self._group, topdown=False):
                with contextlib.suppress(OSError):
                    Path(folder).rmdir()
            self._group = None

    def reboot(self) -> None:
        """Shut down and boot again."""
        self.poweroff()
        self.boot()

    def destroy(self) -> None:
        """Take the power away and remove the machine's disk, which goes on while the next test runs."""
        self.kill()
        atexit.unregister(self.kill)
        if self.root.is_dir():
            gone = self.root.rename(self.root.with_name(f".removed-{secrets.token_hex(4)}"))
            _REMOVALS.append(subprocess.Popen(["rm", "-rf", "--", str(gone)]))
        for name in (f"{self.root.name}.console", f".#{self.root.name}.lck"):
            self.root.with_name(name).unlink(missing_ok=True)

    def init(self) -> int:
        """Return the process ID of the machine's systemd, seen from outside."""
        pid = self._nspawn.pid if self._nspawn is not None else 0
        for _ in range(4):
            if Path(f"/proc/{pid}/comm").read_text().strip() == "systemd":
                return pid
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            if not children:
                break
            pid = int(children[0])
        raise LookupError("the machine does not run")

    @property
    def network(self) -> Path:
        """The namespace of the machine's network, which is another one after each boot."""
        return Path(f"/proc/{self.init()}/ns/net")

    # -- commands

    def command(
        self, command: str | Sequence[str], user: str = "root", env: Mapping[str, str] | None = None
    ) -> list[str]:
        """Return the command line, on this host, that runs `command` inside."""
        text = command if isinstance(command, str) else f"exec {shlex.join(command)}"
        settings = dict(env or {})
        if user == "root":
            inside = ["env", "-i", "HOME=/root", "USER=root", "LOGNAME=root", "TERM=dumb"]
            inside += ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"]
            inside += [*(f"{key}={value}" for key, value in settings.items()), "sh", "-c", f"cd; {text}"]
        else:
            runtime = f"/run/user/{USER_ID}"
            settings = {
                "XDG_RUNTIME_DIR": runtime,
                "DBUS_SESSION_BUS_ADDRESS": f"unix:path={runtime}/bus",
                "PATH": f"/home/{user}/.local/bin:/usr/local/bin:/usr/bin:/usr/sbin",
                **settings,
            }
            exports = " ".join(f"{key}={shlex.quote(value)}" for key, value in settings.items())
            inside = ["su", "-", user, "-c", f"export {exports}; {text}"]
        init = self.init()
        return [*self._joined(init), "nsenter", "-t", str(init), "-m", "-u", "-i", "-n", "-p", "-C", *inside]

    def _joined(self, init: int) -> list[str]:
        """Return what begins a command inside the machine's groups.

        logind does nothing for a process outside of them ("Protocol driver not attached").
        """
        if self._group is None:
            return []
        lines = Path(f"/proc/{init}/cgroup").read_text().splitlines()
        of_init = next(path for line in lines for _, name, path in [line.split(":", 2)] if name == "name=systemd")
        inside = CGROUPS / Path(of_init).parent.relative_to("/")
        return ["sh", "-c", f'echo $$ > {inside}/cgroup.procs; exec "$@"', "sh"]

    def run(
        self,
        command: str | Sequence[str],
        *,
        user: str = "root",
        timeout: float = 600,
        env: Mapping[str, str] | None = None,
        input: str | None = None,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside, a string by a shell; as another user in a login with a session of its own."""
        result = subprocess.run(
            self.command(command, user, env),
            input="" if input is None else input,
            timeout=timeout,
            capture_output=True,
            text=True,
            errors="replace",
        )
        if check and result.returncode != 0:
            raise AssertionError(f"{command}: status {result.returncode}\n{result.stdout}\n{result.stderr}")
        return result

    def start(
        self, command: str | Sequence[str], *, user: str = "root", env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """Start a command inside and return at once."""
        return subprocess.Popen(
            self.command(command, user, env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )

    def signal(self, name: str, pattern: str) -> None:
        """Send a signal to the oldest process inside whose command line matches."""
        self.run(["pkill", f"-{name}", "--oldest", "--full", pattern])

    def login(self, user: str = USER) -> None:
        """Let a user log in, as by ssh, and stay: without a session or linger, logind ends his services after 10 s."""
        session = self.command("sleep infinity", user)
        self._sessions.append(subprocess.Popen(session, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL))
        deadline = time.monotonic() + 20
        while not self.exists(f"/run/user/{USER_ID}/bus"):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{user} has no session")
            time.sleep(0.1)

    # -- files

    def path(self, inside: str) -> Path:
        """Return the path, on this host, of a path inside that is on the machine's disk."""
        return self.root / inside.lstrip("/")

    def push(self, source: Path, destination: str, *, user: str = "root", mode: int | None = None) -> None:
        """Copy a file into the machine."""
        target = self.path(destination)
        target.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "--reflink=auto", str(source), str(target)], check=True)
        owner = 0 if user == "root" else USER_ID
        os.chown(target, owner, owner)
        if mode is not None:
            target.chmod(mode)

    def read(self, inside: str) -> str:
        """Return a file's text."""
        return self.run(["cat", inside]).stdout

    def exists(self, inside: str) -> bool:
        """Tell whether a path exists inside."""
        return self.run(["test", "-e", inside], check=False).returncode == 0
