"""The database and the cache that the environment names, and documents kept in that database."""

import contextlib
import json
import os
import uuid

import psycopg2
import psycopg2.extras
import redis

ENV = os.environ
TABLE = """
CREATE TABLE IF NOT EXISTS records (
    id uuid PRIMARY KEY,
    kind text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    body jsonb NOT NULL
)
"""


def database(name=None):
    return psycopg2.connect(
        host=ENV["DB_HOST"],
        port=ENV["DB_PORT"],
        user=ENV["DB_USERNAME"],
        password=ENV["DB_PASSWORD"],
        dbname=name or ENV["DB_DATABASE"],
        connect_timeout=5,
    )


def cache():
    return redis.Redis(
        host=ENV["REDIS_HOST"],
        port=int(ENV["REDIS_PORT"]),
        password=ENV["REDIS_PASSWORD"],
        db=int(ENV.get("REDIS_DB", "0")),
        decode_responses=True,
    )


@contextlib.contextmanager
def transaction():
    """A cursor whose work is committed at the end, or undone by an error."""
    connection = database()
    try:
        with connection, connection.cursor() as cursor:
            yield cursor
    finally:
        connection.close()


def add(kind, **body):
    """Keep a document, and return it with its `id` and `created_at` (seconds)."""
    with transaction() as cursor:
        new = str(uuid.uuid4())
        cursor.execute("INSERT INTO records (id, kind, body) VALUES (%s, %s, %s)", (new, kind, json.dumps(body)))
    return one(kind, id=new)


def find(kind, **wanted):
    """Return the documents of a kind that have these values, the oldest first."""
    query, values = "SELECT id, created_at, body FROM records WHERE kind = %s AND body @> %s", [kind]
    number = wanted.pop("id", None)
    values.append(json.dumps(wanted))
    if number is not None:
        query += " AND id::text = %s"
        values.append(str(number))
    with transaction() as cursor:
        cursor.execute(query + " ORDER BY created_at", values)
        rows = cursor.fetchall()
    return [{**body, "id": str(key), "created_at": int(made.timestamp())} for key, made, body in rows]


def one(kind, **wanted):
    return next(iter(find(kind, **wanted)), None)


def change(document, **values):
    """Write new values into a document, and into what is kept of it."""
    document.update(values)
    with transaction() as cursor:
        cursor.execute("UPDATE records SET body = body || %s WHERE id = %s", (json.dumps(values), document["id"]))


def remove(kind, **wanted):
    found = [document["id"] for document in find(kind, **wanted)]
    with transaction() as cursor:
        cursor.execute("DELETE FROM records WHERE id::text = ANY(%s)", (found,))
    return len(found)


def make_table():
    with transaction() as cursor:
        # Two programs that start at the same time must not make it twice.
        cursor.execute("SELECT pg_advisory_xact_lock(1)")
        cursor.execute(TABLE)
