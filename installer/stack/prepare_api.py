"""Runs in each container of Dify's api image before its own program: with the Python that is there, and plain.

It proves what was kept of compiled Python, and it counts the migrations that the database lacks. The api, which
migrates, tells that number and goes on; the others wait until there are none (docs/decisions/023). On a cluster it runs
once more after the migration, and fails where one is lacking still: upstream's program logs that alone.

Sources: Dify 1.11.3, api/docker/entrypoint.sh, api/migrations, api/configs/middleware (DatabaseConfig).
"""

from __future__ import annotations

import importlib
import marshal
import os
import re
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

# Begins each line of ours in the container's log.
MARK = "dify-installer:"
# Says that this container is to wait; whoever migrates does not have it.
AWAIT = "DIFY_INSTALLER_AWAIT_MIGRATION"
# Says that the migration has just ended, and nothing may be lacking.
REQUIRE = "DIFY_INSTALLER_REQUIRE_MIGRATED"
PREFIX = "PYTHONPYCACHEPREFIX"
STAMP = ".proved"
BOOT = Path("/proc/sys/kernel/random/boot_id")
# Before the code: magic number, flags, time and size of the source (PEP 552).
HEADER_BYTES = 16
# Below the folder that the image starts its program in.
VERSIONS = Path("migrations/versions")
POLL_SECONDS = 0.5
TELL_SECONDS = 30.0
# Then the container ends, and its engine starts it again: whoever looks sees that something is wrong.
LIMIT_SECONDS = 1200.0
CONNECT_SECONDS = 5
# sysexits.h: the one status that ends the container.
TEMPORARY_FAILURE = 75
NOT_MIGRATED = 1

Graph = Mapping[str, frozenset[str]]

_REVISION = re.compile(r"^revision\b[^=\n]*=\s*['\"](\w+)['\"]", re.MULTILINE)
_BEFORE = re.compile(r"^down_revision\b[^=\n]*=\s*(\([^)]*\)|.*)$", re.MULTILINE)


class NotToBeTold(Exception):
    """It cannot be told what the database lacks; the text says why. Then the program starts as upstream has it."""


def main() -> int:
    """Prepare, and return the status with which the container is to end, or 0."""
    if folder := os.environ.get(PREFIX):
        prove_compiled(Path(folder))
    try:
        graph = read_graph(VERSIONS)
        if os.environ.get(AWAIT) == "true":
            return wait(graph)
        if os.environ.get(REQUIRE) == "true":
            return require(graph)
        if os.environ.get("MIGRATION_ENABLED") == "true":
            tell(f"{count_missing(graph, read_current())} migrations to do")
    except NotToBeTold as error:
        tell(f"{error}; the program starts without having waited for migrations")
    except Exception as error:  # noqa: BLE001 - the drivers are the image's
        tell(f"the database does not answer yet: {type(error).__name__}")
        # Whoever migrates is not to fail for a number.
        return TEMPORARY_FAILURE if os.environ.get(REQUIRE) == "true" else 0
    return 0


def tell(text: str) -> None:
    """Write a line into the container's log."""
    sys.stderr.write(f"{MARK} {text}\n")
    sys.stderr.flush()


def prove_compiled(folder: Path) -> int:
    """Remove what is no compiled Python in a folder of it, and return how many files that were.

    A power cut or a full disk leaves halves, whose import fails (seen: EOFError, "marshal data too short"). What was
    proved since this boot is not read again: only what has come after it.
    """
    try:
        boot = BOOT.read_text()
        stamp = folder / STAMP
        since = stamp.stat().st_mtime if stamp.exists() and stamp.read_text() == boot else 0.0
        begun = time.time()
        bad = [path for path in folder.rglob("*.pyc") if path.stat().st_ctime >= since and not _is_whole(path)]
        for path in bad:
            path.unlink(missing_ok=True)
        stamp.write_text(boot)
        os.utime(stamp, (begun, begun))
    except OSError as error:
        tell(f"compiled Python is not kept: {error}")
        return 0
    if bad:
        tell(f"{len(bad)} damaged files of compiled Python are removed")
    return len(bad)


