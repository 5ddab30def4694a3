"""The installation, top to bottom: plan, then act on that very plan. A second run is the recovery."""

from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from installer import plan as plans
from installer.backup import arrival as arrivals
from installer.backup import exchange, vectors
from installer.checks import checklist, front_door, known_servers, models, others, trend, waiting
from installer.commands import back, overview, page, report, start, workspace
from installer.core import errors, files, finding, layout, lock, logfile
from installer.core.console import Console, size
from installer.core.runner import Runner
from installer.engine import install_podman, podman_compose
from installer.host import judge, ownership
from installer.host.judge.system import usable_pythons
from installer.images import image_store, inventory, plugins, superseded, supply, unpacked_store
from installer.images.order import AS_THEY_COME, Order
from installer.plan import Plan, Request
from installer.registry import pull
from installer.release import compose, env_history, external, masks, settings
from installer.services import postgresql
from installer.stack import ahead, api_start, project, run, state
from installer.system import boot_unit, firewall, leftovers, own_copy
from installer.upgrade import kept, rows
from installer.upgrade.plan import Upgrade


@dataclass(frozen=True, slots=True)
class Laid:
    """A project that is laid down: the compose file that is to run, and whether nginx has a new certificate."""

    document: compose.Document
    renewed: bool


def install(request: Request, runner: Runner, console: Console) -> report.Report:
    """Bring the host to a healthy Dify and return the report of it; the same call again repairs.

    Raises the error of the first step that fails; what was done until then stays, and counts.
    """
    place = layout.Installation(request.folder)
    memory = logfile.begin()
    result = report.Report(folder=str(place.folder))
    if (left := kept.read(place)) is not None and left.state == "returning":
        # A run that was killed on the way back; then this one begins anew.
        start.start(place, request.timeout, runner, console)
    runner.hide(_secrets(request))
    with lock.hold(place.folder) as held:
        if request.restore is None or not exchange.is_arriving(place):
            exchange.require_ended(place)
        plan = _plan(request, result, runner, console)
        # ---- The point of no return: above this line nothing on the host has been changed. ----
        ownership.claim(place)
        result.log = str(logfile.write_to(memory, place.logs))
        with _kept(result, lambda: plan):
            leftovers.remove_leftovers(place)
            plan = _with_podman(plan, result, runner, console)
            document = _act(plan, held, result, runner, console)
            _finish(plan, document, held, result, runner, console)
            _judge_stack(result)
            workspace.furnish(plan, result, console)
            _judge_models(request, result)
            result.result = "done"
    return result


def _secrets(request: Request) -> list[str]:
    """Return what this run was given and nothing may show."""
    password = request.admin.password if request.admin else ""
    login = request.registry.login if request.registry else None
    given = masks.secret_values(request.asked.values)
    return [*(server.key for server in request.servers), password, login.password if login else "", *given]


def _plan(request: Request, result: report.Report, runner: Runner, console: Console) -> Plan:
    """Verify the bundle, judge the host, compute the settings: all that can refuse without a change."""
    with result.step("verify", console) as step:
        sources = plans.find_sources(request, runner, console)
        result.dify, step.seen = sources.bundle.dify, sources.verified
    with result.step("preflight", console) as step:
        plan = plans.make_plan(request, sources)
        plan.require_passed()
        step.seen = _noted(plan, result)
    return plan


def _noted(plan: Plan, result: report.Report) -> str:
    """Add the plan's warnings to the report's notes; return in words how many findings there are."""
    warnings = [finding.as_note(each) for each in plan.findings if each.level == "warning"]
    result.notes += [warning for warning in warnings if warning not in result.notes]
    return f"{len(plan.findings)} checks passed, {len(warnings)} with a warning"


def _with_podman(plan: Plan, result: report.Report, runner: Runner, console: Console) -> Plan:
    """Install podman where that was asked for and is needed; then look at the host again, as podman makes it."""
    if plan.host.engine.version is not None:
        return plan
    with result.step("podman", console) as step:
        install_podman.install(plan.request.rpms, runner)
        plan = plans.look_again(plan)
        plan.require_passed("podman has been installed")
        step.seen = _noted(plan, result)
    return plan


