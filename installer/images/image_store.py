"""What podman knows of an image store of ours: which there are, the proof of one, its name in storage.conf, its end.

The build lets podman load the images into a storage of their own and packs that (`build/store.py`). Here it becomes a
folder that podman is told of as an additional image store (containers-storage.conf(5)): `mounted_store` mounts it,
`unpacked_store` unpacks it where it may not be mounted (docs/decisions/005, 027).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import tempfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from installer.bundle import manifest, verify
from installer.core import errors, files, layout, marker
from installer.engine.base import Engine, bare
from installer.images import inventory, storage_conf

CONFIG = Path("/etc/containers/storage.conf")
UNITS = Path("/etc/systemd/system")
MOUNT_SECONDS = 120.0
PODMAN_SECONDS = 60.0
# Hundreds of thousands of files.
REMOVE_SECONDS = 3600.0
# What the files and folders of stores are called: `Store.name`, and what a killed run leaves of a copy.
STORE_FILE = re.compile(r"[0-9a-f]{12}\.squashfs")
STORE_TREE = re.compile(r"[0-9a-f]{12}")
HALF_FILE = re.compile(r"\.[0-9a-f]{12}\.squashfs\..+")
# In a tree that the disk may not have whole: in which boot it is unpacked, and whether all of it is there.
NOTE = ".dify-installer-begun"
UNPACKED = " unpacked"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
# Being unpacked; unpacked, but not yet on the disk for certain; that, when the host went down; on the disk.
State = Literal["begun", "unpacked", "lost", "kept"]
# The container that podman makes of a store as its proof.
PROOF = "dify-installer-proof"
# What podman gives the layers in its own storage (container-selinux).
LABEL = "system_u:object_r:container_ro_file_t:s0"


@dataclass(frozen=True, slots=True)
class Store:
    """An image store on this host; `name` are the first digits of its SHA-256."""

    folder: Path
    name: str

    @property
    def file(self) -> Path:
        """The packed store, where it is mounted."""
        return self.folder / f"{self.name}.squashfs"

    @property
    def tree(self) -> Path:
        """Where podman reads it: the mount point, or the folder that it was unpacked into."""
        return self.folder / self.name

    @property
    def note(self) -> Path:
        """Says that it is being unpacked, or that the disk may not have all of it."""
        return self.tree / NOTE

    def state(self) -> State:
        """How far it has come, where it is not mounted."""
        try:
            text = self.note.read_text().strip()
        except OSError:
            return "kept"
        boot = text.removesuffix(UNPACKED)
        if boot != boot_id():
            return "lost"
        return "begun" if text == boot else "unpacked"

    @property
    def is_unpacked(self) -> bool:
        """Whether it was unpacked, and all of it."""
        there = (self.tree / "overlay-images/images.json").is_file()
        return there and self.state() in ("unpacked", "kept") and not (self.file.exists() or self.tree.is_mount())

    @property
    def images(self) -> frozenset[str]:
        """The IDs of the images in it, while it is mounted or unpacked."""
        with contextlib.suppress(OSError, ValueError):
            listed = json.loads((self.tree / "overlay-images/images.json").read_bytes())
            return frozenset(entry["id"] for entry in listed)
        return frozenset()


def boot_id() -> str:
    """Return what tells this boot of the host from every other."""
    return BOOT_ID.read_text().strip()


def store_of(place: layout.Installation, described: manifest.BigFile) -> Store:
    """Return the store that a bundle's has become on this host, or becomes in the install folder."""
    name = described.sha256[:12]
    found = [store for store in list_stores(place) if store.name == name]
    return found[-1] if found else Store(place.stores, name)


def list_stores(place: layout.Installation) -> list[Store]:
    """Return the stores of an installation, also one that was not unpacked to its end."""
    return [Store(folder, name) for folder in _folders(place) for name in sorted(_names(folder))]


