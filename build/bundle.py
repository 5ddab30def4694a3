"""The build, top to bottom: source, resolve, images, wheels, manifest, freeze, self-check."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from build import archive, bootloader, freeze, images, payload, portable_python, resolve, source
from build.spec import Spec
from installer import VERSION, digest, errors, files, layout, manifest
from installer.command import Runner
from installer.console import Console, size

SELF_CHECK_SECONDS = 1800.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """Where things go: `output` the bundle, `work` what is kept for the next build, `payload` the staging."""

    output: Path
    work: Path
    payload: Path
    portable_python: Path | None


def make(spec: Spec, places: Places, engine: str | None, runner: Runner, console: Console) -> None:
    """Make a bundle in `places.output`, verified by the finished executable itself.

    Raises BuildError, UsageError or CommandFailed; no half-written file is left under a final name.
    """
    program = images.engine(engine)
    for folder in (places.output, places.work):
        files.folder(folder)
    python = portable_python.portable_python(places.work, places.portable_python, spec.architecture, runner, console)
    loader = bootloader.bootloader(places.work, runner, console)

    console.line(f"source   {spec.source} {spec.tag}")
    release = source.fetch(spec.source, spec.tag, places.work, runner)
    needs = resolve.resolve(release.docker, spec)
    console.line(f"resolve  Dify {needs.version}: {len(needs.images)} images for {spec.architecture}")

    pulled = images.pull(needs.images, spec.architecture, program, runner, console)
    target = places.output / layout.IMAGES
    saved = archive.save(pulled, target, program, runner, console)
    described = archive.describe(target, console)

    payload.stage(release, spec.architecture, places.payload, places.work, runner, console)
    bundle = manifest.Manifest(
        format=manifest.FORMAT,
        installer=VERSION,
        dify=needs.version,
        source=release.origin,
        commit=release.commit,
        architecture=spec.architecture,
        newest_image=max((image.created for image in pulled), default=""),
        variables=needs.variables,
        files=payload.describe(places.payload),
        images=tuple(saved),
        archive=described,
    )
    files.write(places.payload / layout.MANIFEST, manifest.dumps(bundle))

    console.line("freeze   the executable")
    executable = places.output / layout.EXECUTABLE
    freeze.freeze(python, loader, places.payload, executable, places.work, runner)
    sums = {path.name: digest.of_file(path) for path in (executable, target)}
    files.write(places.output / layout.CHECKSUMS, "".join(f"{value}  {name}\n" for name, value in sums.items()))

    console.line("check    the bundle, with its own executable")
    _self_check(executable, target, runner)
    _say_done(places.output, sums, console)


def _self_check(executable: Path, archive_path: Path, runner: Runner) -> None:
    command = [str(executable), "verify", "--images", str(archive_path)]
    result = runner.run(command, timeout=SELF_CHECK_SECONDS, check=False)
    if not result.ok:
        raise errors.BuildError(
            f"the finished executable does not verify its own bundle: {result.last_words}",
            "build again; if it happens twice, report it with this output",
        )


def _say_done(output: Path, sums: dict[str, str], console: Console) -> None:
    console.line()
    for name, value in sums.items():
        console.line(f"{size((output / name).stat().st_size):>10}  {value}  {output / name}")
    console.line()
    console.line(f"Copy both files and {layout.CHECKSUMS} to the server, then type there:")
    console.line(f"  sha256sum -c {layout.CHECKSUMS}")
    console.line(f"  ./{layout.EXECUTABLE} --ip ADDRESS-OF-THE-SERVER")
