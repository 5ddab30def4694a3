"""What an upgrade will be, known before anything is changed: from which Dify to which, what goes on, and its room."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from installer.bundle import manifest
from installer.core import errors, layout
from installer.core.console import size
from installer.core.finding import Finding
from installer.engine.base import Engine
from installer.host import parse
from installer.release import carry, compose, env_history, external, settings, storage
from installer.stack import project
from installer.upgrade import kept, versions

MOUNTS = Path("/proc/self/mountinfo")


@dataclass(frozen=True, kw_only=True, slots=True)
class Upgrade:
    """From which Dify to which; `example` is the `.env.example` of the older one."""

    before: str
    after: str
    begun: bool  # by a run that was interrupted: the copy is made
    example: str
    carried: carry.Carried
    data_bytes: int  # of what is copied
    room_bytes: int  # that the copy needs besides what an interrupted one has taken
    replaced: str  # the version that is kept so far, and is not any more
    volumes: tuple[str, ...]  # of the engine's own, which are not copied


def find(place: layout.Installation, bundle: manifest.Manifest, engine: Engine) -> Upgrade | None:
    """Return what an upgrade will be; None where nothing is installed, or this very version is.

    Raises PreflightFailed for a bundle that is older than what is installed, or another one than that of an upgrade
    that was interrupted, and where no copy can be made.
    """
    record = kept.read(place)
    begun = record is not None and record.state == "begun"
    before = record.before if begun and record else project.find_version(place)
    if not before or (before == bundle.dify and not begun) or not place.env.is_file():
        return None
    if begun and record is not None and record.after != bundle.dify:
        raise errors.PreflightFailed(
            f"an upgrade from Dify {before} to {record.after} was interrupted, and this bundle is {bundle.dify}",
            f"take the bundle of {record.after}; or `dify-installer start`, which brings {before} back",
        )
    if versions.is_older(bundle.dify, before):
        raise errors.PreflightFailed(
            f"this installation is Dify {before}, and the bundle is older: {bundle.dify}. Its programs do not know "
            "what the newer ones have made of the data",
            "take a newer bundle; to go back after an upgrade: `dify-installer rollback`",
        )
    whence = layout.Installation(place.previous) if begun else place
    example = env_history.text_of(whence.project / layout.ENV_EXAMPLE)
    after = (layout.bundled(layout.PROJECT) / layout.ENV_EXAMPLE).read_text("utf-8")
    text = env_history.unmarked(env_history.text_of(whence.env))
    needed = taken = 0
    if not begun:
        _require_one_file_system(place)
        needed = sum(kept.measure(each, engine) for each in (place.project, place.bin, place.venv))
        taken = kept.measure(place.previous_part, engine)
    return Upgrade(
        before=before,
        after=bundle.dify,
        begun=begun,
        example=example,
        carried=carry.carry(text, example, after, settings.BOUND),
        data_bytes=needed,
        room_bytes=max(0, needed - taken),
        replaced=record.before if record and not begun else "",
        volumes=tuple(_volumes(engine)),
    )


def _require_one_file_system(place: layout.Installation) -> None:
    """Raise PreflightFailed where a part of `docker/` cannot be put aside with it: it would come back at a boot."""
    points = [Path(each) for each in parse.mount_points(MOUNTS.read_text("utf-8", errors="replace"))]
    mounted = [each for each in points if each.is_relative_to(place.project.resolve())]
    linked = [each for each in (place.project, place.volumes) if each.is_symlink()]
    if found := [*mounted, *linked]:
        raise errors.PreflightFailed(
            f"{', '.join(map(str, found))} is a file system of its own or a link, and cannot be put aside with "
            f"{place.project} if the upgrade fails",
            f"mount it at {place.folder} instead, so that all of it is on one file system",
        )


def _volumes(engine: Engine) -> list[str]:
    try:
        return engine.volumes(layout.COMPOSE_PROJECT)
    except errors.CommandFailed:
        return []


def check(
    move: Upgrade, bundle: manifest.Manifest, env: settings.Settings | None, *, copied: bool = False
) -> list[Finding]:
    """A newer bundle keeps a copy of what is there; an older one is refused, and one without a service's image.

    So is one that would change the rows of a database of yours of which nobody says that there is a copy.
    """
    if env is not None:
        _require_images(bundle, env.resolved)
        _require_copy(move, external.find_database(env.resolved), copied=copied)
    told = "its copy is made" if move.begun else f"a copy of it needs {size(move.data_bytes)}"
    found = [Finding("upgrade", "ok", f"from Dify {move.before} to {move.after}; {told}")]
    found += told_of_others(env.resolved) if env is not None else ()
    if move.carried.gone:
        found.append(
            Finding(
                "upgrade",
                "warning",
                f"Dify {move.after} has these settings no more, which were set in .env: {', '.join(move.carried.gone)}",
                f"see in Dify's notes for {move.after} what takes their place; the old .env is kept",
            )
        )
    if move.volumes:
        found.append(
            Finding(
                "upgrade",
                "warning",
                f"volumes of the engine's own are not in the copy: {', '.join(move.volumes)}",
                "keep what is in them by the store's own tools before you upgrade",
            )
        )
    return found


def told_of_others(variables: Mapping[str, str]) -> Iterator[Finding]:
    """Yield what is not in the copy, since it lies where it is not ours."""
    if found := storage.find(variables):
        told = f"the files in {found.place} are not ours: they are not in that copy, and stay as they are"
        yield Finding("upgrade", "info", told)
    if vectors := external.find_vectors(variables):
        told = f"the vectors in {vectors.place} are not ours: they are not in that copy, either"
        yield Finding("upgrade", "info", told)


def _require_copy(move: Upgrade, database: external.Database | None, *, copied: bool) -> None:
    """Raise PreflightFailed where rows would be changed of which we make no copy, and nobody says that he has one."""
    if database is not None and not copied:
        raise errors.PreflightFailed(
            f"Dify {move.after} changes the rows in {database.where}, which is not ours: no copy of them is made, and "
            f"neither a failed upgrade nor `rollback` brings them back",
            f"`dify-installer stop`; have {database.name} and {database.plugins} dumped (pg_dump); then run the same "
            "command with --db-copied",
        )


def _require_images(bundle: manifest.Manifest, variables: Mapping[str, str]) -> None:
    """Raise PreflightFailed when the bundle lacks an image of a service that the settings want."""
    upstream = compose.load(layout.bundled(layout.PROJECT) / layout.COMPOSE_FILE)
    known = {image.reference for image in bundle.images}
    lacking = {
        reference: services
        for reference, services in compose.images(upstream, variables).items()
        if reference not in known
    }
    if lacking:
        named = ", ".join(f"{', '.join(services)} ({reference})" for reference, services in lacking.items())
        raise errors.PreflightFailed(
            f"this bundle has no image for {named}, which the settings of this installation want",
            "take a bundle that was built for the same vector store and database",
        )
