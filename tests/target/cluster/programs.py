"""Kubernetes for the tests, compiled from its Go modules once: control plane, kubelet, kube-proxy and kubectl."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from pathlib import Path

from tests.target import steps

SOURCE = Path(__file__).resolve().parent / "kubernetes"
NAMES = ("kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubectl", "kubelet")
# Names a kube-router that was compiled, of any 2.x: Kubernetes itself enforces no network policy.
POLICIES = "KUBE_ROUTER"
# Names a file that was compiled before: nothing is compiled then.
READY = "KUBERNETES"


def find(work: Path) -> Path:
    """Return the folder with a program of each name; made once, and kept below `work`.

    Raises CalledProcessError when it cannot be compiled, FileNotFoundError where there is no Go.
    """
    binary = Path(os.environ[READY]).resolve() if os.environ.get(READY) else _compiled(work)
    folder = work / "kubernetes"
    folder.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        link = folder / name
        if not link.is_symlink() or link.readlink() != binary:
            link.unlink(missing_ok=True)
            link.symlink_to(binary)
    return folder


def version() -> str:
    """Return the version of Kubernetes, as in v1.33.0: its modules are v0.33.0, where kubernetes itself is v1.33.0."""
    found = re.search(r"^(?:require |\t)k8s\.io/kubernetes (v[\d.]+)", (SOURCE / "go.mod").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def _compiled(work: Path) -> Path:
    """Return the file with all programs, compiled unless it is there. It is named after what it is made of."""
    sources = b"".join((SOURCE / name).read_bytes() for name in ("go.mod", "go.sum", "main.go"))
    binary = work / f"kubernetes-{hashlib.sha256(sources).hexdigest()[:12]}.bin"
    if binary.is_file():
        return binary
    go = shutil.which("go")
    if go is None:
        raise FileNotFoundError(f"no Go: install 1.24 or later, or name a compiled file with {READY}=FILE")
    work.mkdir(parents=True, exist_ok=True)
    partial = binary.with_suffix(".part")
    major, minor, _ = version().lstrip("v").split(".")
    stamp = "k8s.io/component-base/version"
    told = f"-X {stamp}.gitVersion={version()} -X {stamp}.gitMajor={major} -X {stamp}.gitMinor={minor}"
    log = work / "kubernetes.log"
    command = [go, "build", "-C", str(SOURCE), "-mod=readonly", "-trimpath", "-buildvcs=false"]
    command += ["-ldflags", f"-s -w {told}", "-o", str(partial), "."]
    with steps.step(f"Kubernetes {version()} is compiled from its Go modules, once", 300, log):
        steps.run(["nice", *command], log, {**os.environ, "CGO_ENABLED": "0"})
    partial.rename(binary)
    return binary
