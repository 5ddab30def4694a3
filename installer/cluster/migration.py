"""The Job that changes the database's tables, once for each image and its settings."""

from __future__ import annotations

import hashlib
from typing import Any

from installer.cluster import authorities, names, pods, settings
from installer.cluster.site import DATABASE, Object, Site, labels, make
from installer.core import layout
from installer.release import dify

NAME = "migration"
# Each try is a pod of its own, all of it once more, and waits for its database before; the pauses between them grow to
# five minutes.
TRIES = 6


def job_name(site: Site) -> str:
    """Return the Job's name: the templates of Jobs are immutable, so that another image is another Job."""
    parts = (site.image(dify.API), site.image(DATABASE), settings.digest(*settings.environment(site, dify.API)))
    return f"migration-{hashlib.sha256(' '.join(parts).encode()).hexdigest()[:10]}"


def job(site: Site) -> Object:
    """Return the Job: it waits for database and cache, migrates, proves that, and writes into the database that it did.

    Upstream's MODE=migration works with MIGRATION_ENABLED=true alone (dify#22750). It ends well where a migration has
    failed, too (Dify 1.11.3, api/commands.py, upgrade_db).
    """
    name = job_name(site)
    api = names.of(dify.API)
    path = f"{layout.API_START_INSIDE}/{layout.PREPARE_API}"
    shared: dict[str, Any] = {
        "image": site.image(dify.API),
        "envFrom": [{"configMapRef": {"name": f"{api}-settings"}}, {"secretRef": {"name": f"{api}-secrets"}}],
        "resources": pods.needs(dify.API),
        "securityContext": pods.limits(dify.API),
    }
    # Python's libraries read the file as soon as they are loaded.
    trusted, mounted = authorities.volume(site, dify.API)
    shared_mounts = {"volumeMounts": mounted} if mounted else {}
    asked = {"MODE": "migration", dify.MIGRATION_SWITCH: "true"}
    migrate = {"name": "migrate", "env": [{"name": key, "value": value} for key, value in asked.items()]}
    migrate |= {**shared_mounts, **shared}
    prove = {
        "name": "prove",
        "command": ["python3", "-I", path],
        "env": [{"name": dify.REQUIRE_MIGRATED, "value": "true"}],
        "volumeMounts": [{"name": "program", "mountPath": layout.API_START_INSIDE, "readOnly": True}, *mounted],
        **shared,
    }
    table = f"create table if not exists {pods.MIGRATED} (job text primary key)"
    row = f"insert into {pods.MIGRATED} values ('{name}') on conflict do nothing"  # noqa: S608 - names of ours
    record = pods.asks_database(site, "record", f'psql -qv ON_ERROR_STOP=1 -c "{table}" -c "{row}"')
    spec = {
        "securityContext": pods.restricted(pods.DEFAULT_USER),
        **pods.pull(site),
        "serviceAccountName": "dify",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        # Another try begins with the migration; the pods of those before stay, with their logs.
        "restartPolicy": "Never",
        "initContainers": [pods.waits_for_database(site), pods.waits_for_cache(site), migrate, prove],
        "containers": [record],
        "volumes": [{"name": "program", "configMap": {"name": NAME}}, *trusted],
    }
    fields = {"backoffLimit": TRIES, "template": {"metadata": {"labels": labels(NAME)}, "spec": spec}}
    return make(site, "batch/v1", "Job", name, NAME, spec=fields)


def program(site: Site) -> Object:
    """Return the ConfigMap with the program that proves a migration."""
    return make(site, "v1", "ConfigMap", NAME, NAME, data={layout.PREPARE_API: site.prepare})
