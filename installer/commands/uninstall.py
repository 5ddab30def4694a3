"""Removes an installation and keeps its settings and data. Asks, acts, asks again, as the installation does."""

from __future__ import annotations

import contextlib
import os
import shlex
from pathlib import Path

from installer.bundle import manifest, verify
from installer.core import errors, files, layout, lock, logfile, login, marker
from installer.core.console import Console
from installer.core.runner import Runner
from installer.engine import choose, podman_compose
from installer.engine.base import Engine
from installer.host import ownership
from installer.images import image_store, inventory, spool, superseded
from installer.release import compose, external, settings
from installer.stack import api_start, project, state, stopping
from installer.system import backup_timer, boot_unit, firewall, leftovers, own_copy
from installer.upgrade import kept

# Containers that are stopped already; images of 10 GiB on a slow disk.
REMOVE_SECONDS = 300.0
IMAGES_SECONDS = 1800.0


def uninstall(place: layout.Installation, purge: str | None, runner: Runner, console: Console) -> None:
    """Remove all that an installation put on the host but its settings, secrets, data, logs and report.

    `purge` is the name of the install folder, without those above it: then these go as well, for good. The same call
    again goes on where one was interrupted. Raises UsageError when nothing is installed there, or `purge` is another
    name, AlreadyRunning, BundleDamaged, and CommandFailed when the engine or the disk refuses.
    """
    if purge is not None and purge != place.folder.name:
        raise errors.UsageError(
            f"--purge-data {purge} is not the name of the folder {place.folder}",
            f"to remove all data for good, write --purge-data {place.folder.name}; nothing has been changed",
        )
    memory = logfile.begin()
    with lock.hold(place.folder):
        engine = _engine_of(place, runner)
        bundle = verify.check_embedded(layout.bundled(""))
        volumes = engine.volumes(layout.COMPOSE_PROJECT)
        # ---- The point of no return: above this line nothing on the host has been changed. ----
        ownership.claim(place)
        log = logfile.write_to(memory, place.logs, "uninstall")
        leftovers.remove_leftovers(place)
        # Whatever is wrong with `.env`, the rest can be removed.
        not_ours: list[str] = []
        with contextlib.suppress(errors.InstallerError):
            env = settings.load(place)
            runner.hide(env.secrets)
            not_ours = external.in_words(env.resolved)
        # The unit goes first: a reboot in the middle must not bring the stack back.
        _show("boot", boot_unit.disable(place, runner), console)
        _show("backups", backup_timer.cancel(place, runner), console)
        _show("containers", _remove_containers(place, engine), console)
        _show("networks", _remove_networks(engine), console)
        _show("image store", _remove_stores(place, engine), console)
        _show("images", _remove_images(place, bundle, engine), console)
        # ---- The engine holds nothing of ours any more, but volumes and what others use. ----
        _show("firewall", firewall.withdraw(place, runner), console)
        _show("programs", _remove_programs(place, engine), console)
        kept = _kept(place, volumes, engine, log) if purge is None else _purge(place, volumes, engine)
        # The last thing of all, unless all went already: we may be the executable in there, and Python reads each
        # module from it when that is first imported.
        _remove_own_files(place)
        for line in kept:
            console.line(line)
        for each in not_ours:
            console.line(f"Not ours, and left as it is, with what Dify has written there: {each}")


def _engine_of(place: layout.Installation, runner: Runner) -> Engine:
    """Return the engine of the installation. Raises UsageError when there is none, or when it is another user's."""
    kind = ownership.find_ownership(place).kind
    if kind == "another user's":
        # Another user's podman has the containers and images, another systemd the unit.
        raise errors.UsageError(
            f"the installation in {place.folder} belongs to another user",
            "run the same command as that user; nothing has been changed",
        )
    if kind == "later":
        raise errors.UsageError(
            f"{place.folder} was installed by a later version of dify-installer",
            "use that version to remove it; nothing has been changed",
        )
    if kind not in ("ours", "earlier"):
        raise errors.UsageError(
            f"there is no installation in {place.folder} that {login.user_name()} may use",
            "name its folder with --dir, or run as the user who installed it; nothing has been changed",
        )
    return choose.choose_engine(None, place, runner)


def _show(name: str, seen: str, console: Console) -> None:
    console.line(f"{name:<16}{seen}")


def _remove_containers(place: layout.Installation, engine: Engine) -> str:
    """Stop our containers in their order and remove them; those of that name from another folder stay."""
    names = stopping.remove_all(place, _document(place, engine), engine)
    return f"{len(names)} stopped and removed" if names else "none is there"


def _document(place: layout.Installation, engine: Engine) -> compose.Document:
    """Return the services, for their order; none where half an installation is removed as well."""
    try:
        return project.read_installed(place, engine)
    except errors.InstallerError:
        return {"services": {}}


