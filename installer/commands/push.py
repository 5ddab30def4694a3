"""The command `push`: from the image archives straight into a registry, without an engine and without unpacking."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from installer.bundle import manifest, verify
from installer.core import envelope, errors, files, layout
from installer.core.console import Bar, Console, size
from installer.images import load
from installer.registry import blobs, client, credentials, forms, layers, manifests, record, reference

# Layers that are read, packed and sent at the same time: a processor packs one while another one is on the wire.
AT_ONCE = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What is to be pushed, and where to. `out` is the file that says what lies where."""

    registry: reference.Registry
    archive: Path
    form: forms.Form
    login: credentials.Login | None
    authorities: Path | None
    plain_http: bool
    out: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """An image and where it is. `state` is "there", "sent", "failed", or "missing" where nothing is to be sent yet.

    `replaced` is the digest of another image that was under the tag, or empty.
    """

    reference: str
    id: str
    repository: str
    tag: str
    digest: str
    state: str
    replaced: str


@dataclass(slots=True)
class Pushed:
    """What a push did."""

    registry: reference.Registry
    form: forms.Form
    rows: list[Row] = field(default_factory=list)
    known: record.Known = field(default_factory=record.Known)
    blobs_sent: int = 0
    blobs_mounted: int = 0
    blobs_there: int = 0
    bytes_sent: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class _Work:
    """What the steps of one push share."""

    contents: layers.Contents
    bundle: manifest.Manifest
    asking: client.Client
    sender: blobs.Blobs
    done: Pushed
    # Which blob a layer is in a repository.
    placed: dict[tuple[str, str], blobs.Blob] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)


def push(asked: Asked, console: Console, *, dry_run: bool = False, bundle: manifest.Manifest | None = None) -> Pushed:
    """Send what a registry lacks of the bundle's images; with `dry_run` only find out what that is.

    Raises UsageError, BundleDamaged or RegistryFailed before anything is sent where login, rights, names or archives
    are wrong. What fails later keeps what was sent, and `asked.out` says how far it came. `bundle` is the executable's
    own unless given.
    """
    began = time.monotonic()
    bundle = bundle or verify.check_embedded(layout.bundled(""))
    places = reference.places(asked.registry, bundle.images)
    known = record.read(asked.out, asked.registry.host, asked.form)
    if not dry_run:
        _require_writable(asked.out)
    contents = layers.find(load.list_parts(bundle, asked.archive, bundle.images), bundle)
    trust = None if asked.plain_http else client.trusting(asked.registry, asked.authorities)
    asking = client.Client(asked.registry, asked.login, console, context=trust, waits=client.WAITS)
    done = Pushed(asked.registry, asked.form, known=known)
    work = _Work(contents, bundle, asking, blobs.Blobs(asking, blobs.PIECE_BYTES), done)
    asking.sign_in()
    for repository in sorted({place.repository for place in places}):
        asking.require_push(repository)
    found = {place: manifests.look(asking, place) for place in places}
    wanted = [place for place in places if not _is_there(place, found[place], work)]
    _require_layers(wanted, work)
    if dry_run:
        done.rows = [_row(place, found[place], "missing" if place in wanted else "there") for place in places]
        done.seconds = time.monotonic() - began
        return done
    # From here on the registry changes.
    states: dict[reference.Place, tuple[str, str]] = {}
    try:
        failures = _send_layers(wanted, work, console)
        for place in wanted:
            states[place] = ("failed", "")
            if not set(place.image.layers) & set(failures):
                try:
                    states[place] = ("sent", _put_manifest(place, work))
                except errors.InstallerError as error:
                    failures[place.image.reference] = error
        if failures:
            missing = sum(1 for state, _ in states.values() if state == "failed")
            console.line(f"{len(places) - missing} of {len(places)} images are there")
            raise _cause(failures)
    finally:
        done.rows = [_final_row(place, found[place], place in wanted, states.get(place)) for place in places]
        done.bytes_sent = work.sender.sent_bytes
        done.seconds = time.monotonic() - began
        files.write(asked.out, as_json(done))
    return done


def _cause(failures: dict[str, errors.InstallerError]) -> errors.InstallerError:
    """Return the first failure that is none of another one's making."""
    found = list(failures.values())
    return next((each for each in found if not isinstance(each, client.Stopped)), found[0])


