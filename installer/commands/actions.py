"""What an installation would do, by subject: for `install --dry-run` and `preflight --plan`."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass

from installer.backup import arrival as arrivals
from installer.commands.install import opens_firewall
from installer.core import errors, layout
from installer.core.console import size
from installer.engine.base import Container
from installer.host.judge import network
from installer.images import inventory, plugins
from installer.plan import Plan
from installer.release import compose, dify, envfile, external, intranet, render, resolvers, storage, tls
from installer.stack import applied, project, state
from installer.system import boot_unit, own_copy


@dataclass(frozen=True, slots=True)
class Action:
    """Something that would be done; `subject` is a word, `what` a sentence without secrets."""

    subject: str
    what: str


def list_actions(plan: Plan) -> list[Action]:
    """Return what `install` would do with a plan that has passed, in its order; empty for what it would leave as is."""
    assert plan.settings is not None
    settled = [*_settings(plan), *_intranet(plan), *_resolvers(plan), *_files(plan)]
    images = _images(plan)
    actions = [
        *_podman(plan),
        *_folder(plan),
        *_upgrade(plan),
        # An upgrade loads the new images while the older version runs with its settings.
        *((*images, *settled) if plan.upgrade else (*settled, *images)),
        *_databases(plan),
        *_storage(plan),
        *_data(plan),
        *_containers(plan),
        *_firewall(plan),
        *_unit(plan),
        *_inside(plan),
    ]
    return actions or [Action("nothing", "all is as it should be; the stack would be checked")]


def as_text(actions: Iterable[Action]) -> str:
    """Return the actions for people, one a line."""
    lines = [f"  {action.subject:<14}{action.what}" for action in actions]
    return "\n".join(["This would be done; nothing has been changed:", *lines])


def as_list(actions: Iterable[Action]) -> list[dict[str, str]]:
    """Return the actions for a machine: [{subject, what}]."""
    return [dataclasses.asdict(action) for action in actions]


def _podman(plan: Plan) -> list[Action]:
    if plan.host.engine.version is not None:
        return []
    return [Action("podman", f"is installed with dnf from {plan.request.rpms or 'the repositories of this host'}")]


def _folder(plan: Plan) -> list[Action]:
    actions = []
    if not plan.host.installation.folder_exists:
        actions.append(Action("folder", f"{plan.place.folder} is made"))
    if not own_copy.is_kept(plan.place):
        actions.append(Action("programs", f"this executable is kept as {plan.place.executable}"))
    if plan.engine.needs_podman_compose and not plan.place.podman_compose.exists():
        link = own_copy.path_folder() / plan.place.podman_compose.name
        actions.append(Action("programs", f"podman-compose is installed in {plan.place.venv} and linked as {link}"))
    return actions


def _upgrade(plan: Plan) -> list[Action]:
    """Name the versions, and the keys by what becomes of them; their values may be secrets."""
    move = plan.upgrade
    if move is None:
        return []
    kept = f"is stopped, and all of it is copied into {plan.place.previous}, {size(move.data_bytes)}"
    if move.begun:
        kept = f"is kept in {plan.place.previous}: the upgrade that was interrupted goes on"
    actions = [
        Action("upgrade", f"Dify {move.before} becomes {move.after}"),
        Action("upgrade", f"Dify {move.before} {kept}; if {move.after} does not become healthy, it comes back"),
        Action(
            "upgrade", f"Dify {move.after} migrates its databases as it starts; all rows are counted before and after"
        ),
    ]
    if move.replaced:
        actions.append(Action("upgrade", f"Dify {move.replaced}, which is kept so far, is removed"))
    told = (
        ("are new", move.carried.new),
        ("have another default, which is taken over", move.carried.changed),
        ("are gone, and were set here", move.carried.gone),
    )
    return actions + [Action("upgrade", f"settings that {how}: {', '.join(keys)}") for how, keys in told if keys]


def _storage(plan: Plan) -> list[Action]:
    assert plan.settings is not None
    found = storage.find(plan.settings.resolved)
    return [Action("storage", f"Dify keeps its files in {found.place}")] if found else []


def _databases(plan: Plan) -> list[Action]:
    assert plan.settings is not None
    if plan.rows is None or (database := external.find_database(plan.settings.resolved)) is None:
        return []
    told = [Action("database", f"{name} is made at {database.where}") for name in plan.rows.missing]
    return [*told, Action("database", f"Dify's tables are made or migrated in {database.name} at {database.where}")]


def _images(plan: Plan) -> list[Action]:
    source = plan.sources.supply
    if not source.missing:
        return []
    loaded = sum(inventory.layer_sizes(source.missing, plan.bundle).values())
    if source.store is not None:
        how = "is copied and mounted" if plan.host.mounts_stores else "is unpacked"
        return [Action("image store", f"{source.store} {how}, for {len(source.missing)} images")]
    each = ", ".join(f"{image.reference} ({size(image.size)})" for image in source.missing)
    return [Action("images", f"{len(source.missing)} are loaded, {size(loaded)} of layers: {each}")]


def _settings(plan: Plan) -> list[Action]:
    """Name the keys that change; their values may be secrets."""
    assert plan.settings is not None
    if plan.existing is None:
        return [Action("settings", f"{plan.place.env} is written, with new secrets")]
    before, after = envfile.parse(plan.existing), plan.settings.values
    changed = sorted(key for key in after if before.get(key) != after[key])
    if not changed:
        kept = plan.existing == plan.settings.text
        return [] if kept else [Action("settings", f"{plan.place.env} gets the number and the digest of its keys")]
    return [Action("settings", f"in {plan.place.env} change: {', '.join(changed)}")]


def _intranet(plan: Plan) -> list[Action]:
    assert plan.settings is not None
    before = envfile.parse(plan.existing or "").get(dify.ALLOW_INTRANET)
    after = plan.settings.values.get(dify.ALLOW_INTRANET)
    if plan.existing is not None and before == after:
        return []
    return [Action("intranet", f"HTTP nodes, code and tools may reach {intranet.in_words(intranet.read(after))}")]


def _resolvers(plan: Plan) -> list[Action]:
    assert plan.settings is not None
    before = envfile.parse(plan.existing or "").get(dify.RESOLVERS)
    after = plan.settings.values.get(dify.RESOLVERS)
    if plan.existing is not None and before == after:
        return []
    return [Action("names", f"the containers ask {resolvers.in_words(after)} for names that are not the stack's")]


def _files(plan: Plan) -> list[Action]:
    actions = []
    different = project.find_different(plan.bundle, layout.bundled(""), plan.place)
    if different:
        replaced = [str(target) for target, _ in different if target.exists()]
        kept = f"; replaced, and kept as NAME.before: {', '.join(replaced)}" if replaced else ""
        actions.append(Action("files", f"{len(different)} of Dify's are written into {plan.place.project}{kept}"))
    written, text = plan.engine.written_file(plan.place), _rendered(plan)
    if not written.is_file() or written.read_bytes() != text.encode():
        actions.append(Action("files", f"{written} is written"))
    if brought := plugins.find_missing(plan.bundle, plan.place):
        actions.append(Action("plugins", f"{len(brought)} files are written into {plan.place.plugins}"))
    if plan.certificate is not None and not tls.holds(plan.place, plan.certificate):
        actions.append(Action("certificate", f"{plan.place.certificate} and its key are written"))
    if plan.authorities is not None:
        actions.append(Action("authorities", f"{plan.place.ca_bundle} is written"))
    return actions


def _data(plan: Plan) -> list[Action]:
    """Say what comes of a backup; of its settings the names alone."""
    if plan.arrival is None:
        return []
    example = (layout.bundled(layout.PROJECT) / layout.ENV_EXAMPLE).read_text("utf-8")
    notes = arrivals.in_words(arrivals.carried(plan.arrival, example), plan.arrival)
    head = plan.arrival.head
    brought = f"those of Dify {head.dify} on {head.host} are brought from {plan.arrival.path}, and compared"
    return [Action("data", brought), *(Action("data", note) for note in notes)]


def _choice(plan: Plan) -> render.Choice:
    assert plan.settings is not None
    coming = {plan.place.ca_bundle} if plan.authorities is not None else set()
    coming |= {plan.place.plugins / file.path for file in plugins.find_missing(plan.bundle, plan.place)}
    return project.choose(plan.place, plan.settings.resolved, plan.engine, plan.host, plan.bundle.images, coming)


def _rendered(plan: Plan) -> str:
    upstream = compose.load(layout.bundled(layout.PROJECT) / layout.COMPOSE_FILE)
    return plan.engine.render_file(upstream, _choice(plan))


def _containers(plan: Plan) -> list[Action]:
    upstream = compose.load(layout.bundled(layout.PROJECT) / layout.COMPOSE_FILE)
    document = plan.engine.services_of(upstream, _choice(plan))
    try:
        found = {each.service: each for each in state.list_containers(plan.engine)}
    except errors.CommandFailed:
        found = {}
    created = [name for name in document["services"] if name not in found]
    assert plan.settings is not None
    outdated = _outdated_services(plan, document, list(found.values()))
    changed = applied.find_changed(plan.place, document, plan.settings.resolved, list(found.values()))
    changed = [name for name in changed if name not in outdated]
    waiting = state.find_unready(document, list(found.values()), time.time())
    started = [name for name in waiting if name in found and name not in (*changed, *outdated)]
    told = (
        ("created", created),
        ("replaced, with what depends on them", changed),
        ("replaced by new images, with what depends on them", outdated),
        ("started", started),
    )
    return [Action("containers", f"{how}: {', '.join(names)}") for how, names in told if names]


def _outdated_services(plan: Plan, document: compose.Document, found: list[Container]) -> list[str]:
    """Return the services whose container was made from another image than the one that is to run."""
    assert plan.settings is not None
    variables = plan.settings.resolved
    wanted = inventory.find_ids(document, variables, plan.bundle.images, inventory.list_present(plan.engine))
    # What is still to be loaded is not what runs.
    missing = {image.reference for image in plan.sources.supply.missing}
    needed = compose.images(document, variables)
    wanted |= {service: "" for reference in needed if reference in missing for service in needed[reference]}
    return state.find_outdated(found, wanted)


def _firewall(plan: Plan) -> list[Action]:
    closed = network.closed_ports(plan.host, plan.wanted)
    if not closed or not opens_firewall(plan):
        return []
    return [Action("firewall", f"firewalld lets in {', '.join(f'{port}/tcp' for port in closed)}, now and for good")]


def _unit(plan: Plan) -> list[Action]:
    path = boot_unit.unit_path(os.geteuid() == 0)
    if not plan.request.boot or layout.executable() is None:
        return []
    text = boot_unit.unit_text(plan.place)
    if path.is_file() and path.read_bytes() == text.encode():
        return []
    return [Action("boot", f"{path} is written and enabled")]


def _inside(plan: Plan) -> list[Action]:
    """What would be done inside of Dify: it is not asked what is there."""
    request = plan.request
    if request.admin is None:
        return []
    actions = [Action("account", f"{request.admin.email} is made as the first one, or signed in with")]
    if plan.bundle.plugins is not None:
        names = ", ".join(each.identity for each in plan.bundle.plugins.packages)
        actions.append(Action("plugins", f"{names}: installed for the workspace where it lacks them"))
    if request.servers:
        urls = ", ".join(server.url for server in request.servers)
        actions.append(Action("models", f"those of {urls} are registered, and the default one is asked a question"))
    return actions
