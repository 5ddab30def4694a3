"""The command `manifests`: a folder for `kubectl apply -k`, from the bundle, its settings and what `push` wrote."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from installer import VERSION
from installer.bundle import manifest, verify
from installer.cluster import authorities, folder
from installer.cluster.site import CACHE, DATABASE, LEFT_OUT, PORTS, Site
from installer.core import errors, files, layout
from installer.core.console import Console
from installer.registry import reference
from installer.release import compose, dify, env_history, envfile, external, intranet, render, settings, tls

# What makes a folder ours, and the settings with their secrets, which a second run goes on with.
RECORD = "manifests.json"
SETTINGS = "settings.env"
# The authorities that were given last, which a second run goes on with, too.
AUTHORITIES = "ca-bundle.pem"
UNSERVED = ("worker", "worker_beat")
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What is asked for. `env` is the `.env` to begin with, of an installation that moves."""

    registry: reference.Registry
    pushed: Path
    out: Path
    host: str | None
    env: Path | None = None
    values: Mapping[str, str] = field(default_factory=dict, repr=False)
    allow_intranet: tuple[str, ...] = ()
    namespace: str = "dify"
    ingress_class: str = ""
    gateway: str = ""
    https: bool = False
    tls_secret: str = ""
    storage_class: str = ""
    access_mode: str = "ReadWriteMany"
    pull_secret: str = ""
    ca_bundle: Path | None = None


def write(
    asked: Asked, console: Console, *, bundle: manifest.Manifest | None = None, payload: Path | None = None
) -> list[str]:
    """Write the folder, and return its files; all that can be wrong is found before the first of them.

    Raises UsageError for what is asked for or lies there, BundleDamaged, PreflightFailed for lost secrets. `bundle` and
    `payload` are the executable's own unless given.
    """
    payload = payload or layout.bundled("")
    bundle = bundle or verify.check_embedded(payload)
    before = _read_record(asked.out)
    if not _LABEL.fullmatch(asked.namespace):
        raise errors.UsageError(f"{asked.namespace!r} is no name of a namespace", "use small letters, digits and -")
    _require_one_entrance(asked)
    env = _settings(asked, bundle, payload / layout.PROJECT)
    site = _site(asked, bundle, payload, env)
    made = folder.contents(site)
    objects = folder.objects(made)
    gone = [each for each in (*before.get("gone", ()), *before.get("objects", ())) if each not in objects]
    made |= folder.gone(gone)
    record: dict[str, Any] = {"installer": VERSION, "dify": bundle.dify, "namespace": asked.namespace}
    record |= {"files": sorted(made), "objects": objects, "gone": gone}
    # From here on files change.
    files.folder(asked.out)
    files.write(asked.out / RECORD, json.dumps(record, indent=2) + "\n")
    files.write(asked.out / SETTINGS, env.text, mode=0o600)
    if site.authorities:
        files.write(asked.out / AUTHORITIES, site.authorities)
    for name, text in made.items():
        files.folder((asked.out / name).parent)
        files.write(asked.out / name, text, mode=0o600 if name.endswith("-secrets.yaml") else 0o644)
    for name in set(before.get("files", ())) - set(made):
        (asked.out / name).unlink(missing_ok=True)
    console.line(f"Dify {bundle.dify} for {site.host}: {len(made)} files in {asked.out}")
    console.line(f"  kubectl apply -k {asked.out}/prepare, and then -k {asked.out}/overlays/{folder.OVERLAYS[0]}")
    if gone:
        console.line(f"  what an earlier run had besides: kubectl delete --ignore-not-found -k {asked.out}/gone")
    return sorted(made)


