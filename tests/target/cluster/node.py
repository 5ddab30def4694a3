"""A cluster of one node: a real Kubernetes whose pods run, in namespaces of this host, without a virtual machine.

etcd, the control plane, containerd, the kubelet and kube-proxy run in mount, network and process namespaces of their
own, with a file system of /run that is empty after each boot. What a cloud or a distribution adds is in `provider`.
Needs root, and the Debian packages of `packages.sh cluster`.

It cannot show several nodes and OpenShift. Policies of the network (the bridge passes over them) and an Ingress
controller it shows where a program for them is named.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.target.cluster import programs, settings
from tests.target.cluster.provider import Provider
from tests.target.network import Inside

# The node and a host next door, where the company has its registry.
ADDRESS, NEIGHBOUR = "10.0.0.5", "10.0.0.9"
READY_SECONDS = 180.0
# A first process that waits, buries the dead, and takes all others along when it is killed. What v2 of a hybrid host's
# cgroups holds is hidden, as the programs would take the host for one of v2 alone.
INIT = """\
umount /sys/fs/cgroup/unified 2>/dev/null
mount --make-rshared / && mount -t tmpfs tmpfs /run && mkdir /run/lock && exec {catatonit} -P
"""


class Company:
    """A host next to the node, which stays when the node is switched off: a network namespace with an address."""

    def __init__(self) -> None:
        self.name = f"dify-company-{os.getpid()}"
        self.address = NEIGHBOUR

    @property
    def network(self) -> Path:
        """The namespace."""
        return Path("/run/netns", self.name)

    def __enter__(self) -> Company:
        for command in (f"ip netns add {self.name}", f"ip -n {self.name} link set lo up"):
            subprocess.run(command.split(), check=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        subprocess.run(["ip", "netns", "delete", self.name], check=False)

    def connect(self, process: int) -> None:
        """Lay a cable to the network of a process, which has `lan0` then as its only way out."""
        # The old one goes with the network that it led to, but later than that.
        subprocess.run(["ip", "-n", self.name, "link", "delete", "lan0"], check=False, capture_output=True)
        for command in (
            f"ip -n {self.name} link add lan0 type veth peer name lan0 netns {process}",
            f"ip -n {self.name} address add {self.address}/24 dev lan0",
            f"ip -n {self.name} link set lan0 up",
        ):
            subprocess.run(command.split(), check=True)


class Node:
    """A node whose disk is `folder`; as a context manager it boots, and its disk is removed at the end."""

    address = ADDRESS

    def __init__(self, folder: Path, programs: Path, company: Company) -> None:
        self.folder, self.programs, self.company = folder, programs, company
        self._init: subprocess.Popen[bytes] | None = None
        self._programs: list[subprocess.Popen[bytes]] = []
        self._provider: Provider | None = None
        self._groups: list[Path] = []
        atexit.register(self.kill)

    def __enter__(self) -> Node:
        self._groups = _groups()
        self.folder.mkdir(parents=True)
        settings.write(self.folder)
        self.boot()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        atexit.unregister(self.kill)
        shutil.rmtree(self.folder)
        # The kubelet's groups of processes are the kernel's: they outlive its file systems, and nobody is in them.
        for top in (each for each in _groups() if each not in self._groups):
            for group in sorted((each for each in top.rglob("*") if each.is_dir()), reverse=True):
                group.rmdir()
            top.rmdir()

    @property
    def network(self) -> Path:
        """The namespace of the node's network, which is another one after each boot."""
        return Path(f"/proc/{self.init()}/ns/net")

    @property
    def kubeconfig(self) -> Path:
        """The login of the cluster's owner, for programs in the node's network."""
        return self.folder / "admin.kubeconfig"

    # -- power

    def boot(self) -> None:
        """Start the node, and wait until it takes pods."""
        command = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--net", "--pid", "--fork", "--mount-proc"]
        command += ["--kill-child=KILL", "sh", "-c", INIT.format(catatonit=settings.CATATONIT)]
        self._init = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
        _await("the node's first process", lambda: bool(self.init()))
        self.company.connect(self.init())
        for each in (
            "link set lo up",
            f"address add {settings.NAME_SERVER}/32 dev lo",
            f"address add {ADDRESS}/24 dev lan0",
            "link set lan0 up",
            f"route add default via {NEIGHBOUR}",
        ):
            self.run("ip", *each.split())
        self.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        # Without it a pod that its own Service leads to would answer past kube-proxy.
        self.run("sh", "-c", "sysctl -qw net.bridge.bridge-nf-call-iptables=1 2>/dev/null || true")
        self._start_control_plane()
        self._start_node()
        self._provider = Provider(Inside(self), self.folder, lambda: self.run("pkill", "-HUP", "dnsmasq"))
        self._provider.start()

    def kill(self) -> None:
        """Take the power away."""
        if self._provider is not None:
            self._provider.stop()
        if self._init is not None:
            self._init.kill()
            self._init.wait(60)
        for each in self._programs:
            each.wait(60)
        self._init, self._programs, self._provider = None, [], None

    def reboot(self) -> None:
        """Take the power away and boot again, on the same disk."""
        self.kill()
        self.boot()

    def init(self) -> int:
        """Return the process ID of the node's first process, seen from outside; 0 while it is not there."""
        if self._init is None:
            raise LookupError("the node is switched off")
        with contextlib.suppress(OSError, IndexError):
            child = int(Path(f"/proc/{self._init.pid}/task/{self._init.pid}/children").read_text().split()[0])
            if Path(f"/proc/{child}/comm").read_text().strip() == Path(settings.CATATONIT).name:
                return child
        return 0

    def _start_control_plane(self) -> None:
        """Start the database, the server and what acts upon its objects."""
        folder = self.folder
        peers = "--listen-peer-urls http://127.0.0.1:2380"
        clients = f"--listen-client-urls {settings.ETCD} --advertise-client-urls {settings.ETCD}"
        # What was written is in this host's memory when the node is killed: the disk need not have it.
        self._start("etcd", f"--data-dir {folder}/etcd --unsafe-no-fsync {clients} {peers}")
        # A pod's log is asked for at the node's address: its name is known to nobody.
        self._start(
            "kube-apiserver",
            f"--etcd-servers={settings.ETCD} --secure-port=6443 --advertise-address={ADDRESS} "
            f"--cert-dir={folder}/certificates --service-account-key-file={folder}/accounts.pub "
            f"--service-account-signing-key-file={folder}/accounts.key --service-cluster-ip-range={settings.SERVICES} "
            "--service-account-issuer=https://kubernetes.default.svc --authorization-mode=Node,RBAC "
            f"--token-auth-file={folder}/tokens.csv --allow-privileged "
            "--kubelet-preferred-address-types=InternalIP",
        )
        _await("the server", lambda: self.kubectl("get", "--raw", "/readyz", check=False).stdout == "ok")
        login = "--kubeconfig={0} --authentication-kubeconfig={0} --authorization-kubeconfig={0} --leader-elect=false"
        self._start(
            "kube-controller-manager",
            f"{login.format(folder / 'manager.kubeconfig')} --use-service-account-credentials "
            f"--service-account-private-key-file={folder}/accounts.key",
        )
        self._start("kube-scheduler", login.format(folder / "scheduler.kubeconfig"))

    def _start_node(self) -> None:
        """Start what runs pods and connects them, and wait until the node takes some."""
        folder = self.folder
        self._start("containerd", f"--config {folder}/containerd.toml")
        ctr = ("ctr", "--address", settings.SOCKET, "--namespace", "k8s.io")
        _await("containerd", lambda: self.run(*ctr, "version", check=False).returncode == 0)
        self.run(*ctr, "images", "import", str(folder / "pause.tar"))
        self._start(
            "kubelet",
            f"--config={folder}/kubelet.yaml --kubeconfig={folder}/node.kubeconfig --root-dir={folder}/kubelet "
            f"--hostname-override={settings.NODE} --node-ip={ADDRESS}",
        )
        # 0: these limits are the host's, and may not be changed here.
        self._start(
            "kube-proxy",
            f"--kubeconfig={folder}/proxy.kubeconfig --proxy-mode=iptables --hostname-override={settings.NODE} "
            f"--cluster-cidr={settings.PODS} --conntrack-max-per-core=0 --conntrack-tcp-timeout-established=0 "
            "--conntrack-tcp-timeout-close-wait=0",
        )
        self._start(
            "dnsmasq",
            f"--keep-in-foreground --no-resolv --no-hosts --hostsdir={folder}/hosts --user=root --bind-interfaces "
            f"--listen-address={settings.NAME_SERVER} --local=/cluster.local/ --pid-file=",
        )
        _await("the node", self._is_ready)
        if program := os.environ.get(programs.POLICIES):
            self._enforce_policies(program)

    def _enforce_policies(self, program: str) -> None:
        folder = self.folder
        self._start(
            program,
            f"--kubeconfig={folder}/admin.kubeconfig --hostname-override={settings.NODE} --run-firewall=true "
            "--run-router=false --run-service-proxy=false --enable-cni=false --health-port=0 "
            f"--service-cluster-ip-range={settings.SERVICES}",
        )

    def _is_ready(self) -> bool:
        # That of the kubelet which runs now: the server remembers for a while what the last one said.
        path = f"/api/v1/nodes/{settings.NODE}"
        if self.run("curl", "-fsk", f"https://{ADDRESS}:10250/healthz", check=False).returncode != 0:
            return False
        answer = self.kubectl("get", "--raw", path, check=False)
        conditions = json.loads(answer.stdout)["status"]["conditions"] if answer.returncode == 0 else []
        return any((each["type"], each["status"]) == ("Ready", "True") for each in conditions)

    def _start(self, program: str, arguments: str) -> None:
        path = self.programs / program
        command = [*self._enter(), str(path) if path.exists() else program, *shlex.split(arguments)]
        with (self.folder / f"{path.name}.log").open("ab") as log:
            self._programs.append(
                subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder)
            )

    # -- commands

    def _enter(self) -> list[str]:
        return ["nsenter", "-t", str(self.init()), "-m", "-n", "-p"]

    def run(self, *command: str, check: bool = True, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        """Run a program on the node."""
        return _run([*self._enter(), *command], check=check, timeout=timeout)

    def kubectl(
        self, *arguments: str, input: str | None = None, check: bool = True, timeout: float = 600
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl as the cluster's owner, with the files of this host."""
        settled = ["env", f"KUBECONFIG={self.kubeconfig}", f"HOME={self.folder}"]
        enter = ["nsenter", f"--net={self.network}"]
        command = [*enter, *settled, str(self.programs / "kubectl"), *arguments]
        return _run(command, input=input, check=check, timeout=timeout)

    def get(self, *arguments: str) -> Any:
        """Return what `kubectl get` knows of objects; of several kinds or names the list of them."""
        found = json.loads(self.kubectl("get", *arguments, "--output=json").stdout)
        return found["items"] if found["kind"] == "List" else found


def _groups() -> list[Path]:
    """Return the groups of processes that are a kubelet's, with cgroups of v1 and v2."""
    return [each for pattern in ("kubepods", "*/kubepods") for each in Path("/sys/fs/cgroup").glob(pattern)]


def _run(
    command: Sequence[str], *, check: bool, timeout: float, input: str | None = None
) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(
        command, input="" if input is None else input, timeout=timeout, capture_output=True, text=True, errors="replace"
    )
    if check and result.returncode != 0:
        raise AssertionError(f"{shlex.join(command)}: status {result.returncode}\n{result.stdout}\n{result.stderr}")
    return result


def _await(what: str, holds: Callable[[], bool], seconds: float = READY_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come up within {seconds:.0f} s: see the logs in the node's folder")
        time.sleep(0.1)
