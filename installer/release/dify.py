"""What we know of Dify's settings, as data.

Source, unless a line says otherwise: Dify 1.11.3, `docker/docker-compose.yaml` and
`docker/.env.example`. A key that a release does not have is left out when `.env` is written.
"""

from __future__ import annotations

from dataclasses import dataclass

SECRET_KEY = "SECRET_KEY"

# The service at the door, and those that it forwards to (nginx/conf.d/default.conf.template).
PROXY = "nginx"
PROXIED = ("api", "web", "plugin_daemon")

# The service that answers the checks, the one that indexes knowledge, and the one whose plugins call the model servers.
API = "api"
WORKER = "worker"
MODEL_CALLER = "plugin_daemon"

# What a package of a plugin may hold, unpacked, in bytes: the setting, and its value in the example.
LARGEST_PLUGIN = "PLUGIN_MAX_PACKAGE_SIZE"
LARGEST_PLUGIN_BYTES = 52428800
# Its image runs `/bin/bash -c /app/entrypoint.sh`, and that script a bash which becomes the daemon. The first process
# of a container gets no signal that it does not handle (pid_namespaces(7)), and bash hands none on: the daemon was
# killed each time, after the whole limit (seen with 0.5.2). bash stays the first process, which buries what plugins
# leave behind; it tells the daemon's own group of processes, and waits until that has ended.
HANDS_SIGNALS_ON = (
    "setsid /app/entrypoint.sh & trap 'stopped=0; kill -TERM -- -$$!' TERM; wait $$!; status=$$?; "
    "while kill -0 -- -$$! 2>/dev/null; do sleep 0.1; done; exit $${stopped:-$$status}"
)
DAEMON_COMMAND = ("/bin/bash", "-c", HANDS_SIGNALS_ON)
# nginx and squid are started by a script behind the shell of `sh -c "… && /docker-entrypoint.sh"`, and were killed as
# well. nginx takes that shell's place, since its script ends with `exec`. squid's does not: its group of processes is
# told to end at once, SIGINT, since for SIGTERM squid waits 30 s for its clients (squid's documents,
# `shutdown_lifetime`; main.cc, shut_down).
HEARS_AS_FIRST = "exec {}"
HEARS_INTERRUPT = (
    "{{ setsid {} & program=$$!; trap 'ended=1; kill -s INT -- -$$program' TERM; wait $$program; status=$$?; "
    'if [ "$${{ended:-}}" ]; then wait $$program; exit 0; fi; exit $$status; }}'
)
# Where the plugin daemon sees the install folder's plugins. It hands PIP_EXTRA_ARGS to uv, and reads further keys,
# whose signature it takes, from files (plugin daemon 0.5.2, internal/types/app/config.go); the compose file passes
# none of these on.
PLUGINS_IN_CONTAINER = "/dify-plugins"
PIP_EXTRA_ARGS = "PIP_EXTRA_ARGS"
OWNER_KEYS = ("THIRD_PARTY_SIGNATURE_VERIFICATION_ENABLED", "THIRD_PARTY_SIGNATURE_VERIFICATION_PUBLIC_KEYS")


@dataclass(frozen=True, slots=True)
class Secret:
    """A value that we generate: `keys` all get it; those of `within` hold it inside a longer text.

    `data` are the folders, below `volumes/`, whose content depends on it: once one exists, the
    value must never change by itself.
    """

    keys: tuple[str, ...]
    length: int = 43  # 256 bits in base64
    within: tuple[tuple[str, str], ...] = ()
    data: tuple[str, ...] = ()


SECRETS: tuple[Secret, ...] = (
    # Sealed with it: sessions, and through them what tenants entrust to the database.
    Secret((SECRET_KEY,), data=("db/data", "mysql/data")),
    Secret(("DB_PASSWORD",), data=("db/data", "mysql/data")),
    Secret(("REDIS_PASSWORD",), within=(("CELERY_BROKER_URL", "redis://:{}@redis:6379/1"),)),
    Secret(("SANDBOX_API_KEY", "CODE_EXECUTION_API_KEY")),
    Secret(("PLUGIN_DAEMON_KEY",)),
    Secret(("PLUGIN_DIFY_INNER_API_KEY",)),
    # At most 30 characters (the api refuses a longer one); asked for on the page /install.
    Secret(("INIT_PASSWORD",), length=24),
    Secret(("WEAVIATE_API_KEY", "WEAVIATE_AUTHENTICATION_APIKEY_ALLOWED_KEYS")),
    Secret(("QDRANT_API_KEY",)),
    Secret(
        ("PGVECTOR_PASSWORD", "PGVECTOR_POSTGRES_PASSWORD", "PGVECTO_RS_PASSWORD"),
        data=("pgvector/data", "pgvecto_rs/data"),
    ),
    Secret(("CHROMA_AUTH_CREDENTIALS", "CHROMA_SERVER_AUTHN_CREDENTIALS")),
    Secret(("ELASTICSEARCH_PASSWORD",)),
    Secret(("OCEANBASE_VECTOR_PASSWORD",), data=("oceanbase/data", "seekdb")),
)

