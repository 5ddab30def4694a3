"""What a backup brings to an installation: whether it can be taken, which of its settings go on, and its data."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from installer.backup import data, database, databases, exchange, file, parts, pipes, split, vectors
from installer.backup.file import Head, Part
from installer.bundle import verify
from installer.core import errors, files, layout
from installer.core.console import Console, size
from installer.core.finding import Finding
from installer.engine.base import Engine, parse_version
from installer.release import (
    carry,
    compose,
    dify,
    dify_store,
    env_history,
    envfile,
    external,
    resolvers,
    settings,
    storage,
)
from installer.stack import project, run, state

# Dify's own migrations bring older tables to today's. How far back that holds was not tried: this is as far as we say
# that it does.
OLDEST = (1, 9)
# A database takes so many times the size of its dump (measured with Dify's tables and their indexes: 2.2).
ROOM_FACTOR = 3
# Names of a backup's settings, below the install folder.
ENV, EXAMPLE = f"{layout.PROJECT}/.env", f"{layout.PROJECT}/{layout.ENV_EXAMPLE}"
# What the services of this host are reached by; what the backup says of it was true where it was made.
OF_THIS_HOST = {*dify.URLS, *dify.PORTS.values(), *dify.HTTPS, *dify.HOSTS, dify.RESOLVERS}
# Besides, of another's settings: what this bundle has chosen, what keeps it quiet, where its own services are, and the
# secrets between them, on which no data depend. A database is made anew, with our password, from its dump.
OF_THIS_BUNDLE = (
    {dify.VECTOR_STORE, dify.DB_TYPE, compose.PROFILES, *dify.FIXED}
    | {"DB_HOST", "DB_PORT", dify.DB_EXTRAS, dify.DB_SSL_MODE, "INTERNAL_FILES_URL", *external.REDIS_KEYS}
    | {*external.VECTOR_KEYS}
    | {key for secret in dify.SECRETS for key in (*secret.keys, *(key for key, _ in secret.within))}
) - {dify.SECRET_KEY}
# Folders that only a Dify that has run has anything in.
DATA = ("db/data", "mysql/data", "app/storage")
NAMES_SHOWN = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Arrival:
    """A backup of which the first part has been read; `contents` are the files of its settings."""

    path: Path
    head: Head
    contents: Mapping[str, bytes] = field(repr=False)
    identity: Path | None = None  # the file of the private key, for one that is encrypted
    without_vectors: bool = False

    @property
    def env(self) -> str:
        """Return its `.env`."""
        return env_history.unmarked(self.contents.get(ENV, b"").decode("utf-8", "replace"))


def read(path: Path, identity: Path | None = None, *, without_vectors: bool = False) -> Arrival:
    """Read what a backup is of, and its settings. Raises BackupRefused, UsageError for a key that cannot be used."""
    packed = b""
    with file.reading(path, identity=identity) as reader:
        for name, pieces in reader:
            packed = b"".join(pieces) if name == parts.SETTINGS else b""
            break
        contents = parts.read_settings(packed) if packed else {}
        return Arrival(
            path=path, head=reader.head, contents=contents, identity=identity, without_vectors=without_vectors
        )


def find_obstacle(version: str) -> tuple[str, str] | None:
    """Return why data of this version of Dify cannot come to the bundle's, and what to do; None where they can."""
    bundle = verify.check_embedded(layout.bundled("")).dify
    if version == bundle:
        return None
    theirs, ours = parse_version(version), parse_version(bundle)
    if theirs is None or theirs[: len(OLDEST)] < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        return (
            f"data come along from {oldest} and later versions",
            "upgrade Dify where it is now, and do this again then",
        )
    if ours is not None and theirs > ours:
        why = f"this bundle brings {bundle}: data do not go back to an older version"
        return why, f"build a bundle of Dify {version} or a later one"
    return None