def _require_writable(path: Path) -> None:
    if not os.access(path.parent, os.W_OK):
        raise errors.UsageError(f"{path} cannot be written", "name a file in a folder of yours with --out")


def _is_there(place: reference.Place, found: manifests.Found | None, work: _Work) -> bool:
    """Tell whether the image is under its tag with all its blobs; take note of the blobs that are there.

    Its configuration names the diff IDs of its layers: with our image ID they are ours, however they were packed.
    """
    if found is None or found.image_id != place.image.id or len(found.layers) != len(place.image.layers):
        return False
    ours = manifests.TYPES[work.done.form][2]
    complete = work.sender.find(place.repository, f"sha256:{place.image.id}") is not None
    pairs = zip(place.image.layers, found.layers, found.layer_types, strict=True)
    for layer, blob, kind in pairs:
        if not work.sender.find(place.repository, blob.digest):
            complete = False
        elif kind == ours:
            work.done.known.add(layer, blob, place.repository)
    return complete


def _require_layers(wanted: Sequence[reference.Place], work: _Work) -> None:
    """See that each layer is in an archive, or in the registry: those of a base come with its own bundle."""
    known = work.done.known
    for place in wanted:
        for layer in place.image.layers:
            if layer in work.contents.layers:
                continue
            if work.done.form == "tar" and (blob := work.sender.find(place.repository, f"sha256:{layer}")):
                known.add(layer, blob, place.repository)
            holders = known.repositories.get(layer, ())
            if not any(work.sender.find(name, known.blobs[layer].digest) for name in holders):
                raise errors.RegistryFailed(
                    f"this bundle leaves the layer {layer[:12]} of {place.image.reference} to the one that it builds "
                    f"on ({work.bundle.base or 'its base'}), and it is not known where the registry has it",
                    "push that bundle first, and name the images.json that this writes with --out",
                )


def _send_layers(wanted: Sequence[reference.Place], work: _Work, console: Console) -> dict[str, errors.InstallerError]:
    """Bring each layer to the repositories that need it; return what went wrong, by layer: the others go on."""
    needed: dict[str, list[str]] = {}
    for place in wanted:
        for layer in place.image.layers:
            repositories = needed.setdefault(layer, [])
            if place.repository not in repositories:
                repositories.append(place.repository)
    sizes = {layer: stored.size for layer, stored in work.contents.layers.items() if layer in needed}
    # The largest first, so that those which run together are busy to the end.
    order = sorted(needed, key=lambda layer: sizes.get(layer, 0), reverse=True)
    failures: dict[str, errors.InstallerError] = {}
    if not order:
        return failures
    with (
        console.progress(f"push to {work.asking.registry.host}", sum(sizes.values())) as bar,
        ThreadPoolExecutor(AT_ONCE) as pool,
    ):
        jobs = [pool.submit(_send_layer, layer, needed[layer], work, bar) for layer in order]
        try:
            for layer, job in zip(order, jobs, strict=True):
                try:
                    job.result()
                except errors.InstallerError as error:
                    failures[layer] = error
        except BaseException:
            work.asking.stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return failures


def _send_layer(layer: str, repositories: Sequence[str], work: _Work, bar: Bar) -> None:
    """Bring one layer to its repositories: found, mounted, or sent."""
    known, done = work.done.known, work.done
    stored = work.contents.layers.get(layer)
    told = _Forward(bar, work.lock)
    blob = known.blobs.get(layer)
    if blob is None and done.form == "tar" and stored is not None:
        blob = blobs.Blob(f"sha256:{layer}", stored.size)
    for repository in repositories:
        if blob and work.sender.find(repository, blob.digest):
            how = "there"
        elif blob and _mounted(layer, blob, repository, work):
            how = "mounted"
        elif stored is not None:
            blob = work.sender.upload(repository, _source(layer, stored, done.form, told))
            how = "sent"
        else:
            raise errors.RegistryFailed(
                f"the registry does not mount a layer of the base into {repository}", "push the base there first"
            )
        assert blob is not None
        with work.lock:
            known.add(layer, blob, repository)
            work.placed[repository, layer] = blob
            _count(done, how)
    if stored is not None:
        told.end(stored.size)


