"""Which vector store a Dify has, of which version, and whose files a newer one can read."""

from __future__ import annotations

from collections.abc import Mapping

from installer.release import compose, dify, envfile

# The oldest version whose files, as Dify has written them, the version beside it in Dify's compose file can use. Before
# 1.27 Dify wrote with another client, and what it wrote is not found any more (dify#27291; Dify's documentation,
# "Weaviate Migration Guide").
OLDEST: dict[str, tuple[int, ...]] = {"weaviate": (1, 27)}
# What upstream says to do where the files cannot be used.
REMEDIES: dict[str, str] = {
    "weaviate": (
        "upgrade Dify and Weaviate where they are now, as Dify's Weaviate Migration Guide says, and export then; or "
        "leave the vectors behind with --without-vectors: documents and settings come along, and a knowledge base is "
        "indexed again when its embedding model is changed in its settings and changed back (dify#27291)"
    ),
}


def find_services(document: compose.Document, variables: Mapping[str, str]) -> list[str]:
    """Return the services of a compose file that are there for the vector store of `.env`."""
    store = variables.get(dify.VECTOR_STORE, "")
    return [name for name, service in document["services"].items() if store in (service.get("profiles") or ())]


def find_version(document: compose.Document, variables: Mapping[str, str]) -> str:
    """Return the version of the vector store as the tag of its image says; empty where it has no image."""
    store = variables.get(dify.VECTOR_STORE, "")
    for name in sorted(find_services(document, variables), key=lambda name: name != store):
        if image := document["services"][name].get("image"):
            return version_of(envfile.expand(str(image), variables))
    return ""


def version_of(image: str) -> str:
    """Return the tag of an image without a leading v; empty for none."""
    return image.rpartition("/")[2].partition(":")[2].removeprefix("v")
