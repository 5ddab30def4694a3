"""The installation, top to bottom. Asks, acts, asks again: a second run is the recovery."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from installer.bundle import manifest, verify
from installer.checks import checklist, models, waiting
from installer.commands import report
from installer.core import errors, files, layout, lock, logfile
from installer.core.console import Console
from installer.core.runner import Runner
from installer.engine import engine as engines
from installer.engine import install_podman, podman_compose
from installer.host import host, preflight
from installer.images import load, mounted_store, supply
from installer.release import compose, dify, envfile, settings
from installer.request import Request
from installer.stack import project, stack
from installer.system import boot_unit, firewall, own_copy

if TYPE_CHECKING:
    from installer.release import tls


# Where RHEL and Debian keep the authorities that the host trusts: the Python on board knows no such place.
HOST_AUTHORITIES = (Path("/etc/pki/tls/certs/ca-bundle.crt"), Path("/etc/ssl/certs/ca-certificates.crt"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Cleared:
    """What is known once the bundle and the host have passed; `env` is what `.env` will be."""

    supply: supply.Supply
    wanted: host.Wanted
    engine: engines.Engine
    host: host.Host
    env: str
    certificate: tls.Pair | None

    @property
    def bundle(self) -> manifest.Manifest:
        return self.supply.bundle


def install(request: Request, runner: Runner, console: Console) -> report.Report:
    """Bring the host to a healthy Dify and return the report of it; the same call again repairs.

    Raises the error of the first step that fails; what was done until then stays, and counts.
    """
    place = layout.Installation(request.folder)
    memory = logfile.begin()
    result = report.Report(folder=str(place.folder))
    runner.hide([server.key for server in request.servers])
    with lock.hold(place.folder):
        cleared = _clear(request, place, result, runner, console)
        # ---- The point of no return: above this line nothing on the host has been changed. ----
        files.folder(place.folder)
        result.log = str(logfile.write_to(memory, place.logs))
        with _kept(result, place):
            cleared = _with_podman(request, cleared, result, runner, console)
            document = _act(request, cleared, place, result, runner, console)
    with _kept(result, place):
        # The unit starts the stack under the lock, which is free again by now.
        _finish(request, cleared, place, document, result, runner, console)
        _judge(request, result)
        result.result = "done"
    return result


def _clear(
    request: Request, place: layout.Installation, result: report.Report, runner: Runner, console: Console
) -> Cleared:
    """Verify the bundle, judge the host, compute the settings: all that can refuse without a change."""
    with result.step("verify", console) as step:
        bundle = verify.check_embedded(layout.bundled(""))
        result.dify = bundle.dify
        engine = engines.find(request.engine, place, runner)
        source = supply.find_supply(bundle, request.archive, place, engine)
        load.require_base(bundle, source.missing, engine)
        step.seen = supply.verify_supply(source, request.verify_full, engine, console)
    with result.step("preflight", console) as step:
        wanted = wants(request, source)
        found, step.seen = _suitable(wanted, engine, result, "nothing has been changed")
    example = (layout.bundled(layout.PROJECT) / layout.ENV_EXAMPLE).read_text("utf-8")
    env = settings.compute(example, existing_env(place), request.asked, bundle.variables, place.volumes)
    certificate = _certificate(request, place, urlsplit(envfile.parse(env)[dify.ADDRESS_KEY]).hostname or "")
    return Cleared(supply=source, wanted=wanted, engine=engine, host=found, env=env, certificate=certificate)


def _suitable(wanted: host.Wanted, engine: engines.Engine, result: report.Report, so_far: str) -> tuple[host.Host, str]:
    """Return what the host is like and its judgement in words. Raises PreflightFailed with all findings."""
    found = host.observe(wanted, engine)
    findings = preflight.judge(found, wanted)
    if preflight.failed(findings):
        raise errors.PreflightFailed(
            f"this host is not ready:\n{preflight.as_text(each for each in findings if each.level != 'ok')}",
            f"mend what is marked FAIL, then run the same command again; {so_far}",
        )
    warnings = [f"{each.message}; do: {each.remedy}" for each in findings if each.level == "warning"]
    result.notes += [warning for warning in warnings if warning not in result.notes]
    return found, f"{len(findings)} checks passed, {len(warnings)} with a warning"


def _certificate(request: Request, place: layout.Installation, name: str) -> tls.Pair | None:
    """Return the certificate that this run installs: the one given, or one of our own. Raises UsageError."""
    if request.tls is None:
        return None
    from installer.release import tls

    now = datetime.datetime.now(datetime.UTC)
    if request.tls == "self-signed":
        return tls.read_installed(place, name, now) or tls.make_self_signed(name, now)
    return tls.read(*request.tls, name, now)


def wants(request: Request, source: supply.Supply) -> host.Wanted:
    """Return what this request wants of the host. Raises UsageError for a port in `.env` that is none."""
    bundle, place = source.bundle, layout.Installation(request.folder)
    existing = envfile.parse(existing_env(place) or "")
    loaded = () if source.store else source.missing
    copied = bundle.store if source.store and source.store.parent != place.stores else None
    return host.Wanted(
        folder=request.folder,
        address=request.asked.host,
        ports=_ports(request, existing),
        architecture=bundle.architecture,
        largest_image_bytes=max((image.size for image in loaded), default=0),
        missing_bytes=sum(load.layer_sizes(loaded, bundle).values()),
        store_bytes=copied.size if copied else 0,
        compressed=any(bundle.archives[image.archive].compression == "zstd" for image in loaded),
        not_before=_moment(bundle.newest_image),
        firewall=request.firewall,
        install_podman=request.install_podman,
        api_image=project.find_api_image(layout.bundled(layout.PROJECT)),
    )


def _ports(request: Request, existing: Mapping[str, str]) -> dict[str, int]:
    """Return the ports that will be published: asked for, else those of `.env`, else upstream's."""
    ports = {}
    for name, key in dify.PORTS.items():
        text = request.asked.values.get(key) or existing.get(key) or str(settings.DEFAULT_PORTS[name])
        ports[name] = request.asked.ports.get(name) or settings.checked_port(text, key)
    return ports


