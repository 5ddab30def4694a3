"""Finds a Dify on this host that somebody else has installed, and where it keeps what people made."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from installer.backup import data, databases
from installer.core import errors, layout, marker
from installer.core.console import Console
from installer.core.runner import Runner
from installer.engine.base import Container, Engine, parse_version
from installer.engine.choose import ENGINES
from installer.release import compose, dify, dify_store, env_history, envfile

# Services that every Dify has, whatever its version is.
SERVICES = {dify.API, dify.WORKER, dify.WEB}
# What the service of PostgreSQL was called before there were two databases to choose from (Dify 1.9).
OLD_DATABASE = "db"
STOP_SECONDS = 90
MARGIN_SECONDS = 30
START_SECONDS = 60.0
# Objects lie in the file system (opendal, scheme fs, is upstream's default), or where the administrator has put them.
STORAGE, LOCAL_STORAGES = "STORAGE_TYPE", ("", "opendal", "local")
SCHEME, LOCAL_SCHEMES = "OPENDAL_SCHEME", ("", "fs")


@dataclass(frozen=True, kw_only=True, slots=True)
class Foreign:
    """A Dify as it was found: its containers by service, its settings, its folders as our `volumes/` has them."""

    engine: Engine
    project: str
    folder: Path
    version: str
    containers: Mapping[str, Container]
    env: str = field(repr=False)  # the text of `.env`
    example: str = field(repr=False)  # the text of `.env.example`, empty where there is none
    variables: Mapping[str, str] = field(repr=False)
    folders: Mapping[str, Path]  # below our `volumes/` -> where it lies here
    stores: Mapping[str, tuple[str, ...]]  # container of a vector store -> its folders
    store_version: str
    left_out: tuple[str, ...]


def find(folder: Path | None, version: str | None, runner: Runner) -> Foreign:
    """Find the Dify of this host; `folder` is where its compose file lies, where there are several.

    Raises UsageError when none or several are found, or its version is not known, CommandFailed when no engine answers.
    """
    found, silent = _find_projects(runner)
    if folder is not None:
        found = [each for each in found if each[1].resolve() == folder.resolve()]
    if len(found) > 1:
        listed = ", ".join(f"{place} ({engine.name}, project {name})" for engine, place, name, _ in found)
        raise errors.UsageError(f"there are several Difys here: {listed}", "name one by its folder: --from FOLDER")
    if not found:
        where = f"of {folder} " if folder is not None else ""
        told = f" ({'; '.join(silent)})" if silent else ""
        raise errors.UsageError(
            f"no Dify {where}is found among the containers of this host that this user sees{told}",
            "run as root, or as the user who runs it; where its containers were removed, start it first: "
            "`docker compose up -d` in its folder",
        )
    ((engine, place, project, containers),) = found
    if marker.read(layout.Installation(place.parent)) is not None:
        raise errors.UsageError(
            f"{place.parent} is an installation of ours", f"dify-installer backup PATH --dir {place.parent}"
        )
    return _describe(engine, place, project, {each.service: each for each in containers}, version)


def _find_projects(runner: Runner) -> tuple[list[tuple[Engine, Path, str, list[Container]]], list[str]]:
    """Return the projects that have Dify's services, and which engines do not answer."""
    found, silent = [], []
    for name, kind in ENGINES.items():
        if shutil.which(name, path=runner.env.get("PATH")) is None:
            continue
        engine = kind(runner)
        try:
            listed = engine.containers()
        except errors.CommandFailed as error:
            silent.append(error.message.replace("\n", " "))
            continue
        for project, place in sorted({(each.project, each.folder) for each in listed if each.project and each.folder}):
            of_it = [each for each in listed if (each.project, each.folder) == (project, place)]
            if {each.service for each in of_it} >= SERVICES:
                found.append((engine, Path(place), project, of_it))
    return found, silent


