"""Has the engine pull the images that it lacks from a registry into which `push` has sent them.

Each is named by the digest of its manifest, which was read before and names the image's own ID: whatever is under the
tag meanwhile, the engine gets that image or none.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from installer.bundle import manifest
from installer.core import errors, files, layout
from installer.core.console import Console
from installer.engine.base import Access, Engine
from installer.images import inventory, superseded
from installer.images.order import AS_THEY_COME, Order
from installer.registry import client, credentials, manifests, reference

TAG_SECONDS = 60.0
# Folders in memory that are this user's: what a killed run leaves there is gone after a reboot.
RUNTIME = (Path("/run/user"), Path("/run"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A registry to pull from, who signs in, which authorities are trusted besides, and whether it speaks http."""

    registry: reference.Registry
    login: credentials.Login | None
    authorities: Path | None
    plain_http: bool


@dataclass(frozen=True, slots=True)
class Offer:
    """An image of the bundle and the name, with its digest, by which the registry gives it."""

    image: manifest.Image
    name: str


def find(source: Source, images: Sequence[manifest.Image], console: Console) -> list[Offer]:
    """Sign in, and see that the registry has these very images. Changes nothing; asks nobody for no images.

    Raises RegistryFailed with all that it lacks, UsageError for names that no registry takes.
    """
    if not images:
        return []
    places = reference.places(source.registry, images)
    trust = None if source.plain_http else client.trusting(source.registry, source.authorities)
    asking = client.Client(source.registry, source.login, console, context=trust, waits=client.WAITS)
    asking.sign_in()
    offers, faults = [], []
    for place in places:
        found = manifests.look(asking, place)
        name = f"{source.registry.host}/{place.repository}"
        if found is None:
            faults.append(f"{name}:{place.tag} is not there")
        elif found.image_id != place.image.id:
            faults.append(f"{name}:{place.tag} is another image than this bundle's")
        else:
            offers.append(Offer(place.image, f"{name}@{found.digest}"))
    if faults:
        raise errors.RegistryFailed(
            "; ".join(faults),
            f"send this bundle's images there first: {layout.EXECUTABLE} push --registry {_text(source.registry)}; "
            "or look at what stands before the names (HOST/PREFIX)",
        )
    return offers


def in_words(source: Source, offers: Sequence[Offer], bundle: manifest.Manifest) -> str:
    """Return what was verified of a bundle whose images come from a registry."""
    embedded = f"{len(bundle.files)} embedded files are as built"
    if not offers:
        return f"{embedded}; all images are there already, the registry is not asked"
    return f"{embedded}; {_text(source.registry)} has the {len(offers)} images that are missing, by their IDs"


def pull(
    source: Source,
    offers: Sequence[Offer],
    place: layout.Installation,
    engine: Engine,
    console: Console,
    order: Order = AS_THEY_COME,
) -> list[manifest.Image]:
    """Have the engine pull what it lacks of these images, and give each its name; return those that were pulled.

    Raises CommandFailed when the engine fails, or has not got the image whose ID was offered.
    """
    missing = inventory.find_missing([each.image for each in offers], inventory.list_present(engine))
    offered = {offer.image.reference: offer for offer in offers if offer.image in missing}
    wanted = [offered[image.reference] for image in order.sort(missing)]
    superseded.remember(place, missing)
    with access(source) as right, console.progress("pull images", len(wanted), unit="images") as bar:
        for offer in wanted:
            engine.pull(offer.name, right)
            engine.run(["tag", offer.name, offer.image.reference], timeout=TAG_SECONDS)
            # The name with the digest goes: by two names no image could be removed once it is superseded.
            engine.run(["rmi", offer.name], timeout=TAG_SECONDS, check=False)
            bar.update(1)
            order.arrived(offer.image)
    images = [offer.image for offer in wanted]
    if lacking := inventory.find_missing(images, found := inventory.list_present(engine)):
        raise errors.CommandFailed(
            f"{engine.name} does not have {lacking[0].reference} ({lacking[0].id}) now that it has been pulled",
            f"look at the registry's copy of it: {source.registry.host}; the archive serves without a registry",
        )
    superseded.remember(place, images, found)
    return images


@contextmanager
def access(source: Source) -> Iterator[Access]:
    """Give what an engine needs to be let in, in files that nobody else may read and that are gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="dify-installer-", dir=_runtime()) as name:
        folder = Path(name)
        login = None
        if source.login is not None:
            text = base64.b64encode(f"{source.login.user}:{source.login.password}".encode()).decode()
            login = folder / "config.json"
            files.write(login, json.dumps({"auths": {source.registry.host: {"auth": text}}}), mode=0o600)
        certificates = None
        if source.authorities is not None:
            certificates = folder / "certs"
            certificates.mkdir()
            shutil.copyfile(source.authorities, certificates / "ca.crt")
        yield Access(login=login, certificates=certificates, plain_http=source.plain_http)


def _runtime() -> Path | None:
    own = RUNTIME[0] / str(os.geteuid())
    return next((folder for folder in (own, RUNTIME[1]) if os.access(folder, os.W_OK)), None)


def _text(registry: reference.Registry) -> str:
    return f"{registry.host}/{registry.prefix}" if registry.prefix else registry.host