def _require_one_entrance(asked: Asked) -> None:
    """Raise UsageError for a Gateway that has no valid name, or beside what belongs to an Ingress."""
    if not asked.gateway:
        return
    if not all(map(_LABEL.fullmatch, asked.gateway.split("/"))) or asked.gateway.count("/") > 1:
        raise errors.UsageError(f"{asked.gateway!r} is no name of a Gateway", "write NAME, or NAMESPACE/NAME")
    if asked.ingress_class or asked.tls_secret:
        raise errors.UsageError(
            "--gateway takes the place of the Ingress, to which --ingress-class and --tls-secret belong",
            "leave them out; the certificate is the Gateway's, and --https says that it has one",
        )


def _read_record(out: Path) -> dict[str, Any]:
    """Return what an earlier run wrote down. Raises UsageError for a folder that holds anything else."""
    try:
        found = json.loads((out / RECORD).read_text("utf-8"))
        if all(_is_inside(name) for name in found["files"]):
            return dict(found)
    except FileNotFoundError:
        if not files.holds_anything(out) and (out.is_dir() or not out.exists()):
            return {}
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise errors.UsageError(
        f"{out} is there and is not a folder that `manifests` has written", "name a new or an empty one with --out"
    )


def _is_inside(name: str) -> bool:
    return name.split("/", maxsplit=1)[0] in ("prepare", "base", "overlays", "gone") and ".." not in name.split("/")


