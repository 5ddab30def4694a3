"""One plan, computed once: all that can refuse is known here before anything on the host is changed.

`preflight` prints its findings, `install` acts on it, `install --dry-run` shows it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import ipaddress
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from installer.backup import arrival as arrivals
from installer.backup import exchange
from installer.backup import file as backup_file
from installer.backup.file import Part
from installer.bundle import manifest, verify
from installer.checks import models, probe
from installer.core import errors, files, finding, layout
from installer.core.console import Console
from installer.core.finding import Finding
from installer.core.runner import Runner
from installer.engine import choose
from installer.engine.base import Engine, Name
from installer.host import judge, observe
from installer.host import resolvers as host_resolvers
from installer.host.facts import Host, Wanted
from installer.images import inventory, supply
from installer.registry import pull
from installer.release import compose, dify, env_history, envfile, external, resolvers, settings, storage
from installer.release.settings import Settings
from installer.services import bucket, pgvector, postgresql, reach, redis_server, vector_store
from installer.stack import project
from installer.upgrade import plan as upgrades
from installer.workspace import account

if TYPE_CHECKING:
    from installer.release import tls

DEFAULT_TIMEOUT = 900.0

# Those of the report's page.
Language = Literal["en", "ko"]
LANGUAGES: tuple[Language, ...] = ("en", "ko")


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What one run is asked to do: the command line, the environment and the answer file end here."""

    folder: Path
    archive: Path  # the image archive, or the folder of its parts
    asked: settings.Asked = field(default_factory=settings.Asked)
    servers: tuple[models.Server, ...] = ()
    require_models: bool = False
    timeout: float = DEFAULT_TIMEOUT  # seconds that the stack may take to become healthy
    verify_full: bool = False
    tls: tuple[Path, Path] | Literal["self-signed"] | None = None  # a certificate and its key
    ca_bundle: Path | None = None  # the authorities that Dify is to trust, PEM
    engine: Name | None = None
    install_podman: bool = False
    rpms: Path | None = None  # a folder from which podman may be installed
    boot: bool = True
    firewall: bool = True
    language: Language = "en"
    admin: account.Admin | None = None  # with which account to work inside of Dify, if that is asked for
    keep_example: bool = False
    registry: pull.Source | None = None  # where images come from, if not from the archive
    restore: Path | None = None  # the backup that a new installation begins with
    identity: Path | None = None  # its private key, if it is encrypted
    without_vectors: bool = False
    db_copied: bool = False  # the administrator has a copy of a database that is not ours
    db_restored: bool = False  # and has brought it to the moment of the backup
    storage_filled: bool = False  # the files are where they are to be from now on


@dataclass(frozen=True, kw_only=True, slots=True)
class Sources:
    """The bundle, the engine that it is for, and where the images come from that this engine lacks."""

    bundle: manifest.Manifest
    engine: Engine
    supply: supply.Supply
    verified: str  # in words, what was verified
    refusals: tuple[Refusal, ...]
    offers: tuple[pull.Offer, ...] = ()  # of the registry, if images come from one
    parts: tuple[Part, ...] = ()  # of the backup to begin with, each byte of which was proved


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the installation cannot be as it is asked for: the check that found it, and the error that it ends with."""

    check: str
    error: errors.InstallerError

    @property
    def finding(self) -> Finding:
        """The refusal as a line of preflight."""
        return Finding(self.check, "error", self.error.message, self.error.remedy)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What an installation will be; with a refusal, `settings` and `certificate` may be missing."""

    request: Request
    place: layout.Installation
    sources: Sources
    wanted: Wanted
    host: Host
    findings: tuple[Finding, ...]  # of the host, and of all else that can refuse
    refusals: tuple[Refusal, ...]
    existing: str | None  # the text of the `.env` that is there
    settings: Settings | None  # what the `.env` will be
    certificate: tls.Pair | None
    authorities: bytes | None  # the content of --ca-bundle
    arrival: arrivals.Arrival | None = None  # the backup to begin with, unless it has come already
    upgrade: upgrades.Upgrade | None = None  # what is there is of another version
    rows: SeenDatabase | None = None  # the database, if it is not ours

    @property
    def bundle(self) -> manifest.Manifest:
        return self.sources.bundle

    @property
    def engine(self) -> Engine:
        return self.sources.engine

    @property
    def passed(self) -> bool:
        """Whether nothing refuses."""
        return not finding.any_failed(self.findings)

    def require_passed(self, so_far: str = "nothing has been changed") -> None:
        """Raise one error of all that refuses."""
        if self.passed:
            return
        failed = [each for each in self.findings if each.level == "error"]
        if len(failed) == len(self.refusals) == 1:
            raise self.refusals[0].error
        raise self.failure(
            f"this host is not ready:\n{finding.as_text(each for each in self.findings if each.level != 'ok')}",
            f"fix what is marked FAIL, then run the same command again; {so_far}",
        )

    @property
    def failure(self) -> type[errors.InstallerError]:
        """The error that an installation would end with: BundleDamaged, else PreflightFailed, else UsageError."""
        failed = [each for each in self.findings if each.level == "error"]
        kinds = [type(refusal.error) for refusal in self.refusals]
        if len(failed) > len(self.refusals):
            kinds.append(errors.PreflightFailed)
        order = (
            errors.BundleDamaged,
            errors.BackupRefused,
            errors.RegistryFailed,
            errors.PreflightFailed,
            errors.CommandFailed,
            errors.UsageError,
        )
        return next(each for each in order if each in kinds)


