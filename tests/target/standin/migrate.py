"""Stands in for `flask upgrade-db`: one of all that try migrates, and a migration that fails is only logged."""

import ast
import os
import pathlib
import sys
import time
import traceback

import as_large  # noqa: F401 - as long as the real one reads itself in
import backing

ENV = os.environ
VERSION = pathlib.Path("/standin/VERSION").read_text()
# A file each, as alembic has them; UPGRADE is what it does. The database has come to the one in its table.
VERSIONS = pathlib.Path("/app/api/migrations/versions")
# What a version does to the data of the one before; a file has a transaction of its own, and is read at each start.
MIGRATIONS = pathlib.Path("/standin/migrations")
# A file of this name lets this version refuse to start.
REFUSES = pathlib.Path("/app/api/storage", f"refuses-{VERSION}")
LOCK_SECONDS = 60


def seal():
    """Make the first table, slowly, as the first start of the real one does; keep the key that sealed the data."""
    with backing.transaction() as cursor:
        if not backing.has_table(cursor, "setups"):
            time.sleep(2)
            cursor.execute("CREATE TABLE setups (sealed_with text)")
            cursor.execute("INSERT INTO setups VALUES (%s)", (ENV["SECRET_KEY"],))
        cursor.execute("SELECT sealed_with FROM setups")
        if cursor.fetchone()[0] != ENV["SECRET_KEY"]:
            sys.exit("error: the data were sealed with another SECRET_KEY")


def read_versions():
    """Return the migrations of this image in their order: their names, what each comes after, and what it does."""
    found = {}
    for path in VERSIONS.glob("*.py"):
        values = {}
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Assign):
                values[node.targets[0].id] = ast.literal_eval(node.value)
        found[values["down_revision"]] = (values["revision"], values.get("UPGRADE", ""))
    ordered, last = [], None
    while last in found:
        revision, script = found[last]
        ordered.append((last, revision, script))
        last = revision
    return ordered


def upgrade():
    """Do what the database lacks, in one transaction."""
    backing.make_table()
    for script in sorted(MIGRATIONS.glob("*.sql")):
        with backing.transaction() as cursor:
            cursor.execute(script.read_text())
    with backing.transaction() as cursor:
        cursor.execute("CREATE TABLE IF NOT EXISTS alembic_version (version_num varchar(32) NOT NULL)")
        cursor.execute("SELECT version_num FROM alembic_version")
        row = cursor.fetchone()
        versions = read_versions()
        done = [revision for _, revision, _ in versions].index(row[0]) + 1 if row else 0
        for before, revision, script in versions[done:]:
            sys.stderr.write(f"INFO  [alembic.runtime.migration] Running upgrade {before or ''} -> {revision}\n")
            sys.stderr.flush()
            if script:
                cursor.execute(script)
            cursor.execute("DELETE FROM alembic_version")
            cursor.execute("INSERT INTO alembic_version VALUES (%s)", (revision,))


def main():
    if REFUSES.exists():
        sys.exit(f"error: {VERSION} refuses to start")
    # Redis has it for all of them, and forgets it after a while, whether they are done or not.
    if not backing.cache().set("db_upgrade_lock", "held", nx=True, ex=LOCK_SECONDS):
        print("Database migration skipped")
        return
    try:
        seal()
        print("Starting database migration.", flush=True)
        upgrade()
        print("Database migration successful!")
    except Exception:
        traceback.print_exc()
        print("Failed to execute database migration")
    finally:
        backing.cache().delete("db_upgrade_lock")


main()
