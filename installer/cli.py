"""The command line: parses, calls one function, maps errors to exit codes; nothing else."""

from __future__ import annotations

import contextlib
import json
import locale
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import click

from installer import VERSION, options
from installer.core import errors, layout, login
from installer.core.console import Console
from installer.core.runner import Runner

EPILOG = "\n\n".join(
    [
        "\b\nExit codes:\n" + "\n".join(f"  {code:>3}  {text}" for code, text in sorted(errors.EXIT_CODES.items())),
        "Without a command, `install` is meant. Every option is also a variable DIFY_INSTALLER_… "
        "and a key of the file given with --config.",
    ]
)


class Commands(click.Group):
    """A group whose first option, or nothing at all, means `install`; its help shows those options."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] not in ("-h", "--help", "--version")):
            args = ["install", *args]
        return super().parse_args(context, args)

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        install = self.commands["install"]
        with formatter.section("Options of install"):
            records = [each.get_help_record(context) for each in install.params]
            formatter.write_dl([record for record in records if record])
        self.format_commands(context, formatter)


@click.group(
    cls=Commands,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(VERSION, prog_name=layout.EXECUTABLE)
def cli() -> None:
    """Install Dify on this server, without a network.

    \b
    Put dify-installer and dify-load.tar into one folder, then:
      ./dify-installer --ip 10.0.0.5

    Checks the bundle and the host, installs podman-compose, loads the images, writes .env with fresh
    secrets, starts the stack, waits until it is healthy and reports. The same command again repairs;
    settings, secrets and data are kept. No question is ever asked. On a docker host, docker does it.
    """


@cli.command("install")
@options.apply(options.SITE + options.RUN)
def install_command(silent: bool, **given: Any) -> None:
    """Install, or repair what is installed."""
    from installer.commands import install, report

    console = Console(silent=silent)
    done = install.install(options.request(given), Runner(), console)
    report.show(done, console)


@cli.command("verify")
@options.option("--images", type=click.Path(path_type=Path), metavar="FILE", help="The image archive.")
@options.SILENT
def verify_command(images: Path | None, silent: bool) -> None:
    """Verify the executable and the image archive, all their bytes."""
    from installer.bundle import verify

    console = Console(silent=silent)
    bundle = verify.check_embedded(layout.bundled(""))
    names = verify.check_bundle(options.archive(images), bundle, console)
    console.line(f"Dify {bundle.dify} for {bundle.architecture}: {len(bundle.files)} embedded files, {names}: as built")


@cli.command("preflight")
@options.apply((*options.SITE, options.CONFIG))
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON on standard output.")
def preflight_command(as_json: bool, **given: Any) -> None:
    """Judge this host; changes nothing, and needs no image archive yet."""
    from installer.bundle import verify
    from installer.commands import install
    from installer.engine import engine as engines
    from installer.host import host, preflight
    from installer.images import load, supply

    runner = Runner()
    bundle = verify.check_embedded(layout.bundled(""))
    request = options.request(given)
    place = layout.Installation(request.folder)
    engine = engines.find(request.engine, place, runner)
    source = supply.find_supply(bundle, request.archive, place, engine)
    wanted = install.wants(request, source)
    findings = preflight.judge(host.observe(wanted, engine), wanted)
    click.echo(preflight.as_json(findings) if as_json else preflight.as_text(findings))
    load.require_base(bundle, source.missing, engine)
    if preflight.failed(findings):
        raise errors.PreflightFailed("this host does not meet the requirements marked FAIL", "mend them as said there")


@cli.command("status")
@options.FOLDER
@click.option("--json", "as_json", is_flag=True, help="Print the checks as JSON on standard output.")
def status_command(folder: Path | None, as_json: bool) -> None:
    """Say how the installation is: containers, console, version, inner services."""
    from installer.commands import status
    from installer.engine import engine as engines

    place = layout.Installation(options.folder(folder))
    checked = status.look(place, engines.find(None, place, Runner()))
    click.echo(json.dumps(status.as_list(checked), indent=2) if as_json else status.as_text(checked))
    if any(check.level == "error" for check in checked):
        raise errors.NotHealthy("the installation is not healthy", "run the install command again: it repairs")


@cli.command("start")
@options.FOLDER
@options.TIMEOUT
@options.SILENT
def start_command(folder: Path | None, timeout: float, silent: bool) -> None:
    """Start the stack in its order and wait until its services are up; the unit does this at boot."""
    from installer.core import lock
    from installer.engine import engine as engines
    from installer.stack import project, stack

    place = layout.Installation(options.folder(folder))
    with lock.hold(place.folder):
        engine = engines.find(None, place, Runner())
        document = project.read_installed(place, engine)
        stack.up(place, document, time.monotonic() + timeout, engine, Console(silent=silent))


@cli.command("stop")
@options.FOLDER
@options.SILENT
def stop_command(folder: Path | None, silent: bool) -> None:
    """Stop the stack in reverse order; settings and data stay."""
    from installer.core import lock
    from installer.engine import engine as engines
    from installer.stack import project, stack

    place = layout.Installation(options.folder(folder))
    with lock.hold(place.folder):
        engine = engines.find(None, place, Runner())
        project.read_installed(place, engine)
        stack.stop(place, engine)
    Console(silent=silent).line("the stack is stopped; `dify-installer start` brings it back")


@cli.command("uninstall")
@options.FOLDER
@options.SILENT
def uninstall_command(folder: Path | None, silent: bool) -> None:
    """Remove containers, images, unit and programs; settings and data stay."""
    from installer.commands import uninstall

    uninstall.uninstall(layout.Installation(options.folder(folder)), Runner(), Console(silent=silent))


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    with contextlib.suppress(locale.Error):
        locale.setlocale(locale.LC_ALL, "")
    _on_signals(_interrupt)
    login.join(os.environ, os.getuid())
    login.leave_a_closed_folder()
    try:
        cli.main(args=arguments, prog_name=layout.EXECUTABLE, standalone_mode=False)
    except errors.InstallerError as error:
        _tell(error.message, error.remedy)
        return error.exit_code
    except click.ClickException as error:
        _tell(error.format_message(), "see --help")
        return errors.UsageError.exit_code
    except errors.Interrupted as interruption:
        # While Python ends, its handlers are gone, and one more signal would change our status.
        _on_signals(signal.SIG_IGN)
        _tell(f"interrupted by {interruption.signal.name}; what was done is kept", "run the same command again")
        return interruption.exit_code
    except Exception as error:
        logging.getLogger("dify-installer").exception("unforeseen")
        _tell(f"unforeseen: {type(error).__name__}: {error}", "this is our fault: report it with the log file")
        return errors.InstallerError.exit_code
    return 0


def _on_signals(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, handler)


def _interrupt(number: int, _frame: FrameType | None) -> None:
    """Turn a signal into an exception, once: on a terminal Ctrl-C reaches a frozen program twice."""
    # Not SIG_IGN yet: Python complains on standard error of a signal that is on its way already.
    _on_signals(lambda *_: None)
    raise errors.Interrupted(signal.Signals(number))


def _tell(message: str, remedy: str) -> None:
    """Write an error: what is wrong, and what to do."""
    with contextlib.suppress(OSError):
        sys.stderr.write(f"error: {message}\n" + (f"   do: {remedy}\n" if remedy else ""))
        sys.stderr.flush()
