"""The manifest: what a bundle consists of, to the last byte.

The build writes it, the installer verifies against it. The same inputs give the same
bytes: keys are sorted, lists have an order of their own, and there is no time in it.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from installer.core import errors

FORMAT = 4

Compression = Literal["none", "zstd"]
Signer = Literal["Dify", "owner"]
Architecture = Literal["amd64", "arm64"]
ARCHITECTURES: tuple[Architecture, ...] = ("amd64", "arm64")

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True, slots=True)
class File:
    """A file inside the executable; `path` is relative to the payload, with slashes."""

    path: str
    size: int
    sha256: str
    executable: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Image:
    """An image: the `index`-th of the `archive`-th archive (`docker-archive:FILE:@index`).

    `id` is the SHA-256 of its configuration, which names every layer's SHA-256 in turn; `digest`
    is the registry's, empty where the engine knew none; `layers` are diff IDs, `size` the bytes of those that
    its archive holds.
    """

    reference: str
    id: str
    digest: str
    size: int
    layers: tuple[str, ...]
    archive: int
    index: int


@dataclass(frozen=True, kw_only=True, slots=True)
class BigFile:
    """A file beside the executable; the chunks let it be checked in parallel and say where damage is."""

    name: str
    size: int
    sha256: str
    chunk_bytes: int
    chunks: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Archive(BigFile):
    """An image archive.

    `layers` are the sizes, by diff ID, of those that it holds; a layer of its images that is in an earlier archive, or
    in the base, has a member without content in its place, so that engines which have the layer skip it.
    `compression` is how layers are stored; sizes are of what they are without it.
    """

    layers: dict[str, int]
    compression: Compression


@dataclass(frozen=True, kw_only=True, slots=True)
class Plugin:
    """A plugin's package: `identity` is AUTHOR/NAME:VERSION, `signer` whose signature proves it."""

    identity: str
    signer: Signer
    file: File


@dataclass(frozen=True, kw_only=True, slots=True)
class Plugins:
    """What an image of ours carries, below `layout.PLUGINS_INSIDE`: packages, and wheels and keys for them."""

    image: str
    packages: tuple[Plugin, ...]
    others: tuple[File, ...]

    @property
    def files(self) -> tuple[File, ...]:
        """All files."""
        return (*(package.file for package in self.packages), *self.others)


@dataclass(frozen=True, kw_only=True, slots=True)
class PluginBundle:
    """A file of plugins for an installation that is there: a tar with this in front, and then the files themselves.

    `daemon` is the image of the plugin daemon that the wheels are for, `plugins.image` is empty.
    """

    format: int
    dify: str
    daemon: str
    architecture: Architecture
    plugins: Plugins


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """A bundle. `variables` are the choices made at the build (VECTOR_STORE, DB_TYPE, …).

    `base` describes, for people, the bundle whose layers this one does without; it is empty for a whole one.
    `store` holds the images once more, ready to be mounted, if the bundle was built with one. `plugins` are those that
    the bundle brings, if any.
    """

    format: int
    installer: str
    dify: str
    source: str
    commit: str
    architecture: Architecture
    newest_image: str
    variables: dict[str, str]
    files: tuple[File, ...]
    images: tuple[Image, ...]
    archives: tuple[Archive, ...]
    store: BigFile | None
    base: str
    plugins: Plugins | None

    @property
    def held_layers(self) -> dict[str, int]:
        """The sizes, by diff ID, of the layers that this bundle holds; all others are the base's."""
        return {layer: size for archive in self.archives for layer, size in archive.layers.items()}


