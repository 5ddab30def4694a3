"""Which databases a Dify has, by its settings: its own and the plugin daemon's, on the server that it uses."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from installer.backup.database import Database
from installer.backup.mysql import Mysql
from installer.backup.postgresql import Postgresql
from installer.core import errors
from installer.engine.base import Container, Engine
from installer.release import dify

# The plugin daemon's own database, beside Dify's (.env.example).
PLUGINS_KEY, PLUGINS_DEFAULT = "DB_PLUGIN_DATABASE", "dify_plugin"
POSTGRESQL, MYSQL = "postgresql", "mysql"
KINDS: Mapping[str, type[Database]] = {POSTGRESQL: Postgresql, MYSQL: Mysql}
READY_SECONDS = 120.0
POLL_SECONDS = 0.5
# A database that each server has, for questions about others.
ALWAYS_THERE = {POSTGRESQL: "postgres", MYSQL: "mysql"}


def kind_of(variables: Mapping[str, str]) -> str:
    """Return the kind of database that the settings choose."""
    return variables.get(dify.DB_TYPE) or POSTGRESQL


def require_known(variables: Mapping[str, str]) -> None:
    """Raise UsageError when the database is of a kind that we cannot dump."""
    kind = kind_of(variables)
    if kind not in KINDS:
        raise errors.UsageError(
            f"the database is {kind}, and only PostgreSQL and MySQL can be backed up", "use the database's own tools"
        )


def open_database(container: str, name: str, variables: Mapping[str, str]) -> Database:
    """Return a database of this name as the settings reach it, on the server in a container. Raises UsageError."""
    require_known(variables)
    kind = kind_of(variables)
    user = variables.get("DB_USERNAME") or dify.DATABASES[kind]["DB_USERNAME"]
    return KINDS[kind](container=container, user=user, name=name, password=variables.get("DB_PASSWORD", ""))


def open_server(container: str, variables: Mapping[str, str]) -> Database:
    """Return the database that each server has, for questions about others. Raises UsageError."""
    return open_database(container, ALWAYS_THERE.get(kind_of(variables), ""), variables)


def service_of(variables: Mapping[str, str]) -> str:
    """Return the service of ours that is the database. Raises UsageError for a kind that we cannot dump."""
    require_known(variables)
    return dify.DATABASES[kind_of(variables)]["DB_HOST"]


def await_answer(container: str, variables: Mapping[str, str], engine: Engine) -> None:
    """Wait until the server in a container answers. Raises CommandFailed after some minutes."""
    server = open_server(container, variables)
    deadline = time.monotonic() + READY_SECONDS
    while not server.answers(engine):
        if time.monotonic() > deadline:
            raise errors.CommandFailed(
                f"{container} does not answer after {READY_SECONDS:.0f} s",
                f"see its log: {engine.name} logs {container}",
            )
        time.sleep(POLL_SECONDS)


def find_server(variables: Mapping[str, str], found: Iterable[Container]) -> Container:
    """Return the container of an installation of ours that is its database.

    Raises CommandFailed when it does not run, UsageError when it is of a kind that we cannot dump.
    """
    service = service_of(variables)
    container = next((each for each in found if each.service == service and each.state == "running"), None)
    if container is None:
        raise errors.CommandFailed(f"{service} does not run", "start the stack: dify-installer start")
    return container


def find_databases(server: Container, variables: Mapping[str, str], engine: Engine) -> list[Database]:
    """Return the databases that a server has of a Dify. Raises CommandFailed, UsageError."""
    listed = open_server(server.name, variables).list_names(engine)
    names = [variables.get("DB_DATABASE") or "dify", variables.get(PLUGINS_KEY) or PLUGINS_DEFAULT]
    return [open_database(server.name, name, variables) for name in names if name in listed]


def make_empty(name: str, variables: Mapping[str, str], found: Iterable[Container], engine: Engine) -> Database:
    """Return an empty database of this name, made if it is missing. Raises CommandFailed when it holds tables."""
    service = service_of(variables)
    container = next(each.name for each in found if each.service == service)
    # The check of MySQL's image is content before it is, since a password that is refused is an answer as well.
    await_answer(container, variables, engine)
    server = open_server(container, variables)
    target = open_database(container, name, variables)
    if name not in server.list_names(engine):
        server.create(name, engine)
    elif rows := target.count_rows(engine):
        raise errors.CommandFailed(f"the database {name} is not empty: it has {len(rows)} tables", "report it")
    return target
