"""Lays Dify's compose project into the install folder and renders what runs."""

from __future__ import annotations

import getpass
from collections.abc import Mapping
from pathlib import Path

import yaml

from installer.bundle import manifest
from installer.core import errors, files, layout
from installer.engine.engine import Engine
from installer.host import host
from installer.release import compose, dify, envfile, render

# The first docker that has it; docker compose refuses a file with it before an older one.
START_INTERVAL = (25, 0)


def lay_down(bundle: manifest.Manifest, payload: Path, place: layout.Installation) -> int:
    """Copy upstream's files; return how many were new or different.

    A file that a person has changed is kept beside it, as NAME.before, once it is replaced.
    """
    changed = 0
    for file in bundle.files:
        path = Path(file.path)
        if path.parts[0] != layout.PROJECT:
            continue
        target = place.folder / path
        content = (payload / path).read_bytes()
        mode = 0o755 if file.executable else 0o644
        before = target.read_bytes() if target.is_file() else None
        if before == content:
            continue
        if before is not None and _is_settings(path):
            # Configuration below volumes/ is for administrators to change.
            continue
        if before is not None:
            files.write(target.with_name(f"{target.name}.before"), before, mode=mode)
        files.folder(target.parent)
        files.write(target, content, mode=mode)
        changed += 1
    return changed


def _is_settings(path: Path) -> bool:
    return len(path.parts) > 1 and path.parts[1] == "volumes"


def write_compose(
    place: layout.Installation, variables: Mapping[str, str], engine: Engine, found: host.Host
) -> compose.Document:
    """Write what the engine's compose reads, make the folders that it mounts, and return the services that run.

    Upstream's own file is in the install folder already.
    """
    upstream = compose.load(place.upstream_compose)
    choice = render.Choice(
        variables=variables,
        selinux=found.labels,
        ca_bundle=place.ca_bundle.is_file(),
        start_interval=engine.name == "docker" and (found.engine_version or ()) >= START_INTERVAL,
    )
    if engine.name == "docker":
        path, text = place.override, render.override(upstream, choice)
        document = render.with_additions(upstream, choice)
    else:
        path, text = place.compose, render.render(upstream, choice)
        document = yaml.safe_load(text)
    if not path.is_file() or path.read_text("utf-8") != text:
        files.write(path, text)
    for source in render.bind_sources(document, variables):
        folder = place.project / Path(source).expanduser()
        if not folder.exists():
            files.folder(folder)
    return document


def find_api_image(payload_project: Path) -> str:
    """Return the name, without its tag, of the image of Dify's api: whatever else runs it is another Dify."""
    upstream = compose.load(payload_project / layout.COMPOSE_FILE)
    variables = envfile.resolve((payload_project / layout.ENV_EXAMPLE).read_text("utf-8"))
    image = str((upstream["services"].get(dify.API) or {}).get("image", ""))
    return compose.full_reference(envfile.expand(image, variables)).rpartition(":")[0]


def read_variables(place: layout.Installation) -> dict[str, str]:
    """Return the settings of `.env`, expanded."""
    return envfile.resolve(place.env.read_text("utf-8"))


def read_installed(place: layout.Installation, engine: Engine) -> compose.Document:
    """Return the services that run. Raises CommandFailed when nothing is installed here, or not readable."""
    try:
        choice = render.Choice(variables=read_variables(place), selinux=False)
        if engine.name == "docker":
            return render.with_additions(compose.load(place.upstream_compose), choice)
        return compose.load(place.compose)
    except (OSError, errors.BundleDamaged) as error:
        raise errors.CommandFailed(
            f"there is no finished installation in {place.folder} that {getpass.getuser()} may use",
            "name its folder with --dir, run as the user who installed it, or install first: dify-installer --ip …",
        ) from error
