"""The command line: parses, calls one function, maps errors to exit codes; nothing else."""

from __future__ import annotations

import contextlib
import locale
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import click
from click.shell_completion import CompletionItem

from installer import VERSION, options
from installer.core import envelope, errors, finding, layout, logfile, login, runner
from installer.core.console import Console, print_result
from installer.core.runner import Runner

# Signals that come so close to each other are one key.
ONE_KEY_SECONDS = 0.3

EPILOG = "\n\n".join(
    [
        "\b\nExit codes:\n" + "\n".join(f"  {code:>3}  {text}" for code, text in sorted(errors.EXIT_CODES.items())),
        (
            "Without a command, `install` is meant. Every option is also a variable DIFY_INSTALLER_… "
            "and a key of the file given with --config."
        ),
    ]
)


class Command(click.Command):
    """A command whose help lists its options by subject; wrong values are told at once."""

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, each under its subject."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for each in self.get_params(context):
            if record := each.get_help_record(context):
                groups.setdefault(getattr(each, "group", "") or "Options", []).append(record)
        for name, records in groups.items():
            with formatter.section(name):
                formatter.write_dl(records)

    def invoke(self, context: click.Context) -> Any:
        """Run the command, unless an option has a wrong value; `make_request` tells more itself."""
        if "values" not in context.params:
            options.require_valid()
        return super().invoke(context)


