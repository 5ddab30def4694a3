"""The command line: parses, calls one function, maps errors to exit codes; nothing else."""

from __future__ import annotations

import contextlib
import dataclasses
import locale
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple

import click
from click.shell_completion import CompletionItem

from installer import VERSION, options
from installer.core import envelope, errors, finding, layout, logfile, login, runner, wake
from installer.core.console import Console, print_result
from installer.core.runner import Runner
from installer.system import backup_timer

if TYPE_CHECKING:
    from installer.checks.inside import Runtime
    from installer.commands.status_cluster import Cluster
    from installer.commands.workspace import Containers
    from installer.registry import forms, reference
    from installer.workspace.account import Admin
    from installer.workspace.client import Client

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


class Inside(NamedTuple):
    """An installation, what runs its containers and lists them, and a client of its console that is signed in."""

    place: layout.Installation
    runtime: Runtime
    containers: Containers
    client: Client
    cluster: Cluster | None = None


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


class Topic(click.Group):
    """A command with commands of its own."""

    command_class = Command

    def format_commands(self, _context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands with their whole sentences, which click would cut off."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, each.get_short_help_str(1000)) for name, each in self.commands.items()])


class Commands(Topic):
    """A group whose first option, or nothing at all, means `install`; its help shows those options."""

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
    Put dify-installer and dify-images.tar (or .squashfs) into one folder, then:
      ./dify-installer --ip 10.0.0.5

    Checks the bundle and the host, installs podman-compose, brings the images, writes .env with fresh
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
    """Verify the executable, and the image store or archive, all their bytes."""
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


@cli.command("push")
@options.apply((*options.PUSH, options.JSON, options.SILENT))
def push_command(
    form: forms.Form, images: Path | None, out: Path, dry_run: bool, as_json: bool, silent: bool, **given: Any
) -> None:
    """Send the images from the archive straight into a private registry: what it lacks, each layer proved."""
    from installer.commands import push
    from installer.registry import credentials

    registry: reference.Registry = given["registry"]
    password = given["registry_password"] or given["registry_password_file"] or ""
    user, file = given["registry_user"] or "", given["registry_auth_file"]
    asked = push.Asked(
        registry=registry,
        archive=options.archive(images),
        form=form,
        login=credentials.find(registry, user, password, file, os.environ),
        authorities=given["registry_ca"],
        plain_http=given["plain_http"],
        out=out.absolute(),
    )
    done = push.push(asked, Console(silent=silent or as_json), dry_run=dry_run)
    print_result(push.as_json(done) if as_json else push.as_text(done, asked.out, dry_run=dry_run))


@cli.command("manifests")
@options.apply(options.MANIFESTS)
def manifests_command(silent: bool, out: Path, pushed: Path, **given: Any) -> None:
    """Write a folder for `kubectl apply -k`: the same images, settings and secrets, on Kubernetes."""
    from installer.commands import manifests

    values = options.all_values(options.check(**given))
    known = {each.name for each in dataclasses.fields(manifests.Asked)} - {"values"}
    asked = manifests.Asked(
        out=out.absolute(),
        pushed=pushed.absolute(),
        values=values,
        **{name: value for name, value in given.items() if name in known},
    )
    manifests.write(asked, Console(silent=silent))


@cli.command("preflight")
@options.apply((*options.SITE, options.VERIFY, options.CONFIG))
@click.option("--plan", "with_plan", is_flag=True, help="Show what would be done, too.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON on standard output.")
@options.KUBERNETES
@click.option("--try-pull", is_flag=True, help="With --kubernetes: let a pod pull one image, and remove it.")
def preflight_command(with_plan: bool, as_json: bool, kubernetes: Path | None, try_pull: bool, **given: Any) -> None:
    """Judge this host and what is asked for; changes nothing, and needs no image archive yet."""
    from installer.commands import actions, preflight

    if kubernetes is not None:
        _preflight_cluster(kubernetes, as_json, try_pull)
        return
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


def _preflight_cluster(folder: Path, as_json: bool, try_pull: bool) -> None:
    from installer.commands import preflight_cluster

    found = preflight_cluster.look_at(folder, Runner(), try_pull=try_pull)
    passed = not finding.any_failed(found)
    if as_json:
        print_result(envelope.to_json("preflight", passed=passed, findings=finding.as_list(found)))
    else:
        print_result(finding.as_text(found))
    if not passed:
        raise errors.PreflightFailed("this cluster is not ready: see what is marked FAIL", "fix it as said there")


@cli.command("status")
@options.FOLDER
@options.RUNS_THERE
@click.option("--json", "as_json", is_flag=True, help="Print the checks as JSON on standard output.")
def status_command(folder: Path | None, kubernetes: Path | None, as_json: bool) -> None:
    """Say how the installation is: services, sizes, what was changed by hand; console, version, inner services."""
    from installer.commands import overview, status
    from installer.engine import choose

    if kubernetes is not None:
        _status_of_cluster(kubernetes, as_json)
        return
    place = layout.Installation(options.folder(folder))
    glance, checked = status.look(place, choose.choose_engine(None, place, Runner()))
    passed = not finding.any_failed(checked)
    if as_json:
        fields = {"overview": overview.as_fields(glance), "checks": finding.as_list(checked)}
        print_result(envelope.to_json("status", passed=passed, **fields))
    else:
        print_result(overview.as_text(glance, time.time()))
        print_result(finding.as_text(checked))
    if not passed:
        raise errors.NotHealthy("the installation is not healthy", "run the install command again: it repairs")


def _status_of_cluster(folder: Path, as_json: bool) -> None:
    from installer.commands import overview, status_cluster

    cluster = status_cluster.open_cluster(folder, Runner())
    glance, checked = status_cluster.look(cluster)
    passed = not finding.any_failed(checked)
    if as_json:
        fields = {"overview": overview.as_fields(glance), "checks": finding.as_list(checked)}
        print_result(envelope.to_json("status", passed=passed, **fields))
    else:
        print_result(status_cluster.as_text(glance, cluster.wanted.namespace, time.time()))
        print_result(finding.as_text(checked))
    if not passed:
        raise errors.NotHealthy("what runs on the cluster is not healthy", "do what is said there")


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


@cli.command("doctor")
@click.option(
    "--bundle",
    "path",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Pack logs, states, versions and settings for a support desk into FILE (tar.gz), secrets masked.",
)
@options.apply((options.FOLDER, options.RUNS_THERE, options.JSON))
def doctor_command(path: Path | None, folder: Path | None, kubernetes: Path | None, as_json: bool) -> None:
    """Judge what goes wrong over the months, with remedies: host, disks, names, model servers, and all of status."""
    from installer.commands import doctor, overview

    if kubernetes is not None:
        _doctor_of_cluster(kubernetes, path, as_json)
        return
    place, run = layout.Installation(options.folder(folder)), Runner()
    judged = doctor.judge(place, run)
    passed = not finding.any_failed(judged.findings)
    packed = doctor.pack(place, judged, path, run) if path is not None else None
    if as_json:
        fields = {"overview": overview.as_fields(judged.glance), "checks": finding.as_list(judged.findings)}
        if path is not None:
            fields["file"] = str(path)
        print_result(envelope.to_json("doctor", passed=passed, **fields))
    else:
        print_result(finding.as_text(judged.findings))
        if packed is not None and path is not None:
            print_result(doctor.told(packed, path))
    if not passed:
        raise errors.NotHealthy("something is wrong: see what is marked FAIL", "do what is said there")


def _doctor_of_cluster(folder: Path, path: Path | None, as_json: bool) -> None:
    from installer.commands import doctor, doctor_cluster, overview, status_cluster

    cluster = status_cluster.open_cluster(folder, Runner())
    glance, checked = status_cluster.diagnose(cluster)
    passed = not finding.any_failed(checked)
    packed = doctor_cluster.pack(cluster, glance, checked, path) if path is not None else None
    if as_json:
        fields: dict[str, Any] = {"overview": overview.as_fields(glance), "checks": finding.as_list(checked)}
        if path is not None:
            fields["file"] = str(path)
        print_result(envelope.to_json("doctor", passed=passed, **fields))
    else:
        print_result(finding.as_text(checked))
        if packed is not None and path is not None:
            print_result(doctor.told(packed, path))
    if not passed:
        raise errors.NotHealthy("something is wrong: see what is marked FAIL", "do what is said there")


@cli.command("restart")
@options.SERVICES
@options.apply((options.FOLDER, options.TIMEOUT, options.SILENT))
def restart_command(services: tuple[str, ...], folder: Path | None, timeout: float, silent: bool) -> None:
    """Restart the stack, or services with what needs them, and wait until Dify answers."""
    from installer.commands import restart

    console = Console(silent=silent)
    done = restart.restart(layout.Installation(options.folder(folder)), services, timeout, Runner(), console)
    console.line(f"restarted: {', '.join(done)}")


@cli.command("logs")
@options.SERVICES
@options.apply((options.FOLDER, *options.LOGS))
def logs_command(services: tuple[str, ...], folder: Path | None, **given: Any) -> None:
    """Show what services have written, all if none is named; the secrets of .env are masked."""
    from installer.commands import logs

    logs.show(layout.Installation(options.folder(folder)), logs.Asked(services=services, **given), Runner())


@cli.command("backup")
@click.argument("path", type=click.Path(path_type=Path), metavar="PATH")
@click.option("--verify", "proving", is_flag=True, help="Read the backup at PATH instead, and prove all its bytes.")
@click.option("--keep", type=click.IntRange(min=1), metavar="N", help="Of this installation's backups there keep N.")
@click.option("--every", type=click.Choice(backup_timer.EVERY), help="Have a timer make backups into the folder PATH.")
@options.apply((options.SPLIT, options.RECIPIENT, options.IDENTITY, options.FOLDER, options.JSON, options.SILENT))
def backup_command(
    path: Path,
    folder: Path | None,
    keep: int | None,
    largest: int | None,
    recipients: tuple[str, ...],
    identity: Path | None,
    every: backup_timer.Every | None,
    proving: bool,
    as_json: bool,
    silent: bool,
) -> None:
    """Back up what the running Dify holds into PATH, a new file or a folder; or prove such a file."""
    from installer.backup import file
    from installer.commands import backup

    console = Console(silent=silent or as_json)
    if proving:
        head, parts = file.prove(path, console, identity)
        if as_json:
            print_result(envelope.to_json("backup", passed=True, file=str(path), **backup.as_fields(head, parts)))
        else:
            print_result(backup.as_text(head, parts))
        return
    if identity is not None:
        raise errors.UsageError(
            "--identity opens a backup, and none is read here",
            "add --verify; a new one is encrypted for a public key: --recipient",
        )
    asked = backup.Asked(target=path, keep=keep, largest=largest, recipients=recipients)
    if every is not None:
        console.line(backup.schedule(layout.Installation(options.folder(folder)), asked, every, Runner()))
        return
    written = backup.backup(layout.Installation(options.folder(folder)), asked, Runner(), console)
    if as_json:
        print_result(envelope.to_json("backup", passed=True, **backup.written_fields(written)))
    else:
        print_result(backup.written_text(written))


@cli.command("export")
@click.argument("path", type=click.Path(path_type=Path, allow_dash=True), metavar="PATH")
@click.option(
    "--from",
    "folder",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="FOLDER",
    help="Where the compose file of that Dify lies. [default: found by its containers]",
)
@click.option(
    "--dify-version", "version", metavar="VERSION", help="Its version. [default: as the tag of the api's image says]"
)
@options.apply((options.SPLIT, options.RECIPIENT, options.JSON, options.SILENT))
def export_command(
    path: Path,
    folder: Path | None,
    version: str | None,
    largest: int | None,
    recipients: tuple[str, ...],
    as_json: bool,
    silent: bool,
) -> None:
    """Write what a Dify of this host holds, whoever installed it, into PATH: a new file, a folder or a pipe (-)."""
    from installer.commands import backup, export

    console = Console(silent=silent or as_json)
    asked = export.Asked(target=path, folder=folder, version=version, largest=largest, recipients=recipients)
    written = export.export(asked, Runner(), console)
    if path == export.STANDARD_OUTPUT:
        console.line(backup.as_text(written.head, written.parts))
    elif as_json:
        print_result(envelope.to_json("export", passed=True, **backup.written_fields(written)))
    else:
        print_result(backup.written_text(written))


@cli.command("restore")
@click.argument("path", type=click.Path(path_type=Path), metavar="FILE")
@options.apply(
    (
        *(options.IDENTITY, options.WITHOUT_VECTORS, options.DB_RESTORED, options.STORAGE_FILLED),
        *(options.FOLDER, options.TIMEOUT, options.JSON, options.SILENT),
    )
)
def restore_command(
    path: Path,
    identity: Path | None,
    without_vectors: bool,
    db_restored: bool,
    storage_filled: bool,
    folder: Path | None,
    timeout: float,
    as_json: bool,
    silent: bool,
) -> None:
    """Put what a backup holds in the place of what Dify holds now, which is kept, and comes back if that fails."""
    from installer.commands import restore

    console = Console(silent=silent or as_json)
    place = layout.Installation(options.folder(folder))
    done = restore.restore(
        place,
        path,
        timeout,
        Runner(),
        console,
        identity=identity,
        without_vectors=without_vectors,
        restored=db_restored,
        filled=storage_filled,
    )
    if as_json:
        print_result(envelope.to_json("restore", passed=True, file=str(path), **restore.as_fields(done)))
    else:
        print_result(restore.as_text(done))


@cli.command("rollback")
@options.apply((options.DB_RESTORED, options.FOLDER, options.TIMEOUT, options.JSON, options.SILENT))
def rollback_command(db_restored: bool, folder: Path | None, timeout: float, as_json: bool, silent: bool) -> None:
    """Go back to the Dify before the last upgrade, with its data as they were; what was written since is put aside."""
    from installer.commands import rollback

    console = Console(silent=silent or as_json)
    place = layout.Installation(options.folder(folder))
    done = rollback.rollback(place, timeout, Runner(), console, restored=db_restored)
    if as_json:
        print_result(envelope.to_json("rollback", passed=True, **rollback.as_fields(done)))
    else:
        print_result(rollback.as_text(done))


@cli.command("prune")
@options.apply((options.FOLDER, options.JSON, options.SILENT))
def prune_command(folder: Path | None, as_json: bool, silent: bool) -> None:
    """Remove the Dify that the last upgrade has kept, with its images; there is no way back then."""
    from installer.commands import prune

    done = prune.prune(layout.Installation(options.folder(folder)), Runner(), Console(silent=silent or as_json))
    if as_json:
        print_result(envelope.to_json("prune", passed=True, **prune.as_fields(done)))
    else:
        print_result(prune.as_text(done))


@cli.command("uninstall")
@options.FOLDER
@click.option(
    "--purge-data",
    "purge",
    metavar="NAME",
    help="Remove settings, secrets and data as well, for good; NAME is the install folder's own, as in `dify`.",
)
@options.SILENT
def uninstall_command(folder: Path | None, purge: str | None, silent: bool) -> None:
    """Remove containers, images, unit and programs; settings and data stay."""
    from installer.commands import uninstall

    uninstall.uninstall(layout.Installation(options.folder(folder)), purge, Runner(), Console(silent=silent))


@contextlib.contextmanager
def _inside(
    folder: Path | None, kubernetes: Path | None, given: options.Given, run: Runner, *, alone: bool = False
) -> Iterator[Inside]:
    """Sign in to the console of an installation, or of a cluster; `alone` while no other run works on it."""
    from installer.bundle import verify
    from installer.commands import workspace
    from installer.core import lock
    from installer.engine import choose
    from installer.stack import project
    from installer.upgrade import kept

    if kubernetes is not None:
        with _inside_cluster(kubernetes, given, run, alone=alone) as inside:
            yield inside
        return
    place = layout.Installation(options.folder(folder))
    engine = choose.choose_engine(None, place, run)
    project.read_installed(place, engine)
    admin = _admin(place, given)
    version = verify.check_embedded(layout.bundled("")).dify
    if alone:
        kept.require_ended(place)
    held = lock.hold(place.folder) if alone else contextlib.nullcontext()
    with held, workspace.enter(place, engine, admin, given.language, version) as entered:
        yield Inside(place, engine, workspace.listing(engine), entered.client)


@contextlib.contextmanager
def _inside_cluster(folder: Path, given: options.Given, run: Runner, *, alone: bool) -> Iterator[Inside]:
    from installer.commands import status_cluster, workspace
    from installer.core import lock

    cluster = status_cluster.open_cluster(folder, run)
    # The account's notes, and its password if it is generated, lie in the folder.
    place = layout.Installation(cluster.folder)
    admin = _admin(place, given)
    held = lock.hold(place.folder) if alone else contextlib.nullcontext()
    with (
        held,
        cluster.front() as front,
        workspace.sign_in(front, place, cluster.env, admin, given.language, run) as entered,
    ):
        yield Inside(place, cluster.pods, cluster.containers, entered.client, cluster)


def _admin(place: layout.Installation, given: options.Given) -> Admin:
    """Return the account to work with. Raises UsageError where it is not known."""
    from installer.workspace import account

    email = given.admin_email or account.known_email(place)
    admin = options.admin(email or None, None, given.admin_password or given.admin_password_file)
    if admin is None:
        raise errors.UsageError("it is not known with which account to work in Dify", "name it: --admin-email EMAIL")
    return admin


@cli.group("plugins", cls=Topic)
def plugins_group() -> None:
    """List, add and remove plugins of Dify's workspace."""


@plugins_group.command("list")
@options.apply((options.FOLDER, options.RUNS_THERE, *options.ENTER, options.JSON))
def plugins_list_command(folder: Path | None, kubernetes: Path | None, as_json: bool, **given: Any) -> None:
    """List the plugins that are installed."""
    from installer.commands import plugins
    from installer.workspace import plugins as installed

    with _inside(folder, kubernetes, options.check(**given), Runner()) as inside:
        found = installed.list_installed(inside.client)
    if as_json:
        print_result(envelope.to_json("plugins", passed=True, plugins=plugins.as_list(found)))
    else:
        print_result(plugins.as_text(found))


@plugins_group.command("add")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path, dir_okay=False), metavar="[FILE]...")
@options.apply((options.FOLDER, options.RUNS_THERE, options.IMAGES, *options.ENTER, options.JSON))
def plugins_add_command(
    files: tuple[Path, ...],
    folder: Path | None,
    kubernetes: Path | None,
    images: Path | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Install or upgrade plugins: packages (*.difypkg), or files of `python -m build plugin` with their wheels.

    On a cluster, without a file: those that the bundle brings, out of its image archive.
    """
    from installer.commands import plugins, workspace

    if not files and kubernetes is None:
        raise errors.UsageError("no file is named", "name packages (*.difypkg), or files of `python -m build plugin`")
    console = Console(silent=as_json)
    with _inside(folder, kubernetes, options.check(**given), Runner(), alone=True) as inside:
        if inside.cluster is not None:
            archive = options.archive(images)
            brought = plugins.add_to_cluster(inside.client, files, inside.cluster, archive, console)
        else:
            brought = plugins.add(inside.client, files, inside.place, inside.containers, console)
    if as_json:
        print_result(envelope.to_json("plugins", passed=True, plugins=plugins.as_list(brought)))
    else:
        print_result(workspace.told_plugins(brought))


@plugins_group.command("remove")
@click.argument("name")
@options.apply((options.FOLDER, options.RUNS_THERE, *options.ENTER, options.JSON))
def plugins_remove_command(
    name: str, folder: Path | None, kubernetes: Path | None, as_json: bool, **given: Any
) -> None:
    """Remove a plugin by its name, as in `plugins list`; its models stay known to Dify."""
    from installer.commands import plugins
    from installer.workspace import plugins as installed

    with _inside(folder, kubernetes, options.check(**given), Runner(), alone=True) as inside:
        removed = installed.remove(inside.client, name)
    found = [removed] if removed else []
    if as_json:
        print_result(envelope.to_json("plugins", passed=True, plugins=plugins.as_list(found)))
    else:
        print_result(f"{removed.name} {removed.version} removed" if removed else f"no plugin {name} is installed")


@cli.group("models", cls=Topic)
def models_group() -> None:
    """List, add, remove and try models of Dify's workspace."""


@models_group.command("list")
@options.apply((options.FOLDER, options.RUNS_THERE, *options.ENTER, options.JSON))
def models_list_command(folder: Path | None, kubernetes: Path | None, as_json: bool, **given: Any) -> None:
    """List the models that are registered."""
    from installer.commands import models
    from installer.workspace import models as registry

    with _inside(folder, kubernetes, options.check(**given), Runner()) as inside:
        found = registry.list_models(inside.client)
    if as_json:
        print_result(envelope.to_json("models", passed=True, models=models.as_list(found)))
    else:
        print_result(models.as_text(found))


@models_group.command("add")
@options.apply((*options.SERVERS, options.FOLDER, options.RUNS_THERE, *options.ENTER, options.JSON))
def models_add_command(folder: Path | None, kubernetes: Path | None, as_json: bool, **given: Any) -> None:
    """Register what model servers have, or those of their models that are named; others' settings stay."""
    from installer.checks import known_servers
    from installer.commands import workspace

    console = Console(silent=as_json)
    checked = options.check(**given)
    servers = options.servers(checked)
    if not servers:
        raise errors.UsageError("no model server is named", "add --ollama-url or --vllm-url")
    run = Runner()
    run.hide([each.key for each in checked.api_keys])
    with _inside(folder, kubernetes, checked, run, alone=True) as inside:
        found = inside.containers()
        registered = workspace.register(inside.client, servers, found, inside.place, inside.runtime, console)
        known_servers.add(inside.place, servers)
        lacking = workspace.judge_lacking(
            servers, registered, found, inside.place, inside.runtime, from_here=inside.cluster is None
        )
    faults = [*lacking, *workspace.told_faults(registered)]
    passed = bool(registered) and not faults
    if as_json:
        done = [dataclasses.asdict(workspace.as_model(each)) for each in registered]
        print_result(envelope.to_json("models", passed=passed, models=done, findings=finding.as_list(faults)))
    else:
        print_result(workspace.told_models(registered))
        if faults:
            print_result(finding.as_text(faults))
    if not passed:
        told = "not every model could be registered" if faults else "the servers tell of no models"
        raise errors.ModelServerFailed(told, "see what is marked WARN" if faults else "load one on the model server")


@models_group.command("remove")
@click.argument("name")
@options.apply((options.FOLDER, options.RUNS_THERE, *options.ENTER, options.JSON))
def models_remove_command(name: str, folder: Path | None, kubernetes: Path | None, as_json: bool, **given: Any) -> None:
    """Remove a model from Dify, with its credentials; the model server keeps it."""
    from installer.commands import models

    with _inside(folder, kubernetes, options.check(**given), Runner(), alone=True) as inside:
        removed = models.remove(inside.client, name)
    if as_json:
        print_result(envelope.to_json("models", passed=True, models=models.as_list(removed)))
    else:
        print_result(f"{name} removed" if removed else f"no model {name} is registered")


@models_group.command("test")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@options.apply((options.LANGUAGE, options.FOLDER, options.RUNS_THERE, *options.ENTER, options.JSON))
def models_test_command(
    names: tuple[str, ...], folder: Path | None, kubernetes: Path | None, as_json: bool, **given: Any
) -> None:
    """Ask models through Dify, all or those of these names; embedding models index and find something."""
    from installer.commands import models, workspace

    checked = options.check(**given)
    with _inside(folder, kubernetes, checked, Runner()) as inside:
        runs = workspace.worker_watch(inside.containers)
        results = models.test(inside.client, names, checked.language, runs, Console(silent=as_json))
    passed = not finding.any_failed(results)
    if as_json:
        print_result(envelope.to_json("models", passed=passed, findings=finding.as_list(results)))
    else:
        print_result(finding.as_text(results) or "no model is registered that can be tried")
    if not passed:
        raise errors.WorkspaceFailed("a model does not answer: see what is marked FAIL", "fix it as said there")


@cli.command("ask")
@click.argument("question")
@click.option("--with", "model", metavar="MODEL", help="The model to ask. [default: the workspace's default]")
@options.apply((options.FOLDER, options.RUNS_THERE, *options.ENTER, options.JSON))
def ask_command(
    question: str, model: str | None, folder: Path | None, kubernetes: Path | None, as_json: bool, **given: Any
) -> None:
    """Ask a model a question through Dify, and print its answer and its seconds."""
    from installer.commands import models
    from installer.workspace import ask

    with _inside(folder, kubernetes, options.check(**given), Runner()) as inside:
        answer = ask.ask(inside.client, *models.choose(inside.client, model), ask.WORDS["en"], question)
    if as_json:
        print_result(envelope.to_json("answer", passed=True, **dataclasses.asdict(answer)))
    else:
        print_result(answer.answer)
        Console().line(f"{answer.model}: first word after {answer.first_seconds} s, all after {answer.seconds} s")


@cli.command("watch-egress")
@click.option(
    "--minutes",
    type=click.FloatRange(0.05, 7 * 24 * 60),
    default=10,
    show_default=True,
    metavar="N",
    help="How long to watch.",
)
@options.apply((*options.SERVER_URLS, options.FOLDER, options.JSON))
def watch_egress_command(
    minutes: float, ollama_urls: tuple[str, ...], vllm_urls: tuple[str, ...], folder: Path | None, as_json: bool
) -> None:
    """Watch for some minutes which names and addresses outside the containers ask for (root); changes nothing."""
    from installer.commands import watch_egress
    from installer.engine import choose

    place = layout.Installation(options.folder(folder))
    engine = choose.choose_engine(None, place, Runner())
    seen = watch_egress.watch_egress(place, engine, minutes, (*ollama_urls, *vllm_urls), Console(silent=as_json))
    if as_json:
        print_result(envelope.to_json("egress", passed=seen.passed, **watch_egress.as_fields(seen)))
    else:
        print_result(watch_egress.as_text(seen))
    if not seen.passed:
        raise errors.EgressSeen(
            "something was asked for that is not expected, or could not be seen: see what is marked FAIL",
            "do what is said there",
        )


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
    wake.watch_signals()
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
        if not interruption.wanted:
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
