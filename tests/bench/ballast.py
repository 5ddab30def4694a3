"""Layers that make the stand-in images as large as Dify's: a Python environment, and files of Debian packages.

The api's is a real one, which its containers read in as Dify's do, with as many migrations. Nothing in the others is
ever run.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from tests.target import images, machine

# Where the api's image has its Python environment (tests/target/standin/as_large.py), for the Python of that image.
ENVIRONMENT = "app/api/.venv/site-packages"
PYTHON = "3.13"
LOCK = Path(__file__).resolve().parent.parent.parent / "specs/bench-api.lock"
IMPORTS = images.PROGRAMS / "imports.py"
# Dify 1.11.3 has as many migrations (api/migrations/versions); what each does here takes as long as theirs do.
REVISIONS = 155
UPGRADE = """
DO $$ BEGIN FOR number IN 1..{tables} LOOP
    EXECUTE format('CREATE TABLE step_{revision}_%s (id uuid PRIMARY KEY, tenant uuid, at timestamp)', number);
    EXECUTE format('CREATE INDEX ON step_{revision}_%s (tenant, at)', number);
    EXECUTE format('ALTER TABLE step_{revision}_%s ADD COLUMN name varchar(255) NOT NULL DEFAULT %L', number, '');
END LOOP; END $$;
"""
TABLES = 8
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
    if service == "api":
        _install_environment(root)
        _add_migrations(root)
    else:
        _unpack_packages(PACKAGES[service], root)
    files = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    for number, path in enumerate(paths):
        part = files[number * len(files) // count : (number + 1) * len(files) // count]
        folder = "" if service == "api" else "opt/ballast/"
        with tarfile.open(path.with_suffix(".part"), "w") as archive:
            for file in part:
                archive.add(file, f"{folder}{file.relative_to(root)}", filter=_plain)
        path.with_suffix(".part").rename(path)
    shutil.rmtree(root)
    return paths


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.mtime = member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def _install_environment(root: Path) -> None:
    """Install the environment of the api's image, as the real one has it: root's, and nothing of it compiled."""
    target = ["--only-binary=:all:", "--no-deps", f"--python-version={PYTHON}", "--implementation=cp", "--no-compile"]
    # pip compares what a package requires with the Python that runs it.
    target.append("--ignore-requires-python")
    target += [f"--platform=manylinux_2_{number}_x86_64" for number in (28, 27, 26, 24, 17)]
    target += ["--platform=manylinux2014_x86_64", "--target", str(root / ENVIRONMENT)]
    pinned = ["--require-hashes", "--requirement", str(LOCK)]
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *target, *pinned], check=True)
    shutil.copy(IMPORTS, root / ENVIRONMENT)


def _add_migrations(root: Path) -> None:
    for number in range(images.REVISIONS + 1, REVISIONS + 1):
        name, content = images.revision(number, UPGRADE.format(tables=TABLES, revision=number))
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _unpack_packages(packages: str, root: Path) -> None:
    command = ["mmdebstrap", "--quiet", "--variant=extract", f"--include={packages}", "trixie", str(root / "root")]
    subprocess.run([*command, *machine.mirrors()], check=True)