def require_suitable(
    arrival: Arrival,
    variables: Mapping[str, str],
    upstream: compose.Document,
    *,
    restored: bool = False,
    filled: bool = False,
) -> None:
    """Raise BackupRefused for a backup that this bundle cannot take.

    `variables` are the settings of the installation, as they are or will be, `upstream` its compose file; `restored`
    says that the rows of a database that is not ours are those of the backup, `filled` that its files are in the
    bucket.
    """
    head, path = arrival.head, arrival.path
    _require_rows(arrival, external.find_database(variables), restored=restored)
    if not filled:
        _require_files(arrival, storage.find(variables))
    if not arrival.without_vectors:
        _require_vectors(arrival, external.find_vectors(variables))
    if obstacle := find_obstacle(head.dify):
        why, remedy = obstacle
        raise errors.BackupRefused(f"{path} is of Dify {head.dify}, and {why}", remedy)
    here = variables.get(dify.VECTOR_STORE, ""), databases.kind_of(variables)
    if (head.vector_store, head.database) != here and not (arrival.without_vectors and head.database == here[1]):
        raise errors.BackupRefused(
            f"{path} has {head.vector_store} and {head.database}, and this bundle {' and '.join(here)}",
            f"build a bundle with them: make bundle VECTOR_STORE={head.vector_store} DB={head.database}; or leave the "
            "vectors behind: --without-vectors",
        )
    if not arrival.without_vectors:
        _require_readable(head, dify_store.find_version(upstream, variables))


def _require_rows(arrival: Arrival, database: external.Database | None, *, restored: bool) -> None:
    """Raise BackupRefused where files would come without their rows, or beside rows of another time."""
    head, path = arrival.head, arrival.path
    if database is None and head.database_at:
        raise errors.BackupRefused(
            f"{path} has no rows: its database was not ours ({head.database_at})",
            "name the server that has them, with --db-url, and say that they are those of the backup: --db-restored",
        )
    if database is not None and not restored:
        names = f"{database.name} and {database.plugins}"
        loaded = (
            f"have the dump that was made just before it loaded into {names}"
            if head.database_at
            else f"have its rows loaded into {names} (`zstd -d < {path} | tar -x` gives database/…, which psql reads)"
        )
        raise errors.BackupRefused(
            f"{database.where} is not ours: what {path} brings does not change its rows, and files without their rows, "
            "or rows without their files, are half a Dify",
            f"{loaded}; then run the same command with --db-restored",
        )


def _require_files(arrival: Arrival, here: storage.Storage | None) -> None:
    """Raise BackupRefused where the files are to be in a bucket that is not that of the backup: rows without files.

    Where there is none here, the backup's own settings go on, and with them its bucket or its files.
    """
    there = storage.find(envfile.parse(arrival.env))
    if here is None or (there is not None and there.place == here.place):
        return
    path, where = arrival.path, "in it" if there is None else f"not in it, but in {there.place}"
    raise errors.BackupRefused(
        f"{here.place} is not ours: the files of {path} are {where}, and do not go into that bucket by themselves",
        "have them copied there (docs/external.md); then run the same command with --storage-filled",
    )


def _require_vectors(arrival: Arrival, here: external.Vectors | None) -> None:
    """Raise BackupRefused where the vectors are to be in a server that is not that of the backup, or only there."""
    there = external.find_vectors(envfile.parse(arrival.env))
    if (here and here.place) == (there and there.place):
        return
    path = arrival.path
    if there is not None:
        raise errors.BackupRefused(
            f"{path} has no vectors: they are in {there.place}, which is not ours",
            "name it with --vector-url; or leave the vectors behind: --without-vectors",
        )
    assert here is not None
    raise errors.BackupRefused(
        f"{here.place} is not ours: the vectors that {path} brings do not go there by themselves",
        "leave out --vector-url; or leave the vectors behind: --without-vectors",
    )


def _require_readable(head: Head, here: str) -> None:
    """Raise BackupRefused where the vector store of this bundle cannot use the files of that version."""
    store, there = head.vector_store, parse_version(head.store_version)
    ours = parse_version(here)
    oldest = dify_store.OLDEST.get(store)
    if there is None or ours is None:
        return
    if oldest is not None and there < oldest <= ours:
        raise errors.BackupRefused(
            f"the vectors are {store} {head.store_version}'s, and the {store} {here} of this bundle finds nothing in "
            f"what was written before {'.'.join(map(str, oldest))}",
            dify_store.REMEDIES[store],
        )
    if there > ours:
        raise errors.BackupRefused(
            f"the vectors are {store} {head.store_version}'s, and this bundle has the older {store} {here}",
            f"build a bundle with {store} {head.store_version}, or leave the vectors behind: --without-vectors",
        )


def require_room(place: layout.Installation, found: Iterable[Part]) -> None:
    """Raise PreflightFailed when the disk has no room for the parts of a backup."""
    folder = next(path for path in (place.project, *place.project.parents) if path.is_dir())
    needed = sum(part.bytes * (ROOM_FACTOR if part.name.startswith(parts.DATABASE) else 1) for part in found)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise errors.PreflightFailed(
            f"{folder} has {size(free)} of room, and beside what is there the backup may need {size(needed)}",
            "make room; nothing has been changed",
        )


