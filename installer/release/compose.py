"""Reads a compose project: which services are active, and which images they need.

The build and the server use the same code, so the list of images that is packed is
the list that the rendered file asks for. No image name stands in our code.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from installer.core import errors
from installer.release import envfile

Service = dict[str, Any]
Document = dict[str, Any]

PROFILES = "COMPOSE_PROFILES"


def load(path: Path) -> Document:
    """Read a compose file, its variables unexpanded, its anchors and merge keys resolved.

    Raises BundleDamaged when it is not a compose file.
    """
    try:
        # libyaml's takes an eighth of the time of PyYAML's own, which is 0.1 s for Dify's file.
        document = yaml.load(path.read_text("utf-8"), Loader=yaml.CSafeLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise errors.BundleDamaged(f"{path} cannot be read as a compose file: {error}") from error
    if not isinstance(document, dict) or not isinstance(document.get("services"), dict):
        raise errors.BundleDamaged(f"{path} is no compose file: it has no mapping `services`")
    return document


def profiles(document: Document) -> set[str]:
    """Return every profile that the file knows."""
    return {name for service in document["services"].values() for name in service.get("profiles", ())}


def active_profiles(variables: Mapping[str, str]) -> tuple[str, ...]:
    """Return the profiles that COMPOSE_PROFILES selects."""
    return tuple(name for name in (part.strip() for part in variables.get(PROFILES, "").split(",")) if name)


def active_services(document: Document, variables: Mapping[str, str]) -> dict[str, Service]:
    """Return the services that docker compose would start: those without profiles and those of an active one."""
    wanted = set(active_profiles(variables))
    return {
        name: service
        for name, service in document["services"].items()
        if not service.get("profiles") or wanted & set(service["profiles"])
    }


def images(document: Document, variables: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the full reference of every image needed, with the services that need it.

    Raises UsageError when an active service has no image but is built from source.
    """
    needed: dict[str, list[str]] = {}
    for name, service in active_services(document, variables).items():
        if "image" not in service:
            raise errors.UsageError(
                f"the service {name} has no image: Dify builds it from source",
                "choose another vector store or database, or build that image and name it in the compose file",
            )
        reference = full_reference(envfile.expand(str(service["image"]), variables))
        needed.setdefault(reference, []).append(name)
    return needed


def full_reference(reference: str) -> str:
    """Return an image reference with registry and tag: `nginx` is `docker.io/library/nginx:latest`.

    Short names mean another registry on each host (containers-registries.conf(5)), or none.
    Raises UsageError for a reference by digest, which no archive can carry (podman#18809).
    """
    if "@" in reference:
        raise errors.UsageError(
            f"{reference} is named by digest, which is lost when images are saved to an archive",
            "name the image by a tag in the compose file",
        )
    first, slash, rest = reference.partition("/")
    if not slash:
        registry, path = "docker.io", f"library/{reference}"
    elif "." in first or ":" in first or first == "localhost":
        registry, path = first, rest
    else:
        registry, path = "docker.io", reference
    last = path.rpartition("/")[2]
    return f"{registry}/{path}" if ":" in last else f"{registry}/{path}:latest"


def expand_all(node: Any, variables: Mapping[str, str]) -> Any:
    """Return a part of a compose file with every variable in it expanded. Raises BundleDamaged, UsageError."""
    if isinstance(node, dict):
        return {key: expand_all(value, variables) for key, value in node.items()}
    if isinstance(node, list):
        return [expand_all(value, variables) for value in node]
    return envfile.expand(node, variables) if isinstance(node, str) else node


def dependencies(service: Service) -> dict[str, dict[str, Any]]:
    """Return what a service depends on, in the long form: name -> {condition, required}."""
    declared = service.get("depends_on") or {}
    if isinstance(declared, list):
        return {name: {"condition": "service_started"} for name in declared}
    return {name: dict(options or {"condition": "service_started"}) for name, options in declared.items()}
