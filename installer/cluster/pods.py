"""Templates of pods: one container each, what it mounts, whom it waits for, and what it may do."""

from __future__ import annotations

import re
import shlex
from typing import Any

from installer.cluster import authorities, names, probes, settings, storage
from installer.cluster.site import CACHE, DATABASE, PORTS, Site, labels
from installer.release import compose, dify

SANDBOX = "sandbox"
# Users of services that do not run as 1001, as the api does. Upstream's images were not seen to run as these yet.
USERS = {DATABASE: 70, "pgvector": 999, CACHE: 999, dify.PROXY: 101, dify.SSRF_PROXY: 13}
DEFAULT_USER = 1001
# Folders that a service writes in and that are root's in its image; they begin with what the image has there.
WRITABLE = {
    dify.PROXY: ("/etc/nginx", "/run", "/var/cache/nginx", "/var/lib/nginx", "/var/log/nginx"),
    dify.SSRF_PROXY: ("/etc/squid", "/run", "/var/spool/squid", "/var/log/squid"),
    DATABASE: ("/run/postgresql",),
}
# Requests of processor and memory, and the limit of memory; of the processor there is none, which would only slow down.
NEEDS: dict[str, tuple[str, str, str]] = {
    dify.API: ("100m", "512Mi", "2Gi"),
    dify.WORKER: ("100m", "512Mi", "2Gi"),
    "worker_beat": ("20m", "384Mi", "1Gi"),
    dify.WEB: ("50m", "128Mi", "1Gi"),
    dify.MODEL_CALLER: ("100m", "256Mi", "4Gi"),
    DATABASE: ("100m", "256Mi", "2Gi"),
    SANDBOX: ("50m", "64Mi", "1Gi"),
}
DEFAULT_NEEDS = ("50m", "64Mi", "1Gi")
MIGRATED = "dify_installer_migrations"
CONNECT_SECONDS = "5"
WAITS_FOR_CACHE = "wait-for-cache"
# Programs that write below their home, which they have none of here.
HOMELESS = {"HOME": "/tmp", "PM2_HOME": "/tmp/.pm2"}  # noqa: S108 - in the container


