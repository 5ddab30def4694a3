"""The build, top to bottom: source, resolve, images, wheels, manifest, freeze, self-check."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from build import (
    archive,
    bootloader,
    compiled,
    freeze,
    glibc_floor,
    images,
    kept,
    licenses,
    payload,
    portable_python,
    resolve,
    source,
    store,
)
from build.failure import BuildError
from build.images import Pulled
from build.plugins import choose, gather
from build.plugins.choose import Chosen
from build.plugins.gather import Gathered
from build.plugins.package import Daemon
from build.spec import Spec
from installer import VERSION
from installer.bundle import manifest
from installer.core import digest, errors, files, layout
from installer.core.console import Console, size
from installer.core.runner import Runner

SELF_CHECK_SECONDS = 1800.0
Images = Literal["store", "archive", "both"]
IMAGES: tuple[Images, ...] = get_args(Images)
# Below the folder that is kept for the next build: packages and wheels.
KEPT_PLUGINS = "plugins"


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """Where things go: `output` the bundle, `work` what is kept for the next build, `payload` the staging.

    `portable_python` is a ready one. With `own_python` none is needed: this machine's goes into the executable, which
    then runs on machines like this one alone.
    """

    output: Path
    work: Path
    payload: Path
    portable_python: Path | None
    own_python: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """The form of a bundle: archives of `largest` bytes, compressed or not, without what the bundle `base` has.

    `images` is what holds the images on the server; None leaves it to what can be made here.
    """

    largest: int | None = None
    base: Path | None = None
    images: Images | None = None
    compress: bool = False


def make(
    spec: Spec,
    plugins: choose.Wanted,
    shape: Shape,
    places: Places,
    engine: str | None,
    runner: Runner,
    console: Console,
) -> None:
    """Make a bundle in `places.output`, verified by the finished executable itself.

    Raises BuildError, UsageError or CommandFailed; no half-written file is left under a final name.
    """
    program = images.engine(engine)
    base = _base(shape.base)
    cut = archive.Cut(largest=shape.largest, base=_layers(base), compression="zstd" if shape.compress else "none")
    form = _choose_images(shape.images, cut, program, console)
    # Without them in the bundle, archives are only what the store is made from, and kept for the next build.
    folder_of_archives = places.output if form != "store" else places.work / f"images-{_short(places.output)}"
    for folder in (places.output, places.work, folder_of_archives):
        files.folder(folder)

    console.line(f"source   {spec.source} {spec.tag}")
    release = source.fetch(spec.source, spec.tag, places.work, runner)
    needs = resolve.resolve(release.docker, spec)
    console.line(f"resolve  Dify {needs.version}: {len(needs.images)} images for {spec.architecture}")
    chosen = choose.choose(plugins, _daemon(needs, spec), places.work / KEPT_PLUGINS) if plugins.plugins else []
    tools = _tools(places, spec.architecture, runner, console)

    state = places.work / f"archives-{_short(folder_of_archives)}"
    with images.pulling(needs.images, spec.architecture, program, runner, console) as jobs:
        pulled, gathered = list(jobs), None
        if chosen:
            daemon = _daemon(needs, spec)
            identity = pulled[needs.images.index(daemon.image)].result().id
            gathered, carrier = _gather(chosen, plugins, daemon, identity, program, places.work, runner, console)
            pulled.append(carrier)
        described, saved = _save(state, pulled, cut, folder_of_archives, program, runner, console)
    packed = None
    if form != "archive":
        api = pulled[needs.images.index(needs.api)].result()
        made = compiled.make(needs.api, api.id, spec.architecture, program, places.work, runner, console)
        packed = _store(described, saved, made, folder_of_archives, places, runner, console)
    else:
        # An earlier build's would be of other images.
        (places.output / layout.STORE).unlink(missing_ok=True)
    if form == "store":
        archive.remove(places.output)

    payload.stage(release, spec.architecture, places.payload, places.work, runner, console)
    interpreter = freeze.environment(tools, places.work, runner, console)
    dify = licenses.of_release(release.docker.parent, needs.version)
    licenses.stage(places.payload, interpreter, dify, runner)
    bundle = manifest.Manifest(
        format=manifest.FORMAT,
        installer=VERSION,
        dify=needs.version,
        source=release.origin,
        commit=release.commit,
        architecture=spec.architecture,
        newest_image=max((job.result().created for job in pulled), default=""),
        variables=needs.variables,
        files=payload.describe(places.payload),
        images=saved,
        archives=described,
        store=packed,
        base=f"Dify {base.dify}, made by dify-installer {base.installer}" if base else "",
        plugins=gathered.described if gathered else None,
    )
    for folder in (places.payload, places.output):
        files.write(folder / layout.MANIFEST, manifest.dumps(bundle))
    kept.note_archives(state, pulled, cut, bundle)

    executable = places.output / layout.EXECUTABLE
    freeze.freeze(tools, places.payload, executable, places.work, runner, console)
    beside = [*(described if form != "store" else ()), *([packed] if packed else [])]
    sums = {executable.name: digest.hash_file(executable), **{file.name: file.sha256 for file in beside}}
    files.write(places.output / layout.CHECKSUMS, "".join(f"{value}  {name}\n" for name, value in sums.items()))

    console.line("check    the bundle, with its own executable")
    _self_check(executable, places.output, runner)
    _say_done(places.output, sums, console)


def make_plugins(
    spec: Spec,
    plugins: choose.Wanted,
    output: Path,
    work: Path,
    engine: str | None,
    runner: Runner,
    console: Console,
) -> None:
    """Write a file of plugins for an installation that is there.

    Raises BuildError, UsageError or CommandFailed; no half-written file is left under the final name.
    """
    program = images.engine(engine)
    for folder in (output.parent, work):
        files.folder(folder)
    release = source.fetch(spec.source, spec.tag, work, runner)
    needs = resolve.resolve(release.docker, spec)
    daemon, kept = _daemon(needs, spec), work / KEPT_PLUGINS
    chosen = choose.choose(plugins, daemon, kept)
    with images.pulling([daemon.image], spec.architecture, program, runner, console) as jobs:
        identity = jobs[0].result().id
        gathered = gather.gather(chosen, plugins.owner, daemon, identity, program, kept, runner, console)
    gather.as_file(gathered, daemon, output)
    console.line(f"{size(output.stat().st_size):>10}  {digest.hash_file(output)}  {output}")
    console.line()
    console.line("Copy it to the server, and type there, as the user who installed Dify:")
    console.line(f"  {layout.EXECUTABLE} plugins add {output.name}")


def _daemon(needs: resolve.Needs, spec: Spec) -> Daemon:
    """Return what installs plugins on the server. Raises UsageError for a release without a plugin daemon."""
    if not needs.daemon:
        raise errors.UsageError("this release has no plugin daemon: no plugin goes along", "give --plugin none")
    return Daemon(image=needs.daemon, dify=needs.version, architecture=spec.architecture, largest=needs.largest_plugin)


def _tools(places: Places, architecture: manifest.Architecture, runner: Runner, console: Console) -> freeze.Tools:
    """Return what the executable is frozen with; made here where it is not ready."""
    if places.own_python:
        tools = freeze.own_tools()
        console.line(
            f"python   this machine's own {platform.python_version()} goes into the executable: it runs where glibc is"
            f" {glibc_floor.as_text(tools.floor)} or later, and is not for servers"
        )
        return tools
    python = portable_python.portable_python(places.work, places.portable_python, architecture, runner, console)
    return freeze.Tools(python=python, bootloader=bootloader.bootloader(places.work, runner, console))


def _gather(
    chosen: Sequence[Chosen],
    plugins: choose.Wanted,
    daemon: Daemon,
    identity: str,
    program: str,
    work: Path,
    runner: Runner,
    console: Console,
) -> tuple[Gathered, Future[Pulled]]:
    """Return the plugins, and the image that carries them as if it had been pulled."""
    gathered = gather.gather(chosen, plugins.owner, daemon, identity, program, work / KEPT_PLUGINS, runner, console)
    image = gather.as_image(gathered, daemon, program, work, runner)
    carrier: Future[Pulled] = Future()
    carrier.set_result(image)
    described = dataclasses.replace(gathered.described, image=image.reference)
    return dataclasses.replace(gathered, described=described), carrier


def _choose_images(asked: Images | None, cut: archive.Cut, program: str, console: Console) -> Images:
    """Return what holds the images: what is asked for, else a store where one can be made.

    Raises UsageError or BuildError for a store that is asked for and cannot be made.
    """
    if asked == "archive":
        return asked
    for_archives = cut.largest is not None or cut.compression != "none"
    obstacle = store.find_obstacle(bool(cut.base))
    if asked is None:
        return _choose_for_all(program, obstacle, console) if not (for_archives or cut.base) else "archive"
    if asked == "store" and for_archives:
        raise errors.UsageError("--split and --compress are for archives", "give --images archive, or both")
    if obstacle:
        raise obstacle
    return asked


def _choose_for_all(program: str, obstacle: errors.InstallerError | None, console: Console) -> Images:
    """Return the store, which is smaller and ready sooner, unless docker is at work or it cannot be made; say why."""
    if program == "docker":
        console.line("images   an archive, which docker loads; for podman there is a smaller one: IMAGES=store")
        return "archive"
    if obstacle:
        console.line(f"images   an archive: {obstacle.message}")
        console.line(f"         a store has a quarter of its size: {obstacle.remedy}")
        return "archive"
    console.line("images   a store, for podman; docker, push and clusters need an archive: IMAGES=archive, or both")
    return "store"


def _short(path: Path) -> str:
    """Return a name for what is kept of a path."""
    return digest.hash_bytes(str(path).encode())[:16]


def _save(
    state: Path,
    pulled: Sequence[Future[Pulled]],
    cut: archive.Cut,
    folder: Path,
    program: str,
    runner: Runner,
    console: Console,
) -> tuple[tuple[manifest.Archive, ...], tuple[manifest.Image, ...]]:
    """Return the archives in `folder`, the last build's where nothing has changed, and the images in them."""
    before = kept.archives(state, pulled, cut, folder, console)
    if before is not None:
        console.line("save     nothing has changed: the archive of the last build is kept")
        return before.archives, before.images
    last = kept.images(state, cut, folder, console)
    parts = archive.save(pulled, folder, cut, program, runner, console, last)
    described = tuple(archive.describe(part, console) for part in parts)
    return described, tuple(image for part in parts for image in part.images)