def _settings(asked: Asked, bundle: manifest.Manifest, project: Path) -> settings.Settings:
    """Return the settings: those of the folder or of `env` go on, else fresh ones as an installation has them."""
    kept = asked.out / SETTINGS
    if asked.env and kept.exists() and asked.env.resolve() != kept.resolve():
        raise errors.UsageError(
            f"{asked.out} has settings and secrets of its own, which {asked.env} would replace",
            "leave out --env, or name another folder with --out",
        )
    path = asked.env or kept
    existing = None
    if asked.env or kept.exists():
        try:
            existing = env_history.Existing(path=path, text=path.read_text("utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise errors.UsageError(f"{path} cannot be read: {error}", "name a file that is yours to read") from error
    elif (asked.out / RECORD).exists():
        raise errors.UsageError(
            f"{kept} is gone, and with it the secrets of what runs in the cluster",
            "put it back; or, if nothing of it is to go on, name a new folder with --out",
        )
    values = {**asked.values}
    if asked.allow_intranet:
        values[dify.ALLOW_INTRANET] = intranet.joined(asked.allow_intranet)
    values |= {"NGINX_HTTPS_ENABLED": "true" if asked.tls_secret or asked.https else "false"}
    wanted = settings.Asked(host=asked.host, ports={"http": 80, "https": 443}, values=values)
    example = (project / layout.ENV_EXAMPLE).read_text("utf-8")
    env = settings.compute(example, existing, wanted, bundle.variables, asked.out / "volumes")
    if existing and not asked.env:
        _require_same_data(existing.text, env, kept)
    return env


def _require_same_data(before: str, env: settings.Settings, kept: Path) -> None:
    """Raise UsageError where rows, files or vectors would be looked for elsewhere than they are."""
    older = envfile.resolve(before)
    if moved := [what for what, place in external.PLACES.items() if place(older) != place(env.resolved)]:
        raise errors.UsageError(
            f"{' and '.join(moved)} would be looked for elsewhere than {kept} says: what is there now stays behind",
            "leave out the URL; or have them moved there, and write another folder: --out NEW --env " + str(kept),
        )


def _site(asked: Asked, bundle: manifest.Manifest, payload: Path, env: settings.Settings) -> Site:
    project = payload / layout.PROJECT
    upstream = compose.load(project / layout.COMPOSE_FILE)
    document = render.for_cluster(upstream, render.Choice(variables=env.resolved, selinux=False))
    services = {name: each for name, each in document["services"].items() if name not in LEFT_OUT}
    unknown = [name for name in services if name not in (*PORTS, *UNSERVED)]
    images, clients = _images(asked, bundle), _clients(upstream, env)
    if unknown or (DATABASE not in services and not external.has_database(env.resolved)):
        what = ", ".join(unknown) or "a database other than PostgreSQL"
        raise errors.UsageError(
            f"{what} is not known on a cluster", "build the bundle with PostgreSQL and weaviate, qdrant or pgvector"
        )
    if missing := [each for each in clients.values() if each not in images]:
        raise errors.UsageError(
            f"the bundle has no {', '.join(missing)}, in which pods wait for the database and for Redis",
            "build the bundle with PostgreSQL",
        )
    authorities = _authorities(asked)
    if not authorities and (compared := external.compared(env.resolved)):
        raise errors.UsageError(
            f"{', '.join(compared)}: the certificate is to be compared, and nothing says with which authority's",
            "give the certificate of the authority that has signed it, PEM, with --ca-bundle",
        )
    host = env.address.host
    if not re.fullmatch(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", host) or re.fullmatch(r"[\d.]+", host):
        raise errors.UsageError(f"{host} is no name that an Ingress takes", "give a name in small letters with --host")
    return Site(
        services=services,
        variables=env.resolved,
        images=images,
        project=project,
        prepare=(payload / layout.PREPARE_API).read_text("utf-8"),
        clients=clients,
        namespace=asked.namespace,
        host=host,
        tls_secret=asked.tls_secret,
        ingress_class=asked.ingress_class,
        gateway=asked.gateway,
        storage_class=asked.storage_class,
        access_mode=asked.access_mode,
        pull_secret=asked.pull_secret,
        authorities=authorities,
        owner_key=bundle.plugins is not None and any(each.path == layout.OWNER_KEY for each in bundle.plugins.others),
    )


def _clients(upstream: compose.Document, env: settings.Settings) -> dict[str, str]:
    """Return the references of the images that have psql and redis-cli, also where their services are not to run."""
    found = {name: str(upstream["services"][name]["image"]) for name in (DATABASE, CACHE)}
    return {name: compose.full_reference(compose.expand_all(image, env.resolved)) for name, image in found.items()}


def _authorities(asked: Asked) -> str:
    """Return the authorities that Dify is to trust, PEM: those of this run, else of the one before, else none."""
    path = asked.ca_bundle or asked.out / AUTHORITIES
    if asked.ca_bundle is None and not path.exists():
        return ""
    found = tls.read_authorities(path)
    if len(found) > authorities.LARGEST:
        raise errors.UsageError(
            f"{path} has {len(found) // 1024} KiB, and kubectl applies no more than {authorities.LARGEST // 1024}",
            "leave in it the company's own authorities, and the few others that Dify is to call",
        )
    return found.decode("utf-8", "replace")


def _images(asked: Asked, bundle: manifest.Manifest) -> dict[str, str]:
    """Return the name with digest of each image of the bundle, as `push` wrote it down. Raises UsageError."""
    remedy = "push first: dify-installer push --registry …; and name its file with --images-json"
    try:
        document = json.loads(asked.pushed.read_text("utf-8"))
        if document["kind"] != "push":
            raise ValueError("another kind")
        place = reference.Registry(str(document["host"]), str(document["prefix"]))
        rows = {str(row["reference"]): row for row in document["images"]}
        known = {name: (row["id"], f"{place.host}/{row['repository']}@{row['digest']}") for name, row in rows.items()}
        there = {name for name, row in rows.items() if re.fullmatch(r"sha256:[0-9a-f]{64}", row["digest"])}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise errors.UsageError(f"{asked.pushed} is no images.json of a push, or not there", remedy) from error
    if place != asked.registry:
        raise errors.UsageError(f"{asked.pushed} is of the registry {place.host}/{place.prefix}", remedy)
    for image in bundle.images:
        if image.reference not in there or known[image.reference][0] != image.id:
            raise errors.UsageError(f"{asked.pushed} does not say where this bundle's {image.reference} is", remedy)
    return {image.reference: known[image.reference][1] for image in bundle.images}