def template(site: Site, service: str, checksum: str, waits: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the template of a service's pods; they begin anew when `checksum` changes."""
    volumes, mounts = _volumes(site, service)
    seeds = _seeds(site, service)
    spec: dict[str, Any] = {
        **_allowed(service),
        **pull(site),
        "serviceAccountName": "dify-sandbox" if service == SANDBOX else "dify",
        "automountServiceAccountToken": False,
        # Services would flood the environment otherwise, and some of their names are settings of Dify.
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": dify.STOP_SECONDS.get(service, dify.DEFAULT_STOP_SECONDS) + 5,
        "initContainers": [*waits, *seeds],
        "containers": [_container(site, service, mounts)],
        "volumes": volumes,
    }
    return {
        "metadata": {"labels": labels(service), "annotations": {"dify-installer/settings": checksum}},
        "spec": {key: value for key, value in spec.items() if value != []},
    }


def _container(site: Site, service: str, mounts: list[dict[str, Any]]) -> dict[str, Any]:
    name = names.of(service)
    found: dict[str, Any] = {
        "name": name,
        "image": site.image(service),
        **_commands(site, service),
        "envFrom": [{"configMapRef": {"name": f"{name}-settings"}}, {"secretRef": {"name": f"{name}-secrets"}}],
        "ports": [{"name": key, "containerPort": port} for key, port in PORTS.get(service, {}).items()],
        "resources": needs(service),
        **probes.probes(site, service),
        "volumeMounts": mounts,
        "securityContext": limits(service),
    }
    if service in (dify.WEB, dify.MODEL_CALLER):
        found["env"] = [{"name": key, "value": value} for key, value in HOMELESS.items()]
    if service in (dify.API, dify.WEB, dify.PROXY):
        # Requests still come until every node knows that this pod goes.
        found["lifecycle"] = {"preStop": {"exec": {"command": ["sleep", "5"]}}}
    return {key: value for key, value in found.items() if value != []}


def needs(service: str) -> dict[str, Any]:
    """Return the requests and limits of a service's container."""
    processor, memory, most = NEEDS.get(service, DEFAULT_NEEDS)
    return {"requests": {"cpu": processor, "memory": memory}, "limits": {"memory": most}}


def pull(site: Site) -> dict[str, Any]:
    """Return what a pod says of the registry's login."""
    return {"imagePullSecrets": [{"name": site.pull_secret}]} if site.pull_secret else {}


def _allowed(service: str) -> dict[str, Any]:
    """Return what a pod may do: all but the sandbox fit into `restricted`; that one does chroot and setuid."""
    if service == SANDBOX:
        return {"securityContext": {"seccompProfile": {"type": "RuntimeDefault"}}}
    return {"securityContext": restricted(USERS.get(service, DEFAULT_USER))}


def restricted(user: int) -> dict[str, Any]:
    """Return the security context of a pod for this user (Pod Security Standards, "Restricted")."""
    return {
        "runAsNonRoot": True,
        "runAsUser": user,
        "runAsGroup": user,
        "fsGroup": user,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def limits(service: str) -> dict[str, Any]:
    """Return the security context of a container."""
    if service == SANDBOX:
        return {}
    return {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def literal(word: str) -> str:
    """Return a word of a command as Kubernetes leaves it: it expands $(NAME), and makes $ of $$."""
    return word.replace("$", "$$")


def _commands(site: Site, service: str) -> dict[str, list[str]]:
    """Return command and arguments. A secret in them becomes a reference to the container's environment."""
    found = {}
    held = site.environment(service)
    for key, name in (("entrypoint", "command"), ("command", "args")):
        given = site.services[service].get(key)
        if given is None:
            continue
        words = shlex.split(given.replace("\n", " ")) if isinstance(given, str) else list(map(str, given))
        found[name] = [_word(word, site, held) for word in words]
    script = next((target for target in settings.mounted_files(site, service) if target.endswith("-mount.sh")), None)
    if script and "command" in found:
        # Upstream copies it into a folder of root's, to take away what we have not put in.
        found["command"] = ["sh", script]
    return found


def _word(word: str, site: Site, held: dict[str, str]) -> str:
    for variable in re.findall(r"\$\{[^}]*\}", word):
        value = compose.expand_all(variable, site.variables)
        name = next((key for key in sorted(site.secrets(held)) if value and held[key] == value), None)
        if name:
            before, _, after = word.partition(variable)
            return f"{_word(before, site, held)}$({name}){_word(after, site, held)}"
    return literal(names.translate(compose.expand_all(word, site.variables), site.services))


def _volumes(site: Site, service: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the volumes of a pod and the mounts of its container."""
    volumes: list[dict[str, Any]] = [{"name": "tmp", "emptyDir": {}}]
    mounts: list[dict[str, Any]] = [{"name": "tmp", "mountPath": "/tmp"}]  # noqa: S108 - in the container
    name = names.of(service)
    for number, folder in enumerate(WRITABLE.get(service, ())):
        volumes.append({"name": f"writable-{number}", "emptyDir": {}})
        mounts.append({"name": f"writable-{number}", "mountPath": folder})
    for number, target in enumerate(storage.data_targets(site, service)):
        if service == dify.MODEL_CALLER:
            volumes.append({"name": "data-0", "persistentVolumeClaim": {"claimName": name}})
        mounts.append({"name": f"data-{number}", "mountPath": target})
    if service in (dify.API, dify.WORKER):
        claim = {"persistentVolumeClaim": {"claimName": storage.SHARED}} if site.storage_is_shared else {"emptyDir": {}}
        volumes.append({"name": storage.SHARED, **claim})
        mounts.append({"name": storage.SHARED, "mountPath": storage.SHARED_TARGET})
    if files := settings.mounted_files(site, service):
        volumes.append({"name": "files", "configMap": {"name": f"{name}-files"}})
        mounts += [
            {"name": "files", "mountPath": target, "subPath": settings.file_key(target), "readOnly": True}
            for target in sorted(files)
        ]
    trusted, mounted = authorities.volume(site, service)
    return volumes + trusted, mounts + mounted


def _seeds(site: Site, service: str) -> list[dict[str, Any]]:
    """Return the container that copies what the image has in the folders that are written in."""
    folders = WRITABLE.get(service, ())
    if not folders:
        return []
    script = "; ".join(f"[ ! -d {each} ] || cp -R -P {each}/. /seed/{number}/" for number, each in enumerate(folders))
    return [
        {
            "name": "seed",
            "image": site.image(service),
            "command": ["sh", "-c", f"{{ {script}; }} 2>/dev/null; true"],
            "volumeMounts": [
                {"name": f"writable-{number}", "mountPath": f"/seed/{number}"} for number in range(len(folders))
            ],
            "resources": needs(""),
            "securityContext": limits(service),
        }
    ]


def asks_database(site: Site, name: str, script: str) -> dict[str, Any]:
    """Return a container of the database's image that runs a shell script with psql's variables set."""
    return _client(site, DATABASE, name, script, _ways_to_database(site))


def _ways_to_database(site: Site) -> list[dict[str, Any]]:
    """Return the environment by which psql finds the database, whosesoever it is."""
    if (others := site.database) is None:
        held = site.environment(DATABASE)
        plain = {"PGHOST": names.of(DATABASE), "PGCONNECT_TIMEOUT": CONNECT_SECONDS}
        plain |= {"PGUSER": held["POSTGRES_USER"], "PGDATABASE": held["POSTGRES_DB"]}
        password = _secret("PGPASSWORD", DATABASE, "POSTGRES_PASSWORD")
    else:
        plain = {"PGHOST": others.host, "PGPORT": str(others.port), "PGCONNECT_TIMEOUT": CONNECT_SECONDS}
        plain |= {"PGUSER": others.user, "PGDATABASE": others.name, "PGSSLMODE": others.mode}
        plain |= {"PGSSLROOTCERT": dify.CA_IN_CONTAINER} if others.verifies else {}
        password = _secret("PGPASSWORD", dify.API, "DB_PASSWORD")
    return [*({"name": key, "value": value} for key, value in plain.items()), password]


def _secret(variable: str, service: str, key: str) -> dict[str, Any]:
    """Return a variable with the value of a service's Secret."""
    return {
        "name": variable,
        "valueFrom": {"secretKeyRef": {"name": f"{names.of(service)}-secrets", "key": key}},
    }


def _client(site: Site, of: str, name: str, script: str, environment: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a container that runs a shell script in the image of `of`, and trusts whom the api trusts.

    It belongs to pods of services that have the volume with the authorities.
    """
    _, trusted = authorities.volume(site, dify.API)
    return {
        "name": name,
        "image": site.image(of),
        "command": ["sh", "-c", literal(script)],
        "env": environment,
        **({"volumeMounts": trusted} if trusted and (site.database or site.cache) else {}),
        "resources": needs(""),
        "securityContext": limits(""),
    }


def waits_for_database(site: Site) -> dict[str, Any]:
    """Return the container that waits until the database answers."""
    # Why a database of others does not let Dify in, its log tells; one of ours is told of when it does not start.
    quietly = "" if site.database else " 2>&1"
    return asks_database(site, "wait-for-database", f"until psql -qc 'select 1' >/dev/null{quietly}; do sleep 1; done")


def waits_for_cache(site: Site) -> dict[str, Any]:
    """Return the container that waits until the cache answers, without which a migration and the plugin daemon end."""
    others = site.cache
    if others is None:
        asked, login = f"redis-cli -h {names.of(CACHE)} ping", _secret("REDISCLI_AUTH", CACHE, "REDISCLI_AUTH")
    elif others.sentinels:
        # Of whom that one is, any sentinel tells.
        each = (
            f"redis-cli -h {host} -p {port} sentinel get-master-addr-by-name {others.service}"
            for host, port in others.sentinels
        )
        asked = "{ " + "; ".join(each) + "; } | grep -q . && echo PONG"
        login = _secret("REDISCLI_AUTH", dify.API, "REDIS_SENTINEL_PASSWORD")
        login["valueFrom"]["secretKeyRef"]["optional"] = True
    else:
        words = ["redis-cli", "-h", others.host, "-p", str(others.port)]
        words += ["--tls", "--cacert", dify.CA_IN_CONTAINER] if others.tls else []
        words += ["--user", others.user] if others.user else []
        asked, login = f"{shlex.join(words)} ping", _secret("REDISCLI_AUTH", dify.API, "REDIS_PASSWORD")
    script = f"until {asked} 2>/dev/null | grep -q PONG; do sleep 1; done"
    return _client(site, CACHE, WAITS_FOR_CACHE, script, [login])


def waits_for_migration(site: Site, job: str) -> dict[str, Any]:
    """Return the container that waits until a migration is written down in the database that it has changed."""
    asked = f"select 1 from {MIGRATED} where job = '{job}'"  # noqa: S608 - a name of ours
    return asks_database(
        site, "wait-for-migration", f'until psql -qtAc "{asked}" 2>/dev/null | grep -q 1; do sleep 1; done'
    )