def _source(layer: str, stored: layers.Stored, form: forms.Form, told: _Forward) -> Callable[[], Iterator[bytes]]:
    def source() -> Iterator[bytes]:
        told.begin()
        return layers.packed(layer, stored, form, told.advance)

    return source


def _mounted(layer: str, blob: blobs.Blob, repository: str, work: _Work) -> bool:
    with work.lock:
        holders = [name for name in work.done.known.repositories.get(layer, ()) if name != repository]
    # One holder is enough to ask for; an old note of several may be wrong.
    return any(work.sender.mount(repository, blob.digest, holder) for holder in holders[:3])


def _count(done: Pushed, how: str) -> None:
    if how == "sent":
        done.blobs_sent += 1
    elif how == "mounted":
        done.blobs_mounted += 1
    else:
        done.blobs_there += 1


class _Forward:
    """Tells a bar of a layer's bytes, each once: a layer that is begun again does not count again."""

    def __init__(self, bar: Bar, lock: threading.Lock) -> None:
        self._bar, self._lock = bar, lock
        self._told = 0
        self._at = 0

    def begin(self) -> None:
        self._at = 0

    def advance(self, count: int) -> None:
        self._at += count
        self.end(self._at)

    def end(self, total: int) -> None:
        """Tell that the layer is done up to there."""
        if total > self._told:
            with self._lock:
                self._bar.update(total - self._told)
            self._told = total


def _put_manifest(place: reference.Place, work: _Work) -> str:
    """Send an image's configuration and its manifest, and return the digest that was read back."""
    config, sent = work.sender.put(place.repository, work.contents.configs[place.image.id])
    _count(work.done, "sent" if sent else "there")
    found = [work.placed[place.repository, layer] for layer in place.image.layers]
    return manifests.put(work.asking, place, manifests.make(work.done.form, config, found), work.done.form)


def _row(place: reference.Place, found: manifests.Found | None, state: str, digest: str = "") -> Row:
    other = found is not None and found.image_id != place.image.id
    there = found.digest if found is not None and state == "there" else ""
    return Row(
        reference=place.image.reference,
        id=place.image.id,
        repository=place.repository,
        tag=place.tag,
        digest=digest or there,
        state=state,
        replaced=found.digest if found is not None and other else "",
    )


def _final_row(
    place: reference.Place, found: manifests.Found | None, was_wanted: bool, ended: tuple[str, str] | None
) -> Row:
    if not was_wanted:
        return _row(place, found, "there")
    state, digest = ended or ("failed", "")
    return _row(place, found, state, digest)


def as_fields(done: Pushed) -> dict[str, Any]:
    """Return what was done, for a machine."""
    return {
        "host": done.registry.host,
        "prefix": done.registry.prefix,
        "form": done.form,
        "images": [
            {**dataclasses.asdict(row), "pull": f"{done.registry.host}/{row.repository}:{row.tag}"} for row in done.rows
        ],
        "layers": {
            layer: {"digest": blob.digest, "size": blob.size, "repositories": done.known.repositories.get(layer, [])}
            for layer, blob in sorted(done.known.blobs.items())
        },
        "blobs": {"sent": done.blobs_sent, "mounted": done.blobs_mounted, "there": done.blobs_there},
        "bytes_sent": done.bytes_sent,
        "seconds": round(done.seconds, 2),
    }


def as_json(done: Pushed) -> str:
    """Return `images.json`, which is what `--json` prints as well."""
    return envelope.to_json("push", passed=all(row.state != "failed" for row in done.rows), **as_fields(done))


def as_text(done: Pushed, out: Path, *, dry_run: bool) -> str:
    """Return what was done for people, an image a line."""
    words = {"there": "there", "sent": "sent", "missing": "to be sent", "failed": "failed"}
    lines = []
    for row in done.rows:
        note = f" (replaces {row.replaced})" if row.replaced else ""
        name = f"{done.registry.host}/{row.repository}:{row.tag}"
        lines.append(f"{words[row.state]:<11}{name}{f'@{row.digest}' if row.digest else ''}{note}")
    if dry_run:
        return "\n".join([*lines, "nothing was sent; login and the right to push are as they should be"])
    told = f"{done.blobs_sent} blobs sent ({size(done.bytes_sent)}), {done.blobs_mounted} mounted, "
    told += f"{done.blobs_there} there already, in {done.seconds:.1f} s; what lies where: {out}"
    return "\n".join([*lines, told])
