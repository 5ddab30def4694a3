"""The database and the cache that the environment names, and documents kept in that database."""

import contextlib
import json
import os
import urllib.parse
import uuid

import redis
import redis.sentinel

ENV = os.environ
MYSQL = ENV.get("DB_TYPE") == "mysql"
# HOLDS: that a document has these values; MERGED: what it becomes with these.
if MYSQL:
    import pymysql

    # PyMySQL 1.0 to 1.1, Debian's and the real image's: autocommit is off, and a connection is its own context.
    TABLE = """
    CREATE TABLE IF NOT EXISTS records (
        id char(36) PRIMARY KEY,
        kind varchar(255) NOT NULL,
        created_at timestamp(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
        body json NOT NULL
    ) CHARACTER SET utf8mb4
    """
    HOLDS, MERGED = "JSON_CONTAINS(body, %s)", "JSON_MERGE_PATCH(body, %s)"
else:
    import psycopg2
    import psycopg2.extras

    TABLE = """
    CREATE TABLE IF NOT EXISTS records (
        id uuid PRIMARY KEY,
        kind text NOT NULL,
        created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        body jsonb NOT NULL
    )
    """
    HOLDS, MERGED = "body @> %s", "body || %s"


# The plugin daemon's words are others than the api's (plugin daemon 0.5.2, internal/types/app/config.go).
DAEMON = "SERVER_KEY" in ENV


def parameters():
    """Return how each program makes its connection to PostgreSQL safe, by what it reads of the environment."""
    extras = ENV.get("DB_EXTRAS", "")
    if not DAEMON:
        # A URL, whose parameters SQLAlchemy hands to the driver (api/configs/middleware, DatabaseConfig).
        return dict(urllib.parse.parse_qsl(extras))
    mode = ENV.get("DB_SSL_MODE") or "disable"
    if mode not in ("disable", "require"):
        raise SystemExit(f"error: DB_SSL_MODE is {mode}")
    # libpq reads PGSSLROOTCERT as pgx does, and both compare the issuer then (internal/db/pg/pg.go).
    return {"sslmode": mode, **({"options": extras.replace("options=", "")} if extras else {})}


def database(name=None):
    login = {"host": ENV["DB_HOST"], "port": int(ENV["DB_PORT"]), "user": ENV["DB_USERNAME"]}
    login |= {"password": ENV["DB_PASSWORD"], "connect_timeout": 5}
    if MYSQL:
        return pymysql.connect(database=name or ENV["DB_DATABASE"], **login)
    return psycopg2.connect(dbname=name or ENV["DB_DATABASE"], **login, **parameters())


def make_database():
    """Make the database that the environment names, if there is none: another one is asked only then."""
    with contextlib.suppress(Exception):
        database().close()
        return
    connection = database("mysql" if MYSQL else "postgres")
    connection.autocommit = True
    with connection.cursor() as cursor:
        if MYSQL:
            cursor.execute(f"CREATE DATABASE IF NOT EXISTS `{ENV['DB_DATABASE']}` CHARACTER SET utf8mb4")
        else:
            cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (ENV["DB_DATABASE"],))
            if cursor.fetchone() is None:
                cursor.execute(f'CREATE DATABASE "{ENV["DB_DATABASE"]}"')
    connection.close()


def has_table(cursor, name):
    """Tell whether a table is there."""
    schema = "DATABASE()" if MYSQL else "current_schema()"
    query = f"SELECT 1 FROM information_schema.tables WHERE table_schema = {schema} AND table_name = %s"
    cursor.execute(query, (name,))
    return cursor.fetchone() is not None


def safety():
    """Return how Redis's certificate is compared: as the settings say, and by the plugin daemon always."""
    if DAEMON:
        # Go's own authorities, which SSL_CERT_FILE names (pkg/utils/cache/redis.go: an empty tls.Config).
        return {
            "ssl_cert_reqs": "required",
            "ssl_check_hostname": True,
            "ssl_ca_certs": ENV.get("SSL_CERT_FILE") or "/etc/ssl/certs/ca-certificates.crt",
        }
    wanted = ENV.get("REDIS_SSL_CERT_REQS", "").removeprefix("CERT_").lower() or "none"
    return {"ssl_cert_reqs": wanted, "ssl_ca_certs": ENV.get("REDIS_SSL_CA_CERTS") or None}


