"""Fetches a Dify release: from git, from a folder or from a tarball; and stages what a server needs of it."""

from __future__ import annotations

import hashlib
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path

from build.failure import BuildError
from installer.core import digest, files, layout
from installer.core.runner import Runner

CLONE_SECONDS = 1800.0

# Of a folder that somebody has worked in, these never go into a bundle: they may hold secrets.
PRIVATE_NAMES = (".env",)
PRIVATE_SUFFIXES = (".key", ".pem", ".crt", ".p12", ".pfx")
# Below `volumes/` lie data, and these few kinds of configuration that upstream ships there.
CONFIGURATION_SUFFIXES = (".yaml", ".yml", ".xml", ".conf", ".template")


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A release on this disk: `docker` is its compose project, `origin` and `commit` say what it is.

    `commit` is git's, or `tree:` and the SHA-256 of the staged files where there is no git.
    """

    docker: Path
    origin: str
    commit: str


def fetch(origin: str, tag: str, work: Path, runner: Runner) -> Source:
    """Return the release at `origin`: a git URL, whose `tag` is cloned below `work`, a folder or a tarball.

    Raises BuildError when it cannot be had or is no Dify release.
    """
    path = Path(origin)
    if path.is_dir():
        folder, commit = path.resolve(), _git_commit(path, runner)
    elif path.is_file():
        folder, commit = _unpacked(path, work), ""
    elif "://" in origin or origin.startswith("git@"):
        folder = _cloned(origin, tag, work, runner)
        commit = _git_commit(folder, runner)
    else:
        raise BuildError(
            f"the source {origin} is not a folder, a tarball or a git URL",
            "give --source PATH of a Dify checkout, or --source https://… with --tag",
        )
    docker = folder / layout.PROJECT
    for name in (layout.COMPOSE_FILE, layout.ENV_EXAMPLE):
        if not (docker / name).is_file():
            raise BuildError(f"{origin} is not a Dify release: it has no {layout.PROJECT}/{name}")
    shown = origin if "://" in origin else path.name
    return Source(docker=docker, origin=shown, commit=commit or f"tree:{tree_hash(docker)}")


def _git_commit(folder: Path, runner: Runner) -> str:
    """Return the commit of a clean checkout whose top is `folder`, or nothing."""
    if not (folder / ".git").exists():
        return ""
    changed = runner.run(["git", "-C", str(folder), "status", "--porcelain", layout.PROJECT], timeout=60, check=False)
    head = runner.run(["git", "-C", str(folder), "rev-parse", "HEAD"], timeout=60, check=False)
    return head.stdout.strip() if head.ok and changed.ok and not changed.stdout.strip() else ""


def _cloned(url: str, tag: str, work: Path, runner: Runner) -> Path:
    """Clone `tag` once; a clone is renamed into place when it is whole, and reused."""
    target = work / "sources" / f"{url.rstrip('/').rpartition('/')[2].removesuffix('.git')}-{tag}"
    if target.is_dir():
        return target
    partial = target.with_name(f"{target.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    result = runner.run(
        ["git", "clone", "--quiet", "--depth=1", f"--branch={tag}", "--", url, str(partial)],
        timeout=CLONE_SECONDS,
        env={"GIT_TERMINAL_PROMPT": "0"},
        check=False,
    )
    if not result.ok:
        raise BuildError(
            f"{url} cannot be cloned at {tag}: {result.last_words}",
            "check the tag and the network, or give a checkout of your own with --source PATH",
        )
    partial.rename(target)
    return target


def _unpacked(tarball: Path, work: Path) -> Path:
    """Unpack a release's tarball, once for each content, and return the folder that holds `docker/`."""
    target = work / "sources" / digest.hash_file(tarball)[:16]
    if not target.is_dir():
        partial = target.with_name(f"{target.name}.part")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            with tarfile.open(tarball) as archive:
                archive.extractall(partial, filter="data")
        except (OSError, tarfile.TarError) as error:
            raise BuildError(f"{tarball} cannot be unpacked: {error}", "give a tarball of a release") from error
        partial.rename(target)
    inner = list(target.iterdir())
    return inner[0] if len(inner) == 1 and inner[0].name != layout.PROJECT else target


def project_files(docker: Path) -> list[Path]:
    """Return the files of the compose project that a server needs, relative, sorted; no data, no secrets."""
    found = (path.relative_to(docker) for path in sorted(docker.rglob("*")) if path.is_file())
    return [path for path in found if _wanted(path)]


def _wanted(path: Path) -> bool:
    if path.name in PRIVATE_NAMES or path.suffix in PRIVATE_SUFFIXES or path.parts[0] == ".git":
        return False
    return path.parts[0] != "volumes" or path.suffix in CONFIGURATION_SUFFIXES


def tree_hash(docker: Path) -> str:
    """Return a SHA-256 over names and contents of the project's files."""
    total = hashlib.sha256()
    for path in project_files(docker):
        total.update(f"{digest.hash_file(docker / path)}  {path.as_posix()}\n".encode())
    return total.hexdigest()


def stage(source: Source, payload: Path) -> None:
    """Copy the compose project into the payload."""
    for path in project_files(source.docker):
        original = source.docker / path
        target = payload / layout.PROJECT / path
        files.folder(target.parent)
        executable = original.stat().st_mode & 0o111
        files.write(target, original.read_bytes(), mode=0o755 if executable else 0o644)