def archive_index(images: Iterable[Image]) -> bytes:
    """Return the `manifest.json` of the archive that holds these images, in their order."""
    entries = [
        {
            "Config": f"{image.id}.json",
            "Layers": [f"{layer}.tar" for layer in image.layers],
            "RepoTags": [image.reference],
        }
        for image in images
    ]
    return json.dumps(entries, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def dumps(manifest: Manifest | PluginBundle) -> bytes:
    """Return the manifest as canonical JSON: sorted keys, two spaces, one newline at the end."""
    text = json.dumps(dataclasses.asdict(manifest), sort_keys=True, indent=2, ensure_ascii=False)
    return text.encode() + b"\n"


def loads(data: bytes) -> Manifest:
    """Read a manifest.

    Raises BundleDamaged, naming the place as in `archive.chunks[3]`, for anything that is missing,
    unknown or of the wrong kind, and for a format that is not ours.
    """
    try:
        top = json.loads(data)
    except ValueError as error:
        raise _fault("", f"is not JSON: {error}") from error
    number = top.get("format") if isinstance(top, dict) else None
    if number != FORMAT:
        raise errors.BundleDamaged(
            f"the manifest has format {number!r}, this installer reads {FORMAT}",
            "use the installer that was built with this bundle",
        )
    fields = _object(top, "", Manifest)
    archives = _list(fields["archives"], "archives")
    return Manifest(
        format=FORMAT,
        installer=_text(fields["installer"], "installer"),
        dify=_text(fields["dify"], "dify"),
        source=_text(fields["source"], "source"),
        commit=_text(fields["commit"], "commit"),
        architecture=_architecture(fields["architecture"]),
        newest_image=_text(fields["newest_image"], "newest_image"),
        variables=_texts(fields["variables"], "variables"),
        files=tuple(_file(item, f"files[{i}]") for i, item in enumerate(_list(fields["files"], "files"))),
        images=tuple(_image(item, f"images[{i}]") for i, item in enumerate(_list(fields["images"], "images"))),
        archives=tuple(_archive(item, f"archives[{i}]") for i, item in enumerate(archives)),
        store=None if fields["store"] is None else _store(fields["store"], "store"),
        base=_text(fields["base"], "base"),
        plugins=None if fields["plugins"] is None else _plugins(fields["plugins"], "plugins"),
    )


def _file(value: object, where: str) -> File:
    fields = _object(value, where, File)
    return File(
        path=_relative(fields["path"], f"{where}.path"),
        size=_size(fields["size"], f"{where}.size"),
        sha256=_sha256(fields["sha256"], f"{where}.sha256"),
        executable=_truth(fields["executable"], f"{where}.executable"),
    )


def loads_plugin_bundle(data: bytes) -> PluginBundle:
    """Read what stands in front of a file of plugins. Raises BundleDamaged."""
    try:
        top = json.loads(data)
    except ValueError as error:
        raise _fault("", f"is not JSON: {error}") from error
    fields = _object(top, "", PluginBundle)
    if fields["format"] != FORMAT:
        raise errors.BundleDamaged(
            f"the file of plugins has format {fields['format']!r}, this installer reads {FORMAT}",
            "build it again with the version of the project that has built the installer",
        )
    return PluginBundle(
        format=FORMAT,
        dify=_text(fields["dify"], "dify"),
        daemon=_text(fields["daemon"], "daemon"),
        architecture=_architecture(fields["architecture"]),
        plugins=_plugins(fields["plugins"], "plugins"),
    )


def _plugins(value: object, where: str) -> Plugins:
    fields = _object(value, where, Plugins)
    packages, others = f"{where}.packages", f"{where}.others"
    return Plugins(
        image=_text(fields["image"], f"{where}.image"),
        packages=tuple(_plugin(item, f"{packages}[{i}]") for i, item in enumerate(_list(fields["packages"], packages))),
        others=tuple(_file(item, f"{others}[{i}]") for i, item in enumerate(_list(fields["others"], others))),
    )


def _plugin(value: object, where: str) -> Plugin:
    fields = _object(value, where, Plugin)
    signer = fields["signer"]
    if signer not in ("Dify", "owner"):
        raise _fault(f"{where}.signer", "is nobody whom we know")
    return Plugin(
        identity=_text(fields["identity"], f"{where}.identity"),
        signer=signer,
        file=_file(fields["file"], f"{where}.file"),
    )


def _image(value: object, where: str) -> Image:
    fields = _object(value, where, Image)
    layers = _list(fields["layers"], f"{where}.layers")
    return Image(
        reference=_text(fields["reference"], f"{where}.reference"),
        id=_sha256(fields["id"], f"{where}.id"),
        digest=_text(fields["digest"], f"{where}.digest"),
        size=_size(fields["size"], f"{where}.size"),
        layers=tuple(_sha256(layer, f"{where}.layers[{i}]") for i, layer in enumerate(layers)),
        archive=_size(fields["archive"], f"{where}.archive"),
        index=_size(fields["index"], f"{where}.index"),
    )


def _archive(value: object, where: str) -> Archive:
    fields = _object(value, where, Archive)
    layers = fields["layers"]
    if not isinstance(layers, dict):
        raise _fault(f"{where}.layers", "is not an object")
    return Archive(
        **_big_file(fields, where),
        layers={_sha256(layer, f"{where}.layers"): _size(size, f"{where}.layers") for layer, size in layers.items()},
        compression=_compression(fields["compression"], f"{where}.compression"),
    )


def _store(value: object, where: str) -> BigFile:
    return BigFile(**_big_file(_object(value, where, BigFile), where))


def _big_file(fields: dict[str, Any], where: str) -> dict[str, Any]:
    chunks = _list(fields["chunks"], f"{where}.chunks")
    size = _size(fields["size"], f"{where}.size")
    chunk_bytes = _size(fields["chunk_bytes"], f"{where}.chunk_bytes")
    if chunk_bytes == 0 or len(chunks) != -(-size // chunk_bytes):
        raise _fault(f"{where}.chunks", "do not cover the file")
    return {
        "name": _relative(fields["name"], f"{where}.name"),
        "size": size,
        "sha256": _sha256(fields["sha256"], f"{where}.sha256"),
        "chunk_bytes": chunk_bytes,
        "chunks": tuple(_sha256(chunk, f"{where}.chunks[{i}]") for i, chunk in enumerate(chunks)),
    }


def _object(value: object, where: str, kind: type[Any]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _fault(where, "is not an object")
    names = {field.name for field in dataclasses.fields(kind)}
    if missing := sorted(names - set(value)):
        raise _fault(_join(where, missing[0]), "is missing")
    if unknown := sorted(set(value) - names):
        raise _fault(_join(where, unknown[0]), "is unknown")
    return value


def _list(value: object, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise _fault(where, "is not a list")
    return value


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise _fault(where, "is not a text")
    return value


def _texts(value: object, where: str) -> dict[str, str]:
    if not isinstance(value, dict):
        raise _fault(where, "is not an object")
    return {name: _text(text, _join(where, name)) for name, text in value.items()}


def _truth(value: object, where: str) -> bool:
    if not isinstance(value, bool):
        raise _fault(where, "is not true or false")
    return value


def _size(value: object, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise _fault(where, "is not a valid size in bytes")
    return value


def _sha256(value: object, where: str) -> str:
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise _fault(where, "is not a valid SHA-256")
    return value


def _relative(value: object, where: str) -> str:
    """Accept only a path that stays below the folder that it is joined to."""
    path = _text(value, where)
    if not path or path.startswith("/") or any(part in ("", ".", "..") for part in path.split("/")):
        raise _fault(where, f"is not a relative path: {path!r}")
    return path


def _architecture(value: object) -> Architecture:
    for architecture in ARCHITECTURES:
        if value == architecture:
            return architecture
    raise _fault("architecture", f"is unknown: {value!r}")


def _compression(value: object, where: str) -> Compression:
    if value in {"none", "zstd"}:
        return value
    raise _fault(where, f"is unknown: {value!r}")


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _fault(where: str, what: str) -> errors.BundleDamaged:
    return errors.BundleDamaged(
        f"the manifest is damaged: {where or 'it'} {what}", "copy the bundle again from the machine that built it"
    )