def _folders(place: layout.Installation) -> list[Path]:
    noted = marker.recorded(place).stores
    return [place.stores, *([Path(noted)] if noted else [])]


def _names(folder: Path) -> set[str]:
    with contextlib.suppress(OSError):
        paths = [path for path in folder.iterdir() if not path.is_symlink()]
        files = {path.stem for path in paths if STORE_FILE.fullmatch(path.name)}
        return files | {path.name for path in paths if STORE_TREE.fullmatch(path.name)}
    return set()


def config_path() -> Path:
    """Return the storage.conf that the podman of this user reads: the system's, or the user's own."""
    if os.geteuid() == 0:
        return CONFIG
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "containers/storage.conf"


def list_lost(place: layout.Installation) -> list[Store]:
    """Return the stores that the disk may not have whole, since the host went down: podman may know of them."""
    return [store for store in list_stores(place) if store.state() == "lost"]


def remove_lost(place: layout.Installation, engine: Engine) -> None:
    """Remove the stores that are lost, so that podman does not list their images any more."""
    for store in list_lost(place):
        remove(store, engine, keep_file=True)


def require_none_lost(place: layout.Installation) -> None:
    """Raise CommandFailed when the host went down before its disk had all of the images."""
    if list_lost(place):
        raise errors.CommandFailed(
            "the host went down before its disk had all of Dify's images",
            f"run the installer again, with {layout.STORE} or {layout.IMAGES} beside it: it brings them anew",
        )