# Secrets that upstream's compose file puts into a command without quotes: `redis-server --requirepass …`, and
# health checks that a shell runs.
IN_COMMANDS = ("REDIS_PASSWORD", "OCEANBASE_VECTOR_PASSWORD")

# Keys that hold the address of this installation; `{}` is scheme://host[:port]. The first of
# them tells, on a second run, which address the others were made from.
URLS: dict[str, str] = {
    "CONSOLE_WEB_URL": "{}",
    "CONSOLE_API_URL": "{}",
    "SERVICE_API_URL": "{}",
    "APP_API_URL": "{}",
    "APP_WEB_URL": "{}",
    "FILES_URL": "{}",
    "TRIGGER_URL": "{}",
    "ENDPOINT_URL_TEMPLATE": "{}/e/{{hook_id}}",
}
ADDRESS_KEY = "CONSOLE_WEB_URL"

# Settings that do not depend on the address. Containers reach the api by its service name.
FIXED: dict[str, str] = {
    "INTERNAL_FILES_URL": "http://api:5001",
    # Nothing may call home.
    "MARKETPLACE_ENABLED": "false",
    "CHECK_UPDATE_URL": "",
    "ENABLE_CHECK_UPGRADABLE_PLUGIN_TASK": "false",
    "NEXT_TELEMETRY_DISABLED": "1",
    "SCARF_NO_ANALYTICS": "true",
    "WEAVIATE_DISABLE_TELEMETRY": "true",
    # The example allows anonymous access besides the key.
    "WEAVIATE_AUTHENTICATION_ANONYMOUS_ACCESS_ENABLED": "false",
}

# Keys of FIXED that `.env` gets although the example does not have them: the compose file reads them.
NOT_IN_EXAMPLE = ("NEXT_TELEMETRY_DISABLED",)

# Whether the api's image migrates the database before its program: all of its containers do, at once, unless told not
# to (api/docker/entrypoint.sh; dify#32297).
MIGRATION_SWITCH = "MIGRATION_ENABLED"
# Ours: tells the program that we put before theirs to wait (stack.prepare_api).
AWAIT_MIGRATION = "DIFY_INSTALLER_AWAIT_MIGRATION"
REQUIRE_MIGRATED = "DIFY_INSTALLER_REQUIRE_MIGRATED"

# The proxy between Dify and what workflows call, and what it lets through (`release.intranet`). The key is ours, among
# upstream's of the proxy, SSRF_HTTP_PORT and others.
SSRF_PROXY = "ssrf_proxy"
ALLOW_INTRANET = "SSRF_ALLOW_INTRANET"

# Whom the containers ask for names (`release.resolvers`); the key is ours.
RESOLVERS = "CONTAINER_RESOLVERS"

# The port of each name of `--port`, `--https-port`, `--plugin-port` on the host.
PORTS: dict[str, str] = {
    "http": "EXPOSE_NGINX_PORT",
    "https": "EXPOSE_NGINX_SSL_PORT",
    "plugin debugging": "EXPOSE_PLUGIN_DEBUGGING_PORT",
}

# What switches https on; the files are those of `layout.Installation`.
HTTPS: dict[str, str] = {
    "NGINX_HTTPS_ENABLED": "true",
    "NGINX_SSL_CERT_FILENAME": "dify.crt",
    "NGINX_SSL_CERT_KEY_FILENAME": "dify.key",
}

# Keys that hold the host alone: where plugin developers connect to.
HOSTS = ("EXPOSE_PLUGIN_DEBUGGING_HOST",)

# What the choice of a database changes besides DB_TYPE (comments in `.env.example`).
DATABASES: dict[str, dict[str, str]] = {
    "postgresql": {"DB_HOST": "db_postgres", "DB_PORT": "5432", "DB_USERNAME": "postgres"},
    "mysql": {"DB_HOST": "db_mysql", "DB_PORT": "3306", "DB_USERNAME": "root"},
}

VECTOR_STORE = "VECTOR_STORE"
DB_TYPE = "DB_TYPE"
# How a database of others is reached (`release.external`): the api reads the one, the plugin daemon the other, and
# upstream's compose file hands neither on.
DB_EXTRAS, DB_SSL_MODE = "DB_EXTRAS", "DB_SSL_MODE"
# How the vectors of others are reached: the key is ours, and libpq, in the api's containers, reads the variables.
VECTOR_SSL_MODE, LIBPQ_SSL_MODE, LIBPQ_CA = "PGVECTOR_SSL_MODE", "PGSSLMODE", "PGSSLROOTCERT"

# Keys that say where data lie: a new release's default must not lead away from them.
WHERE_DATA_ARE = (
    *(VECTOR_STORE, "VECTOR_INDEX_NAME_PREFIX", "STORAGE_TYPE", "OPENDAL_SCHEME", "OPENDAL_FS_ROOT"),
    *("S3_ENDPOINT", "S3_BUCKET_NAME", "S3_REGION", "PLUGIN_STORAGE_TYPE", "PLUGIN_STORAGE_OSS_BUCKET"),
    *(DB_TYPE, "DB_USERNAME", "DB_DATABASE", "DB_PLUGIN_DATABASE", "PGDATA"),
)

