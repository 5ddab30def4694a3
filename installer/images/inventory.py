"""What the engine has of a bundle's images: compared by ID, named by ID."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from installer.bundle import manifest
from installer.core import errors
from installer.engine.base import Engine, Stored, bare
from installer.release import compose

TAG_SECONDS = 60.0


def list_present(engine: Engine) -> list[Stored]:
    """Return the images that the engine has; none at all when it cannot say."""
    try:
        return engine.images()
    except errors.CommandFailed:
        return []


def find_missing(images: Iterable[manifest.Image], found: Sequence[Stored]) -> list[manifest.Image]:
    """Return the images that the engine does not have."""
    return [image for image in images if find_stored(image, found) is None]


def find_stored(image: manifest.Image, found: Sequence[Stored]) -> Stored | None:
    """Return the stored image that is the one of the manifest: of the same ID.

    docker with containerd's store has IDs of its own (the manifest's digest): there it is the one of
    that name with the same layers, each of which is named by its SHA-256.
    """
    for each in found:
        if each.id == image.id or (each.layers == image.layers and image.reference in each.names):
            return each
    return None


def find_ids(
    document: compose.Document, variables: Mapping[str, str], images: Iterable[manifest.Image], found: Sequence[Stored]
) -> dict[str, str]:
    """Return the IDs, by service, that the engine has for the images that a bundle wants to run.

    A service whose image the engine does not have, or the bundle does not know, is left out.
    """
    known = {image.reference: image for image in images}
    return {
        service: stored.id
        for reference, services in compose.images(document, variables).items()
        if reference in known and (stored := find_stored(known[reference], found))
        for service in services
    }


def require_base(bundle: manifest.Manifest, missing: Iterable[manifest.Image], engine: Engine) -> None:
    """Raise PreflightFailed unless the engine has the layers that a differential bundle leaves to its base."""
    outside = {layer for image in missing for layer in image.layers} - set(bundle.held_layers)
    if outside and (lacking := outside - _layers(engine)):
        raise errors.PreflightFailed(
            f"this bundle holds only what another one lacks ({bundle.base}), and that one is not on this host: "
            f"{len(lacking)} of its layers are missing",
            "install that bundle here first (its images are enough: `podman load` or `docker load`), or take a whole "
            "bundle, made without --base; nothing has been changed",
        )


def _layers(engine: Engine) -> set[str]:
    try:
        return engine.layers()
    except errors.CommandFailed:
        return set()


def layer_sizes(images: Iterable[manifest.Image], bundle: manifest.Manifest) -> dict[str, int]:
    """Return the bytes, by diff ID, of the layers of these images that the bundle holds."""
    return {layer: bundle.held_layers.get(layer, 0) for image in images for layer in image.layers}


def tag(images: Sequence[manifest.Image], engine: Engine) -> None:
    """Prove that all images are there; give each its name by ID, and to no other image.

    podman takes an image of its own storage before one of that name in a mounted store (seen with 4.3): an older one of
    the same tag would run. An image in a read-only store keeps its name: there, the newest store comes first. To take
    it podman would note the image without a name in its own storage, and not find it by that name again once it is
    wanted (seen with 5.4).
    Raises CommandFailed when an image is not there; none has been named then.
    """
    found = list_present(engine)
    if lacking := find_missing(images, found):
        raise errors.CommandFailed(
            f"{engine.name} does not have {lacking[0].reference} ({lacking[0].id}) now that all are loaded or mounted",
            f"another program may remove images (`{engine.name} system prune`): run the same command again",
        )
    for image in images:
        its = find_stored(image, found)
        assert its is not None
        _name(image.reference, its, found, engine)


def has(identity: str, engine: Engine) -> bool:
    """Tell whether the engine has an image of this ID, listed or not.

    podman leaves out of its list an image without a name whose layers are the first ones of another image.
    """
    result = engine.run(["image", "inspect", "--format", "{{.Id}}", identity], timeout=TAG_SECONDS, check=False)
    return result.ok and bare(result.stdout.strip()) == identity


def give_names(names: Mapping[str, str], engine: Engine) -> None:
    """Give images of these IDs, by reference, their names again, and to no other image. Raises CommandFailed.

    One that is not there any more is passed over.
    """
    found = list_present(engine)
    by_id = {each.id: each for each in found}
    for reference, identity in names.items():
        if has(identity, engine):
            _name(reference, by_id.get(identity, Stored(id=identity, names=frozenset())), found, engine)


def _name(reference: str, its: Stored, found: Sequence[Stored], engine: Engine) -> None:
    others = [each.id for each in found if each.id != its.id and reference in each.names and not each.read_only]
    engine.untag_others(reference, others)
    if reference not in its.names:
        engine.run(["tag", its.id, reference], timeout=TAG_SECONDS)