def find_sources(request: Request, runner: Runner, console: Console, *, archive_needed: bool = True) -> Sources:
    """Verify the bundle, and find what the engine lacks of it; of a registry it is asked whether it has that.

    A missing archive refuses only if it is needed. Raises BundleDamaged for the executable itself, UsageError when
    another engine than the installation's is asked for.
    """
    bundle = verify.check_embedded(layout.bundled(""))
    place = layout.Installation(request.folder)
    engine = choose.choose_engine(request.engine, place, runner)
    source = supply.find_supply(bundle, request.archive, place, engine)
    refusals: list[Refusal] = []
    verified = ""
    offers: list[pull.Offer] = []
    with _refusing("images", refusals):
        if request.registry is not None:
            source = dataclasses.replace(source, store=None)
            offers = pull.find(request.registry, source.missing, console)
            verified = pull.in_words(request.registry, offers, bundle)
        else:
            inventory.require_base(bundle, source.missing, engine)
            if archive_needed or supply.is_there(source):
                verified = supply.verify_supply(source, request.verify_full, engine, console)
    parts: tuple[Part, ...] = ()
    if archive_needed and request.restore is not None:
        with _refusing("restore", refusals):
            _, parts = backup_file.prove(request.restore, console, request.identity)
    return Sources(
        bundle=bundle,
        engine=engine,
        supply=source,
        verified=verified,
        refusals=tuple(refusals),
        offers=tuple(offers),
        parts=parts,
    )


