"""The Job that changes the database's tables, once for each image and its settings."""

from __future__ import annotations

import hashlib

from installer.cluster import names, pods, settings
from installer.cluster.site import DATABASE, Object, Site, labels, make
from installer.release import dify


def job_name(site: Site) -> str:
    """Return the Job's name: the templates of Jobs are immutable, so that another image is another Job."""
    parts = (site.image(dify.API), site.image(DATABASE), settings.digest(*settings.environment(site, dify.API)))
    return f"migration-{hashlib.sha256(' '.join(parts).encode()).hexdigest()[:10]}"


def job(site: Site) -> Object:
    """Return the Job: it waits for the database, migrates, and writes into that same database that it did.

    Upstream's MODE=migration works with MIGRATION_ENABLED=true alone (dify#22750).
    """
    name = job_name(site)
    api = names.of(dify.API)
    migrate = {
        "name": "migrate",
        "image": site.image(dify.API),
        "envFrom": [{"configMapRef": {"name": f"{api}-settings"}}, {"secretRef": {"name": f"{api}-secrets"}}],
        "env": [{"name": "MODE", "value": "migration"}, {"name": "MIGRATION_ENABLED", "value": "true"}],
        "resources": pods.needs(dify.API),
        "securityContext": pods.limits(dify.API),
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
        "restartPolicy": "OnFailure",
        "initContainers": [pods.waits_for_database(site), migrate],
        "containers": [record],
    }
    # It begins together with the database, whose first start may take longer than a few tries.
    fields = {"backoffLimit": 20, "template": {"metadata": {"labels": labels("migration")}, "spec": spec}}
    return make(site, "batch/v1", "Job", name, "migration", spec=fields)