def _act(plan: Plan, held: lock.Held, result: report.Report, runner: Runner, console: Console) -> compose.Document:
    """Bring everything about; return the compose file that runs."""
    if plan.upgrade is not None:
        return _upgrade(plan, plan.upgrade, held, result, runner, console)
    place = plan.place
    kept.discard(place, plan.engine)
    own_copy.keep(place)
    with ThreadPoolExecutor(1) as beside:
        # podman loads on one processor and a half: podman-compose's environment is made beside it.
        composer = beside.submit(_install_podman_compose, plan, result, runner)
        laid = _settings(plan, result, console)
        with _ahead(plan, laid.document, composer) as early:
            _bring_images(plan, result, console, early.order)
    if plan.engine.needs_podman_compose:
        with result.step("podman-compose", console) as step:
            step.seen = composer.result()
    with unpacked_store.on_disk(place, plan.engine, console):
        return _bring_up(plan, laid, result, console)


def _ahead(plan: Plan, document: compose.Document, composer: Future[str]) -> ahead.Ahead:
    """Return what starts the api while images are brought: in a new installation alone, and not before its data."""
    assert plan.settings is not None
    waves: tuple[ahead.Wave, ...] = ()
    one_by_one = plan.engine.proves_layers or plan.request.registry is not None
    new = plan.arrival is None and plan.rows is None and not state.list_containers(plan.engine)
    if one_by_one and new:
        waves = ahead.plan_waves(document, plan.settings.resolved, plan.bundle.images)
    name = partial(superseded.name, plan.place, engine=plan.engine)
    return ahead.Ahead(plan.place, document, waves, plan.engine, name, composer)


def _upgrade(
    plan: Plan, move: Upgrade, held: lock.Held, result: report.Report, runner: Runner, console: Console
) -> compose.Document:
    """Keep the older version, and bring the newer one about in its place; if that fails, the older one comes back.

    Not for Ctrl-C, which is to end at once: the same command goes on then.
    """
    place, engine = plan.place, plan.engine
    if not kept.is_begun(place):
        kept.note(place, move.before, move.after, engine)
    _bring_images(plan, result, console)
    # What runs is not ended before the disk has what comes in its place.
    with unpacked_store.on_disk(place, engine, console):
        pass
    with _or_back(plan, move, held, console):
        with result.step("keep", console) as step:
            step.seen = _keep(plan, move, console)
        if engine.needs_podman_compose:
            with result.step("podman-compose", console) as step:
                step.seen = _install_podman_compose(plan, result, runner)
        document = _bring_up(plan, _settings(plan, result, console), result, console)
        with result.step("rows", console) as step:
            step.seen = _compare(plan, result)
        _look(plan, document, result, console)
        _judge_stack(result)
        kept.mark(place, "done")
    note = f"Dify {move.before} is kept in {place.previous}, {size(kept.measure(place.previous, engine))}"
    result.notes.append(f"{note}: `dify-installer rollback` goes back to it, `dify-installer prune` removes it")
    if move.carried.gone:
        gone = ", ".join(move.carried.gone)
        result.notes.append(f"Dify {move.after} has no more, and .env has lost: {gone}; {place.previous} has them")
    return document


def _keep(plan: Plan, move: Upgrade, console: Console) -> str:
    """Make the copy of the older version, unless a run that was interrupted has; return in words what came of it."""
    place, engine = plan.place, plan.engine
    if kept.is_begun(place):
        return f"{place.previous} was made by the run that was interrupted"
    variables = settings.load(place).resolved
    authorities = plans.installed_authorities(place)
    kept.count(place, rows.count(variables, state.list_ours(place, engine), engine, authorities))
    taken = kept.make(place, engine, console)
    # The executable comes first: from here on, what starts at a boot has to know of the upgrade.
    own_copy.keep(place)
    kept.mark(place, "begun")
    return f"Dify {move.before} is kept in {place.previous}, {size(taken)}"


@contextlib.contextmanager
def _or_back(plan: Plan, move: Upgrade, held: lock.Held, console: Console) -> Iterator[None]:
    """Bring the older version back when the block fails, whatever for; the error then says so."""
    try:
        yield
    except Exception as error:
        console.line(f"the upgrade has failed: {error}")
        said = error if isinstance(error, errors.InstallerError) else None
        try:
            if _is_migrated(plan, move):
                raise back.put_back_without_rows(plan.place, move.before, move.after, plan.engine, console)
            # Whoever gives the newer version little time gives the older one what it needs.
            timeout = max(plan.request.timeout, plans.DEFAULT_TIMEOUT)
            aside = back.put_back(plan.place, move.before, layout.PROJECT_FAILED, timeout, held, plan.engine, console)
            told = f"Dify {move.before} is back and runs, with its data as they were before the upgrade"
            told += f"; what the upgrade has made of them is in {aside}, which you may remove" if aside else ""
        except errors.InstallerError as second:
            told = f"{second.message}: {second.remedy}"
        if said is None:
            console.line(told)
            raise
        said.message = f"the upgrade to Dify {move.after} has failed: {said.message}"
        said.remedy = "; ".join(filter(None, (said.remedy, told)))
        raise


