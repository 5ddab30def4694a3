"""Asks a PostgreSQL server of others whether Dify can work there; all that is tried is taken back in its transaction.

What Dify needs (1.11.3, api/migrations): tables, a sequence and functions in the current schema, and the extension
uuid-ossp (64b051264f32_init.py), which is a trusted one: whoever may create in a database may add it (PostgreSQL's
manual, "uuid-ossp"). The plugin daemon (0.5.2, internal/db) makes tables, and no extension.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from installer.core import errors
from installer.release.external import Database
from installer.services import reach

CONNECT_SECONDS = 10.0
QUESTION_SECONDS = 30
# Dify's own compose file brings 15; from 18 on the server has functions of the names that Dify's migrations make.
OLDEST, NEWEST = 14, 17
EXTENSION = "uuid-ossp"
# What every server has (PostgreSQL's manual, "Template Databases"), for questions about others.
ALWAYS_THERE = ("postgres", "template1")
# What Dify's own compose file gives its own (POSTGRES_MAX_CONNECTIONS).
USUAL_CONNECTIONS = 100
ENCODING = "UTF8"
# Codes of PostgreSQL's manual, "PostgreSQL Error Codes".
WRONG_PASSWORD, NOT_LET_IN, NO_DATABASE, NO_PRIVILEGE = "28P01", "28000", "3D000", "42501"
FULL, STARTING = "53300", "57P03"


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """A server that Dify can work on; `missing` are databases that its user may make, `warnings` (seen, remedy)."""

    version: str
    revision: str  # Dify's migrations have come to; empty where there is no Dify
    missing: tuple[str, ...]
    warnings: tuple[tuple[str, str], ...]


class RefusedError(Exception):
    """The server has answered with an error: its code and its words."""

    def __init__(self, code: str, words: str) -> None:
        super().__init__(words)
        self.code, self.words = code, words


class Connection:
    """A connection to one database; closes at the end of a `with` block."""

    def __init__(self, database: Database, name: str, authorities: bytes | None) -> None:
        """Connect. Raises PreflightFailed for what is no answer of PostgreSQL, RefusedError for one that is."""
        from pg8000 import native

        self.name = name
        context: Any = False
        if database.mode != "disable":
            context = reach.make_context(
                verifies=database.verifies,
                names=database.mode == "verify-full",
                authorities=authorities,
                where=database.where,
            )
        with _telling(database):
            self._connection = native.Connection(
                database.user,
                host=database.host,
                port=database.port,
                database=name,
                password=database.password,
                timeout=CONNECT_SECONDS,
                ssl_context=context,
                application_name="dify-installer",
            )
        self._database = database
        self.run(f"SET statement_timeout = '{QUESTION_SECONDS}s'")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(Exception):
            self._connection.close()

    def run(self, question: str, **values: str) -> list[tuple[Any, ...]]:
        """Ask, and return the rows. Raises RefusedError, PreflightFailed."""
        with _telling(self._database):
            return [tuple(row) for row in self._connection.run(question, **values) or ()]

    def one(self, question: str, **values: str) -> Any:
        """Return the first value of the first row, or None."""
        rows = self.run(question, **values)
        return rows[0][0] if rows else None


@contextlib.contextmanager
def _telling(database: Database) -> Iterator[None]:
    """Raise RefusedError for an answer of the server, PreflightFailed for whatever else keeps it from answering."""
    from pg8000 import exceptions

    with reach.telling(database.where, url=database.option, plain=f"?sslmode=disable in {database.option}"):
        try:
            yield
        except exceptions.DatabaseError as error:
            found = error.args[0] if error.args and isinstance(error.args[0], Mapping) else {}
            raise RefusedError(str(found.get("C", "")), str(found.get("M", error))) from error
        except exceptions.InterfaceError as error:
            if isinstance(error.__cause__, OSError):
                raise error.__cause__ from None
            if "refuses SSL" in str(error):
                raise errors.PreflightFailed(
                    f"{database.where} speaks no TLS, and sslmode={database.mode} asks for it: the password would be "
                    "sent unprotected",
                    "switch it on there (ssl = on, with a certificate); or, where nobody else can listen, "
                    f"?sslmode=disable in {database.option}",
                ) from error
            raise errors.PreflightFailed(
                f"{database.where} does not answer as PostgreSQL does: {error}", f"correct {database.option}"
            ) from error


def look(database: Database, authorities: bytes | None, *, key_is_new: bool) -> Seen:
    """Ask whether Dify can work there, as it would ask; leaves nothing there.

    `authorities` are certificates, PEM; `key_is_new` tells that SECRET_KEY is to be generated. Raises PreflightFailed
    with the reason, and the SQL that an administrator of that server has to run.
    """
    wanted = (database.name, database.plugins)
    with contextlib.ExitStack() as stack:
        opened = {
            name: connection for name in wanted if (connection := open_database(database, name, authorities, stack))
        }
        missing = tuple(name for name in wanted if name not in opened)
        server = next(iter(opened.values()), None) or _open_any(database, authorities, stack, missing)
        version = require_version(server, database)
        if missing:
            _require_may_make(server, database, missing)
        for name, connection in opened.items():
            require_usable(connection, database, with_extension=name == database.name)
        revision = ""
        if database.name in opened:
            revision = _require_ours(opened[database.name], database, key_is_new=key_is_new)
        elif not _has_extension(server):
            raise _no_extension(database)
        return Seen(
            version=version,
            revision=revision,
            missing=missing,
            warnings=tuple(_find_limits(server, database)),
        )


def count_rows(database: Database, authorities: bytes | None) -> dict[str, dict[str, int]]:
    """Return the rows of each table, by database and then by schema and table. Raises PreflightFailed."""
    counted: dict[str, dict[str, int]] = {}
    for name in (database.name, database.plugins):
        with contextlib.ExitStack() as stack:
            if (connection := open_database(database, name, authorities, stack)) is None:
                continue
            try:
                tables = connection.run(
                    "SELECT schemaname, tablename FROM pg_tables "
                    "WHERE schemaname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1, 2"
                )
                counted[name] = {
                    f"{schema}.{table}": int(
                        connection.one(f"SELECT count(*) FROM {quoted(schema)}.{quoted(table)}")  # noqa: S608
                    )
                    for schema, table in tables
                }
            except RefusedError as error:
                raise _told(error, database, name) from error
    return counted


def read_revision(database: Database, authorities: bytes | None) -> str:
    """Return what Dify's migrations have come to; empty where there is no Dify. Raises PreflightFailed."""
    with contextlib.ExitStack() as stack:
        connection = open_database(database, database.name, authorities, stack)
        if connection is None or connection.one("SELECT to_regclass('alembic_version')::text") is None:
            return ""
        return str(connection.one("SELECT max(version_num) FROM alembic_version") or "")