def carried(arrival: Arrival, example: str) -> carry.Carried:
    """Return what goes on of another Dify's settings; `example` is the text of this bundle's `.env.example`.

    What holds an address or a port stays behind, and what this bundle chooses; of the secrets SECRET_KEY alone goes
    on, unless it is the one that everybody knows.
    """
    theirs = arrival.contents.get(EXAMPLE, b"").decode("utf-8", "replace") or example
    found = carry.carry(arrival.env, theirs, example)
    stays = OF_THIS_HOST | OF_THIS_BUNDLE
    values = {key: value for key, value in found.values.items() if key not in stays}
    if values.get(dify.SECRET_KEY) in ("", envfile.parse(example).get(dify.SECRET_KEY)):
        values.pop(dify.SECRET_KEY, None)
    return dataclasses.replace(found, values=values, gone=tuple(key for key in found.gone if key not in stays))


def in_words(found: carry.Carried, arrival: Arrival) -> list[str]:
    """Say what became of another Dify's settings, by their names."""
    notes = [f"settings that came along: {_names(sorted(found.values))}"] if found.values else []
    if found.gone:
        notes.append(f"settings that Dify does not have any more: {_names(found.gone)}")
    if dify.SECRET_KEY not in found.values:
        notes.append(
            "SECRET_KEY was the public default, and is a new one: everybody signs in again, and system-wide OAuth "
            "clients of tools, if there are any, are to be set up again"
        )
    if arrival.without_vectors:
        notes.append(
            "the vectors were left behind: change the embedding model of each knowledge base in its settings, and "
            "change it back, and Dify indexes it again"
        )
    return notes


def _names(keys: Iterable[str]) -> str:
    names = list(keys)
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more


def text_for(arrival: Arrival, place: layout.Installation, example: str) -> str:
    """Return the `.env` of an installation that takes a backup: what goes on of both, as it is to be written."""
    here = place.env.read_text("utf-8")
    stays = {*storage.KEYS} if storage.find(envfile.parse(here)) else set()
    if not arrival.head.ours or arrival.head.dify != verify.check_embedded(layout.bundled("")).dify:
        goes_on = {key: value for key, value in carried(arrival, example).values.items() if key not in stays}
        return env_history.marked(envfile.edit(env_history.unmarked(here), goes_on))
    kept = {*OF_THIS_HOST, *stays}
    if external.find_vectors(envfile.parse(here)):
        kept |= {dify.VECTOR_STORE, compose.PROFILES, *external.VECTOR_KEYS}
    if external.has_database(envfile.parse(here)):
        kept |= {dify.DB_TYPE, compose.PROFILES, *external.DATABASE_KEYS}
    if external.has_redis(envfile.parse(here)) or external.has_redis(envfile.parse(arrival.env)):
        kept |= {*external.REDIS_KEYS}
    ours = {key: value for key, value in envfile.parse(here).items() if key in kept}
    if dify.RESOLVERS in envfile.parse(arrival.env):
        ours.setdefault(dify.RESOLVERS, resolvers.HOST)
    return env_history.marked(envfile.edit(arrival.env, ours))


def holds_data(place: layout.Installation) -> bool:
    """Tell whether an installation holds what people made: a database, or files."""
    return any(files.holds_anything(place.volumes / name) for name in DATA)


def is_there(arrival: Arrival, place: layout.Installation) -> bool:
    """Tell whether this very backup came to an installation before, and to its end."""
    return exchange.last_restored(place) == exchange.identity(arrival.head)


