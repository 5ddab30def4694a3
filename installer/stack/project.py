"""Lays Dify's compose project into the install folder and renders what runs."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from installer.bundle import manifest
from installer.core import errors, files, layout, login
from installer.engine.base import Engine
from installer.host.facts import Host
from installer.release import compose, dify, envfile, render, settings
from installer.stack import api_start


def lay_down(bundle: manifest.Manifest, payload: Path, place: layout.Installation) -> int:
    """Copy upstream's files; return how many were new or different.

    A file that a person has changed is kept beside it, as NAME.before, once it is replaced.
    """
    different = find_different(bundle, payload, place)
    for target, file in different:
        mode = 0o755 if file.executable else 0o644
        if target.is_file():
            files.write(target.with_name(f"{target.name}.before"), target.read_bytes(), mode=mode)
        files.folder(target.parent)
        files.write(target, (payload / file.path).read_bytes(), mode=mode)
    api_start.lay_down(place, payload)
    return len(different)


def find_different(
    bundle: manifest.Manifest, payload: Path, place: layout.Installation
) -> list[tuple[Path, manifest.File]]:
    """Return upstream's files that are not in the install folder, or not as they are: where they go, and which."""
    different = []
    for file in bundle.files:
        path = Path(file.path)
        if path.parts[0] != layout.PROJECT:
            continue
        target = place.folder / path
        before = target.read_bytes() if target.is_file() else None
        # Configuration below volumes/ is for administrators to change.
        if before != (payload / path).read_bytes() and not (before is not None and _is_settings(path)):
            different.append((target, file))
    return different


def _is_settings(path: Path) -> bool:
    return len(path.parts) > 1 and path.parts[1] == "volumes"


def write_compose(place: layout.Installation, choice: render.Choice, engine: Engine) -> compose.Document:
    """Write what the engine's compose reads, make the folders that it mounts, and return the services that run.

    Upstream's own file is in the install folder already.
    """
    upstream = compose.load(place.upstream_compose)
    path, text = engine.written_file(place), engine.render_file(upstream, choice)
    document = engine.services_of(upstream, choice)
    if not path.is_file() or path.read_bytes() != text.encode():
        files.write(path, text)
    make_folders(place, document, choice.variables)
    return document


def make_folders(place: layout.Installation, document: compose.Document, variables: Mapping[str, str]) -> None:
    """Make the folders that the services mount, where they are missing. Raises CommandFailed."""
    for source in render.bind_sources(document, variables):
        folder = Path(os.path.normpath(place.project / Path(source).expanduser()))
        if folder.parent == place.compiled:
            api_start.make_folder(place, folder)
        elif not folder.exists():
            files.folder(folder)


def choose(
    place: layout.Installation,
    variables: Mapping[str, str],
    engine: Engine,
    found: Host,
    images: Iterable[manifest.Image],
    coming: Collection[Path] = (),
) -> render.Choice:
    """Return what the rendering depends on.

    `images` are the bundle's, `coming` files that this run will put into the install folder.
    """

    def is_there(path: Path) -> bool:
        return path in coming or path.is_file()

    return render.Choice(
        variables=variables,
        selinux=found.engine.labels,
        ca_bundle=is_there(place.ca_bundle),
        start_interval=engine.starts_checks_early(found.engine.version),
        owner_key=is_there(place.plugins / layout.OWNER_KEY),
        images={image.reference: image.id for image in images},
    )


def find_api_image(payload_project: Path) -> str:
    """Return the name, without its tag, of the image of Dify's api: whatever else runs it is another Dify."""
    variables = envfile.resolve((payload_project / layout.ENV_EXAMPLE).read_text("utf-8"))
    return _api_image(payload_project / layout.COMPOSE_FILE, variables).rpartition(":")[0]


def find_version(place: layout.Installation) -> str:
    """Return which Dify is laid down in an install folder: the tag of the api's image, as a bundle has its version.

    Empty where none is, or none that can be read.
    """
    try:
        variables = envfile.resolve(place.env.read_text("utf-8"))
        return _api_image(place.upstream_compose, variables).rpartition(":")[2]
    except (OSError, ValueError, errors.BundleDamaged, errors.UsageError):
        return ""


def _api_image(path: Path, variables: Mapping[str, str]) -> str:
    """Return the reference of the api's image. Raises BundleDamaged, UsageError, OSError."""
    image = str((compose.load(path)["services"].get(dify.API) or {}).get("image", ""))
    return compose.full_reference(envfile.expand(image, variables))


def read_installed(place: layout.Installation, engine: Engine) -> compose.Document:
    """Return the services that run, and hide the secrets of their settings.

    Raises CommandFailed when nothing is installed here, or not readable, UsageError for an `.env` that makes no sense.
    """
    env = settings.load(place)
    engine.runner.hide(env.secrets)
    try:
        choice = render.Choice(variables=env.resolved, selinux=False)
        return engine.running_document(place, choice)
    except (OSError, errors.BundleDamaged) as error:
        raise errors.CommandFailed(
            f"there is no finished installation in {place.folder} that {login.user_name()} may use",
            "name its folder with --dir, run as the user who installed it, or install first: dify-installer --ip …",
        ) from error