def _moment(text: str) -> datetime.datetime | None:
    """Return the time of the newest image, which a right clock has passed."""
    with contextlib.suppress(ValueError):
        return datetime.datetime.fromisoformat(text[:19]).replace(tzinfo=datetime.UTC)
    return None


def existing_env(place: layout.Installation) -> str | None:
    """Return the `.env` that is there, or None. Raises CommandFailed when it may not be read."""
    try:
        return place.env.read_text("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise errors.CommandFailed(
            f"{place.env} cannot be read: {error}", "run as the user who installed, or give another folder with --dir"
        ) from error


def _with_podman(
    request: Request, cleared: Cleared, result: report.Report, runner: Runner, console: Console
) -> Cleared:
    """Install podman where that was asked for and is needed; then look at the host again, as podman makes it."""
    if cleared.host.engine_version is not None:
        return cleared
    with result.step("podman", console) as step:
        install_podman.install(request.rpms, runner)
        found, step.seen = _suitable(cleared.wanted, cleared.engine, result, "podman has been installed")
    return dataclasses.replace(cleared, host=found)


def _act(
    request: Request,
    cleared: Cleared,
    place: layout.Installation,
    result: report.Report,
    runner: Runner,
    console: Console,
) -> compose.Document:
    """Bring everything about; return the compose file that runs."""
    bundle, payload, engine = cleared.bundle, layout.bundled(""), cleared.engine
    own_copy.keep(place)
    with ThreadPoolExecutor(1) as beside:
        # podman loads on one processor and a half: podman-compose's environment is made beside it.
        composer = beside.submit(_install_podman_compose, cleared.host, engine, place, result, runner)
        with result.step("images", console) as step:
            step.seen, note = supply.bring(cleared.supply, place, engine, cleared.host, console)
            result.notes += [note] if note else []
    if engine.name == "podman":
        with result.step("podman-compose", console) as step:
            step.seen = composer.result()
    with result.step("settings", console) as step:
        project.lay_down(bundle, payload, place)
        changed = settings.write(place, cleared.env)
        renewed = _install_certificate(cleared, place)
        _install_authorities(request, place)
        variables = project.read_variables(place)
        runner.hide(settings.secret_values(variables))
        document = project.write_compose(place, variables, engine, cleared.host)
        result.url = variables[dify.ADDRESS_KEY]
        step.seen = f"{place.env} {'written' if changed else 'unchanged'}"
    deadline = time.monotonic() + request.timeout
    with result.step("start", console) as step:
        acted = stack.up(place, document, deadline, engine, console)
        if renewed and not acted:
            stack.reload_proxy(engine)
        step.seen = f"{len(document['services'])} services {'started' if acted else 'run already'}"
    if cleared.host.firewalld and cleared.host.root and request.firewall and engine.name == "podman":
        with result.step("firewall", console) as step:
            step.seen = firewall.admit(preflight.closed_ports(cleared.host, cleared.wanted), runner)
    front = checklist.front_door(place, result.url, bundle.dify, engine)
    with result.step("health", console) as step:
        waiting.await_console(front, document, deadline, engine, console)
        step.seen = result.url
    return document