def create(database: Database, names: tuple[str, ...], authorities: bytes | None) -> None:
    """Make databases, empty and in UTF-8, that belong to the user. Raises PreflightFailed."""
    with contextlib.ExitStack() as stack:
        server = _open_any(database, authorities, stack, names)
        for name in names:
            try:
                server.run(f"CREATE DATABASE {quoted(name)} TEMPLATE template0 ENCODING '{ENCODING}'")
            except RefusedError as error:
                raise _told(error, database, name) from error


def open_database(
    database: Database, name: str, authorities: bytes | None, stack: contextlib.ExitStack
) -> Connection | None:
    """Connect to a database; return None where there is none of that name. Raises PreflightFailed."""
    try:
        return stack.enter_context(Connection(database, name, authorities))
    except RefusedError as error:
        if error.code == NO_DATABASE:
            return None
        raise _told(error, database, name) from error


def _open_any(
    database: Database, authorities: bytes | None, stack: contextlib.ExitStack, missing: tuple[str, ...]
) -> Connection:
    for name in ALWAYS_THERE:
        with contextlib.suppress(errors.PreflightFailed):
            if (found := open_database(database, name, authorities, stack)) is not None:
                return found
    raise _must_be_made(database, missing)


def _told(error: RefusedError, database: Database, name: str) -> errors.PreflightFailed:
    """Return the error that an answer of the server means, with its remedy."""
    user = quoted(database.user)
    entry = f"{'host' if database.mode == 'disable' else 'hostssl'} {name} {database.user} ADDRESS/32 scram-sha-256"
    remedies = {
        WRONG_PASSWORD: (
            f"it refuses the password of {database.user}",
            f"correct the password in {database.option}; or its administrator sets it: ALTER ROLE {user} PASSWORD '…'",
        ),
        NOT_LET_IN: (
            f"it does not let {database.user} in: {error.words}",
            (
                f"its administrator adds to pg_hba.conf `{entry}`, with this host's address, and runs SELECT "
                f"pg_reload_conf(); and, if there is no such user, CREATE ROLE {user} LOGIN PASSWORD '…'"
            ),
        ),
        NO_PRIVILEGE: (
            f"{database.user} may not connect to {name}: {error.words}",
            f"its administrator runs: GRANT CONNECT, CREATE ON DATABASE {quoted(name)} TO {user}",
        ),
        FULL: (
            f"it takes no further connection: {error.words}",
            f"its administrator raises max_connections, or runs: ALTER ROLE {user} CONNECTION LIMIT -1",
        ),
        STARTING: (f"it does not take questions yet: {error.words}", "wait until it has started"),
    }
    seen, remedy = remedies.get(error.code, (f"it refuses: {error.words} ({error.code})", f"correct {database.option}"))
    return errors.PreflightFailed(f"{database.where}: {seen}", remedy)


