"""What the objects depend on, read and checked once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from installer.cluster import names
from installer.core import layout
from installer.release import compose, dify, external, masks

Object = dict[str, Any]

# Ports that services listen on, by name; the first is the one that is probed (Dify 1.11.3, docker-compose.yaml).
# nginx gets a port here that needs no right of root.
PORTS: dict[str, dict[str, int]] = {
    dify.PROXY: {"http": 8080},
    dify.API: {"http": 5001},
    dify.WEB: {"http": 3000},
    dify.MODEL_CALLER: {"http": 5002, "debugging": 5003},
    dify.SSRF_PROXY: {"proxy": 3128, "sandbox": 8194},
    "sandbox": {"http": 8194},
    "db_postgres": {"postgres": 5432},
    "redis": {"redis": 6379},
    "weaviate": {"http": 8080, "grpc": 50051},
    "qdrant": {"http": 6333, "grpc": 6334},
    "pgvector": {"postgres": 5432},
}
DATABASE = "db_postgres"
CACHE = "redis"
# Where plugins' wheels and keys lie: below the daemon's data, which are a claim of its own (Dify 1.11.3,
# docker-compose.yaml, and docker/.env.example, PLUGIN_STORAGE_LOCAL_ROOT).
PLUGINS = "/app/storage/dify-installer"
# What of compose's services has no place here: a claim's fsGroup gives the storage to its user.
LEFT_OUT = ("init_permissions",)


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """A Dify and the cluster that it is for; `repr` tells no secret.

    `services` are those of the rendered compose file, `variables` the settings as containers get them, `images` the
    name with digest of each reference of the compose file, `project` the folder with upstream's files, `prepare` the
    text of the program that tells whether the database was migrated (stack.prepare_api), `gateway` the Gateway, NAME or
    NAMESPACE/NAME, that takes the Ingress's place, `clients` the references of the images with psql and with redis-cli,
    by the services that they would be, `authorities` those in PEM that Dify is to trust, or nothing, `owner_key`
    whether the owner has signed plugins of the bundle.
    """

    services: Mapping[str, compose.Service] = field(repr=False)
    variables: Mapping[str, str] = field(repr=False)
    images: Mapping[str, str]
    project: Path
    prepare: str = field(repr=False)
    clients: Mapping[str, str]
    namespace: str
    host: str
    tls_secret: str
    ingress_class: str
    gateway: str
    storage_class: str
    access_mode: str
    pull_secret: str
    authorities: str = field(default="", repr=False)
    owner_key: bool = False
    # The environments that were asked for before: hundreds of values each.
    known: dict[str, dict[str, str]] = field(default_factory=dict, repr=False)

    def image(self, service: str) -> str:
        """Return the name with digest of a service's image."""
        if service in self.clients:
            return self.images[self.clients[service]]
        reference = compose.expand_all(str(self.services[service]["image"]), self.variables)
        return self.images[compose.full_reference(reference)]

    def environment(self, service: str) -> dict[str, str]:
        """Return a service's environment, expanded, with the names of hosts that it has here."""
        if service in self.known:
            return self.known[service]
        given = compose.expand_all(self.services[service].get("environment") or {}, self.variables)
        if isinstance(given, list):
            given = dict(pair.partition("=")[::2] for pair in given)
        result = {
            key: names.translate("" if value is None else str(value), self.services) for key, value in given.items()
        }
        if "MIGRATION_ENABLED" in result:
            # One Job does it: two at once are possible otherwise (dify#32297).
            result["MIGRATION_ENABLED"] = "false"
        if self.authorities and (dify.SECRET_KEY in result or service == dify.MODEL_CALLER):
            result |= dict.fromkeys(dify.CA_VARIABLES, dify.CA_IN_CONTAINER)
        if service == dify.MODEL_CALLER:
            result = self._offline_plugins() | result
        if service == dify.PROXY:
            # Encryption ends at the entrance.
            result |= {"NGINX_PORT": "8080", "NGINX_HTTPS_ENABLED": "false"}
        self.known[service] = result
        return result

    def _offline_plugins(self) -> dict[str, str]:
        """Return what lets the daemon install from the wheels that came along, as `render.offline_plugins` does."""
        wheels = f"--no-index --find-links={PLUGINS}/{layout.WHEELS}"
        given = {dify.PIP_EXTRA_ARGS: self.variables.get(dify.PIP_EXTRA_ARGS, wheels)}
        enabled, keys = dify.OWNER_KEYS
        return given | ({enabled: "true", keys: f"{PLUGINS}/{layout.OWNER_KEY}"} if self.owner_key else {})

    def secrets(self, environment: Mapping[str, str]) -> set[str]:
        """Return the keys of an environment whose values must not be shown."""
        known = {**self.variables, **environment}
        shown = masks.without_secrets(known)
        return {key for key in environment if shown[key] != known[key]}

    @property
    def database(self) -> external.Database | None:
        """The database, if it is one that runs already."""
        return external.find_database(self.variables)

    @property
    def cache(self) -> external.Redis | None:
        """The Redis, if it is one that runs already."""
        return external.find_redis(self.variables)

    @property
    def storage_is_shared(self) -> bool:
        """Tell whether files of users lie in a folder; else in an object store."""
        kind = self.variables.get("STORAGE_TYPE", "") or "local"
        return kind == "local" or (kind == "opendal" and self.variables.get("OPENDAL_SCHEME", "fs") in ("", "fs"))


def labels(service: str) -> dict[str, str]:
    """Return the labels of a service's objects."""
    return {"app.kubernetes.io/name": names.of(service), "app.kubernetes.io/part-of": "dify"}


def make(site: Site, version: str, kind: str, name: str, service: str, **fields: Any) -> Object:
    """Return an object with its metadata."""
    metadata = {"name": name, "namespace": site.namespace, "labels": labels(service)}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **fields}
