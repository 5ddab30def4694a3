"""Counts the rows of all tables before and after an upgrade, and judges what became fewer.

Migrations may move rows from one table to another: fewer rows are told. Tables that hold people's work are not empty
afterwards: then the upgrade has failed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from installer.backup import databases
from installer.core import errors
from installer.engine.base import Container, Engine
from installer.release import dify, external
from installer.services import postgresql

# So many tables are named.
SHOWN = 10
# By database, then by schema and table.
Rows = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Counted:
    """The rows of all tables, or, in words, why they could not be counted."""

    rows: Rows = field(default_factory=dict)
    why_not: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """Tables that had rows, in words: `lost` those of people's work that have none, `fewer` all that have fewer."""

    lost: tuple[str, ...]
    fewer: tuple[str, ...]
    total: int  # rows afterwards
    tables: int


def count(
    variables: Mapping[str, str], found: Iterable[Container], engine: Engine, authorities: bytes | None = None
) -> Counted:
    """Count the rows of an installation's databases while their server runs; never fails.

    `authorities` are whom a server of others is trusted by, PEM.
    """
    try:
        if (database := external.find_database(variables)) is not None:
            return Counted(rows=postgresql.count_rows(database, authorities))
        there = databases.find_databases(databases.find_server(variables, found), variables, engine)
        return Counted(rows={each.name: each.count_rows(engine) for each in there})
    except errors.InstallerError as error:
        return Counted(why_not=error.message)
    except ValueError:
        return Counted(why_not="the database has not listed all tables")


def compare(before: Rows, after: Rows) -> Compared:
    """Compare what was counted."""
    lost, fewer = [], []
    for name, tables in before.items():
        now = after.get(name, {})
        for table, number in tables.items():
            left = now.get(table)
            if number and (left or 0) < number:
                fewer.append(f"{table}: {number} before, {'the table is gone' if left is None else f'{left} now'}")
                if not left and table.rpartition(".")[2] in dify.WORK_TABLES:
                    lost.append(fewer[-1])
    numbers = [number for tables in after.values() for number in tables.values()]
    return Compared(lost=tuple(lost), fewer=tuple(fewer), total=sum(numbers), tables=len(numbers))


def in_words(told: Iterable[str]) -> str:
    """Return the first of them for a message."""
    lines = list(told)
    more = f"; and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
    return "; ".join(lines[:SHOWN]) + more