def require_version(server: Connection, database: Database) -> str:
    """Return the server's version. Raises PreflightFailed for one that Dify does not work with, and for a standby."""
    number = int(server.one("SELECT current_setting('server_version_num')"))
    version = str(server.one("SELECT current_setting('server_version')")).split()[0]
    if not OLDEST <= number // 10000 <= NEWEST:
        raise errors.PreflightFailed(
            f"{database.where} is version {version}, and Dify is to work with {OLDEST} to {NEWEST}",
            f"name a server of a version from {OLDEST} to {NEWEST}",
        )
    if server.one("SELECT pg_is_in_recovery()"):
        raise errors.PreflightFailed(
            f"{database.where} is a standby, which can only be read", f"name the primary server in {database.option}"
        )
    return version


def _require_may_make(server: Connection, database: Database, missing: tuple[str, ...]) -> None:
    if not server.one("SELECT rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = current_user"):
        raise _must_be_made(database, missing)


def _must_be_made(database: Database, missing: tuple[str, ...]) -> errors.PreflightFailed:
    made = " ".join(
        f"CREATE DATABASE {quoted(name)} OWNER {quoted(database.user)} TEMPLATE template0 ENCODING '{ENCODING}';"
        for name in missing
    )
    return errors.PreflightFailed(
        f"{database.where} has no database {' and '.join(missing)}, and {database.user} may not make one",
        f"its administrator runs: {made}",
    )


def require_usable(connection: Connection, database: Database, *, with_extension: bool) -> None:
    """Raise PreflightFailed where Dify's programs could not make their tables in a database, and use them."""
    name, user = connection.name, quoted(database.user)
    where = f"{database.where}, {name}"
    encoding = connection.one(
        "SELECT pg_encoding_to_char(encoding) FROM pg_database WHERE datname = current_database()"
    )
    if encoding != ENCODING:
        raise errors.PreflightFailed(
            f"{where}: it is encoded in {encoding}, which cannot hold every text",
            f"its administrator makes one in UTF-8: CREATE DATABASE … OWNER {user} TEMPLATE template0 ENCODING 'UTF8'",
        )
    schema = connection.one("SELECT current_schema()")
    may = schema and connection.one("SELECT has_schema_privilege(current_schema(), 'CREATE')")
    if not may:
        raise errors.PreflightFailed(
            f"{where}: {database.user} may not make tables in the schema {schema or 'public'}",
            f"its administrator runs, in {name}: GRANT USAGE, CREATE ON SCHEMA {quoted(schema or 'public')} TO "
            f"{user}; or: ALTER DATABASE {quoted(name)} OWNER TO {user}",
        )
    if with_extension:
        if not _has_extension(connection):
            raise _no_extension(database)
        require_may_add(connection, database, EXTENSION)
    _require_own_tables(connection, database, where)
    _go_round(connection, where, with_extension=with_extension)


