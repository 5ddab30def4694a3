"""Whose an install folder is: ours by the marker that we wrote, or else empty, or else not to be touched."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from installer.core import files, layout, logfile, login, marker
from installer.release import render

# "new" is a folder that does not exist or is empty, "earlier" one that a version without markers has filled.
Kind = Literal["new", "ours", "earlier", "later", "another user's", "foreign"]
# A new file system has it (mke2fs(8)).
IN_NEW_FILE_SYSTEMS = ("lost+found",)
# Where links lead to links: as the kernel has it (path_resolution(7)).
LINKS = 40
STORE_NAME = re.compile(r"\.?[0-9a-f]{12}(\.squashfs|$)")


@dataclass(frozen=True, slots=True)
class Ownership:
    """Whose a folder is; `names` are what is in one that is not ours."""

    kind: Kind
    names: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Passed:
    """A folder on the way to the install folder, or itself, and who may change what is in it."""

    path: Path
    uid: int
    owner: str
    mode: int
    private_group: bool  # nobody but the owner is in its group, and no access list says more


def find_ownership(place: layout.Installation) -> Ownership:
    """Tell whose an install folder is. Changes nothing."""
    try:
        names = sorted(path.name for path in place.folder.iterdir())
    except FileNotFoundError:
        return Ownership("new")
    except OSError:
        return Ownership("foreign")
    try:
        if marker.read(place) is not None:
            return Ownership("ours")
    except marker.Newer:
        return Ownership("later")
    with contextlib.suppress(OSError):
        status = place.marker.lstat()
        if status.st_uid != os.geteuid():
            return Ownership("another user's")
        if stat.S_ISREG(status.st_mode) and set(names) <= {layout.MARKER, *IN_NEW_FILE_SYSTEMS}:
            return Ownership("new")
    if written := _written_before(place):
        return Ownership("earlier" if written.stat().st_uid == os.geteuid() else "another user's")
    foreign = tuple(name for name in names if name not in IN_NEW_FILE_SYSTEMS and not name.endswith(files.TEMPORARY))
    return Ownership("foreign" if foreign else "new", foreign)


def _written_before(place: layout.Installation) -> Path | None:
    """Return the compose file by which an installation without a marker is known: ours by its first line."""
    for path, header in ((place.compose, render.HEADER), (place.override, render.OVERRIDE_HEADER)):
        with contextlib.suppress(OSError):
            if place.env.is_file() and path.read_bytes().startswith(header.splitlines()[0].encode()):
                return path
    return None


def claim(place: layout.Installation) -> None:
    """Make the install folder, if need be, and mark it as ours: the first change of all. Raises CommandFailed."""
    kind = find_ownership(place).kind
    files.folder(place.folder)
    if kind != "ours":
        marker.write(place, marker.Inventory(venv=kind == "earlier" and _made_venv_before(place)))


def _made_venv_before(place: layout.Installation) -> bool:
    """Tell whether an earlier version, which noted nothing, has made the environment: its link leads into it."""
    link = place.podman_compose
    return (place.venv / "pyvenv.cfg").is_file() and link.is_symlink() and link.readlink().is_relative_to(place.venv)


def list_foreign(place: layout.Installation) -> list[Path]:
    """Return what is in an install folder of ours and has not been made by us, the outermost paths."""
    upstream = {path.name for path in layout.bundled(layout.PROJECT).glob("*")}
    known = {
        place.folder: {path.name for path in _own_paths(place)} | set(IN_NEW_FILE_SYSTEMS),
        place.bin: {place.executable.name, place.podman_compose.name},
        place.project: upstream
        | {
            path.name
            for path in (place.compose, place.override, place.applied, place.volumes, place.plugins, place.api_start)
        }
        | {path.relative_to(place.project).parts[0] for path in (place.certificate, place.ca_bundle)},
    }
    foreign = [path for folder, names in known.items() for path in _entries(folder) if not _is_known(path, names)]
    foreign += [path for path in _entries(place.logs) if not logfile.NAME.fullmatch(path.name)]
    foreign += [path for path in _entries(place.stores) if not STORE_NAME.match(path.name)]
    if place.venv.exists() and not marker.owns_venv(place):
        foreign.append(place.venv)
    return sorted(foreign)


def list_own(place: layout.Installation) -> list[Path]:
    """Return what has been made by us, the outermost paths that hold nothing of others."""
    foreign = list_foreign(place)
    if not foreign:
        return [place.folder]
    own = []
    for path in _own_paths(place):
        if not any(each.is_relative_to(path) for each in foreign):
            own += [path] if os.path.lexists(path) else []
        elif path not in foreign:
            own += [each for each in _entries(path) if each not in foreign]
    return own


def _own_paths(place: layout.Installation) -> list[Path]:
    """Return what we make in an install folder."""
    return [
        *(place.previous, place.previous_part, place.previous_gone, *list_aside(place)),
        *(place.project, place.logs, place.report, place.report_page, place.bin, place.venv, place.stores),
        *(place.spool, place.marker, place.loaded_images, place.admin_password, place.account),
        *(place.held, place.restoring, place.last_backup, place.last_restore),
        *(place.disk_history, place.model_servers, place.compiled),
    ]


def list_aside(place: layout.Installation) -> list[Path]:
    """Return what upgrades that failed, and `rollback`, have put aside: people's data are in them."""
    begin = (layout.PROJECT_FAILED, layout.PROJECT_AFTER)
    return [path for path in _entries(place.folder) if path.name.startswith(begin) and path.is_dir()]


