"""Where the missing images come from: an image store, mounted or unpacked, or else the archives that are loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from installer.bundle import manifest, verify
from installer.core import errors, layout
from installer.core.console import Console
from installer.engine.base import Engine
from installer.host.facts import Host
from installer.images import image_store, inventory, load, mounted_store, plugins, superseded, unpacked_store
from installer.images.order import AS_THEY_COME, Order


@dataclass(frozen=True, slots=True)
class Supply:
    """What the engine lacks of a bundle, and what it can be had from: `store` if there is one, else `archive`.

    `archive` is what the user named, the file or its folder (`verify.archive_paths`).
    """

    bundle: manifest.Manifest
    archive: Path
    missing: tuple[manifest.Image, ...]
    store: Path | None


def find_supply(bundle: manifest.Manifest, archive: Path, place: layout.Installation, engine: Engine) -> Supply:
    """Ask the engine what it lacks, and look what is there to serve it."""
    needed = plugins.needed_images(bundle, place)
    # podman lists the images of a store, whatever the disk has of their files.
    present = [] if image_store.list_lost(place) else inventory.list_present(engine)
    missing = tuple(inventory.find_missing(needed, present))
    return Supply(bundle, archive, missing, image_store.find_offered(bundle, archive, place, missing, engine))


def is_there(supply: Supply) -> bool:
    """Tell whether what the missing images come from has been copied to this host, or is not needed."""
    if not supply.missing or supply.store is not None:
        return True
    needed = load.list_parts(supply.bundle, supply.archive, supply.missing)
    return all(part.path.exists() for part in needed)


def verify_supply(supply: Supply, full: bool, engine: Engine, console: Console) -> str:
    """Verify the files that images are to be had from, and return in words what was verified. Raises BundleDamaged.

    IDs that compare prove what is there already; the store is proved while it is read.
    """
    bundle = supply.bundle
    embedded = f"{len(bundle.files)} embedded files"
    if full:
        return f"{embedded} and {', '.join(verify.check_bundle(supply.archive, bundle, console))} are as built"
    if supply.store is not None:
        return f"{embedded} are as built; {supply.store.name} is verified while it is read"
    if not supply.missing:
        return f"{embedded} are as built; all images are loaded, the archive is not read"
    needed = load.list_parts(bundle, supply.archive, supply.missing)
    return f"{embedded} and {load.verify_parts(needed, bundle, engine, console)} are as built"


def bring(
    supply: Supply,
    place: layout.Installation,
    engine: Engine,
    found: Host,
    console: Console,
    order: Order = AS_THEY_COME,
) -> tuple[str, str]:
    """Mount or unpack the images, where there is a store that serves here, or load them, in an order.

    Returns in words what was done, and why the store did not serve, or was not mounted, if it did or was not. Raises
    BundleDamaged, and CommandFailed when nothing of that can be done.
    """
    note = ""
    superseded.remember(place, () if supply.store else supply.missing)
    if supply.store is not None:
        try:
            how, note = _bring_store(supply.store, supply.bundle, place, engine, found, console)
            return _words(how, len(supply.missing), supply.bundle), note
        except errors.CommandFailed as error:
            _require_archives(supply, engine, error, console)
            note = f"{error.message}; so the images were loaded from the archive"
            superseded.remember(place, supply.missing)
    needed = plugins.needed_images(supply.bundle, place)
    loaded = load.load(supply.bundle, needed, supply.archive, place, engine, found, console, order)
    superseded.name(place, needed, engine)
    superseded.remember(place, loaded, inventory.list_present(engine) if loaded else ())
    return _words("loaded", len(loaded), supply.bundle), note


def _bring_store(
    source: Path,
    bundle: manifest.Manifest,
    place: layout.Installation,
    engine: Engine,
    found: Host,
    console: Console,
) -> tuple[str, str]:
    """Mount a store, or unpack it; return which of the two, and why it was not mounted where that can be expected."""
    why = ""
    if found.user.root and source.is_file():
        try:
            mounted_store.mount(source, bundle, place, engine, found, console)
            return "mounted", ""
        except errors.CommandFailed as error:
            why = f"{error.message}; so it was unpacked"
    unpacked_store.bring(source, bundle, place, engine, found, console)
    return "unpacked", why


def _words(how: str, number: int, bundle: manifest.Manifest) -> str:
    return f"{number} {how}, {len(bundle.images) - number} there already"


def _require_archives(supply: Supply, engine: Engine, without: errors.CommandFailed, console: Console) -> None:
    """Verify what is to be loaded now that it cannot be mounted. Raises BundleDamaged with both reasons."""
    try:
        needed = load.list_parts(supply.bundle, supply.archive, supply.missing)
        load.verify_parts(needed, supply.bundle, engine, console)
    except errors.BundleDamaged as error:
        raise errors.BundleDamaged(f"{without.message}; and {error.message}", error.remedy) from without