def _remove_networks(engine: Engine) -> str:
    """Remove the project's networks, unless somebody else's containers are in them."""
    if others := [each.name for each in state.list_containers(engine)]:
        return f"left to containers that are not ours: {', '.join(others)}"
    names = engine.networks(layout.COMPOSE_PROJECT)
    if not names:
        return "none is there"
    engine.run(["network", "rm", *names], timeout=REMOVE_SECONDS, check=False)
    left = engine.networks(layout.COMPOSE_PROJECT)
    return _counted(len(names) - len(left), left)


def _remove_stores(place: layout.Installation, engine: Engine) -> str:
    """Unmount and remove the image stores, unless a container that is not ours was made from an image in one."""
    image_store.clear(place)
    before = image_store.list_stores(place)
    if not before:
        return "none is there"
    # Images that we have loaded may be made of layers that are in a store, which stays for those of others.
    superseded.remove_superseded(place, (), engine)
    left = image_store.retire(place, None, engine)
    return _counted(len(before) - len(left), [str(each.tree) for each in left])


def _remove_images(place: layout.Installation, bundle: manifest.Manifest, engine: Engine) -> str:
    """Remove the images of the bundle, and those of earlier ones, that no container uses.

    A name that somebody else gave one keeps it.
    """
    before = engine.images()
    # By name, if that still means the image of this ID: by ID, an engine refuses to remove one of several names.
    names = [
        image.reference if image.reference in its.names else its.id
        for image in bundle.images
        if (its := inventory.find_stored(image, before)) and (image.reference in its.names or not its.names)
    ]
    if names:
        engine.run(["rmi", *names], timeout=IMAGES_SECONDS, check=False)
    gone = inventory.find_missing(bundle.images, engine.images())
    removed = len(gone) - len(inventory.find_missing(bundle.images, before))
    removed += superseded.remove_superseded(place, (), engine)
    return _counted(removed, [image.reference for image in bundle.images if image not in gone])


def _counted(removed: int, left: list[str]) -> str:
    """Return in words how many were removed, and which others use."""
    return f"{removed} removed" + (f"; in use by others, and left: {', '.join(left)}" if left else "")


def _remove_programs(place: layout.Installation, engine: Engine) -> str:
    """Remove podman-compose, its link and what an interrupted load has left; `bin` is for the end."""
    link = podman_compose.unlink(place, own_copy.path_folder())
    spool.clear(place)
    _remove(place.spool)
    kept.remove_programs(place, engine)
    api_start.remove([place.compiled] if place.compiled.exists() else [], engine)
    venv = place.venv if marker.owns_venv(place) else None
    if venv:
        _remove(venv)
    return ", ".join(map(str, filter(None, (venv, place.podman_compose, place.executable, link)))) + " removed"


def _remove_own_files(place: layout.Installation) -> None:
    """Remove our programs, and their folder when nothing of others is in it. Raises CommandFailed."""
    for program in (place.podman_compose, place.executable):
        with files.telling(program):
            program.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        place.bin.rmdir()


def _remove(folder: Path) -> None:
    """Remove a folder. Raises CommandFailed when something in it stays."""
    files.remove(folder)
    if folder.exists():
        raise errors.CommandFailed(f"{folder} cannot be removed", "look who uses it, then run the same command again")


def _purge(place: layout.Installation, volumes: list[str], engine: Engine) -> list[str]:
    """Remove settings, secrets and data, but nothing of others; return in words what went. Raises CommandFailed."""
    foreign = ownership.list_foreign(place)
    own = ownership.list_own(place)
    engine.runner.run(engine.as_owner(["rm", "-rf", "--", *map(str, own)]), timeout=IMAGES_SECONDS)
    if volumes:
        engine.run(["volume", "rm", *volumes], timeout=REMOVE_SECONDS)
    lines = ["", "Dify is uninstalled, and all its settings, secrets and data are gone"]
    if foreign:
        lines.append(f"What was not made by dify-installer stays as it is: {', '.join(map(str, foreign))}")
    return lines


def _kept(place: layout.Installation, volumes: list[str], engine: Engine, log: Path) -> list[str]:
    """Return, for people, what remains on the host, and the command that removes it."""
    root = os.geteuid() == 0
    # Without root the data belong to others: with podman to the user's subordinate IDs, with docker to root.
    by = engine.removal_prefix(root)
    gone = (place.bin, place.venv, place.spool, place.stores)
    foreign = ownership.list_foreign(place)
    own = [path for path in ownership.list_own(place) if path not in gone and path.parent not in gone]
    command = f"{by}rm -rf {shlex.join(map(str, own))}"
    lines = ["", f"Dify is uninstalled. Its settings, secrets and data are kept in {place.project}, the log is {log}"]
    if volumes:
        lines.append(f"Data are kept in volumes of {engine.name}, too: {', '.join(volumes)}")
        command += f" && {engine.name} volume rm {shlex.join(volumes)}"
    if foreign:
        lines.append(f"What was not made by dify-installer stays as it is: {', '.join(map(str, foreign))}")
    if not root and boot_unit.lingers():
        lines.append("Linger stays on; if nothing else needs it: `loginctl disable-linger`")
    return [
        *lines,
        "The install command brings everything back with the same data.",
        f"To remove what is kept, the data for good: {command}",
    ]
