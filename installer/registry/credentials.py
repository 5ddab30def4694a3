"""Who signs in to a registry: as told, or as `podman login` and `docker login` have kept it.

Source: containers-auth.json(5), and docker's config.json, whose form is the same.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from installer.core import errors
from installer.registry.reference import Registry


@dataclass(frozen=True, slots=True)
class Login:
    """A user of a registry, or a robot of Harbor or Quay, and its password or token."""

    user: str
    password: str = field(repr=False)


def find(registry: Registry, user: str, password: str, file: Path | None, environ: Mapping[str, str]) -> Login | None:
    """Return the login that was given, or that of an auth file, or None. Raises UsageError for half a login."""
    if password and not user:
        raise errors.UsageError("a registry's password is given, but no user", "add --registry-user NAME")
    if user and password:
        return Login(user, password)
    for path in [file] if file else _usual_files(environ):
        found = _of_file(path, registry, asked=file is not None)
        if found and user in ("", found.user):
            return found
    if user:
        raise errors.UsageError(
            f"there is no password for {user} at {registry.host}",
            "give it in DIFY_INSTALLER_REGISTRY_PASSWORD or with --registry-password-file, or use `podman login`",
        )
    if file:
        raise errors.UsageError(
            f"{file} has no password for {registry.host}",
            f"`podman login --authfile {file} {registry.host}` writes it; helpers that keep it elsewhere are not asked",
        )
    return None


def _usual_files(environ: Mapping[str, str]) -> Iterator[Path]:
    if named := environ.get("REGISTRY_AUTH_FILE"):
        yield Path(named)
        return
    home = Path(environ.get("HOME") or "/")
    if runtime := environ.get("XDG_RUNTIME_DIR"):
        yield Path(runtime) / "containers/auth.json"
    yield Path("/run/containers") / str(os.geteuid()) / "auth.json"
    yield Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "containers/auth.json"
    yield Path(environ.get("DOCKER_CONFIG") or home / ".docker") / "config.json"


def _of_file(path: Path, registry: Registry, *, asked: bool) -> Login | None:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        if asked:
            raise errors.UsageError(f"{path} cannot be read as an auth file: {error}", "name another one") from None
        return None
    entries = content.get("auths") if isinstance(content, dict) else None
    if not isinstance(entries, dict):
        return None
    known = {_plain(str(key)): value for key, value in entries.items()}
    for key in _keys(registry):
        if login := _decoded(known.get(key)):
            return login
    return None


def _keys(registry: Registry) -> Iterator[str]:
    """Give the keys that stand for a registry, the most specific first: host/a/b, host/a, host."""
    parts = [registry.host, *(registry.prefix.split("/") if registry.prefix else ())]
    for length in range(len(parts), 0, -1):
        yield "/".join(parts[:length])


def _plain(key: str) -> str:
    """Return a key without scheme and the version at its end, which docker writes."""
    bare = key.removeprefix("https://").removeprefix("http://").rstrip("/")
    return bare.removesuffix("/v1").removesuffix("/v2")


def _decoded(entry: Any) -> Login | None:
    text = entry.get("auth") if isinstance(entry, dict) else None
    if not isinstance(text, str):
        return None
    try:
        user, colon, password = base64.b64decode(text, validate=True).decode().partition(":")
    except ValueError:
        return None
    # docker ends an old entry with a zero byte.
    return Login(user, password.strip("\0")) if colon and user and password else None