def _finish(
    request: Request,
    cleared: Cleared,
    place: layout.Installation,
    document: compose.Document,
    result: report.Report,
    runner: Runner,
    console: Console,
) -> None:
    """Provide for the next boot, and look at everything as a user would."""
    mounted_store.retire(place, cleared.bundle.store, cleared.engine)
    if request.boot:
        with result.step("boot", console) as step:
            step.seen = boot_unit.enable(place, runner)
    with result.step("check", console) as step:
        engine = cleared.engine
        found = stack.list_containers(engine)
        probe = layout.bundled(layout.PROBE)
        front = checklist.front_door(place, result.url, cleared.bundle.dify, engine)
        result.checks = checklist.run_checks(document, found, front, probe, engine)
        result.models = models.check_servers(list(request.servers), found, _authorities(place), probe, engine)
        if any("first account" in each.seen for each in result.checks):
            result.notes.append(f"the first page asks for INIT_PASSWORD; it stands in {place.env}")
        step.seen = f"{sum(each.level != 'error' for each in result.checks)} of {len(result.checks)} passed"


def _install_podman_compose(
    found: host.Host, engine: engines.Engine, place: layout.Installation, result: report.Report, runner: Runner
) -> str:
    """Install podman-compose, which docker does without, and say in words what runs it."""
    if engine.name == "docker":
        return ""
    pythons = [python.path for python in preflight.usable_pythons(found)]
    installed = podman_compose.install(place, layout.bundled(""), pythons, path_folder(), runner)
    if installed.on_path is None:
        result.notes.append(f"{path_folder()}/podman-compose is somebody else's; ours is {place.podman_compose}")
    return f"{installed.version}, run by {'Python' if installed.by == 'python' else 'the installer itself'}"


def _install_authorities(request: Request, place: layout.Installation) -> None:
    """Put the authorities of --ca-bundle where the containers will find them; those of an earlier run stay."""
    if request.ca_bundle is not None:
        files.folder(place.ca_bundle.parent)
        files.write(place.ca_bundle, request.ca_bundle)


def _install_certificate(cleared: Cleared, place: layout.Installation) -> bool:
    """Put the certificate of this run in place, if it has one; tell whether it is a new one."""
    if cleared.certificate is None:
        return False
    from installer.release import tls

    return tls.write(place, cleared.certificate)


def _authorities(place: layout.Installation) -> str:
    """Return the file of authorities with which this host asks model servers: Dify's, else its own."""
    return next((str(path) for path in (place.ca_bundle, *HOST_AUTHORITIES) if path.is_file()), "")


def path_folder() -> Path:
    """Return the folder of the path that commands are linked into."""
    return Path("/usr/local/bin") if os.geteuid() == 0 else Path.home() / ".local/bin"


@contextlib.contextmanager
def _kept(result: report.Report, place: layout.Installation) -> Iterator[None]:
    """Write the report whatever happens in the block; it then says how far the run came."""
    try:
        yield
    except errors.InstallerError as error:
        result.result = error.meaning
        error.remedy = "; ".join(filter(None, (error.remedy, f"the log is {result.log}")))
        raise
    finally:
        files.write(place.report, report.as_json(result), mode=0o600)


def _judge(request: Request, result: report.Report) -> None:
    """Fail for what must not be: an error of the checklist, or a required model server that fails."""
    bad = [each for each in result.checks if each.level == "error"]
    if bad:
        raise errors.NotHealthy(
            "the stack runs, but: " + "; ".join(f"{each.name}: {each.seen}" for each in bad), bad[0].remedy
        )
    unanswered = [each for each in result.models if each.level != "ok"]
    if unanswered and request.require_models:
        raise errors.ModelServerFailed(
            "; ".join(f"{each.name}: {each.seen}" for each in unanswered), unanswered[0].remedy
        )