def _is_migrated(plan: Plan, move: Upgrade) -> bool:
    """Tell whether a database that is not ours has come to another revision than before, as far as it can be told."""
    database = external.find_database(plan.settings.resolved) if plan.settings else None
    if database is None or plan.rows is None or kept.read(plan.place) is None:
        return False
    if move.begun:
        return True
    with contextlib.suppress(errors.PreflightFailed):
        return postgresql.read_revision(database, plans.installed_authorities(plan.place)) != plan.rows.revision
    return True


def _compare(plan: Plan, result: report.Report) -> str:
    """Compare the rows with those before; return in words what came of it. Raises CommandFailed when work is lost."""
    record = kept.read(plan.place)
    assert record is not None
    assert plan.settings is not None
    before = record.counted
    authorities = plans.installed_authorities(plan.place)
    after = rows.count(plan.settings.resolved, state.list_ours(plan.place, plan.engine), plan.engine, authorities)
    if why := before.why_not or after.why_not:
        result.notes.append(f"the rows of the database were not compared: {why}")
        return f"not compared: {why}"
    compared = rows.compare(before.rows, after.rows)
    if compared.lost:
        raise errors.CommandFailed(f"tables with people's work are empty: {rows.in_words(compared.lost)}")
    if compared.fewer:
        result.notes.append(f"tables have fewer rows than before the upgrade: {rows.in_words(compared.fewer)}")
    return f"{compared.total} in {compared.tables} tables; {len(compared.fewer)} tables have fewer than before"


def _bring_images(plan: Plan, result: report.Report, console: Console, wanted: Order = AS_THEY_COME) -> None:
    with result.step("images", console) as step:
        image_store.remove_lost(plan.place, plan.engine)
        if plan.request.registry is not None:
            step.seen = _pull(plan, plan.request.registry, console, wanted)
            return
        step.seen, note = supply.bring(plan.sources.supply, plan.place, plan.engine, plan.host, console, wanted)
        result.notes += [note] if note else []


def _pull(plan: Plan, registry: pull.Source, console: Console, wanted: Order) -> str:
    """Have the engine pull what it lacks; prove that all is there then, and say what was done."""
    pulled = pull.pull(registry, plan.sources.offers, plan.place, plan.engine, console, wanted)
    needed = plugins.needed_images(plan.bundle, plan.place)
    superseded.name(plan.place, needed, plan.engine)
    return f"{len(pulled)} pulled from {registry.registry.host}, {len(needed) - len(pulled)} there already"


def _settings(plan: Plan, result: report.Report, console: Console) -> Laid:
    with result.step("settings", console) as step:
        laid, step.seen = _lay_down(plan, result)
    return laid


def _bring_up(plan: Plan, laid: Laid, result: report.Report, console: Console) -> compose.Document:
    """Start the project that is laid down, and wait until Dify answers; return the compose file that runs."""
    place, engine, document = plan.place, plan.engine, laid.document
    if plan.bundle.plugins is not None:
        with result.step("plugins", console) as step:
            written = plugins.lay_down(plan.bundle, place, engine)
            step.seen = f"{len(plan.bundle.plugins.packages)} packages, {written} files written into {place.plugins}"
    if plan.rows is not None and plan.rows.missing:
        with result.step("database", console) as step:
            step.seen = _make_databases(plan, plan.rows.missing)
    if plan.arrival is not None:
        with result.step("data", console) as step:
            step.seen = _bring(plan, plan.arrival, document, result, console)
    with others.telling(lambda: _look_at_others(plan)):
        _start(plan, document, result, console, renewed=laid.renewed)
    if plan.arrival is not None and not plan.arrival.without_vectors:
        assert plan.settings is not None
        counted = vectors.count(plan.settings.resolved, state.list_ours(place, engine), engine)
        result.compared += vectors.compare(plan.sources.parts, counted)
    return document


