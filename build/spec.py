"""Reads the spec: which release of Dify to bundle, for which architecture, with which choices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from installer.bundle import manifest
from installer.core import errors

# 2025-01-01, in seconds since 1970: what carries a time gets this one, so that the same inputs give the same bytes.
EPOCH = "1735689600"
FOLDER = Path(__file__).resolve().parent.parent / "specs"
DEFAULT = FOLDER / "dify-1.11.3.yaml"
KEYS = ("source", "tag", "architecture", "variables", "profiles", "plugins")


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    """`source` is a git URL (then `tag` counts), a folder or a tarball; `profiles` are started besides the usual.

    `plugins` are those that go along unless others are named.
    """

    source: str
    tag: str
    architecture: manifest.Architecture
    variables: Mapping[str, str]
    profiles: tuple[str, ...]
    plugins: tuple[str, ...]


def read(path: Path, **options: Any) -> Spec:
    """Read a spec; `options` that are not None win, `variables` key by key.

    Raises UsageError for a file that is none and for unknown keys.
    """
    try:
        given = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise errors.UsageError(f"the spec {path} cannot be read: {error}") from error
    if not isinstance(given, dict) or set(given) != set(KEYS):
        raise errors.UsageError(f"the spec {path} must have exactly the keys {', '.join(KEYS)}")
    given.update({name: value for name, value in options.items() if value is not None and name != "variables"})
    variables = {str(key): str(value) for key, value in {**given["variables"], **options.get("variables", {})}.items()}
    if given["architecture"] not in manifest.ARCHITECTURES:
        raise errors.UsageError(
            f"architecture {given['architecture']!r} is none of {', '.join(manifest.ARCHITECTURES)}"
        )
    return Spec(
        source=str(given["source"]),
        tag=str(given["tag"]),
        architecture=given["architecture"],
        variables=variables,
        profiles=tuple(map(str, given["profiles"])),
        plugins=tuple(map(str, given["plugins"])),
    )