def _is_whole(path: Path) -> bool:
    try:
        marshal.loads(path.read_bytes()[HEADER_BYTES:])  # noqa: S302 - Python does the same as it imports it
    except FileNotFoundError:
        # Another container has just replaced it.
        return True
    except (EOFError, ValueError, TypeError):
        return False
    return True


def read_graph(folder: Path) -> Graph:
    """Return what each migration of the image comes after. Raises NotToBeTold when there are none."""
    graph = {}
    for path in folder.glob("*.py"):
        text = path.read_text("utf-8")
        if (revision := _REVISION.search(text)) and (before := _BEFORE.search(text)):
            graph[revision[1]] = frozenset(re.findall(r"['\"](\w+)['\"]", before[1]))
    if not graph:
        raise NotToBeTold(f"no migrations are in {folder.absolute()}")
    return graph


def count_missing(graph: Graph, current: Iterable[str]) -> int:
    """Return how many migrations a database lacks that has come to `current`.

    Raises NotToBeTold for one of another version, whose place the image does not know.
    """
    done: set[str] = set()
    left = list(current)
    while left:
        revision = left.pop()
        if revision not in graph:
            raise NotToBeTold(f"the database is at {revision}, which this version does not know")
        if revision not in done:
            done.add(revision)
            left += graph[revision]
    return len(graph) - len(done)


def read_current() -> list[str]:
    """Return the revisions that the database has come to; none where nothing has been migrated yet.

    Raises what its driver does, NotToBeTold where the image has no driver.
    """
    try:
        connection = _connect(os.environ)
    except ImportError as error:
        raise NotToBeTold(f"the image has no driver for its database: {error}") from error
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT version_num FROM alembic_version")
            return [str(row[0]) for row in cursor.fetchall()]
    except Exception as error:
        # PostgreSQL and MySQL: there is no such table.
        if getattr(error, "pgcode", "") == "42P01" or (error.args and error.args[0] == 1146):
            return []
        raise
    finally:
        connection.close()


def _connect(env: Mapping[str, str]) -> Any:
    """Connect as Dify would, with the driver that it uses for this kind of database."""
    user, password, database = (env.get(name, "") for name in ("DB_USERNAME", "DB_PASSWORD", "DB_DATABASE"))
    host, port = env.get("DB_HOST", ""), int(env.get("DB_PORT") or 5432)
    if env.get("DB_TYPE", "postgresql") == "postgresql":
        login = f"{quote(user, safe='')}:{quote(password, safe='')}"
        extras = env.get("DB_EXTRAS", "").strip("&")
        address = f"postgresql://{login}@{host}:{port}/{quote(database, safe='')}{'?' if extras else ''}{extras}"
        driver: Any = importlib.import_module("psycopg2")
        return driver.connect(address, connect_timeout=CONNECT_SECONDS)
    driver = importlib.import_module("pymysql")
    return driver.connect(
        host=host, port=port, user=user, password=password, database=database, connect_timeout=CONNECT_SECONDS
    )


def require(graph: Graph) -> int:
    """Return 0 where the database lacks no migration, else the status of a migration that has failed.

    Raises NotToBeTold, and what the database's driver does.
    """
    missing = count_missing(graph, read_current())
    tell(f"{missing} migrations are not done, and the migration has ended: its log says why" if missing else "migrated")
    return NOT_MIGRATED if missing else 0


def wait(graph: Graph) -> int:
    """Wait until the database lacks no migration; return 0, or the status for a wait that was too long.

    Raises NotToBeTold.
    """
    begun = time.monotonic()
    told = begun - TELL_SECONDS
    while True:
        try:
            missing = count_missing(graph, read_current())
            words = f"waits for the api, which has {missing} migrations to do"
        except NotToBeTold:
            raise
        except Exception as error:  # noqa: BLE001 - as above
            missing, words = -1, f"waits for the database: {type(error).__name__}"
        if missing == 0:
            return 0
        if time.monotonic() - told >= TELL_SECONDS:
            told = time.monotonic()
            tell(words)
        if time.monotonic() - begun > LIMIT_SECONDS:
            tell("this has taken too long: look at the api's log")
            return TEMPORARY_FAILURE
        time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
