"""Stands in for Dify's api, worker and beat: uses the database, the cache and the broker as its environment says."""

import os
import pathlib
import re
import sys

import as_large  # noqa: F401 - as long as the real one reads itself in
import backing

ENV = os.environ
VERSION = pathlib.Path("/standin/VERSION").read_text()
# A file of this name lets this version refuse to start.
REFUSES = pathlib.Path("/app/api/storage", f"refuses-{VERSION}")


def require_migrated():
    """End where the database is not of this version: the real ones begin, and fail at each task."""
    last = {}
    for path in pathlib.Path("/app/api/migrations/versions").glob("*.py"):
        values = dict(re.findall(r"^(revision|down_revision) = (.*)$", path.read_text(), re.MULTILINE))
        last[values["down_revision"]] = values["revision"]
    head = (set(last.values()) - set(last)).pop().strip('"')
    with backing.transaction() as cursor:
        cursor.execute("SELECT version_num FROM alembic_version")
        if (found := cursor.fetchone()[0]) != head:
            sys.exit(f"error: the database is at {found}, not at {head}")
    # For the tests: this worker has begun, and nothing was missing.
    print(f"begins with the database at {head}", flush=True)


def main():
    if REFUSES.exists():
        sys.exit(f"error: {VERSION} refuses to start")
    broker = backing.broker()
    broker.ping()
    backing.cache().ping()
    if ENV.get("MODE") in ("api", "worker"):
        pathlib.Path("/app/api/storage", ENV["MODE"]).write_text("here")
    if ENV.get("MODE") != "api":
        import web  # noqa: F401 - for its handler of SIGTERM

        require_migrated()
        # Of celery's queues, the one in which knowledge waits; what is for the others nobody sends.
        queue = "dataset" if ENV.get("MODE") == "worker" else "celery"
        while True:
            # Sooner than redis-py gives an answer up, which since its 8 is after 5 s.
            if taken := broker.brpop(queue, 2):
                from console import knowledge

                knowledge.work(taken[1])
    # Late: the others need none of it.
    import pages
    from console import application

    pages.serve(application.make(VERSION), int(ENV["DIFY_PORT"]))


main()