# Tables that hold people's work: no migration may leave one empty that was not (Dify 1.11.3, `__tablename__` in
# api/models: account.py, model.py, dataset.py, workflow.py).
WORK_TABLES = (
    *("accounts", "tenants", "apps", "workflows", "conversations", "messages"),
    *("datasets", "documents", "upload_files"),
)

# Variables whose empty value must stay empty inside the containers.
EMPTY_MEANS_OFF = ("CHECK_UPDATE_URL",)

# Read by the api (configs/feature/hosted_service), in neither of upstream's two files; the values
# are those of its enumerations RecommendAppType and PipelineTemplateType. The built-in pipelines of 1.11.3 cannot be
# read (its JSON file is invalid), so that the page of pipelines fails; the database has none.
OFFLINE_IN_CONTAINER: dict[str, str] = {
    "HOSTED_FETCH_APP_TEMPLATES_MODE": "builtin",
    "HOSTED_FETCH_PIPELINE_TEMPLATES_MODE": "database",
}

# The front end. Its program is run by pm2, which asks version.pm2.io at its first start, unless it is discrete, and
# each day, unless that is switched off (pm2 6 and 7, lib/Client.js and lib/Worker.js; seen with 6.0.14).
WEB = "web"
QUIET_WEB: dict[str, str] = {"PM2_DISCRETE_MODE": "true", "PM2_DISABLE_VERSION_CHECK": "true"}

# Where browsers ask for plugins (web/docker/entrypoint.sh): the page /tools asks whether the marketplace is on or not
# (web, tools/marketplace/hooks.ts). With an empty address it asks this very server, which has no such page. The api
# does not start with an empty one.
MARKETPLACE_SWITCH = "MARKETPLACE_ENABLED"
MARKETPLACE_ADDRESSES = ("MARKETPLACE_API_URL", "MARKETPLACE_URL")


# Who calls servers outside of the stack: the api and its workers, which share an image and SECRET_KEY, and the
# plugin daemon, which hands its environment to its plugins (dify-plugin-daemon, local_runtime). Their Python
# clients read these variables: requests the first, httpx and the standard library the second.
CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
CA_FOLDER_IN_CONTAINER = "/etc/company-ca"
CA_IN_CONTAINER = f"{CA_FOLDER_IN_CONTAINER}/ca-bundle.pem"
# The plugin daemon's driver reads it (pgx 5.5.5, pgconn/config.go).
DAEMON_DATABASE_CA = LIBPQ_CA


# Seconds that a service gets to end after its stop signal before it is killed; every other one ends within
# DEFAULT_STOP_SECONDS, which is compose's own limit.
DEFAULT_STOP_SECONDS = 10
STOP_SECONDS: dict[str, int] = {
    # gunicorn lets requests end for 30 s (its documents, `graceful_timeout`), then ends its workers itself.
    API: 40,
    # celery's warm shutdown lets the tasks end that run (its documents, "Stopping the worker"): a document that is
    # being indexed would stay half indexed. No limit is enough for all of them.
    WORKER: 60,
    # It writes down when it ran last (celery's documents, `beat_schedule_filename`).
    "worker_beat": 20,
    # It marks the installations of plugins that it has begun, and gives its locks in Redis back
    # (dify-plugin-daemon, internal/tasks/recycle.go).
    MODEL_CALLER: 20,
    # A checkpoint writes all that is changed to the disk; after a kill the next start reads the log instead.
    "db_postgres": 90,
    "db_mysql": 90,
    # It writes its last snapshot.
    "redis": 30,
    # Stores with a log or segments of their own, that are read again after a kill.
    "weaviate": 60,
    "qdrant": 60,
    "pgvector": 60,
    "pgvecto-rs": 60,
    "milvus-standalone": 60,
    "elasticsearch": 60,
    "opensearch": 60,
    "oceanbase": 90,
    "seekdb": 90,
}

# Clients of servers, the option by which a health check gives them a password, and the variable of their
# environment that they read instead (redis-cli --help; MySQL's manual, "Environment Variables").
PASSWORD_OPTIONS: dict[str, tuple[str, str]] = {
    "redis-cli": ("-a ", "REDISCLI_AUTH"),
    "mysqladmin": ("-p", "MYSQL_PWD"),
    "mysql": ("-p", "MYSQL_PWD"),
    "obclient": ("-p", "MYSQL_PWD"),
}


@dataclass(frozen=True, slots=True)
class InnerCheck:
    """A service that is asked from inside the api's container; `service` may be inactive."""

    service: str
    url: str


INNER_CHECKS: tuple[InnerCheck, ...] = (
    InnerCheck("plugin_daemon", "http://plugin_daemon:5002/health/check"),
    InnerCheck("sandbox", "http://sandbox:8194/health"),
    InnerCheck("weaviate", "http://weaviate:8080/v1/.well-known/ready"),
    InnerCheck("qdrant", "http://qdrant:6333/readyz"),
)