def require_may_add(connection: Connection, database: Database, extension: str) -> None:
    """Raise PreflightFailed for an extension that the server has, and neither the database nor its user may add."""
    if connection.one("SELECT true FROM pg_extension WHERE extname = :name", name=extension):
        return
    trusted = connection.one(
        "SELECT bool_or(trusted) FROM pg_available_extension_versions WHERE name = :name", name=extension
    )
    may = trusted and connection.one("SELECT has_database_privilege(current_database(), 'CREATE')")
    superuser = connection.one("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
    if not may and not superuser:
        name, user = quoted(connection.name), quoted(database.user)
        raise errors.PreflightFailed(
            f"{database.where}, {connection.name}: the extension {extension} is missing, and {database.user} may not "
            "add it",
            f'its administrator runs, in {connection.name}: CREATE EXTENSION "{extension}"'
            + (f"; or: GRANT CREATE ON DATABASE {name} TO {user}" if trusted else ""),
        )


def _has_extension(connection: Connection) -> bool:
    return bool(connection.one("SELECT true FROM pg_available_extensions WHERE name = :name", name=EXTENSION))


def _no_extension(database: Database) -> errors.PreflightFailed:
    return errors.PreflightFailed(
        f"{database.where}: the extension {EXTENSION} is not installed on that server",
        "its administrator installs PostgreSQL's contrib package there (postgresql-contrib)",
    )


def _require_own_tables(connection: Connection, database: Database, where: str) -> None:
    """Raise PreflightFailed for tables that migrations could not change: they belong to somebody else."""
    rows = connection.run(
        "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = current_schema() "
        "AND NOT pg_has_role(tableowner, 'USAGE') ORDER BY 1"
    )
    if owners := [str(row[0]) for row in rows]:
        raise errors.PreflightFailed(
            f"{where}: tables there belong to {', '.join(owners)}, and {database.user} could not change them",
            f"its administrator runs, in {connection.name}: "
            + " ".join(f"REASSIGN OWNED BY {quoted(each)} TO {quoted(database.user)};" for each in owners),
        )


def _go_round(connection: Connection, where: str, *, with_extension: bool) -> None:
    """Do once what Dify's programs do, and take it back: the transaction ends as if it had not been."""
    table = f"dify_installer_{secrets.token_hex(6)}"
    default = "DEFAULT uuid_generate_v4()" if with_extension else "DEFAULT gen_random_uuid()"
    steps = [f'CREATE EXTENSION IF NOT EXISTS "{EXTENSION}"'] if with_extension else []
    steps += [
        f"CREATE TABLE {table} (id uuid {default} PRIMARY KEY, note text NOT NULL)",
        f"CREATE SEQUENCE {table}_seq",
        f"CREATE FUNCTION {table}_f() RETURNS uuid LANGUAGE sql AS $$ SELECT gen_random_uuid() $$",
        f"INSERT INTO {table} (note) VALUES ('가나다')",  # noqa: S608 - the name is ours
        f"UPDATE {table} SET note = note || '라'",  # noqa: S608
    ]
    connection.run("BEGIN")
    try:
        for step in steps:
            connection.run(step)
        read = connection.one(f"SELECT note FROM {table}")  # noqa: S608 - the name is ours
    except RefusedError as error:
        what = step.partition(table)[0].strip() or step
        raise errors.PreflightFailed(
            f"{where}: `{what}` is refused: {error.words} ({error.code})",
            "its administrator lets this user do that: Dify does the same at its first start",
        ) from error
    finally:
        with contextlib.suppress(RefusedError, errors.PreflightFailed):
            connection.run("ROLLBACK")
    if read != "가나다라" or connection.one("SELECT to_regclass(:name)::text", name=table) is not None:
        raise errors.PreflightFailed(
            f"{where}: what was written is not what was read, or not taken back",
            "name a server of PostgreSQL itself: something between changes what is said",
        )


def _require_ours(connection: Connection, database: Database, *, key_is_new: bool) -> str:
    """Return the revision of the Dify in it, empty for none. Raises PreflightFailed where it is not to be touched."""
    where = f"{database.where}, {connection.name}"
    if connection.one("SELECT to_regclass('alembic_version')::text") is None:
        number = connection.one("SELECT count(*) FROM pg_tables WHERE schemaname = current_schema()")
        if number:
            raise errors.PreflightFailed(
                f"{where}: it has {number} tables, and none of Dify: Dify's would mix with them",
                "name an empty database",
            )
        return ""
    revision = str(connection.one("SELECT max(version_num) FROM alembic_version") or "")
    if key_is_new:
        raise errors.PreflightFailed(
            f"{where}: it holds a Dify, and this installation has no SECRET_KEY yet: with a new one, what that Dify "
            "has sealed could never be opened again",
            "give that Dify's own, from its .env: --set SECRET_KEY=…; or name an empty database",
        )
    return revision


def _find_limits(server: Connection, database: Database) -> Iterator[tuple[str, str]]:
    """Yield a warning where fewer connections are let in than Dify's own compose file provides for."""
    most = int(server.one("SELECT current_setting('max_connections')"))
    limit = int(server.one("SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user"))
    allowed = min(most, limit) if limit >= 0 else most
    if allowed < USUAL_CONNECTIONS:
        seen = f"{database.where} lets {database.user} have {allowed} connections; Dify's own has {USUAL_CONNECTIONS}"
        limit_of_user = f"ALTER ROLE {quoted(database.user)} CONNECTION LIMIT {USUAL_CONNECTIONS}"
        yield seen, f"its administrator raises max_connections, or the limit of the user: {limit_of_user}"


def quoted(name: str) -> str:
    """Return a name as SQL takes it literally."""
    return '"' + name.replace('"', '""') + '"'
