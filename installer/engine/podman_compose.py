"""Installs podman-compose offline, from the wheels in the bundle.

It gets a Python environment of its own, made without the host's pip. Where the host has no
Python that does, the executable itself serves: it has podman-compose's code on board.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from installer.core import errors, files, layout, marker
from installer.core.runner import Result, Runner

INSTALL_SECONDS = 300.0
VERSION_SECONDS = 60.0
NAME = "podman-compose"
# A person's variables must not decide what is installed, nor from where a Python takes its modules.
THEIRS = ("PIP_", "PYTHON")


@dataclass(frozen=True, kw_only=True, slots=True)
class Installed:
    """`by` says what runs it, `changed` whether this run installed it, `on_path` the link, if we could set one."""

    version: str
    by: Literal["python", "executable"]
    changed: bool
    on_path: Path | None


def wanted_version(lock: str) -> str:
    """Return the version of podman-compose that the bundle's lock file pins."""
    found = re.search(r"^podman-compose==(\S+)", lock, re.MULTILINE)
    if found is None:
        raise errors.BundleDamaged(f"{layout.PODMAN_COMPOSE_LOCK} pins no podman-compose")
    return found.group(1)


def install(
    place: layout.Installation, payload: Path, pythons: Sequence[Path], link_in: Path, runner: Runner
) -> Installed:
    """Make `place.podman_compose` work and link it into `link_in`, a folder of the path.

    `pythons` are the host's interpreters from 3.9 on, the preferred first. Asks first: what works
    already is left alone. Raises CommandFailed when neither a Python nor the executable serves, or when it is ended
    from outside: that says nothing of a Python.
    """
    version = wanted_version((payload / layout.PODMAN_COMPOSE_LOCK).read_text("utf-8"))
    files.folder(place.bin)
    changed = False
    if found_version(place.podman_compose, runner) != version:
        changed = True
        if not any(_into_venv(place, payload, python, version, runner) for python in pythons):
            _by_executable(place)
        if (found := found_version(place.podman_compose, runner)) != version:
            raise errors.CommandFailed(
                f"podman-compose was installed but says version {found or 'nothing'}, not {version}",
                f"look at the log in {place.logs}, and report it",
            )
    by: Literal["python", "executable"] = (
        "executable" if place.podman_compose.resolve() == place.executable.resolve() else "python"
    )
    if by == "python":
        _quicken(place, payload)
    return Installed(version=version, by=by, changed=changed, on_path=_link(place, link_in))


def found_version(program: Path, runner: Runner) -> str:
    """Return what `podman-compose --version` says, or nothing when it does not run."""
    if not program.exists():
        return ""
    result = runner.without(THEIRS).run([str(program), "--version"], timeout=VERSION_SECONDS, check=False)
    found = re.search(r"podman-compose version:? (\S+)", result.stdout + result.stderr)
    return found.group(1) if result.ok and found else ""


def _into_venv(place: layout.Installation, payload: Path, python: Path, version: str, runner: Runner) -> bool:
    """Make the environment with this Python; tell whether podman-compose runs in it.

    `--without-pip`: Debian and minimal hosts have no ensurepip. pip runs from its own wheel.
    """
    _make_way(place)
    clean = runner.without(THEIRS)
    made = clean.run(
        [str(python), "-m", "venv", "--without-pip", str(place.venv)], timeout=INSTALL_SECONDS, check=False
    )
    _require_not_ended(made, runner)
    pip = next(iter(sorted((payload / layout.WHEELS).glob("pip-*.whl"))), None)
    if not made.ok or pip is None:
        return False
    command = [str(place.venv / "bin/python"), f"{pip}/pip", "install", "--no-index", "--require-hashes"]
    command += ["--find-links", str(payload / layout.WHEELS), "--only-binary", ":all:", "--no-cache-dir"]
    # Without compiling: 1.0 instead of 1.8 s, and the first run compiles what it needs of it.
    command += ["--disable-pip-version-check", "--no-compile"]
    command += ["--requirement", str(payload / layout.PODMAN_COMPOSE_LOCK)]
    filled = clean.run(command, timeout=INSTALL_SECONDS, check=False)
    _require_not_ended(filled, runner)
    program = place.venv / "bin" / NAME
    if not filled.ok or found_version(program, runner) != version:
        return False
    _readable(place.venv)
    _replace_link(place.podman_compose, program)
    return True


def _quicken(place: layout.Installation, payload: Path) -> None:
    """Let pip's program in our environment begin with ours (`compose_program`); what is so already is left alone."""
    program = place.venv / "bin" / NAME
    folder = next(place.venv.glob("lib/python3.*/site-packages"), None)
    if folder is None or not program.is_file():
        return
    ours = (payload / layout.COMPOSE_PROGRAM).read_bytes()
    module = folder / layout.COMPOSE_PROGRAM
    if not module.is_file() or module.read_bytes() != ours:
        files.write(module, ours, mode=0o644)
    before = program.read_text("utf-8")
    begins = before.replace("from podman_compose import main\n", f"from {module.stem} import main\n")
    if begins != before:
        files.write(program, begins, mode=0o755)


def _make_way(place: layout.Installation) -> None:
    """Remove an environment that we have made, and note that the next one is ours. Raises CommandFailed for another."""
    if os.path.lexists(place.venv):
        if not marker.owns_venv(place):
            raise errors.CommandFailed(
                f"{place.venv} was not made by dify-installer, and podman-compose has to be installed there",
                "move it away, then run the same command again",
            )
        shutil.rmtree(place.venv, ignore_errors=True)
    marker.record_venv(place)


def _require_not_ended(result: Result, runner: Runner) -> None:
    """Raise CommandFailed for what was ended from outside (Ctrl-C): the next Python must not be tried then."""
    if result.ended_by_others:
        raise runner.failure(result)


def _readable(folder: Path) -> None:
    """Give others what the owner has, less writing: under umask 077 nobody else could run it."""
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod((mode | (mode & 0o500) >> 3 | (mode & 0o500) >> 6) & 0o7777)


def _by_executable(place: layout.Installation) -> None:
    if not place.executable.exists():
        raise errors.CommandFailed(
            "podman-compose cannot be installed: no Python from 3.9 on makes an environment here",
            "use the executable dify-installer, which carries one, or install python3",
        )
    _replace_link(place.podman_compose, place.executable)


def _replace_link(link: Path, target: Path) -> None:
    """Point a link of ours at `target`, in one step."""
    temporary = link.with_name(f".{link.name}{files.TEMPORARY}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(link)


def _link(place: layout.Installation, link_in: Path) -> Path | None:
    """Put podman-compose onto the path; somebody else's file of that name is left alone."""
    link = link_in / NAME
    if link.is_symlink() and link.readlink() == place.podman_compose:
        return link
    if link.exists() or link.is_symlink():
        return None
    try:
        link_in.mkdir(parents=True, exist_ok=True)
        link.symlink_to(place.podman_compose)
    except OSError:
        return None
    return link


def unlink(place: layout.Installation, link_in: Path) -> Path | None:
    """Take podman-compose off the path again if what is there is our link; return the link then.

    Raises CommandFailed when that is refused.
    """
    link = link_in / NAME
    if not link.is_symlink() or not link.readlink().is_relative_to(place.folder):
        return None
    try:
        link.unlink()
    except OSError as error:
        raise errors.CommandFailed(
            f"{link} cannot be removed: {error.strerror}", f"make {link_in} writable, then run the same command again"
        ) from error
    return link