def _entries(folder: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return [] if folder.is_symlink() else sorted(folder.iterdir())
    return []


def _is_known(path: Path, names: set[str]) -> bool:
    """Tell whether an entry has a name of ours; copies of `.env`, of files and of data that we replaced are as well."""
    name = path.name
    return (
        name in names or name.endswith((files.TEMPORARY, ".before")) or name.startswith((".env", layout.VOLUMES_BEFORE))
    )


def list_links(place: layout.Installation) -> list[Path]:
    """Return the folders below the install folder that we write into and that are links instead."""
    payload = layout.bundled(layout.PROJECT)
    inner = [place.project / path.relative_to(payload) for path in payload.rglob("*") if path.is_dir()]
    folders = [place.project, place.volumes, place.bin, place.logs, place.stores, place.certificate.parent, *inner]
    return sorted({path for path in folders if path.is_symlink()})


def list_passed(folder: Path) -> list[Passed]:
    """Return the folders through which an install folder is reached, as the kernel does it, links included; it too."""
    left, here, passed, links = list(folder.absolute().parts[1:]), Path("/"), [Path("/")], 0
    while left:
        step = here / left.pop(0)
        if step.is_symlink() and links < LINKS:
            links += 1
            target = step.readlink()
            left = [*target.parts[1 if target.is_absolute() else 0 :], *left]
            here = Path("/") if target.is_absolute() else here
        elif step.is_dir():
            here = step.parent.parent if step.name == ".." else step
            passed.append(here)
        else:
            break
    return [_describe(path) for path in dict.fromkeys(passed)]


def _describe(path: Path) -> Passed:
    status = path.stat()
    return Passed(
        path=path,
        uid=status.st_uid,
        owner=login.user_name(status.st_uid),
        mode=stat.S_IMODE(status.st_mode),
        private_group=_is_private(status.st_gid, status.st_uid) and not _has_access_list(path),
    )


def _is_private(group: int, user: int) -> bool:
    """Tell whether a group is the user's own, of the same name: RHEL gives each user one (USERGROUPS_ENAB).

    Its name counts since a directory service need not list who has a group as his first (sssd.conf(5), `enumerate`).
    """
    try:
        entry, name = grp.getgrgid(group), login.user_name(user)
        members = set(entry.gr_mem) - {"root", name}
        others = [each for each in pwd.getpwall() if each.pw_gid == group and each.pw_uid not in (0, user)]
        return entry.gr_name == name and not members and not others
    except KeyError:
        return False


def _has_access_list(path: Path) -> bool:
    with contextlib.suppress(OSError):
        return "system.posix_acl_access" in os.listxattr(path)
    return False