def _look_at_others(plan: Plan) -> list[finding.Finding]:
    assert plan.settings is not None
    found = state.list_containers(plan.engine)
    return others.check(plan.settings.resolved, found, layout.bundled(layout.PROBE), plan.engine)


def _start(plan: Plan, document: compose.Document, result: report.Report, console: Console, *, renewed: bool) -> None:
    """Start the stack and wait until Dify answers. Raises NotHealthy."""
    place, engine = plan.place, plan.engine
    assert plan.settings is not None
    deadline = time.monotonic() + plan.request.timeout
    with result.step("start", console) as step:
        found = inventory.list_present(engine)
        images = inventory.find_ids(document, plan.settings.resolved, plan.bundle.images, found)
        wanted = run.Wanted(document, plan.settings.resolved, images)
        api_start.fill_folders(place)
        acted = run.up(place, wanted, deadline, engine, console)
        if renewed and not acted:
            run.reload_proxy(engine)
        step.seen = f"{len(document['services'])} services {'started' if acted else 'run already'}"
    if opens_firewall(plan):
        with result.step("firewall", console) as step:
            closed = judge.network.closed_ports(plan.host, plan.wanted)
            step.seen = firewall.admit(judge.network.browser_ports(plan.wanted), closed, place, engine)
    front = front_door.front_door(place, result.url, plan.bundle.dify, engine)
    with result.step("health", console) as step:
        waiting.await_console(front, document, deadline, engine, console)
        step.seen = result.url


def _make_databases(plan: Plan, missing: tuple[str, ...]) -> str:
    """Make databases on a server that is not ours, empty; say which. Raises PreflightFailed where it refuses now."""
    assert plan.settings is not None
    database = external.find_database(plan.settings.resolved)
    assert database is not None
    postgresql.create(database, missing, plans.installed_authorities(plan.place))
    return f"{' and '.join(missing)} made at {database.where}"


def _bring(
    plan: Plan, arrival: arrivals.Arrival, document: compose.Document, result: report.Report, console: Console
) -> str:
    """Bring what the backup holds into the installation, which has nothing yet; say what came."""
    place = plan.place
    exchange.begin_arrival(place, plan.engine)
    project.lay_down(plan.bundle, layout.bundled(""), place)
    assert plan.settings is not None
    project.make_folders(place, document, plan.settings.resolved)
    result.compared = arrivals.bring(arrival, place, plan.sources.parts, plan.engine, console)
    if arrival.head.ours:
        arrivals.write_own(arrival, place)
    exchange.end(place, arrival.head, plan.engine)
    example = (place.project / layout.ENV_EXAMPLE).read_text("utf-8")
    result.notes += arrivals.in_words(arrivals.carried(arrival, example), arrival)
    head = arrival.head
    same = sum(each.level == "ok" for each in result.compared)
    return f"Dify {head.dify} of {head.host}, {head.made}: {same} parts, the same on both sides"


def opens_firewall(plan: Plan) -> bool:
    """Tell whether this run opens ports in firewalld."""
    host = plan.host
    return host.network.firewalld and host.user.root and plan.request.firewall and host.engine.asks_firewall


def _lay_down(plan: Plan, result: report.Report) -> tuple[Laid, str]:
    """Write all files of the project; return what was laid down, and in words what was done."""
    place = plan.place
    assert plan.settings is not None
    project.lay_down(plan.bundle, layout.bundled(""), place)
    changed = env_history.write(place, plan.settings.text)
    renewed = _install_certificate(plan)
    if plan.authorities is not None:
        # Those of an earlier run stay when none are given.
        files.folder(place.ca_bundle.parent)
        files.write(place.ca_bundle, plan.authorities)
    # The plugins' files come with the images.
    coming = [place.plugins / file.path for file in plugins.find_missing(plan.bundle, place)]
    choice = project.choose(place, plan.settings.resolved, plan.engine, plan.host, plan.bundle.images, coming)
    document = project.write_compose(place, choice, plan.engine)
    result.url = plan.settings.url
    return Laid(document, renewed), f"{place.env} {'written' if changed else 'unchanged'}"


def _install_certificate(plan: Plan) -> bool:
    """Put the certificate of this run in place, if it has one; tell whether it is a new one."""
    if plan.certificate is None:
        return False
    from installer.release import tls

    return tls.write(plan.place, plan.certificate)


