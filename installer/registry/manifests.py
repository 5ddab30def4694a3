"""Makes the manifest of an image, puts it under its tag, and reads it back.

docker's schema 2 wherever it can be: podman looks for a health check of the image in nothing else. zstd exists in OCI's
form alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from installer.core import digest as hashes
from installer.core import errors
from installer.registry.blobs import Blob
from installer.registry.client import Client
from installer.registry.forms import Form
from installer.registry.reference import Place

DOCKER = "application/vnd.docker.distribution.manifest.v2+json"
OCI = "application/vnd.oci.image.manifest.v1+json"
ACCEPTED = {"Accept": f"{DOCKER}, {OCI}"}
# The types of manifest, configuration and layers, by how layers are sent.
TYPES: dict[Form, tuple[str, str, str]] = {
    "gzip": (
        DOCKER,
        "application/vnd.docker.container.image.v1+json",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
    ),
    "tar": (DOCKER, "application/vnd.docker.container.image.v1+json", "application/vnd.docker.image.rootfs.diff.tar"),
    "zstd": (OCI, "application/vnd.oci.image.config.v1+json", "application/vnd.oci.image.layer.v1.tar+zstd"),
}


@dataclass(frozen=True, slots=True)
class Found:
    """What is under a tag: its digest, the image's ID, or nothing for what is no single image, and its layers."""

    digest: str
    image_id: str
    layers: tuple[Blob, ...]
    layer_types: tuple[str, ...]


def make(form: Form, config: Blob, layers: Sequence[Blob]) -> bytes:
    """Return the manifest of an image; the same image gives the same bytes."""
    manifest_type, config_type, layer_type = TYPES[form]
    document = {
        "schemaVersion": 2,
        "mediaType": manifest_type,
        "config": {"mediaType": config_type, "size": config.size, "digest": config.digest},
        "layers": [{"mediaType": layer_type, "size": each.size, "digest": each.digest} for each in layers],
    }
    return json.dumps(document, separators=(",", ":")).encode()


def look(client: Client, place: Place) -> Found | None:
    """Return what is under a tag now, or None."""
    answer = client.ask(
        "GET",
        f"/v2/{place.repository}/manifests/{place.tag}",
        place.repository,
        "give a manifest",
        expected=(200, 404),
        headers=ACCEPTED,
    )
    if answer.status_code == 404:
        return None
    return _read(answer.content)


def put(client: Client, place: Place, content: bytes, form: Form) -> str:
    """Put a manifest under its tag, read it back, and return its digest. Raises RegistryFailed for other bytes."""
    client.ask(
        "PUT",
        f"/v2/{place.repository}/manifests/{place.tag}",
        place.repository,
        "take a manifest",
        expected=(200, 201, 202),
        headers={"Content-Type": TYPES[form][0]},
        data=content,
    )
    found = look(client, place)
    digest = f"sha256:{hashes.hash_bytes(content)}"
    if found is None or found.digest != digest:
        raise errors.RegistryFailed(
            f"{place.repository}:{place.tag} is not what was put there: {found.digest if found else 'nothing'}, "
            f"not {digest}",
            "look whether somebody else pushes there, and at the registry's log",
        )
    return digest


def _read(content: bytes) -> Found:
    digest = f"sha256:{hashes.hash_bytes(content)}"
    try:
        document: Any = json.loads(content)
        layers = tuple(Blob(str(each["digest"]), int(each["size"])) for each in document["layers"])
        types = tuple(str(each["mediaType"]) for each in document["layers"])
        return Found(digest, str(document["config"]["digest"]).removeprefix("sha256:"), layers, types)
    except (ValueError, KeyError, TypeError):
        return Found(digest, "", (), ())