def _store(
    archives: Sequence[manifest.Archive],
    saved: Sequence[manifest.Image],
    made: compiled.Compiled | None,
    folder: Path,
    places: Places,
    runner: Runner,
    console: Console,
) -> manifest.BigFile:
    """Return the image store: the last build's where nothing has changed, else a new one."""
    state = places.work / f"store-{_short(places.output)}"
    before = kept.image_store(state, archives, made, places.output, console)
    if before is not None:
        console.line("store    nothing has changed: the store of the last build is kept")
        return before
    console.line("store    podman loads the images, mksquashfs packs its storage")
    paths = [folder / part.name for part in archives]
    packed = store.make(paths, saved, made, places.output, places.work, runner, console)
    kept.note_image_store(state, archives, made, packed)
    return packed


def _base(path: Path | None) -> manifest.Manifest | None:
    """Read the manifest of the base. Raises UsageError when it is none."""
    if path is None:
        return None
    try:
        return manifest.loads(path.read_bytes())
    except (OSError, errors.BundleDamaged) as error:
        raise errors.UsageError(
            f"{path} is not the manifest of a bundle: {error}",
            f"give the {layout.MANIFEST} that lies beside that bundle",
        ) from error


def _layers(base: manifest.Manifest | None) -> frozenset[str]:
    """Return every layer that a server has once the base is installed there."""
    return frozenset(layer for image in base.images for layer in image.layers) if base else frozenset()


def _self_check(executable: Path, output: Path, runner: Runner) -> None:
    command = [str(executable), "verify", "--images", str(output)]
    result = runner.run(command, timeout=SELF_CHECK_SECONDS, check=False)
    if not result.ok:
        raise BuildError(
            f"the finished executable does not verify its own bundle: {result.last_words}",
            "build again; if it happens twice, report it with this output",
        )


def _say_done(output: Path, sums: dict[str, str], console: Console) -> None:
    console.line()
    for name, value in sums.items():
        console.line(f"{size((output / name).stat().st_size):>10}  {value}  {output / name}")
    console.line()
    console.line(f"Copy these files and {layout.CHECKSUMS} into one folder on the server, then type there:")
    console.line(f"  sha256sum -c {layout.CHECKSUMS}")
    console.line(f"  ./{layout.EXECUTABLE} --ip ADDRESS-OF-THE-SERVER")
