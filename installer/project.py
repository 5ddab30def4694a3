"""Lays Dify's compose project into the install folder and renders what runs."""

from __future__ import annotations

import getpass
from collections.abc import Mapping
from pathlib import Path

import yaml

from installer import compose, envfile, errors, files, layout, manifest, render


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


def rendered(place: layout.Installation, variables: Mapping[str, str], selinux: bool) -> str:
    """Return the compose file for this host, from upstream's file in the install folder."""
    document = compose.load(place.upstream_compose)
    return render.render(document, render.Choice(variables=variables, selinux=selinux))


def write_compose(place: layout.Installation, variables: Mapping[str, str], selinux: bool) -> compose.Document:
    """Write the compose file that runs, make the folders that it mounts, and return it."""
    text = rendered(place, variables, selinux)
    if not place.compose.is_file() or place.compose.read_text("utf-8") != text:
        files.write(place.compose, text)
    document: compose.Document = yaml.safe_load(text)
    for source in render.bind_sources(document, variables):
        path = place.project / Path(source).expanduser()
        if not path.exists():
            files.folder(path)
    return document


def variables(place: layout.Installation) -> dict[str, str]:
    """Return the settings of `.env`, expanded."""
    return envfile.resolve(place.env.read_text("utf-8"))


def installed(place: layout.Installation) -> compose.Document:
    """Return the compose file that runs. Raises CommandFailed when nothing is installed here, or not readable."""
    try:
        place.env.read_text("utf-8")
        return compose.load(place.compose)
    except (OSError, errors.BundleDamaged) as error:
        raise errors.CommandFailed(
            f"there is no finished installation in {place.folder} that {getpass.getuser()} may use",
            "name its folder with --dir, run as the user who installed it, or install first: dify-installer --ip …",
        ) from error
