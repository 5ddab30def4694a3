"""Layers that make the stand-in images as large as Dify's: files of wheels and of Debian packages, 4 GB in all.

Many small files and some large ones, as in images of Python services; nothing in them is ever run.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

from tests.target import machine

# For CPython 3.11 on any Linux of these days, whatever machine asks.
WHEELS = (
    "numpy==2.4.6 scipy==1.17.1 pandas==3.1.1 pyarrow==26.0.1 scikit-learn==1.9.1 opencv-python-headless==5.0.0.93 "
    "transformers==5.23.0 sympy==1.14.0 onnxruntime==1.32.0 faiss-cpu==1.15.1 grpcio==1.85.1 litellm==1.109.1 "
    "botocore==1.44.5 google-api-python-client==2.202.0"
)
PACKAGES = {
    "plugin_daemon": "clang-19,golang-1.24-go,ffmpeg",
    "sandbox": "nodejs,npm,python3-numpy,gcc",
    "web": "nodejs,npm",
    "weaviate": "golang-1.24-go",
}
# How many layers the files of a service become.
LAYERS = {"api": 4, "plugin_daemon": 4, "sandbox": 3, "web": 2, "weaviate": 1}


def layers(work: Path) -> dict[str, list[Path]]:
    """Return the layers, as tar files, by service; made once (three minutes) and kept below `work`."""
    return {service: _layers(service, count, work) for service, count in LAYERS.items()}


def _layers(service: str, count: int, work: Path) -> list[Path]:
    paths = [work / f"ballast-{service}-{number}.tar" for number in range(count)]
    if all(path.is_file() for path in paths):
        return paths
    root = work / f"ballast-{service}"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    _unpack_wheels(root) if service == "api" else _unpack_packages(PACKAGES[service], root)
    files = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    for number, path in enumerate(paths):
        part = files[number * len(files) // count : (number + 1) * len(files) // count]
        with tarfile.open(path.with_suffix(".part"), "w") as archive:
            for file in part:
                archive.add(file, f"opt/ballast/{file.relative_to(root)}", filter=_plain)
        path.with_suffix(".part").rename(path)
    shutil.rmtree(root)
    return paths


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.mtime = member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def _unpack_wheels(root: Path) -> None:
    target = ["--only-binary=:all:", "--no-deps", "--python-version=3.11", "--implementation=cp"]
    target += ["--platform=manylinux_2_28_x86_64", "--platform=manylinux_2_27_x86_64"]
    target += ["--platform=manylinux_2_24_x86_64", "--platform=manylinux2014_x86_64", "--dest", str(root / "wheels")]
    subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", *target, *WHEELS.split()], check=True)
    for wheel in (root / "wheels").glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(root / "site-packages")
    shutil.rmtree(root / "wheels")


def _unpack_packages(packages: str, root: Path) -> None:
    command = ["mmdebstrap", "--quiet", "--variant=extract", f"--include={packages}", "trixie", str(root / "root")]
    subprocess.run([*command, *machine.mirrors()], check=True)
