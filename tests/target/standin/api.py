"""Stands in for Dify's api, worker and beat: uses the database, the cache and the broker as its environment says."""

import os
import pathlib
import sys
import time

import backing
import redis

ENV = os.environ
VERSION = pathlib.Path("/standin/VERSION").read_text()
# What a version does to the data of the one before; a file has a transaction of its own, and is read at each start.
MIGRATIONS = pathlib.Path("/standin/migrations")
# A file of this name lets this version refuse to start.
REFUSES = pathlib.Path("/app/api/storage", f"refuses-{VERSION}")


def migrate():
    """Make the tables, slowly, as the first start of the real one does; keep the key that sealed them."""
    with backing.transaction() as cursor:
        cursor.execute("SELECT to_regclass('setups')")
        if cursor.fetchone()[0] is None:
            time.sleep(2)
            cursor.execute("CREATE TABLE setups (sealed_with text)")
            cursor.execute("INSERT INTO setups VALUES (%s)", (ENV["SECRET_KEY"],))
        cursor.execute("SELECT sealed_with FROM setups")
        if cursor.fetchone()[0] != ENV["SECRET_KEY"]:
            sys.exit("error: the data were sealed with another SECRET_KEY")
    backing.make_table()
    for script in sorted(MIGRATIONS.glob("*.sql")):
        with backing.transaction() as cursor:
            cursor.execute(script.read_text())


def main():
    if REFUSES.exists():
        sys.exit(f"error: {VERSION} refuses to start")
    broker = redis.Redis.from_url(ENV["CELERY_BROKER_URL"])
    broker.ping()
    backing.cache().ping()
    if ENV.get("MODE") in ("api", "worker"):
        pathlib.Path("/app/api/storage", ENV["MODE"]).write_text("here")
    if ENV.get("MODE") != "api":
        import web  # noqa: F401 - for its handler of SIGTERM

        backing.database().close()
        # Of celery's queues, the one in which knowledge waits; what is for the others nobody sends.
        queue = "dataset" if ENV.get("MODE") == "worker" else "celery"
        while True:
            if taken := broker.brpop(queue, 5):
                from console import knowledge

                knowledge.work(taken[1])
    if ENV.get("MIGRATION_ENABLED") == "true":
        migrate()
    # Late: the others need none of it.
    import pages
    from console import application

    pages.serve(application.make(VERSION), int(ENV["DIFY_PORT"]))


main()
