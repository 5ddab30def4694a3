"""Stands in for Dify's api, worker and beat: uses the database, the cache and the broker as its environment says."""

import os
import pathlib
import sys
import time

import psycopg2
import redis
import web

ENV = os.environ
VERSION = pathlib.Path("/standin/VERSION").read_text()


def database():
    return psycopg2.connect(
        host=ENV["DB_HOST"],
        port=ENV["DB_PORT"],
        user=ENV["DB_USERNAME"],
        password=ENV["DB_PASSWORD"],
        dbname=ENV["DB_DATABASE"],
        connect_timeout=5,
    )


def cache():
    return redis.Redis(
        host=ENV["REDIS_HOST"], port=int(ENV["REDIS_PORT"]), password=ENV["REDIS_PASSWORD"], db=int(ENV["REDIS_DB"])
    )


def migrate():
    """Make the tables, slowly, as the first start of the real one does; keep the key that sealed them."""
    with database() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass('setups')")
        if cursor.fetchone()[0] is None:
            time.sleep(2)
            cursor.execute("CREATE TABLE setups (sealed_with text)")
            cursor.execute("INSERT INTO setups VALUES (%s)", (ENV["SECRET_KEY"],))
        cursor.execute("SELECT sealed_with FROM setups")
        if cursor.fetchone()[0] != ENV["SECRET_KEY"]:
            sys.exit("error: the data were sealed with another SECRET_KEY")


def setup(_request):
    with database() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM setups")
        assert cursor.fetchone()[0] == 1
    return 200, {"step": "not_started", "setup_at": None}


def features(_request):
    return 200, {"enable_marketplace": ENV.get("MARKETPLACE_ENABLED", "true").lower() == "true"}


def main():
    redis.Redis.from_url(ENV["CELERY_BROKER_URL"]).ping()
    cache().ping()
    if ENV.get("MODE") in ("api", "worker"):
        pathlib.Path("/app/api/storage", ENV["MODE"]).write_text("here")
    if ENV.get("MODE") != "api":
        database().close()
        broker = redis.Redis.from_url(ENV["CELERY_BROKER_URL"])
        while True:
            broker.blpop("celery", 5)
    if ENV.get("MIGRATION_ENABLED") == "true":
        migrate()
    routes = {
        "/console/api/setup": setup,
        "/console/api/ping": lambda _request: (200, {"result": "pong"}),
        "/console/api/system-features": features,
        "/health": lambda _request: (200, {"status": "ok"}),
    }
    web.serve(int(ENV["DIFY_PORT"]), routes, {"X-Version": VERSION})


main()
