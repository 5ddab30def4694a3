"""Finds what a release needs: its variables, profiles, images and version, from its own files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from build.failure import BuildError
from build.spec import Spec
from installer.core import errors, layout
from installer.release import compose, dify, envfile, render

# What is mounted under such a name is a file, not a folder of data.
FILE_SUFFIXES = (".sh", ".template", ".conf", ".yaml", ".yml", ".xml", ".txt", ".script")


@dataclass(frozen=True, kw_only=True, slots=True)
class Needs:
    """`images` are full references, sorted; `version` is the tag of the api's image; `variables` go into `.env`.

    `api` is the image of Dify's api, `daemon` that of the plugin daemon, empty where there is none, and
    `largest_plugin` what that one takes, in bytes.
    """

    images: tuple[str, ...]
    version: str
    variables: dict[str, str]
    api: str
    daemon: str
    largest_plugin: int


def resolve(docker: Path, wanted: Spec) -> Needs:
    """Return what the compose project asks for once the spec's choices stand in `.env`.

    Raises UsageError for a choice that the release does not know, BuildError for an incomplete release.
    """
    document = compose.load(docker / layout.COMPOSE_FILE)
    example = (docker / layout.ENV_EXAMPLE).read_text("utf-8")
    choices = _choices(example, wanted)
    variables = envfile.resolve(envfile.edit(example, choices))
    _check_profiles(document, variables)
    images = compose.images(document, variables)
    _check_mounted_files(document, variables, docker)
    api = next((reference for reference, services in images.items() if dify.API in services), None)
    if api is None:
        raise BuildError(f"the compose file has no active service {dify.API!r}", "is it a release of Dify?")
    daemon = next((reference for reference, services in images.items() if dify.MODEL_CALLER in services), "")
    return Needs(
        images=tuple(sorted(images)),
        version=api.rpartition(":")[2],
        variables=choices,
        api=api,
        daemon=daemon,
        largest_plugin=int(variables.get(dify.LARGEST_PLUGIN, "") or dify.LARGEST_PLUGIN_BYTES),
    )


def _choices(example: str, wanted: Spec) -> dict[str, str]:
    """Return the settings that the spec chooses; profiles of its own are added to those of the example."""
    if not wanted.profiles:
        return dict(wanted.variables)
    # What stands in a bundle is literal: a reference would be refused where it is written.
    usual = envfile.resolve(envfile.edit(example, wanted.variables)).get(compose.PROFILES, "")
    return {**wanted.variables, compose.PROFILES: ",".join(filter(None, (usual, *wanted.profiles)))}


def _check_mounted_files(document: compose.Document, variables: Mapping[str, str], docker: Path) -> None:
    """Refuse a release that lacks a file which an active service mounts: podman would mount a folder instead."""
    active = {"services": compose.active_services(document, variables)}
    sources = [source for source in render.bind_sources(active, variables) if Path(source).suffix in FILE_SUFFIXES]
    missing = [source for source in sources if not (docker / source).is_file()]
    if missing:
        raise BuildError(
            f"the release lacks {', '.join(missing)}, which its services mount",
            "give a complete checkout of the release",
        )


def _check_profiles(document: compose.Document, variables: Mapping[str, str]) -> None:
    known = compose.profiles(document)
    unknown = [name for name in compose.active_profiles(variables) if name not in known]
    if unknown:
        raise errors.UsageError(
            f"the compose file has no profile {', '.join(unknown)}", f"choose from: {', '.join(sorted(known))}"
        )