def sentinels():
    """Return those whom the settings name; the api reaches them, and what they name, without TLS (ext_redis.py)."""
    nodes = [each.split(":") for each in ENV["REDIS_SENTINELS"].split(",")]
    login = {"username": ENV.get("REDIS_SENTINEL_USERNAME"), "password": ENV.get("REDIS_SENTINEL_PASSWORD")}
    return redis.sentinel.Sentinel(
        [(host, int(port)) for host, port in nodes], sentinel_kwargs={"socket_timeout": 1, **login}
    )


def cache():
    if ENV.get("REDIS_USE_SENTINEL", "").lower() == "true":
        login = {"username": ENV.get("REDIS_USERNAME") or None, "password": ENV["REDIS_PASSWORD"]}
        number = int(ENV.get("REDIS_DB", "0"))
        return sentinels().master_for(ENV["REDIS_SENTINEL_SERVICE_NAME"], **login, db=number, decode_responses=True)
    encrypted = ENV.get("REDIS_USE_SSL", "").lower() == "true"
    return redis.Redis(
        host=ENV["REDIS_HOST"],
        port=int(ENV["REDIS_PORT"]),
        username=ENV.get("REDIS_USERNAME") or None,
        password=ENV["REDIS_PASSWORD"],
        db=int(ENV.get("REDIS_DB", "0")),
        decode_responses=True,
        ssl=encrypted,
        **(safety() if encrypted else {}),
    )


def broker():
    """Return the queues; their certificate is compared as the cache's is (api/extensions/ext_celery.py)."""
    url = ENV["CELERY_BROKER_URL"]
    if ENV.get("CELERY_USE_SENTINEL", "").lower() == "true":
        # As kombu reads it: user, password and number of the first one.
        first = urllib.parse.urlsplit(url.split(";")[0])
        user, password = (urllib.parse.unquote(each or "") for each in (first.username, first.password))
        login = {"username": user or None, "password": password}
        return sentinels().master_for(ENV["CELERY_SENTINEL_MASTER_NAME"], **login, db=int(first.path.lstrip("/")))
    return redis.Redis.from_url(url, **(safety() if url.startswith("rediss:") else {}))


@contextlib.contextmanager
def transaction():
    """A cursor whose work is committed at the end, or undone by an error."""
    connection = database()
    try:
        with connection.cursor() as cursor:
            yield cursor
        connection.commit()
    finally:
        # What was not committed is undone.
        connection.close()


def add(kind, **body):
    """Keep a document, and return it with its `id` and `created_at` (seconds)."""
    with transaction() as cursor:
        new = str(uuid.uuid4())
        cursor.execute("INSERT INTO records (id, kind, body) VALUES (%s, %s, %s)", (new, kind, json.dumps(body)))
    return one(kind, id=new)


def find(kind, **wanted):
    """Return the documents of a kind that have these values, the oldest first."""
    query, values = f"SELECT id, created_at, body FROM records WHERE kind = %s AND {HOLDS}", [kind]
    number = wanted.pop("id", None)
    values.append(json.dumps(wanted))
    if number is not None:
        query += " AND CAST(id AS char(36)) = %s"
        values.append(str(number))
    with transaction() as cursor:
        cursor.execute(query + " ORDER BY created_at", values)
        rows = cursor.fetchall()
    return [{**_read(body), "id": str(key), "created_at": int(made.timestamp())} for key, made, body in rows]


def _read(body):
    return json.loads(body) if isinstance(body, str) else body


def one(kind, **wanted):
    return next(iter(find(kind, **wanted)), None)


def change(document, **values):
    """Write new values into a document, and into what is kept of it."""
    document.update(values)
    with transaction() as cursor:
        cursor.execute(f"UPDATE records SET body = {MERGED} WHERE id = %s", (json.dumps(values), document["id"]))


def remove(kind, **wanted):
    found = [document["id"] for document in find(kind, **wanted)]
    with transaction() as cursor:
        cursor.executemany("DELETE FROM records WHERE id = %s", [(each,) for each in found])
    return len(found)


def make_table():
    with transaction() as cursor:
        if not MYSQL:
            # Two programs that start at the same time must not make it twice.
            cursor.execute("SELECT pg_advisory_xact_lock(1)")
        cursor.execute(TABLE)
