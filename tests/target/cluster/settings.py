"""The files that a node's programs read: logins, network of pods, containerd, kubelet."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from pathlib import Path

# Where the node's programs listen; the node is a network namespace of its own.
SERVER = "https://localhost:6443"
ETCD = "http://127.0.0.1:2379"
# Services, the first of them Kubernetes' own, and the name server; pods.
SERVICES, NAME_SERVER, PODS = "10.96.0.0/16", "10.96.0.10", "10.244.0.0/24"
NODE = "node"
STATE = "/run/containerd-test"
SOCKET = f"{STATE}/containerd.sock"
PAUSE = "localhost/pause:1"
# Debian's: a first process that buries its children, and with -P one that only waits.
CATATONIT = "/usr/bin/catatonit"
# What each program may do is the business of its user's name (Kubernetes, "Node Authorization", "RBAC").
USERS = {
    "admin": ("admin", "system:masters"),
    "manager": ("system:kube-controller-manager", ""),
    "scheduler": ("system:kube-scheduler", ""),
    "node": (f"system:node:{NODE}", "system:nodes"),
    "proxy": ("system:kube-proxy", ""),
}

CONTAINERD = """\
version = 2
root = "{folder}/containerd"
state = "{state}"
[grpc]
  address = "{state}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{folder}/cni"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{folder}/registries"
"""
# This host may let nobody raise a limit, so that scores of the OOM killer stay as they are.
KUBELET = """\
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
cgroupDriver: cgroupfs
failSwapOn: false
containerRuntimeEndpoint: unix://{socket}
clusterDNS: [{name_server}]
clusterDomain: cluster.local
authentication: {{anonymous: {{enabled: true}}, webhook: {{enabled: false}}}}
authorization: {{mode: AlwaysAllow}}
oomScoreAdj: 0
makeIPTablesUtilChains: false
featureGates: {{KubeletInUserNamespace: true}}
resolvConf: {folder}/resolv.conf
evictionHard: {{memory.available: 50Mi}}
imageGCHighThresholdPercent: 100
volumePluginDir: {folder}/volumeplugins
podLogsDir: {folder}/podlogs
"""


def token(user: str) -> str:
    """Return the token that a user of these signs in with: nobody else comes into the node's network."""
    return f"token-of-{user}"


def write(folder: Path) -> None:
    """Write all files that a node's programs read, and the keys with which the server signs accounts' tokens."""
    for name in ("cni", "registries", "hosts", "volumes"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    rows = [f'{token(user)},{name},{user},"{group}"' for user, (name, group) in USERS.items()]
    (folder / "tokens.csv").write_text("\n".join(rows) + "\n")
    for user in USERS:
        (folder / f"{user}.kubeconfig").write_text(json.dumps(_kubeconfig(user, authority(folder))))
    (folder / "cni/pods.conflist").write_text(json.dumps(_pod_network(folder)))
    (folder / "containerd.toml").write_text(CONTAINERD.format(folder=folder, state=STATE, pause=PAUSE))
    (folder / "kubelet.yaml").write_text(KUBELET.format(folder=folder, socket=SOCKET, name_server=NAME_SERVER))
    (folder / "resolv.conf").write_text("")
    _write_pause(folder / "pause.tar")
    key, public = folder / "accounts.key", folder / "accounts.pub"
    if not key.exists():
        subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)
        made = ["openssl", "rsa", "-in", str(key), "-pubout", "-out", str(public)]
        subprocess.run(made, check=True, capture_output=True)


def trust(folder: Path, registry: str, authority: Path) -> None:
    """Let the node's containerd take the certificates of an authority from a registry (HOST:PORT)."""
    place = folder / "registries" / registry
    place.mkdir(exist_ok=True)
    (place / "hosts.toml").write_text(f'[host."https://{registry}"]\nca = "{authority}"\n')


def authority(folder: Path) -> Path:
    """Return the file with the server's certificate, which it makes itself as it starts first."""
    return folder / "certificates/apiserver.crt"


def _kubeconfig(user: str, authority: Path) -> dict[str, object]:
    cluster = {"server": SERVER, "certificate-authority": str(authority)}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": user, "user": {"token": token(user)}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": user}}],
        "current-context": "test",
    }


def _pod_network(folder: Path) -> dict[str, object]:
    addresses = {
        "type": "host-local",
        "dataDir": str(folder / "addresses"),
        "ranges": [[{"subnet": PODS}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    bridge = {"type": "bridge", "bridge": "pods0", "isGateway": True, "ipMasq": True, "hairpinMode": True}
    return {"cniVersion": "1.0.0", "name": "pods", "plugins": [{**bridge, "ipam": addresses}]}


def _write_pause(path: Path) -> None:
    """Write the image that holds each pod's namespaces together: Debian's catatonit, which is one static file."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        _add(archive, "catatonit", Path(CATATONIT).read_bytes(), 0o755)
    diff = hashlib.sha256(layer.getvalue()).hexdigest()
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": ["/catatonit", "-P"], "User": "65535"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{diff}"]},
    }
    text = json.dumps(config).encode()
    name = hashlib.sha256(text).hexdigest()
    named = [{"Config": f"{name}.json", "RepoTags": [PAUSE], "Layers": [f"{diff}.tar"]}]
    with tarfile.open(path, "w") as archive:
        _add(archive, f"{diff}.tar", layer.getvalue())
        _add(archive, f"{name}.json", text)
        _add(archive, "manifest.json", json.dumps(named).encode())


def _add(archive: tarfile.TarFile, name: str, data: bytes, mode: int = 0o644) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), mode
    archive.addfile(info, io.BytesIO(data))
