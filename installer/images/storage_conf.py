"""The additional image stores in podman's storage.conf: text in, text out, everything else as it was.

containers-storage.conf(5), "additionalimagestores"; there is no folder for parts of that file.
"""

from __future__ import annotations

import json
from pathlib import Path

import tomlkit
from tomlkit.exceptions import TOMLKitError

from installer.core import digest, errors

# The first line of a file that was not there before us, with a digest of its settings.
MARK = "# Written by dify-installer for its image store, and removed with it unless somebody has changed it:"


def default(driver: str, graph_root: str, run_root: str | None, mount_program: str | None = None) -> str:
    """Return a storage.conf that says what podman does without one: it has to name all of it.

    A user's need not name the runroot. `mount_program` is what mounts for him where the kernel does not (overlay).
    """
    document = tomlkit.document()
    storage = {"driver": driver, **({"runroot": run_root} if run_root else {}), "graphroot": graph_root}
    document["storage"] = storage
    if mount_program:
        document["storage"]["options"] = {"overlay": {"mount_program": mount_program}}
    return tomlkit.dumps(document)


def marked(text: str) -> str:
    """Return `text` marked as a file of ours."""
    return f"{MARK} {_settings(text)}\n{text}"


def add(text: str, store: Path) -> str:
    """Return `text` with this store as the first of the additional ones: of two images of a name, podman takes that.

    Raises CommandFailed for what is not TOML.
    """
    document = _parsed(text)
    stores = _stores(document)
    if str(store) in stores:
        return text
    options = document.setdefault("storage", tomlkit.table()).setdefault("options", tomlkit.table())
    options["additionalimagestores"] = [str(store), *stores]
    return tomlkit.dumps(document)


def remove(text: str, store: Path) -> str | None:
    """Return `text` without this store, or None when nothing is left of a file of ours but what podman does anyway.

    Raises CommandFailed for what is not TOML.
    """
    document = _parsed(text)
    left = [each for each in _stores(document) if each != str(store)]
    if not left and text.startswith(f"{MARK} {_settings(text)}\n"):
        return None
    if left == _stores(document):
        return text
    document["storage"]["options"]["additionalimagestores"] = left
    return tomlkit.dumps(document)


def _parsed(text: str) -> tomlkit.TOMLDocument:
    try:
        return tomlkit.parse(text)
    except TOMLKitError as error:
        raise errors.CommandFailed(
            f"podman's storage.conf is not valid TOML: {error}", "fix the file: podman itself cannot read it either"
        ) from error


def _stores(document: tomlkit.TOMLDocument) -> list[str]:
    found = document.get("storage", {}).get("options", {}).get("additionalimagestores", [])
    return [str(each) for each in found]


def _settings(text: str) -> str:
    """Return a digest of what a file sets, but for the additional stores."""
    settings = _parsed(text).unwrap()
    options = settings.setdefault("storage", {}).setdefault("options", {})
    options.pop("additionalimagestores", None)
    return digest.hash_bytes(json.dumps(settings, sort_keys=True, default=str).encode())[:16]