def _describe(
    engine: Engine, place: Path, project: str, containers: Mapping[str, Container], version: str | None
) -> Foreign:
    api = engine.inspect(containers[dify.API].name)
    env, example = env_history.text_of(place / ".env"), env_history.text_of(place / layout.ENV_EXAMPLE)
    # Some write it into the compose file instead: what the api was started with is what the data go with.
    key = api.environment.get(dify.SECRET_KEY, "")
    if key and envfile.parse(env).get(dify.SECRET_KEY) != key:
        env = envfile.edit(env, {dify.SECRET_KEY: key})
    variables = {**envfile.parse(example), **envfile.resolve(env)}
    engine.runner.hide([value for value in (key, variables.get("DB_PASSWORD", "")) if value])
    upstream = compose.load(layout.bundled(layout.PROJECT) / layout.COMPOSE_FILE)
    stores = dify_store.find_services(upstream, variables)
    mounts = {name: engine.inspect(each.name).mounts for name, each in containers.items()}
    folders, held = _find_folders(upstream, mounts, containers)
    image = next((containers[name].image for name in stores if name in containers), "")
    return Foreign(
        engine=engine,
        project=project,
        folder=place,
        version=version or _version(containers[dify.API].image),
        containers=containers,
        env=env,
        example=example,
        variables=variables,
        folders=folders,
        stores=held,
        store_version=dify_store.version_of(image),
        left_out=tuple(_left_out(variables, stores, containers)),
    )


def _version(image: str) -> str:
    tag = dify_store.version_of(image)
    if parse_version(tag) is None:
        raise errors.UsageError(
            f"the api's image is {image}, which does not tell the version of Dify",
            "look at its About page, and name it: --dify-version 1.9.2",
        )
    return tag


def _find_folders(
    upstream: compose.Document, mounts: Mapping[str, Mapping[str, Path]], containers: Mapping[str, Container]
) -> tuple[dict[str, Path], dict[str, tuple[str, ...]]]:
    """Return where what we keep below `volumes/` lies here, and which containers are to be stopped for their folders.

    A service of another's compose file may have its folders elsewhere, or in volumes of the engine; inside of the
    container they are where they are in ours.
    """
    folders: dict[str, Path] = {}
    held: dict[str, tuple[str, ...]] = {}
    for name, service in upstream["services"].items():
        found = {
            folder: mounts[name][inside]
            for folder, inside in data.mounted(service)
            if name in mounts and inside in mounts[name] and folder.partition("/")[0] not in data.NOT_COPIED
        }
        folders |= {folder: source for folder, source in found.items() if not source.is_file()}
        if found and name not in data.WRITE_ONCE and containers[name].state == "running":
            held[containers[name].name] = tuple(found)
    return folders, held


def _left_out(
    variables: Mapping[str, str], stores: Sequence[str], containers: Mapping[str, Container]
) -> Iterator[str]:
    yield "Redis: what is being worked on at this moment, and who is signed in"
    yield "files beside Dify's own, as changes of its compose file"
    if (kind := variables.get(STORAGE, "")) not in LOCAL_STORAGES:
        yield f"objects, which Dify keeps in {kind}: the new server has to reach it"
    elif (scheme := variables.get(SCHEME, "")) not in LOCAL_SCHEMES:
        yield f"objects, which Dify keeps in {scheme}: the new server has to reach it"
    if not any(name in containers for name in stores):
        store = variables.get(dify.VECTOR_STORE) or "no vector store"
        yield f"vectors: {store} has no container here"


@contextlib.contextmanager
def running_database(found: Foreign, console: Console) -> Iterator[Container]:
    """Give the container of the database, started for the length of the block where it does not run.

    Raises UsageError where the database is of a kind that we cannot dump or has no container, CommandFailed.
    """
    names = (found.variables.get("DB_HOST", ""), databases.service_of(found.variables), OLD_DATABASE)
    container = next((found.containers[name] for name in names if name in found.containers), None)
    if container is None:
        raise errors.UsageError(
            f"the database is at {found.variables.get('DB_HOST')}, which is no container of {found.project}",
            "only a database that runs beside Dify can be exported; dump that one with its own tools",
        )
    engine = found.engine
    if container.state == "running":
        yield container
        return
    console.line(f"  {container.name} is started for its dump, and stopped again")
    engine.run(["start", container.name], timeout=START_SECONDS)
    try:
        databases.await_answer(container.name, found.variables, engine)
        yield container
    finally:
        engine.run(["stop", "-t", str(STOP_SECONDS), container.name], timeout=STOP_SECONDS + MARGIN_SECONDS)