class Commands(click.Group):
    """A group whose first option, or nothing at all, means `install`; its help shows those options."""

    command_class = Command

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """Parse; what begins with an option belongs to `install`."""
        means_install = bool(args) and args[0].startswith("-") and args[0] not in ("-h", "--help", "--version")
        # While a shell completes the first word, there are no arguments yet.
        if means_install or (not args and not context.resilient_parsing):
            args = ["install", *args]
        return super().parse_args(context, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return the commands, and the options of `install`, that begin so."""
        found = super().shell_complete(ctx, incomplete)
        if incomplete.startswith("-"):
            install = self.commands["install"]
            found += install.shell_complete(click.Context(install, parent=ctx), incomplete)
        return found

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options of `install` and the commands."""
        self.commands["install"].format_options(context, formatter)
        with formatter.section("Commands"):
            # click would cut the sentences off.
            formatter.write_dl([(name, each.get_short_help_str(1000)) for name, each in self.commands.items()])


@click.group(
    cls=Commands,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(VERSION, prog_name=layout.EXECUTABLE)
def cli() -> None:
    """Install Dify on this server, without a network.

    \b
    Put dify-installer and dify-images.tar into one folder, then:
      ./dify-installer --ip 10.0.0.5

    Checks the bundle and the host, installs podman-compose, loads the images, writes .env with fresh
    secrets, starts the stack, waits until it is healthy and reports. The same command again repairs;
    settings, secrets and data are kept. No question is ever asked. On a docker host, docker does it.
    """


@cli.command("install")
@options.apply(options.SITE + options.RUN)
def install_command(silent: bool, dry_run: bool, **given: Any) -> None:
    """Install, or repair what is installed."""
    from installer.commands import actions, install, preflight, report

    console = Console(silent=silent)
    request = options.make_request(**given)
    if dry_run:
        plan = preflight.make_plan(request, Runner(), console, archive_needed=True)
        plan.require_passed()
        print_result(actions.as_text(actions.list_actions(plan)))
        return
    done = install.install(request, Runner(), console)
    report.show(done, console)


@cli.command("verify")
@options.IMAGES
@click.option("--json", "as_json", is_flag=True, help="Print what was verified as JSON on standard output.")
@options.SILENT
def verify_command(images: Path | None, as_json: bool, silent: bool) -> None:
    """Verify the executable and the image archive, all their bytes."""
    from installer.bundle import verify

    console = Console(silent=silent)
    bundle = verify.check_embedded(layout.bundled(""))
    names = verify.check_bundle(options.archive(images), bundle, console)
    if as_json:
        embedded = [file.path for file in bundle.files]
        print_result(envelope.to_json("verify", passed=True, dify=bundle.dify, embedded=embedded, files=names))
    else:
        told = f"{len(bundle.files)} embedded files, {', '.join(names)}"
        console.line(f"Dify {bundle.dify} for {bundle.architecture}: {told}: as built")


@cli.command("preflight")
@options.apply((*options.SITE, options.VERIFY, options.CONFIG))
@click.option("--plan", "with_plan", is_flag=True, help="Show what would be done, too.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON on standard output.")
def preflight_command(with_plan: bool, as_json: bool, **given: Any) -> None:
    """Judge this host and what is asked for; changes nothing, and needs no image archive yet."""
    from installer.commands import actions, preflight

    console = Console(silent=as_json)
    plan = preflight.make_plan(options.make_request(**given), Runner(), console, archive_needed=False)
    planned = actions.list_actions(plan) if with_plan and plan.passed else None
    if as_json:
        fields: dict[str, Any] = {"findings": finding.as_list(plan.findings)}
        if planned is not None:
            fields["actions"] = actions.as_list(planned)
        print_result(envelope.to_json("plan" if with_plan else "preflight", passed=plan.passed, **fields))
    else:
        print_result(finding.as_text(plan.findings))
        if planned is not None:
            print_result(actions.as_text(planned))
    if not plan.passed:
        raise plan.failure("this host is not ready: see what is marked FAIL", "fix it as said there")


@cli.command("status")
@options.FOLDER
@click.option("--json", "as_json", is_flag=True, help="Print the checks as JSON on standard output.")
def status_command(folder: Path | None, as_json: bool) -> None:
    """Say how the installation is: containers, console, version, inner services."""
    from installer.commands import status
    from installer.engine import choose

    place = layout.Installation(options.folder(folder))
    checked = status.check_installation(place, choose.choose_engine(None, place, Runner()))
    passed = not finding.any_failed(checked)
    if as_json:
        print_result(envelope.to_json("status", passed=passed, checks=finding.as_list(checked)))
    else:
        print_result(finding.as_text(checked))
    if not passed:
        raise errors.NotHealthy("the installation is not healthy", "run the install command again: it repairs")


@cli.command("start")
@options.FOLDER
@options.TIMEOUT
@options.SILENT
def start_command(folder: Path | None, timeout: float, silent: bool) -> None:
    """Start the stack in its order and wait until its services are up; the unit does this at boot."""
    from installer.commands import start

    start.start(layout.Installation(options.folder(folder)), timeout, Runner(), Console(silent=silent))


@cli.command("stop")
@options.FOLDER
@options.SILENT
def stop_command(folder: Path | None, silent: bool) -> None:
    """Stop the stack in reverse order; settings and data stay."""
    from installer.commands import stop

    stop.stop(layout.Installation(options.folder(folder)), Runner(), Console(silent=silent))


@cli.command("uninstall")
@options.FOLDER
@options.SILENT
def uninstall_command(folder: Path | None, silent: bool) -> None:
    """Remove containers, images, unit and programs; settings and data stay."""
    from installer.commands import uninstall

    uninstall.uninstall(layout.Installation(options.folder(folder)), Runner(), Console(silent=silent))


@cli.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion_command(shell: str) -> None:
    """Print the shell's completion; for bash: source <(dify-installer completion bash)."""
    from installer.commands import completion

    print_result(completion.script(cli, shell))


@cli.command("man")
def man_command() -> None:
    """Print the manual page; to read it: dify-installer man | man -l -."""
    from installer.commands import man

    print_result(man.page(cli))


@cli.command("licenses")
def licenses_command() -> None:
    """Print the licence of every component that the executable carries."""
    from installer.commands import licenses

    print_result(licenses.show_licenses(layout.bundled("")))


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    with contextlib.suppress(locale.Error):
        locale.setlocale(locale.LC_ALL, "")
    _on_signals(_interrupt)
    login.join(os.environ, os.getuid())
    login.leave_a_closed_folder()
    try:
        options.require_known_variables(os.environ)
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
    except Exception as error:  # noqa: BLE001 - the last resort, logged with its traceback
        path = logfile.keep_unforeseen()
        where = f"with the log file {path}" if path else "with these words"
        _tell(f"unforeseen: {type(error).__name__}: {error}", f"this is our fault: report it {where}")
        return errors.InstallerError.exit_code
    return 0


def _on_signals(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, handler)


def _interrupt(number: int, _frame: FrameType | None) -> None:
    """Turn a signal into an exception, once, and end what runs; one more signal kills it."""
    interruption = errors.Interrupted(signal.Signals(number))
    first = time.monotonic()

    def hurry(_number: int, _frame: FrameType | None) -> None:
        # On a terminal one Ctrl-C reaches a frozen program twice: from the terminal and from the bootloader.
        if time.monotonic() - first > ONE_KEY_SECONDS:
            runner.kill_all()

    # Not SIG_IGN: Python complains on standard error of a signal that is on its way already.
    _on_signals(hurry)
    runner.interrupt(interruption)
    raise interruption


def _tell(message: str, remedy: str) -> None:
    """Write an error: what is wrong, and what to do."""
    console = Console()
    console.line(f"{console.paint('error', 'error:')} {message}" + (f"\n   do: {remedy}" if remedy else ""))
