"""The build's command line: parses, calls one function, maps errors to exit codes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from build import bundle, images, resolve, source, spec
from build.plugins import choose, marketplace, signature
from installer.bundle import manifest
from installer.core import errors
from installer.core.console import Console, read_size
from installer.core.runner import Runner
from installer.release import dify

ROOT = Path(__file__).resolve().parent.parent


def _spec_options(command: Any) -> Any:
    options = [
        click.option("--spec", "spec_path", type=click.Path(path_type=Path), default=spec.DEFAULT, show_default=True),
        click.option("--source", "origin", metavar="PATH|URL", help="A Dify checkout, a tarball, or a git URL."),
        click.option("--tag", help="The git tag, when the source is a URL."),
        click.option("--arch", "architecture", type=click.Choice(manifest.ARCHITECTURES), help="The server's."),
        click.option("--vector-store", metavar="PROFILE", help="A profile of the compose file, for example qdrant."),
        click.option("--db", "database", metavar="PROFILE", help="postgresql or mysql."),
        click.option("--profile", "profiles", multiple=True, metavar="PROFILE", help="Any other; may be repeated."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _read_spec(
    spec_path: Path,
    origin: str | None,
    tag: str | None,
    architecture: str | None,
    vector_store: str | None,
    database: str | None,
    profiles: tuple[str, ...],
) -> spec.Spec:
    variables = {dify.VECTOR_STORE: vector_store, dify.DB_TYPE: database}
    chosen = {key: value for key, value in variables.items() if value}
    return spec.read(
        spec_path, source=origin, tag=tag, architecture=architecture, variables=chosen, profiles=profiles or None
    )


def _plugin_options(command: Any) -> Any:
    options = [
        click.option(
            "--marketplace", metavar="URL", default=marketplace.URL, show_default=True, help="Where plugins come from."
        ),
        click.option(
            "--plugin-key",
            type=click.Path(path_type=Path, exists=True, dir_okay=False),
            metavar="FILE",
            help="Sign packages of your own with this RSA key; the server gets its public half.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _wanted_plugins(
    plugins: tuple[str, ...], marketplace: str, plugin_key: Path | None, usual: tuple[str, ...]
) -> choose.Wanted:
    named = plugins or usual
    if choose.NONE in named and len(named) > 1:
        raise errors.UsageError(
            f"--plugin {choose.NONE} leaves no room for another one", "give it alone, or leave it out"
        )
    return choose.Wanted(
        plugins=() if choose.NONE in named else named,
        marketplace=marketplace,
        owner=signature.load_private_key(plugin_key) if plugin_key else None,
    )


def _bytes(_context: click.Context, _parameter: click.Parameter, text: str | None) -> int | None:
    """Read a size, as 4G, 700M or a number of bytes."""
    if text is None:
        return None
    try:
        return read_size(text)
    except errors.UsageError as error:
        raise click.BadParameter(f"{error.message}: {error.remedy}") from error


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def cli() -> None:
    """Make a bundle that installs Dify on an air-gapped server.

    Needs docker or podman, git and the network. The result is two files, dist/dify-installer and
    dist/dify-images.tar (or .squashfs), and their hashes in dist/SHA256SUMS.
    """


@cli.command("bundle")
@_spec_options
@click.option(
    "--plugin",
    "plugins",
    multiple=True,
    metavar="PLUGIN",
    help="AUTHOR/NAME[:VERSION], a .difypkg file, a folder of them, or none; may be repeated. [default: the spec's]",
)
@_plugin_options
@click.option("--engine", type=click.Choice(images.ENGINES), help="What pulls and saves; default: what is there.")
@click.option(
    "--split",
    "largest",
    metavar="SIZE",
    callback=_bytes,
    help="Numbered archives of at most this size, for example 4G: for media and file systems that take no larger file.",
)
@click.option(
    "--base",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="MANIFEST",
    help="Leave out the layers of this earlier bundle (its manifest.json), which the server has already.",
)
@click.option(
    "--compress/--no-compress",
    default=False,
    help="Layers compressed with zstd: 0.3 of the size, 1.2 to 1.8 of the time to load; not for docker before 23.",
)
@click.option(
    "--images",
    "form",
    type=click.Choice(bundle.IMAGES),
    show_default="store, where it can be made",
    help="What holds the images: an archive, which every engine loads, a store, which podman alone reads (root, "
    "podman and squashfs-tools), or both.",
)
@click.option(
    "--output", type=click.Path(path_type=Path), default=ROOT / "dist", show_default="dist", help="The bundle's folder."
)
@click.option(
    "--work",
    type=click.Path(path_type=Path),
    default=ROOT / ".cache",
    show_default=".cache",
    help="Kept for the next build: sources, wheels, the portable Python.",
)
@click.option(
    "--payload",
    type=click.Path(path_type=Path),
    default=ROOT / "payload",
    show_default="payload",
    help="Where the executable's content is staged.",
)
@click.option(
    "--portable-python",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    envvar="PORTABLE_PYTHON",
    help="A ready portable CPython (tar.xz) instead of building one; also PORTABLE_PYTHON=FILE.",
)
@click.option(
    "--own-python",
    is_flag=True,
    help="Freeze with the Python that runs this, to see a bundle soon: it runs on machines like this one alone.",
)
def bundle_command(
    engine: str | None,
    largest: int | None,
    base: Path | None,
    compress: bool,
    form: bundle.Images | None,
    output: Path,
    work: Path,
    payload: Path,
    portable_python: Path | None,
    own_python: bool,
    plugins: tuple[str, ...],
    marketplace: str,
    plugin_key: Path | None,
    **chosen: Any,
) -> None:
    """Make the executable and what holds the images."""
    wanted = _read_spec(**chosen)
    brought = _wanted_plugins(plugins, marketplace, plugin_key, wanted.plugins)
    places = bundle.Places(
        output=output.resolve(),
        work=work.resolve(),
        payload=payload.resolve(),
        portable_python=portable_python,
        own_python=own_python,
    )
    shape = bundle.Shape(largest=largest, base=base, images=form, compress=compress)
    bundle.make(wanted, brought, shape, places, engine, Runner(), Console())


@cli.command("plugin")
@_spec_options
@click.argument("plugins", nargs=-1, required=True, metavar="PLUGIN…")
@_plugin_options
@click.option("--engine", type=click.Choice(images.ENGINES), help="What pulls and runs the plugin daemon's image.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=ROOT / "dist/dify-plugins.tar",
    show_default="dist/dify-plugins.tar",
)
@click.option("--work", type=click.Path(path_type=Path), default=ROOT / ".cache", show_default=".cache")
def plugin_command(
    plugins: tuple[str, ...],
    marketplace: str,
    plugin_key: Path | None,
    engine: str | None,
    output: Path,
    work: Path,
    **chosen: Any,
) -> None:
    """Make a file of plugins for an installation that exists already.

    PLUGIN is AUTHOR/NAME[:VERSION], a .difypkg file, or a folder of them.
    """
    brought = _wanted_plugins(plugins, marketplace, plugin_key, ())
    if not brought.plugins:
        raise errors.UsageError("a file of plugins without plugins makes no sense", "name at least one")
    bundle.make_plugins(_read_spec(**chosen), brought, output.resolve(), work.resolve(), engine, Runner(), Console())


@cli.command("images")
@_spec_options
@click.option("--work", type=click.Path(path_type=Path), default=ROOT / ".cache", show_default=".cache")
def images_command(work: Path, **chosen: Any) -> None:
    """Print the images that a release needs, one a line."""
    wanted = _read_spec(**chosen)
    release = source.fetch(wanted.source, wanted.tag, work.resolve(), Runner())
    for reference in resolve.resolve(release.docker, wanted).images:
        click.echo(reference)


def main() -> None:
    """Run the command line; a foreseen failure is told in two lines and has its own exit code."""
    try:
        cli.main(standalone_mode=False, prog_name="python -m build")
    except errors.InstallerError as error:
        click.echo(f"error: {error.message}", err=True)
        if error.remedy:
            click.echo(f"  do: {error.remedy}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(errors.UsageError.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted: nothing half-written is left; the same command goes on", err=True)
        sys.exit(130)