def _install_podman_compose(plan: Plan, result: report.Report, runner: Runner) -> str:
    """Install podman-compose, where the engine needs it, and say in words what runs it."""
    if not plan.engine.needs_podman_compose:
        return ""
    pythons = [python.path for python in usable_pythons(plan.host)]
    link_in = own_copy.path_folder()
    installed = podman_compose.install(plan.place, layout.bundled(""), pythons, link_in, runner)
    if installed.on_path is None:
        result.notes.append(f"{link_in}/podman-compose is somebody else's; ours is {plan.place.podman_compose}")
    return f"{installed.version}, run by {'Python' if installed.by == 'python' else 'the installer itself'}"


def _finish(
    plan: Plan,
    document: compose.Document,
    held: lock.Held,
    result: report.Report,
    runner: Runner,
    console: Console,
) -> None:
    """Remove what nothing needs any more, provide for the next boot, and look at everything, unless that was done."""
    place, engine, request = plan.place, plan.engine, plan.request
    images, stores = kept.list_images(place)
    superseded.remove_superseded(place, plan.bundle.images, engine, images)
    image_store.retire(place, plan.bundle.store, engine, stores)
    api_start.remove_others(place, plan.bundle.images, images, engine)
    if request.boot:
        with result.step("boot", console) as step:
            step.seen = boot_unit.enable(place, held, runner)
    if plan.upgrade is None:
        _look(plan, document, result, console)


def _look(plan: Plan, document: compose.Document, result: report.Report, console: Console) -> None:
    """Look at everything as a user would."""
    place, engine, request = plan.place, plan.engine, plan.request
    with result.step("check", console) as step:
        found = state.list_containers(engine)
        probe = layout.bundled(layout.PROBE)
        front = front_door.front_door(place, result.url, plan.bundle.dify, engine)
        result.checks = checklist.run_checks(document, found, front, probe, engine)
        assert plan.settings is not None
        result.checks += others.check(plan.settings.resolved, found, probe, engine)
        result.models = models.check_servers(
            list(request.servers), found, models.host_authorities(place), probe, engine
        )
        if any("first account" in each.seen for each in result.checks):
            result.notes += _first_page(request, place)
        step.seen = f"{sum(each.level != 'error' for each in result.checks)} of {len(result.checks)} passed"
    if request.servers:
        known_servers.keep(place, request.servers)
    trend.note(place, overview.measure_data(place, engine), datetime.datetime.now(datetime.UTC).date())


def _first_page(request: Request, place: layout.Installation) -> list[str]:
    """Say how the first account is made, unless this run makes it."""
    if request.admin is not None:
        return []
    note = f"the first page asks for INIT_PASSWORD; it stands in {place.env}; or let the same command do it all"
    return [f"{note}, account, plugins and models: --admin-email EMAIL"]


@contextlib.contextmanager
def _kept(result: report.Report, planned: Callable[[], Plan]) -> Iterator[None]:
    """Write the report whatever happens in the block; it then says how far the run came. `planned` gives today's plan.

    What failed in the block is told even where the report cannot be written.
    """
    try:
        yield
    except BaseException as error:
        if isinstance(error, errors.InstallerError):
            result.result, result.error, result.remedy = error.meaning, error.message, error.remedy
            error.remedy = "; ".join(filter(None, (error.remedy, f"the log is {result.log}")))
        with contextlib.suppress(errors.CommandFailed):
            _write(result, planned())
        raise
    _write(result, planned())


def _write(result: report.Report, plan: Plan) -> None:
    """Write the report for programs and for people. Raises CommandFailed."""
    files.write(plan.place.report, report.as_json(result), mode=0o600)
    files.write(plan.place.report_page, page.make(result, plan), mode=0o600)


def _judge_stack(result: report.Report) -> None:
    """Fail for an error of the checklist."""
    bad = [each for each in result.checks if each.level == "error"]
    if bad:
        raise errors.NotHealthy(
            "the stack runs, but: " + "; ".join(f"{each.check}: {each.seen}" for each in bad), bad[0].remedy
        )


def _judge_models(request: Request, result: report.Report) -> None:
    """Fail for a required model server that fails, or one of its models."""
    unanswered = [each for each in result.models if each.level != "ok"]
    if unanswered and request.require_models:
        raise errors.ModelServerFailed(
            "; ".join(f"{each.check}: {each.seen}" for each in unanswered), unanswered[0].remedy
        )
