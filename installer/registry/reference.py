"""Where an image lies in a registry: HOST[:PORT], the prefix, and the image's own path and tag.

The grammar of names is that of the OCI Distribution Specification 1.1, "Pulling manifests".
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from installer.bundle import manifest
from installer.core import errors

PART = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
# A name, or an address; of IPv6 in brackets, as in a URL.
HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?")
# "Many clients impose a limit of 255 characters on the length of the concatenation of the registry hostname, … , /,
# and the namespace value."
LONGEST = 255

EXPECTED = (
    "in Harbor the first part behind the host is a project, in Quay an organisation or a user, in Nexus (where it "
    "serves repositories by path) a hosted docker repository, in Artifactory a local one"
)


@dataclass(frozen=True, slots=True)
class Registry:
    """A registry, `host` with its port if one was given, and what stands before the names there (or nothing)."""

    host: str
    prefix: str


@dataclass(frozen=True, slots=True)
class Place:
    """Where an image is to be: its repository, with the prefix, and its tag."""

    image: manifest.Image
    repository: str
    tag: str


def checked_registry(text: str) -> Registry:
    """Return the registry that HOST[:PORT][/PREFIX] names. Raises UsageError."""
    example = "give HOST[:PORT][/PREFIX], for example registry.example.com/dify"
    if "://" in text:
        raise errors.UsageError(f"{text!r} is a URL", f"{example}, without https://")
    if "@" in text:
        raise errors.UsageError("a registry's name has no @ in it", f"{example}; a user is named by --registry-user")
    host, _, prefix = text.partition("/")
    found = HOST.fullmatch(host)
    if not found or not 0 < int(found[1] or 443) < 65536:
        raise errors.UsageError(f"{host!r} is not a host, or not with a valid port", example)
    prefix = prefix.rstrip("/")
    for part in prefix.split("/") if prefix else ():
        _require_part(part, prefix)
    return Registry(host, prefix)


def places(registry: Registry, images: Sequence[manifest.Image]) -> list[Place]:
    """Return where each image is to be: PREFIX/PATH:TAG, without the public registry's own name.

    Where two images would get the same name, each keeps the name of its registry, too. Raises UsageError for names that
    no registry takes.
    """
    split = [_split(image.reference) for image in images]
    often = Counter((path, tag) for _, path, tag in split)
    found = []
    for image, (host, path, tag) in zip(images, split, strict=True):
        own = f"{host.partition(':')[0]}/{path}" if often[path, tag] > 1 and host else path
        repository = f"{registry.prefix}/{own}" if registry.prefix else own
        for part in repository.split("/"):
            _require_part(part, repository)
        if not TAG.fullmatch(tag):
            raise errors.UsageError(f"{image.reference} has no tag that a registry takes: {tag!r}")
        if len(f"{registry.host}/{repository}") > LONGEST:
            raise errors.UsageError(
                f"{registry.host}/{repository} is longer than {LONGEST} characters", "choose a shorter prefix"
            )
        found.append(Place(image, repository, tag))
    return found


def _split(reference: str) -> tuple[str, str, str]:
    """Return host, path and tag of an image's name; what has a digest alone gets that as its tag."""
    name, _, digest = reference.partition("@")
    base, slash, last = name.rpartition("/")
    last, _, tag = last.partition(":")
    name = f"{base}{slash}{last}"
    host, _, path = name.partition("/")
    if not path or not ("." in host or ":" in host or host == "localhost"):
        host, path = "", name
    return host, path, tag or (digest.replace(":", "-") if digest else "latest")


def _require_part(part: str, whole: str) -> None:
    if not PART.fullmatch(part):
        why = "has capital letters" if part != part.lower() else f"has {part!r}"
        raise errors.UsageError(
            f"{whole!r} {why}: no registry takes such a name",
            "parts between slashes are small letters and digits, with single . _ or - between them; " + EXPECTED,
        )