def make_plan(request: Request, sources: Sources) -> Plan:
    """Compute what the installation will be, and judge the host for it. Changes nothing and does not raise for it."""
    place = layout.Installation(request.folder)
    refusals = list(sources.refusals)
    found = env = certificate = authorities = names = arrival = move = None
    moved: list[Finding] = []
    if not _refused("restore", refusals):
        with _refusing("restore", refusals):
            arrival = find_arrival(request, place)
    with _refusing("upgrade", refusals):
        move = upgrades.find(place, sources.bundle, sources.engine)
    with _refusing("settings", refusals):
        found = env_history.read_existing(place)
        names = ask_resolvers(request, found)
        carrying = with_resolvers(with_carried(request, arrival), found, names)
        env = compute_settings(carrying, found, sources.bundle, place, move)
        sources.engine.runner.hide(env.secrets)
    with _refusing("restore", refusals):
        require_suitable(arrival, env, place, sources.parts, request)
    with _refusing("upgrade", refusals):
        moved = upgrades.check(move, sources.bundle, env, copied=request.db_copied) if move is not None else []
    with _refusing("certificate", refusals):
        certificate = find_certificate(request, place, env)
        authorities = _read_authorities(request)
    others: list[Finding] = []
    rows: SeenDatabase | None = None
    trusted = authorities or installed_authorities(place)
    if env is not None and names is not None:
        with _refusing("postgresql", refusals):
            require_one_place_of_rows(found, env, place)
            others += warn_of_names(env, names)
            rows = check_database(env, trusted, key_is_new=is_key_new(carrying, found))
            others += rows.findings if rows is not None else ()
        with _refusing("redis", refusals):
            others += check_redis(env, trusted)
        with _refusing("vectors", refusals):
            require_one_store_of_vectors(found, env, place)
            others += check_vectors(env, trusted)
        with _refusing("storage", refusals):
            require_one_place_of_files(found, env, place, filled=request.storage_filled)
            others += check_storage(env, trusted, key_is_new=is_key_new(carrying, found), begins=found is None)
    existing = found.text if found else None
    ports = env.ports if env else settings.published_ports(request.asked, envfile.parse(existing or ""))
    wanted = _wanted(request, sources, ports, move)
    host = observe.observe(wanted, sources.engine)
    findings = (
        *judge.judge(host, wanted),
        *_only(check_images(sources)),
        *moved,
        *others,
        *(check_resolver(env, names) if env is not None and names is not None else ()),
        *([Finding("settings", "ok", "they agree with each other")] if env is not None else []),
        *([Finding("certificate", "ok", "it is for this address, and its key belongs to it")] if certificate else []),
        *(
            [Finding("restore", "ok", _arrival_in_words(arrival))]
            if arrival and not _refused("restore", refusals)
            else []
        ),
        *(refusal.finding for refusal in refusals),
    )
    return Plan(
        request=request,
        place=place,
        sources=sources,
        wanted=wanted,
        host=host,
        findings=findings,
        refusals=tuple(refusals),
        existing=existing,
        settings=env,
        certificate=certificate,
        authorities=authorities,
        arrival=arrival,
        upgrade=move,
        rows=rows,
    )


def look_again(plan: Plan) -> Plan:
    """Return the plan for the host as it is now: podman has been installed."""
    host = observe.observe(plan.wanted, plan.engine)
    judged = set(judge.CHECKS)
    others = tuple(each for each in plan.findings if each.check not in judged)
    return dataclasses.replace(plan, host=host, findings=(*judge.judge(host, plan.wanted), *others))


def find_arrival(request: Request, place: layout.Installation) -> arrivals.Arrival | None:
    """The backup to begin with (--restore) can be taken, and the installation holds no data of its own yet.

    Returns None without one, and for one that has come already. Raises BackupRefused for a file that is none,
    PreflightFailed where an installation holds data.
    """
    if request.restore is None:
        return None
    arrival = arrivals.read(request.restore, request.identity, without_vectors=request.without_vectors)
    if arrivals.is_there(arrival, place):
        return None
    if not exchange.is_arriving(place) and arrivals.holds_data(place):
        raise errors.PreflightFailed(
            f"{place.folder} is an installation with data of its own, which --restore does not touch",
            f"to have the backup in their place, and them kept: dify-installer restore {request.restore} "
            f"--dir {place.folder}; or name another folder with --dir",
        )
    return arrival


def with_carried(request: Request, arrival: arrivals.Arrival | None) -> Request:
    """Return the request with the settings of the backup that go on; what this run sets itself wins."""
    if arrival is None:
        return request
    example = (layout.bundled(layout.PROJECT) / layout.ENV_EXAMPLE).read_text("utf-8")
    values = {**arrivals.carried(arrival, example).values, **request.asked.values}
    return dataclasses.replace(request, asked=dataclasses.replace(request.asked, values=values))


def require_suitable(
    arrival: arrivals.Arrival | None,
    env: Settings | None,
    place: layout.Installation,
    parts: Sequence[Part],
    request: Request,
) -> None:
    """Raise BackupRefused when this bundle cannot take the backup, PreflightFailed when there is no room for it."""
    if arrival is None or env is None:
        return
    upstream = compose.load(layout.bundled(layout.PROJECT) / layout.COMPOSE_FILE)
    restored, filled = request.db_restored, request.storage_filled
    arrivals.require_suitable(arrival, env.resolved, upstream, restored=restored, filled=filled)
    arrivals.require_room(place, parts)


