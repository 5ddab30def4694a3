"""`images.json`: what lies where in a registry. It also tells the next run which blob a layer has become."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from installer.core import errors
from installer.registry.blobs import Blob
from installer.registry.forms import Form


@dataclass(slots=True)
class Known:
    """Which blob a layer became, and which repositories have it, by diff ID."""

    blobs: dict[str, Blob] = field(default_factory=dict)
    repositories: dict[str, list[str]] = field(default_factory=dict)

    def add(self, layer: str, blob: Blob, repository: str) -> None:
        """Take note that a repository has a layer as this blob."""
        if self.blobs.get(layer) != blob:
            # Packed in another way, it is another blob, and in none of the repositories that are known.
            self.repositories.pop(layer, None)
        self.blobs[layer] = blob
        there = self.repositories.setdefault(layer, [])
        if repository not in there:
            there.append(repository)


def read(path: Path, host: str, form: Form) -> Known:
    """Return what an earlier run has written down, if it was for this registry and this form of layers.

    Raises UsageError for a file that is something else: it would be lost.
    """
    known = Known()
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return known
    except OSError as error:
        raise errors.UsageError(f"{path} cannot be read: {error.strerror}", "name another file with --out") from error
    try:
        document = json.loads(text)
        if document["kind"] != "push":
            raise ValueError
        if document["host"] == host and document["form"] == form:
            for layer, each in document["layers"].items():
                known.blobs[layer] = Blob(str(each["digest"]), int(each["size"]))
                known.repositories[layer] = [str(name) for name in each["repositories"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise errors.UsageError(
            f"{path} is no images.json of a push, and would be replaced", "name another file with --out"
        ) from error
    return known
