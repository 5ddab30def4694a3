"""Asks a PostgreSQL with pgvector whether Dify can keep its vectors there; what is tried is taken back.

What the api does there is Dify's own SQL (1.11.3, api/core/rag/datasource/vdb/pgvector/pgvector.py): it adds the
extension where it is missing, and makes a table for each knowledge base, with an index of the kind hnsw.
"""

from __future__ import annotations

import contextlib
import secrets
from dataclasses import dataclass

from installer.core import errors
from installer.release.external import Database
from installer.services import postgresql
from installer.services.postgresql import Connection

EXTENSION = "vector"
# The first one with hnsw (pgvector's CHANGELOG).
OLDEST = (0, 5)


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """A database that Dify can keep its vectors in, and the versions of the server and of pgvector."""

    version: str
    extension: str


def look(database: Database, authorities: bytes | None) -> Seen:
    """Ask whether Dify can keep its vectors there, as it would; leaves nothing there.

    `authorities` are certificates, PEM. Raises PreflightFailed with the reason, and the SQL that an administrator of
    that server has to run.
    """
    with contextlib.ExitStack() as stack:
        connection = postgresql.open_database(database, database.name, authorities, stack)
        if connection is None:
            name, user = postgresql.quoted(database.name), postgresql.quoted(database.user)
            raise errors.PreflightFailed(
                f"{database.where} has no database {database.name}",
                f"its administrator runs: CREATE DATABASE {name} OWNER {user} TEMPLATE template0 ENCODING 'UTF8';",
            )
        version = postgresql.require_version(connection, database)
        extension = _require_extension(connection, database)
        postgresql.require_usable(connection, database, with_extension=False)
        _go_round(connection, database)
        return Seen(version=version, extension=extension)


def _require_extension(connection: Connection, database: Database) -> str:
    """Return the version of pgvector that is there, or would be added."""
    there = connection.one("SELECT extversion FROM pg_extension WHERE extname = :name", name=EXTENSION)
    version = there or connection.one(
        "SELECT default_version FROM pg_available_extensions WHERE name = :name", name=EXTENSION
    )
    if not version:
        raise errors.PreflightFailed(
            f"{database.where}: the extension {EXTENSION} is not installed on that server",
            "its administrator installs pgvector there, for the server's version of PostgreSQL",
        )
    if tuple(int(each) for each in str(version).split(".")[:2] if each.isdecimal()) < OLDEST:
        raise errors.PreflightFailed(
            f"{database.where}: its pgvector is {version}, which has no index of the kind hnsw",
            f"its administrator installs a newer one, and runs, in {connection.name}: ALTER EXTENSION vector UPDATE",
        )
    postgresql.require_may_add(connection, database, EXTENSION)
    return str(version)


def _go_round(connection: Connection, database: Database) -> None:
    """Do once what the api does, and take it back: the transaction ends as if it had not been."""
    where, table = f"{database.where}, {connection.name}", f"dify_installer_{secrets.token_hex(6)}"
    steps = [
        f"CREATE EXTENSION IF NOT EXISTS {EXTENSION}",
        f"CREATE TABLE {table} (id UUID PRIMARY KEY, text TEXT NOT NULL, embedding vector(3) NOT NULL) USING heap",
        f"CREATE INDEX ON {table} USING hnsw (embedding vector_cosine_ops) WITH (m = 16, ef_construction = 64)",
        f"INSERT INTO {table} VALUES (gen_random_uuid(), '가나다', '[1,0,0]')",  # noqa: S608 - the name is ours
        f"INSERT INTO {table} VALUES (gen_random_uuid(), '라마바', '[0,1,0]')",  # noqa: S608
    ]
    connection.run("BEGIN")
    try:
        for step in steps:
            connection.run(step)
        nearest = connection.one(f"SELECT text FROM {table} ORDER BY embedding <=> '[0,1,0.1]' LIMIT 1")  # noqa: S608
    except postgresql.RefusedError as error:
        what = step.partition(table)[0].strip() or step
        raise errors.PreflightFailed(
            f"{where}: `{what}` is refused: {error.words} ({error.code})",
            "its administrator lets this user do that: Dify does the same for each knowledge base",
        ) from error
    finally:
        with contextlib.suppress(postgresql.RefusedError, errors.PreflightFailed):
            connection.run("ROLLBACK")
    if nearest != "라마바" or connection.one("SELECT to_regclass(:name)::text", name=table) is not None:
        raise errors.PreflightFailed(
            f"{where}: what was written is not what was found, or not taken back",
            "name a server of PostgreSQL itself: something between changes what is said",
        )