def _arrival_in_words(arrival: arrivals.Arrival) -> str:
    head = arrival.head
    return f"begins with Dify {head.dify} of {head.host}, {head.folder}, {head.made}"


def _refused(check: str, refusals: Sequence[Refusal]) -> bool:
    return any(refusal.check == check for refusal in refusals)


@contextlib.contextmanager
def _refusing(check: str, refusals: list[Refusal]) -> Iterator[None]:
    """Keep an error of the block as a refusal: the others are looked for all the same."""
    try:
        yield
    except errors.InstallerError as error:
        refusals.append(Refusal(check, error))


def _only(found: Finding | None) -> tuple[Finding, ...]:
    return () if found is None else (found,)


def check_images(sources: Sources) -> Finding | None:
    """The images that are missing are there to be loaded, and are those that were built."""
    if any(refusal.check == "images" for refusal in sources.refusals):
        return None
    if sources.verified:
        return Finding("images", "ok", sources.verified)
    return Finding(
        "images",
        "warning",
        f"{len(sources.supply.missing)} are missing, and no store or archive is at {sources.supply.archive} yet",
        "copy it there, or name it with --images, before you install",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Names:
    """The name servers that this host has, and which of those that containers would ask answer it."""

    listed: tuple[str, ...]
    answering: tuple[str, ...]


def ask_resolvers(request: Request, existing: env_history.Existing | None) -> Names:
    """Ask the name servers that are named, else those of this host. Raises UsageError for a value that is none."""
    listed = host_resolvers.list_resolvers()
    chosen = _chosen_resolvers(request, existing)
    if chosen == resolvers.NONE:
        return Names(listed=listed, answering=())
    asked = resolvers.list_named(chosen) or listed
    return Names(listed=listed, answering=host_resolvers.find_answering(asked))


def with_resolvers(request: Request, existing: env_history.Existing | None, names: Names) -> Request:
    """Return the request with nobody to be asked, where it does not say whom, and nobody is there.

    A name server that only does not answer now is believed to be gone in a new installation alone.
    """
    if _chosen_resolvers(request, existing) or names.answering or (existing and names.listed):
        return request
    asked = dataclasses.replace(request.asked, values={**request.asked.values, dify.RESOLVERS: resolvers.NONE})
    return dataclasses.replace(request, asked=asked)


def _chosen_resolvers(request: Request, existing: env_history.Existing | None) -> str | None:
    kept = envfile.parse(existing.text).get(dify.RESOLVERS) if existing else None
    return request.asked.values.get(dify.RESOLVERS) or kept or None


def check_resolver(env: Settings, names: Names) -> Iterator[Finding]:
    """A name server that the containers ask answers; or they ask nobody, and do not wait for one."""
    value = env.resolved.get(dify.RESOLVERS)
    chosen, words = resolvers.read(value), resolvers.in_words(value)
    asked = resolvers.list_named(value) or names.listed
    if chosen == resolvers.NONE:
        have = f"; to have {', '.join(names.listed)} asked: --resolver {resolvers.HOST}" if names.listed else ""
        yield Finding("resolver", "ok", f"containers ask nobody for names that are not the stack's{have}")
    elif names.answering:
        yield Finding("resolver", "ok", f"containers ask {words}: {', '.join(names.answering)} answers")
    else:
        yield Finding(
            "resolver",
            "warning",
            f"containers ask {words}, and none answers ({', '.join(asked) or 'there is none'}): whoever asks for a "
            "name that is not the stack's waits ten seconds and more",
            f"name one that answers: --resolver IP; or have nobody asked: --resolver {resolvers.NONE}",
        )


def compute_settings(
    request: Request,
    existing: env_history.Existing | None,
    bundle: manifest.Manifest,
    place: layout.Installation,
    move: upgrades.Upgrade | None,
) -> Settings:
    """The settings agree with each other, both compose programs read them alike, and none is lost."""
    project_folder = layout.bundled(layout.PROJECT)
    example = (project_folder / layout.ENV_EXAMPLE).read_text("utf-8")
    before = move.example if move is not None else None
    env = settings.compute(example, existing, request.asked, bundle.variables, place.volumes, before)
    upstream = compose.load(project_folder / layout.COMPOSE_FILE)
    # What the compose file requires and does not get is to be known now, not when it is rendered.
    compose.expand_all(compose.active_services(upstream, env.resolved), env.resolved)
    return env


def find_certificate(request: Request, place: layout.Installation, env: Settings | None) -> tls.Pair | None:
    """The certificate for https is valid, for this address, and its key belongs to it; so are the authorities."""
    if request.tls is None or env is None:
        return None
    from installer.release import tls

    name = env.address.host
    now = datetime.datetime.now(datetime.UTC)
    if request.tls == "self-signed":
        return tls.read_installed(place, name, now) or tls.make_self_signed(name, now)
    pair = tls.read(*request.tls, name, now)
    tls.require_accepted(*request.tls, name, probe.make_context(str(request.tls[0])))
    return pair


def _read_authorities(request: Request) -> bytes | None:
    if request.ca_bundle is None:
        return None
    from installer.release import tls

    return tls.read_authorities(request.ca_bundle)


def installed_authorities(place: layout.Installation) -> bytes | None:
    """Return the authorities that an earlier run has installed, PEM; None where there are none."""
    with contextlib.suppress(OSError):
        return place.ca_bundle.read_bytes()
    return None


@dataclass(frozen=True, kw_only=True, slots=True)
class SeenDatabase:
    """What a database of others is like; `missing` are those that are to be made, `revision` that of the Dify in it."""

    findings: tuple[Finding, ...]
    missing: tuple[str, ...]
    revision: str


def check_database(env: Settings, authorities: bytes | None, *, key_is_new: bool) -> SeenDatabase | None:
    """A database of yours lets Dify in, can hold what Dify holds, and does not hold another's; None for our own."""
    database = external.find_database(env.resolved)
    if database is None:
        return None
    reach.require_not_here(database.host, database.port, database.where)
    seen = postgresql.look(database, authorities, key_is_new=key_is_new)
    names = dict.fromkeys((database.name, database.plugins), "is there")
    names |= dict.fromkeys(seen.missing, "is made")
    held = f"; it holds a Dify, at {seen.revision}" if seen.revision else ""
    told = f"{database.where}, version {seen.version}, sslmode={database.mode}: "
    told += ", ".join(f"{name} {how}" for name, how in names.items()) + held
    warnings = (Finding("postgresql", "warning", seen, remedy) for seen, remedy in seen.warnings)
    return SeenDatabase(
        findings=(Finding("postgresql", "ok", told), *warnings), missing=seen.missing, revision=seen.revision
    )


def check_redis(env: Settings, authorities: bytes | None) -> Iterator[Finding]:
    """A Redis of yours lets Dify in, and lets it do what Dify does; nothing for our own."""
    wanted = external.find_redis(env.resolved)
    if wanted is None:
        return
    for host, port in wanted.addresses.values():
        reach.require_not_here(host, port, wanted.where)
    seen = redis_server.look(wanted, authorities)
    security = "TLS" if wanted.tls else "no TLS"
    told = f"{wanted.where}, {seen.version}, {security}: databases {wanted.number} and {wanted.broker} can be used"
    yield Finding("redis", "ok", told)
    yield from (Finding("redis", "warning", seen, remedy) for seen, remedy in seen.warnings)


def check_vectors(env: Settings, authorities: bytes | None) -> Iterator[Finding]:
    """A PostgreSQL with pgvector, Qdrant or OpenSearch of yours lets Dify keep its vectors there; else nothing."""
    wanted = external.find_vectors(env.resolved)
    if wanted is None:
        return
    reach.require_not_here(wanted.host, wanted.port, wanted.where)
    if isinstance(wanted, external.Database):
        seen = pgvector.look(wanted, authorities)
        told = f"{wanted.place}, version {seen.version}, sslmode={wanted.mode}: pgvector {seen.extension}"
    else:
        version, security = vector_store.look(wanted, authorities), "TLS" if wanted.tls else "no TLS"
        told = f"{wanted.where}, version {version}, {security}: it"
    yield Finding("vectors", "ok", f"{told} can be used")


def check_storage(
    env: Settings, authorities: bytes | None, *, key_is_new: bool, begins: bool = False
) -> Iterator[Finding]:
    """A bucket of yours lets Dify keep its files there, and does not hold another's; nothing for a folder of ours."""
    wanted = storage.find(env.resolved)
    if wanted is None:
        return
    reach.require_not_here(wanted.host, wanted.port, wanted.where)
    seen = bucket.look(wanted, authorities, key_is_new=key_is_new)
    held = "it holds the files of a Dify" if seen.holds_a_dify else "it holds no files of a Dify yet"
    yield Finding("storage", "ok", f"{storage.in_words(wanted)}: files can be kept there; {held}")
    if begins and seen.holds_a_dify:
        yield Finding(
            "storage",
            "warning",
            f"the Dify that begins here goes on with the files in {wanted.place}: what it deletes is deleted for all",
            "let no other Dify use this bucket; for a trial, name a copy of it",
        )
    yield from (Finding("storage", "warning", seen, remedy) for seen, remedy in seen.warnings)


def is_key_new(request: Request, existing: env_history.Existing | None) -> bool:
    """Tell whether this run generates SECRET_KEY."""
    kept = envfile.parse(existing.text).get(dify.SECRET_KEY) if existing else ""
    return not (request.asked.values.get(dify.SECRET_KEY) or kept)


def require_one_place_of_rows(existing: env_history.Existing | None, env: Settings, place: layout.Installation) -> None:
    """Raise PreflightFailed where rows lie in our own database, and another one is named: they would be left behind."""
    own = existing is not None and not external.has_database(envfile.parse(existing.text))
    if own and external.has_database(env.resolved) and files.holds_anything(place.volumes / OWN_ROWS):
        raise errors.PreflightFailed(
            f"this installation has a database of its own, with data in {place.volumes / OWN_ROWS}, and they do not "
            "go to another server by themselves",
            "leave out --db-url; or have them loaded there (docs/external.md), and install into another folder (--dir)",
        )


def require_one_place_of_files(
    existing: env_history.Existing | None, env: Settings, place: layout.Installation, *, filled: bool
) -> None:
    """Raise PreflightFailed where files lie in another place than the one that is named: they would be left behind."""
    if existing is None or filled:
        return
    before, after = storage.find(envfile.resolve(existing.text)), storage.find(env.resolved)
    if _place(before, place) == _place(after, place) or (before is None and not _holds_files(place)):
        return
    raise errors.PreflightFailed(
        f"the files of this installation are in {_place(before, place)}, and are to be in {_place(after, place)} from "
        "now on: they do not go there by themselves",
        "leave the storage as it is; or `dify-installer stop`, have them copied there (docs/external.md), and run the "
        "same command with --storage-filled",
    )


def require_one_store_of_vectors(
    existing: env_history.Existing | None, env: Settings, place: layout.Installation
) -> None:
    """Raise PreflightFailed where vectors lie in another store than the one that is named: Dify would not find them."""
    if existing is None:
        return
    before = envfile.resolve(existing.text)
    there, here = _store(before), _store(env.resolved)
    own, stays_own = external.find_vectors(before) is None, external.find_vectors(env.resolved) is None
    if there == here or (own and stays_own):
        return
    if own and not files.holds_anything(place.volumes / before.get(dify.VECTOR_STORE, "")):
        return
    raise errors.PreflightFailed(
        f"this installation has its vectors in {there}, and a knowledge base stays with the store that it was made "
        "with",
        f"leave {there} as it is; another store is for a new installation",
    )


def _store(variables: Mapping[str, str]) -> str:
    found = external.find_vectors(variables)
    return variables.get(dify.VECTOR_STORE, "") if found is None else found.place


def _place(found: storage.Storage | None, place: layout.Installation) -> str:
    return str(place.volumes) if found is None else found.place


def _holds_files(place: layout.Installation) -> bool:
    """Tell whether a folder of ours holds files of people; upstream's mark is none, what we may not read counts."""
    try:
        found = [each.name for each in (place.volumes / OWN_FILES).iterdir()]
    except FileNotFoundError:
        found = []
    except PermissionError:
        return True
    return any(name != FIRST_MARK for name in found) or files.holds_anything(place.volumes / OWN_PLUGINS)


OWN_ROWS, OWN_FILES, OWN_PLUGINS = "db/data", "app/storage", "plugin_daemon/plugin"
# What upstream's compose file writes there before there is anything (service init_permissions).
FIRST_MARK = ".init_permissions"


def warn_of_names(env: Settings, names: Names) -> Iterator[Finding]:
    """A server that is named can be found by the containers, too."""
    asks_nobody = resolvers.read(env.resolved.get(dify.RESOLVERS)) == resolvers.NONE or not names.answering
    found = (
        ("postgresql", external.find_database(env.resolved)),
        ("redis", external.find_redis(env.resolved)),
        ("storage", storage.find(env.resolved)),
        ("vectors", external.find_vectors(env.resolved)),
    )
    for check, server in found:
        if server is not None and asks_nobody and not all(_is_address(host) for host, _ in server.addresses.values()):
            yield Finding(
                check,
                "warning",
                f"{server.where} is given by name, and the containers have nobody to ask for names",
                "give its address; or a name server that knows it: --resolver IP",
            )


def _is_address(host: str) -> bool:
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(host)
        return True
    return False


def judge_others(env: Settings, authorities: bytes | None) -> list[Finding]:
    """Judge the databases, Redis and bucket of others as an installation would, from this host."""
    findings: list[Finding] = []
    looks: dict[str, Callable[[], Iterable[Finding]]] = {
        "postgresql": lambda: _findings_of(check_database(env, authorities, key_is_new=False)),
        "redis": lambda: check_redis(env, authorities),
        "vectors": lambda: check_vectors(env, authorities),
        "storage": lambda: check_storage(env, authorities, key_is_new=False),
    }
    for check, look in looks.items():
        try:
            findings += look()
        except errors.PreflightFailed as error:
            findings.append(Finding(check, "error", error.message, error.remedy))
    return findings


def _findings_of(seen: SeenDatabase | None) -> Iterable[Finding]:
    return seen.findings if seen is not None else ()


# All that is looked at before an installation, for the documentation: the host's checks and those of this module.
CHECKS: dict[str, Callable[..., object]] = {
    **judge.CHECKS,
    "images": check_images,
    "restore": find_arrival,
    "upgrade": upgrades.check,
    "resolver": check_resolver,
    "postgresql": check_database,
    "redis": check_redis,
    "vectors": check_vectors,
    "storage": check_storage,
    "settings": compute_settings,
    "certificate": find_certificate,
}


def _wanted(request: Request, sources: Sources, ports: Mapping[str, int], move: upgrades.Upgrade | None) -> Wanted:
    """Return what this request wants of the host; `ports` are those of `.env`, as it will be if that is known."""
    bundle, source = sources.bundle, sources.supply
    place = layout.Installation(request.folder)
    loaded: Sequence[manifest.Image] = () if source.store else source.missing
    packed = bundle.store if source.store and source.store.is_file() and source.store.parent != place.stores else None
    return Wanted(
        folder=request.folder,
        address=request.asked.host,
        ports=ports,
        architecture=bundle.architecture,
        largest_image_bytes=max((image.size for image in loaded), default=0),
        missing_bytes=sum(inventory.layer_sizes(loaded, bundle).values()),
        store_bytes=packed.size if packed else 0,
        unpacked_bytes=sum(inventory.layer_sizes(bundle.images, bundle).values()) if packed else 0,
        kept_bytes=move.room_bytes if move is not None else 0,
        compressed=any(bundle.archives[image.archive].compression == "zstd" for image in loaded),
        not_before=_moment(bundle.newest_image),
        firewall=request.firewall,
        install_podman=request.install_podman,
        api_image=project.find_api_image(layout.bundled(layout.PROJECT)),
    )


def _moment(text: str) -> datetime.datetime | None:
    """Return the time of the newest image, which a right clock has passed."""
    with contextlib.suppress(ValueError):
        return datetime.datetime.fromisoformat(text[:19]).replace(tzinfo=datetime.UTC)
    return None
