"""Kubernetes for the tests, compiled from its Go modules once: control plane, kubelet, kube-proxy and kubectl.

With it comes what enforces network policies, which Kubernetes itself does not: the controller of kube-router.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from pathlib import Path

from tests.target import steps

SOURCE = Path(__file__).resolve().parent / "kubernetes"
NAMES = ("kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubectl", "kubelet")
SOURCE_OF_POLICIES = SOURCE.with_name("policies")
POLICIES = "policies"
# Names a file that was compiled before: nothing is compiled then.
READY = "KUBERNETES"


def find(work: Path) -> Path:
    """Return the folder with a program of each name; made once, and kept below `work`.

    Raises CalledProcessError when it cannot be compiled, FileNotFoundError where there is no Go.
    """
    binary = Path(os.environ[READY]).resolve() if os.environ.get(READY) else _kubernetes(work)
    folder = work / "kubernetes"
    folder.mkdir(parents=True, exist_ok=True)
    for name, target in {**dict.fromkeys(NAMES, binary), POLICIES: _policies(work)}.items():
        link = folder / name
        if not link.is_symlink() or link.readlink() != target:
            link.unlink(missing_ok=True)
            link.symlink_to(target)
    return folder


def version() -> str:
    """Return the version of Kubernetes, as in v1.33.0: its modules are v0.33.0, where kubernetes itself is v1.33.0."""
    found = re.search(r"^(?:require |\t)k8s\.io/kubernetes (v[\d.]+)", (SOURCE / "go.mod").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def _kubernetes(work: Path) -> Path:
    major, minor, _ = version().lstrip("v").split(".")
    stamp = "k8s.io/component-base/version"
    told = f" -X {stamp}.gitVersion={version()} -X {stamp}.gitMajor={major} -X {stamp}.gitMinor={minor}"
    return _compiled(SOURCE, "kubernetes", f"Kubernetes {version()} is compiled from its Go modules, once", told, work)


def _policies(work: Path) -> Path:
    return _compiled(SOURCE_OF_POLICIES, POLICIES, "what enforces network policies is compiled, once", "", work)


def _compiled(source: Path, name: str, what: str, told: str, work: Path) -> Path:
    """Return the program of a Go module, compiled unless it is there. It is named after what it is made of."""
    sources = b"".join((source / each).read_bytes() for each in ("go.mod", "go.sum", "main.go"))
    binary = work / f"{name}-{hashlib.sha256(sources).hexdigest()[:12]}.bin"
    if binary.is_file():
        return binary
    go = shutil.which("go")
    if go is None:
        raise FileNotFoundError(f"no Go: install 1.24 or later, or name a compiled file with {READY}=FILE")
    work.mkdir(parents=True, exist_ok=True)
    partial, log = binary.with_suffix(".part"), work / f"{name}.log"
    command = [go, "build", "-C", str(source), "-mod=readonly", "-trimpath", "-buildvcs=false"]
    command += ["-ldflags", f"-s -w{told}", "-o", str(partial), "."]
    with steps.step(what, 300, log):
        steps.run(["nice", *command], log, {**os.environ, "CGO_ENABLED": "0"})
    partial.rename(binary)
    return binary