def find_offered(
    bundle: manifest.Manifest,
    archive: Path,
    place: layout.Installation,
    missing: Sequence[manifest.Image],
    engine: Engine,
) -> Path | None:
    """Return the store that missing images can be had from: the one beside the archive, or the installation's own.

    None where the bundle has none, nobody copied it, or this engine reads none: then the archive serves.
    """
    if bundle.store is None or not missing or not engine.mounts_stores:
        return None
    own = store_of(place, bundle.store)
    if own.is_unpacked:
        return own.tree
    candidates = (verify.store_path(archive, bundle.store), own.file)
    return next((path for path in candidates if path.is_file()), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Configuration:
    """The text that storage.conf has, or would have, and where podman says that it keeps what is its own."""

    text: str
    own: tuple[str, str]

    @property
    def graph_root(self) -> Path:
        return Path(self.own[0])


def read_configuration(engine: Engine) -> Configuration:
    """Ask podman how its storage is configured. Raises CommandFailed where we cannot add to it."""
    answer = _ask(engine)
    if answer["graphDriverName"] != "overlay" or "CONTAINERS_STORAGE_CONF" in engine.runner.env:
        raise errors.CommandFailed("podman's storage is not of the usual kind (overlay, configured in storage.conf)")
    return Configuration(text=_text(answer), own=_own(answer))


def _ask(engine: Engine) -> dict[str, Any]:
    answer = json.loads(engine.run(["info", "--format", "json"], timeout=PODMAN_SECONDS).stdout)
    found: dict[str, Any] = answer["store"]
    return found


def _own(answer: dict[str, Any]) -> tuple[str, str]:
    return answer["graphRoot"], answer["runRoot"]


def _text(answer: dict[str, Any]) -> str:
    with contextlib.suppress(FileNotFoundError):
        return config_path().read_text("utf-8")
    with contextlib.suppress(OSError):
        return storage_conf.marked(Path(answer["configFile"]).read_text("utf-8"))
    # A user's runroot is another one in each kind of session: podman finds it by itself.
    run_root = answer["runRoot"] if os.geteuid() == 0 else None
    program = (answer.get("graphOptions") or {}).get("overlay.mount_program") or {}
    text = storage_conf.default(answer["graphDriverName"], answer["graphRoot"], run_root, program.get("Executable"))
    return storage_conf.marked(text)


def prove(bundle: manifest.Manifest, store: Store, configuration: Configuration, engine: Engine) -> str:
    """Prove that podman serves every image of the bundle from a store; return the storage.conf that names it.

    Everybody else's podman has the one that was there. Raises CommandFailed when podman does not see in the store what
    was built.
    """
    changed = storage_conf.add(configuration.text, store.tree)
    with _trial(store, changed, engine) as trial:
        if _own(_ask(trial)) != configuration.own:
            raise errors.CommandFailed("podman would keep its own images elsewhere if an image store were named to it")
        _read_deepest(bundle, trial)
        inventory.tag(bundle.images, trial)
    return changed


def name(configuration: str) -> None:
    """Have podman read the storage.conf that `prove` has returned. Raises CommandFailed when the disk refuses."""
    files.folder(config_path().parent)
    files.rewrite(config_path(), configuration)


@contextlib.contextmanager
def _trial(store: Store, configuration: str, engine: Engine) -> Iterator[Engine]:
    """Give an engine with this storage.conf, while everybody else's podman has the one that was there."""
    with tempfile.NamedTemporaryFile("w", dir=store.folder, prefix=f".{store.file.name}.", suffix=".conf") as file:
        file.write(configuration)
        file.flush()
        yield dataclasses.replace(engine, runner=engine.runner.also({"CONTAINERS_STORAGE_CONF": file.name}))


def _read_deepest(bundle: manifest.Manifest, engine: Engine) -> None:
    """Require that podman can mount and read a container of the image with the most layers.

    `podman image mount` would refuse: not for images of a read-only store (podman 5.4). A user's mount is there in the
    namespace of his podman alone.
    """
    deepest = max(bundle.images, key=lambda image: len(image.layers))
    # A run that was killed may have left one.
    command = ["create", "--quiet", "--replace", "--name", PROOF, "--pull=never", "--network=none", deepest.id, "true"]
    engine.run(command, timeout=PODMAN_SECONDS)
    try:
        mount = engine.as_owner([engine.name, "mount", PROOF])
        mounted = engine.runner.run(mount, timeout=PODMAN_SECONDS).stdout.strip()
        listed = engine.as_owner(["ls", "--almost-all", "--", mounted])
        seen = engine.runner.run(listed, timeout=PODMAN_SECONDS).stdout.strip()
    finally:
        tidying = dataclasses.replace(engine, runner=engine.runner.for_tidying())
        tidying.run(["rm", "--force", PROOF], timeout=PODMAN_SECONDS, check=False)
    if not seen:
        raise errors.CommandFailed(f"podman mounts {deepest.reference} from the image store, and it is empty")


def clear(place: layout.Installation) -> None:
    """Remove what a run that was killed has left of a copy; what it has unpacked stays: the next one goes on there."""
    for folder in _folders(place):
        for half in folder.glob(".*.squashfs.*"):
            if HALF_FILE.fullmatch(half.name) and half.is_file() and half.lstat().st_uid == os.geteuid():
                half.unlink()
        with contextlib.suppress(OSError):
            folder.rmdir()


def _built_upon(store: Store, layers: Collection[str]) -> bool:
    """Tell whether a store has layers, by diff ID, of which images of podman's own storage may be made.

    podman does not load a layer again that it finds in an additional store.
    """
    with contextlib.suppress(OSError, ValueError):
        listed = json.loads((store.tree / "overlay-layers/layers.json").read_bytes())
        return any(bare(layer.get("diff-digest", "")) in layers for layer in listed)
    return False


def _own_layers(engine: Engine) -> set[str]:
    """Return the diff IDs of the layers of the images that are in podman's own storage. Raises CommandFailed."""
    command = ["image", "ls", "--all", "--quiet", "--no-trunc", "--filter", "readonly=false"]
    images = engine.run(command, timeout=PODMAN_SECONDS).stdout.split()
    if not images:
        return set()
    command = ["image", "inspect", "--format", "{{range .RootFS.Layers}}{{.}} {{end}}", *images]
    return {bare(layer) for layer in engine.run(command, timeout=PODMAN_SECONDS).stdout.split()}


def retire(
    place: layout.Installation, described: manifest.BigFile | None, engine: Engine, names: Collection[str] = ()
) -> list[Store]:
    """Remove the stores that no container or image needs, but for the one that is `described` and those of these names.

    Returns those that stay. An image that two stores have is read from the one that was named last, by whatever starts
    after that: an upgrade leaves one behind otherwise for as long as the database's image is the same.

    Raises CommandFailed when podman cannot say what its containers and images were made from.
    """
    kept = store_of(place, described) if described else None
    stores = list_stores(place)
    half = [store for store in stores if store.state() in ("begun", "lost")]
    if not [store for store in stores if store != kept or store in half]:
        return stores
    elsewhere = kept.images if kept else frozenset()
    used, layers = _used_images(elsewhere, engine), _own_layers(engine)
    staying = [
        store
        for store in stores
        if store not in half
        and (store == kept or store.name in names or store.images & used or _built_upon(store, layers))
    ]
    for store in stores:
        if store not in staying:
            remove(store, engine)
    return staying


def _used_images(elsewhere: Collection[str], engine: Engine) -> set[str]:
    """Return the IDs of the images that containers need of other stores than the kept one, which has these `elsewhere`.

    One that runs since before storage.conf was changed last may read from the store that was named before. Raises
    CommandFailed.
    """
    named = config_path().stat().st_mtime if config_path().exists() else 0.0
    return {
        each.image_id
        for each in engine.containers()
        # What is in another state, paused for one, has its file system mounted.
        if each.image_id not in elsewhere or not (each.state in ("created", "exited") or each.started > named)
    }


def remove(store: Store, engine: Engine, *, keep_file: bool = False) -> None:
    """Take a store away, as far as it came: out of storage.conf, unmounted, unit and file gone, or its folder."""
    _forget(store)
    if os.geteuid() == 0:
        _unmount(store, engine)
    if not keep_file:
        store.file.unlink(missing_ok=True)
    remove_tree(store, engine)
    with contextlib.suppress(OSError):
        store.folder.rmdir()


def remove_tree(store: Store, engine: Engine) -> None:
    """Remove what was unpacked, or a mount point: not mounted for a while, one got lock files from podman."""
    if store.tree.is_mount() or not store.tree.exists():
        return
    if os.geteuid() == 0:
        files.remove(store.tree)
        return
    # What a user has unpacked belongs to his subordinate IDs.
    command = engine.as_owner(["rm", "-rf", "--", str(store.tree)])
    engine.runner.run(command, timeout=REMOVE_SECONDS, check=False)


def _unmount(store: Store, engine: Engine) -> None:
    runner = engine.runner
    unit = unit_of(store, engine)
    if not (store.file.exists() or store.tree.is_mount() or (UNITS / unit).exists()):
        return
    runner.run(["systemctl", "disable", "--now", unit], timeout=MOUNT_SECONDS, check=False)
    if store.tree.is_mount():
        # Where a container still runs from it, the mount ends with that.
        runner.run(["umount", "--lazy", str(store.tree)], timeout=MOUNT_SECONDS, check=False)
    (UNITS / unit).unlink(missing_ok=True)
    runner.run(["systemctl", "daemon-reload"], timeout=MOUNT_SECONDS, check=False)


def unit_of(store: Store, engine: Engine) -> str:
    """Return the name that systemd wants for the mount unit of a store."""
    command = ["systemd-escape", "--path", "--suffix=mount", str(store.tree)]
    return engine.runner.run(command, timeout=MOUNT_SECONDS).stdout.strip()


def _forget(store: Store) -> None:
    path = config_path()
    with contextlib.suppress(FileNotFoundError):
        before = path.read_text("utf-8")
        after = storage_conf.remove(before, store.tree)
        if after is None:
            path.resolve().unlink()
        elif after != before:
            files.rewrite(path, after)
