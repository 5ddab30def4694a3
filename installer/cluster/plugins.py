"""Brings plugins' wheels and keys into the plugin daemon's claim, through its pod: no mount of a cluster has them.

The image that carries them has no program in it, and volumes of images are not in every release from 1.25 on. The
claim is the daemon's own, outlives its pods, and has to be written by its user alone.
"""

from __future__ import annotations

import base64
import json
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from installer.bundle import manifest, verify
from installer.cluster.kubectl import Pods
from installer.cluster.site import PLUGINS
from installer.core import errors, files, layout
from installer.core.console import Console
from installer.images import load
from installer.images.plugins import find_missing
from installer.registry import layers

# As much as goes into one program's input: text, a third more than the files.
BATCH_BYTES = 8 * 1024 * 1024
SEND_SECONDS = 600.0
# Runs in the daemon's pod, whose Python is that of its plugins. It tells which files are not there as they should be.
RECEIVE = """\
import base64, hashlib, json, os, sys
asked = json.load(sys.stdin)
lacking = []
for each in asked["files"]:
    path = os.path.join(asked["folder"], each["path"])
    if "content" in each:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path + ".part", "wb") as file:
            file.write(base64.b64decode(each["content"]))
        os.replace(path + ".part", path)
    if not os.path.isfile(path) or hashlib.sha256(open(path, "rb").read()).hexdigest() != each["sha256"]:
        lacking.append(each["path"])
print(json.dumps(lacking))
"""


def lay_down(bundle: manifest.Manifest, archive: Path, place: layout.Installation) -> None:
    """Copy the bundle's plugins out of its image archive into a folder shaped as an installation's.

    Raises UsageError where the bundle has none, BundleDamaged for an archive that is not there or not as built.
    """
    if bundle.plugins is None:
        raise errors.UsageError("this bundle brings no plugins", "name files: packages, or those of `build plugin`")
    image = next(each for each in bundle.images if each.reference == bundle.plugins.image)
    contents = layers.find(load.list_parts(bundle, archive, [image]), bundle)
    wanted = {file.path for file in bundle.plugins.files}
    for layer in image.layers:
        if layer in contents.layers:
            _unpack(layers.packed(layer, contents.layers[layer], "tar", lambda _: None), wanted, place)
    if missing := find_missing(bundle, place):
        raise errors.BundleDamaged(
            f"the archive does not hold {missing[0].path} as it was built",
            f"name that of this bundle; {verify.COPY_AGAIN}",
        )


def _unpack(blocks: Iterator[bytes], wanted: set[str], place: layout.Installation) -> None:
    inside = layout.PLUGINS_INSIDE.removeprefix("/")
    with tempfile.TemporaryFile(dir=place.folder) as file:
        for block in blocks:
            file.write(block)
        file.seek(0)
        with tarfile.open(fileobj=file) as archive:
            for member in archive:
                path = member.name.removeprefix("./").removeprefix(f"{inside}/")
                content = archive.extractfile(member) if path in wanted else None
                if content is not None:
                    files.folder((place.plugins / path).parent)
                    files.write(place.plugins / path, content.read())


def send(folder: Path, wanted: Sequence[manifest.File], pod: str, pods: Pods, console: Console) -> int:
    """Bring what the claim lacks of these files, which lie below `folder`; return how many that were.

    Raises CommandFailed when the pod does not take them.
    """
    lacking = set(_ask(wanted, None, pod, pods))
    missing = [file for file in wanted if file.path in lacking]
    done = 0
    for batch in _batches(missing):
        console.waiting(f"files of plugins for the daemon: {done} of {len(missing)} are there")
        if lost := _ask(batch, folder, pod, pods):
            raise errors.CommandFailed(
                f"{lost[0]} did not arrive in {pod} as it is here", "see whether the plugin daemon's claim has room"
            )
        done += len(batch)
    console.waiting("")
    return done


def _ask(wanted: Sequence[manifest.File], folder: Path | None, pod: str, pods: Pods) -> list[str]:
    """Return which files the claim does not have as they should be; those of `folder` are written before."""
    rows = [{"path": file.path, "sha256": file.sha256} for file in wanted]
    for row in rows if folder is not None else ():
        row["content"] = base64.b64encode((Path(str(folder)) / row["path"]).read_bytes()).decode()
    text = json.dumps({"folder": PLUGINS, "files": rows})
    result = pods.execute(pod, ["python3", "-c", RECEIVE], timeout=SEND_SECONDS, input=text)
    try:
        return [str(each) for each in json.loads(result.stdout)]
    except ValueError:
        words = result.last_words.splitlines()[-1] if result.last_words else f"status {result.status}"
        raise errors.CommandFailed(
            f"files of plugins do not arrive in {pod}: {pods.runner.mask(words)}",
            "see that the plugin daemon's pod runs, and that its claim has room",
        ) from None


def _batches(wanted: Sequence[manifest.File]) -> Iterator[list[manifest.File]]:
    batch: list[manifest.File] = []
    for file in wanted:
        if batch and sum(each.size for each in batch) + file.size > BATCH_BYTES:
            yield batch
            batch = []
        batch.append(file)
    if batch:
        yield batch