def bring(
    arrival: Arrival,
    place: layout.Installation,
    found: Iterable[Part],
    engine: Engine,
    console: Console,
) -> list[Finding]:
    """Bring all parts into an empty installation whose `.env` is written, and compare both sides.

    Raises CommandFailed when they differ, or a program fails, BackupRefused for a file that has changed meanwhile.
    """
    by_name = {part.name: part for part in found}
    document = project.read_installed(place, engine)
    variables = settings.load(place).resolved
    left = set(_store_folders(document, variables)) if arrival.without_vectors else set()
    project.make_folders(place, document, variables)
    came: list[Finding] = []
    with console.progress("bring the data", split.measure(split.find(arrival.path))) as bar:
        own = not external.has_database(variables)
        if own:
            _start_database(place, databases.service_of(variables), document, engine, console)
        with file.reading(arrival.path, bar.update, arrival.identity) as reader:
            for name, pieces in reader:
                if name.startswith(parts.DATABASE) and not own:
                    came.append(Finding(name, "info", "not brought: the database is not ours"))
                elif name.startswith(parts.DATABASE):
                    counts = _fill_database(name.removeprefix(parts.DATABASE), pieces, variables, engine)
                    came.append(_compared_rows(name, by_name[name].counts, counts))
                elif folder := parts.of_files(name):
                    if folder.partition("/")[0] not in left:
                        came.append(_unpack(place, folder, by_name[name], pieces, engine))
                elif name not in (parts.SETTINGS, vectors.PART):
                    raise reader.damaged(f"it has a part {name}, which is not known")
    if bad := [each for each in came if each.level == "error"]:
        raise errors.CommandFailed(
            "what has come is not what the backup has: " + "; ".join(f"{each.check}: {each.seen}" for each in bad),
            "run it again; if it happens twice, report it with the log",
        )
    return came


def write_own(arrival: Arrival, place: layout.Installation) -> None:
    """Write what a backup of ours has besides `.env`, where there is no such file yet. Raises CommandFailed."""
    for path in (place.ca_bundle, place.admin_password, place.account):
        content = arrival.contents.get(str(path.relative_to(place.folder)))
        if content is not None and (path in (place.admin_password, place.account) or not path.exists()):
            files.folder(path.parent)
            files.write(path, content, mode=0o644 if path == place.ca_bundle else 0o600)


def _store_folders(document: compose.Document, variables: Mapping[str, str]) -> Iterator[str]:
    """Yield the folders, below `volumes/`, of the vector store."""
    upstream = compose.load(layout.bundled(layout.PROJECT) / layout.COMPOSE_FILE)
    for name in dify_store.find_services(upstream, variables):
        for folder, _ in data.mounted(document["services"].get(name) or {}):
            yield folder.partition("/")[0]


def _start_database(
    place: layout.Installation, service: str, document: compose.Document, engine: Engine, console: Console
) -> None:
    """Start the database alone, and wait until it is healthy. Raises NotHealthy."""
    console.waiting(f"{service} to make an empty database")
    run.up_alone(place, service, document, engine)
    console.waiting("")


def _fill_database(name: str, pieces: Iterator[bytes], variables: Mapping[str, str], engine: Engine) -> dict[str, int]:
    """Read a dump into an empty database; return the rows of its tables. Raises CommandFailed."""
    target = databases.make_empty(name, variables, state.list_containers(engine), engine)
    with database.telling_of_its_end(target, engine):
        target.fill(pieces, engine)
        return target.count_rows(engine)


def _unpack(place: layout.Installation, folder: str, part: Part, pieces: Iterator[bytes], engine: Engine) -> Finding:
    """Unpack a folder and prove it: packed again, it gives the same bytes. Raises CommandFailed."""
    target = place.volumes / folder
    # An empty installation has nothing there but what the bundle brings.
    for command in (["rm", "-rf", "--", str(target)], ["mkdir", "--parents", "--", str(target)]):
        engine.runner.run(engine.as_owner(command), timeout=data.COPY_SECONDS)
    command = ["tar", "--extract", "--file=-", "--numeric-owner", "--same-owner", "--preserve-permissions"]
    pipes.feed(engine.as_owner([*command, "--directory", str(target)]), pieces, engine.runner)
    number = part.counts.get(folder, 0)
    if (counted := data.count_files(target, engine)) != number:
        return Finding(part.name, "error", f"{number} files there, {counted} here")
    if data.hash_of(target, engine) != part.sha256:
        return Finding(part.name, "error", f"{number} files on both sides, but not the same")
    return Finding(part.name, "ok", f"{number} files on both sides, the same by SHA-256")


def _compared_rows(name: str, there: Mapping[str, int], here: Mapping[str, int]) -> Finding:
    different = [
        f"{key}: {there.get(key, 0)} there, {here.get(key, 0)} here"
        for key in sorted({*there, *here})
        if there.get(key) != here.get(key)
    ]
    if different:
        return Finding(name, "error", "; ".join(different[:10]))
    return Finding(name, "ok", f"{sum(here.values())} rows on both sides, in {len(here)} tables")
