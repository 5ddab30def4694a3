"""Stand-in images: real PostgreSQL, Redis, nginx and squid from Debian packages, and small programs of ours.

They have the names that a compose file asks for. All share one layer of Debian; each has a layer
of its own with its program. The api stand-in connects to that PostgreSQL and that Redis with what
its environment says, so that a wrong `.env` is an unhealthy stack.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import requests

from installer.core import digest
from installer.release import compose, envfile
from tests.target import machine, steps

ROOT = Path(__file__).resolve().parent.parent.parent
PROGRAMS = Path(__file__).resolve().parent / "standin"
SAMPLE = Path(__file__).resolve().parent.parent / "sample"
# What stands in for upstream's scripts of the name docker-entrypoint.sh.
ENTRYPOINTS = {
    "nginx": SAMPLE / "docker/nginx/docker-entrypoint.sh",
    "ssrf_proxy": PROGRAMS / "ssrf_proxy-entrypoint.sh",
}
PACKAGES = (
    "postgresql redis-server nginx-light squid python3 python3-psycopg2 python3-redis curl gettext-base busybox-static "
    "python3-flask python3-jwt python3-requests python3-yaml python3-pymysql"
)
# In a root of its own, since few bundles have it.
MARIADB = "mariadb-server-core mariadb-client-compat"
# Documentation, caches, PostgreSQL's just-in-time compiler, systemd and Perl: two thirds of the layer, and nothing that
# runs.
LEFT_OUT = (
    "usr/lib/llvm-19",
    "usr/lib/x86_64-linux-gnu/libLLVM.so.19.1",
    "usr/lib/x86_64-linux-gnu/libz3.so.4",
    "usr/lib/postgresql/17/lib/bitcode",
    "usr/lib/postgresql/17/lib/llvmjit.so",
    "usr/lib/x86_64-linux-gnu/perl",
    "usr/lib/x86_64-linux-gnu/perl-base",
    "usr/lib/x86_64-linux-gnu/perl5",
    "usr/lib/x86_64-linux-gnu/libperl.so.5.40.1",
    "usr/bin/perl",
    "usr/bin/perl5.40.1",
    "usr/lib/systemd",
    "usr/lib/x86_64-linux-gnu/systemd",
    # requests does without: it has charset_normalizer.
    "usr/lib/python3/dist-packages/chardet",
    "usr/share/perl",
    "usr/share/perl5",
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/info",
    "usr/share/i18n",
    "var/cache",
    "var/lib/apt",
    "var/log",
)
# Debian makes a cluster as it installs PostgreSQL; the images make theirs when they start.
NO_CLUSTER = """\
mkdir -p "$1/etc/postgresql-common"
echo "create_main_cluster = false" > "$1/etc/postgresql-common/createcluster.conf"
"""
# Files of the layer have no time, so that nothing compiled is valid which compares it: a second at each start of Flask.
COMPILE = (
    "python3 -m compileall -q -f --invalidation-mode unchecked-hash /usr/lib/python3/dist-packages /usr/lib/python3.13"
)
# What is run in the finished root, by its packages. Users have the numbers of the images that these stand in for:
# postgres those of the official image on Alpine; nginx is a name that Dify's configuration asks for, and mysql one that
# another package of Debian makes.
FINISH = {
    PACKAGES: (
        COMPILE,
        "groupmod --gid 70 postgres",
        "usermod --uid 70 --gid 70 postgres",
        "useradd --system nginx",
        "chown proxy: /var/log/squid",
    ),
    MARIADB: ("useradd --system mysql",),
}
# What the programs that use the database have in common.
SHARED = ("backing.py", "pages.py")
# The real image starts the plugin daemon behind two shells, by a script without a first line (plugin daemon 0.5.2).
DAEMON = "/app/entrypoint.sh"
ENTRYPOINT = PROGRAMS / "plugin_daemon-entrypoint.sh"
API_ENTRYPOINT = PROGRAMS / "api-entrypoint.sh"
APPLICATION = PROGRAMS / "app.py"
# How many migrations the api's image has.
REVISIONS = 3
DIFY_KEY = ROOT / "specs/dify-plugins.pem"
MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
PATH = "PATH=/usr/lib/postgresql/17/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """What an image of some service runs, in `folder`.

    `programs` are files and folders of `standin/`, put into /standin.
    """

    programs: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    user: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    static: bool = False
    folder: str = "/"
    packages: str = PACKAGES


PYTHON_SERVICE = {"PYTHONUNBUFFERED": "1"}

# By the service of the compose file that the image is for.
KINDS: dict[str, Kind] = {
    "init_permissions": Kind(static=True, command=("sh",)),
    "api": Kind(
        programs=("api.py", "migrate.py", "as_large.py", "console", "outside.py", "web.py", *SHARED),
        entrypoint=("/bin/bash", "/entrypoint.sh"),
        user="1001",
        # The real image has a user of this number.
        env={"USER": "dify"},
        folder="/app/api",
    ),
    "web": Kind(programs=("front.py", "outside.py", "web.py"), entrypoint=("python3", "/standin/front.py")),
    "db_postgres": Kind(programs=("postgres.sh",), entrypoint=("sh", "/standin/postgres.sh"), command=("postgres",)),
    # MariaDB, which has MySQL's programs by their names; Debian has no MySQL.
    "db_mysql": Kind(programs=("mysql.sh",), entrypoint=("sh", "/standin/mysql.sh"), packages=MARIADB),
    # Redis writes its data into the folder that it is started in.
    "redis": Kind(command=("redis-server",), folder="/data"),
    "sandbox": Kind(programs=("sandbox.py", "web.py"), entrypoint=("python3", "/standin/sandbox.py")),
    "plugin_daemon": Kind(
        programs=("plugin_daemon.py", "daemon", *SHARED),
        command=("/bin/bash", "-c", DAEMON),
        env={"UV_PATH": "/usr/local/bin/uv"},
    ),
    "ssrf_proxy": Kind(command=("squid", "-N")),
    "nginx": Kind(command=("nginx", "-g", "daemon off;")),
    "weaviate": Kind(programs=("outside.py", "weaviate.py", "web.py"), entrypoint=("python3", "/standin/weaviate.py")),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Image:
    """An image as a registry wants it: its configuration, and its layers as files, packed with gzip."""

    reference: str
    config: bytes
    layers: tuple[Path, ...]


def build(
    compose_file: Path,
    env_example: Path,
    work: Path,
    ballast: Mapping[str, Sequence[Path]] | None = None,
    chosen: Mapping[str, str] | None = None,
) -> list[Image]:
    """Make the images that the compose file needs by default; layers are kept below `work`.

    `ballast` are further layers, as tar files, by service; `chosen` are settings other than the example's.
    """
    variables = envfile.resolve(envfile.edit(env_example.read_text(), dict(chosen or {})))
    needed = compose.images(compose.load(compose_file), variables)
    made = []
    for reference, services in needed.items():
        service = next(service for service in services if service in KINDS)
        kind = KINDS[service]
        base = _base_layer(kind.packages, work)
        layers = [_kept("busybox", _busybox_layer(base), work)] if kind.static else [base]
        layers += (ballast or {}).get(service, ())
        if kind.programs:
            layers.append(_kept("program", _program_layer(kind, reference.rpartition(":")[2]), work))
        made.append(Image(reference=reference, config=_config(kind, layers), layers=tuple(map(_packed, layers))))
    return made


def _kept(name: str, data: bytes, work: Path) -> Path:
    path = work / f"{name}-{hashlib.sha256(data).hexdigest()[:12]}.tar"
    if not path.is_file():
        path.with_suffix(".part").write_bytes(data)
        path.with_suffix(".part").rename(path)
    return path


def _packed(layer: Path) -> Path:
    """Return a layer packed with gzip, the same bytes each time."""
    packed = layer.with_suffix(".tar.gz")
    if not packed.is_file():
        partial = layer.with_suffix(".packing")
        with partial.open("wb") as target:
            subprocess.run(["gzip", "-1", "--no-name", "--stdout", str(layer)], check=True, stdout=target)
        partial.rename(packed)
    return packed


def push(images: list[Image], registry: str) -> None:
    """Push to a registry at `registry` (http://host:port), what it has already not again."""
    # In which repository of the registry a blob is: the next one that needs it gets it from there.
    held: dict[str, str] = {}
    for image in images:
        path = image.reference.partition("/")[2]
        name, _, tag = path.rpartition(":")
        layers = [_push_file(layer, name, registry, held) for layer in image.layers]
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": _push_blob(image.config, hashlib.sha256(image.config).hexdigest(), name, registry, held)
            | {"mediaType": "application/vnd.docker.container.image.v1+json"},
            "layers": [each | {"mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip"} for each in layers],
        }
        requests.put(
            f"{registry}/v2/{name}/manifests/{tag}",
            data=json.dumps(manifest, sort_keys=True),
            headers={"Content-Type": MANIFEST_TYPE},
            timeout=60,
        ).raise_for_status()


def forget(images: list[Image], env: Mapping[str, str]) -> None:
    """Take these names from other images in podman's store: a build pulls only what it does not find there.

    An image that the store has still gets its name back.
    """
    for image in images:
        wanted = hashlib.sha256(image.config).hexdigest()
        shown = ["podman", "image", "inspect", "--format", "{{.Id}}", image.reference]
        found = subprocess.run(shown, env=env, capture_output=True, text=True)
        if found.returncode == 0 and found.stdout.strip() != wanted:
            subprocess.run(["podman", "untag", image.reference], env=env, check=True)
            if subprocess.run(["podman", "image", "exists", wanted], env=env).returncode == 0:
                subprocess.run(["podman", "tag", wanted, image.reference], env=env, check=True)


def _push_file(path: Path, name: str, registry: str, held: dict[str, str]) -> dict[str, object]:
    return _push_blob(path.read_bytes(), _sha256(path), name, registry, held)


def _push_blob(data: bytes, sha256: str, name: str, registry: str, held: dict[str, str]) -> dict[str, object]:
    """Bring a blob into the repository `name`, from another one that holds it if there is one.

    https://distribution.github.io/distribution/spec/api/#cross-repository-blob-mount
    """
    described: dict[str, object] = {"digest": f"sha256:{sha256}", "size": len(data)}
    blobs = f"{registry}/v2/{name}/blobs"
    if requests.head(f"{blobs}/sha256:{sha256}", timeout=60).status_code != 200:
        mount = {"mount": f"sha256:{sha256}", "from": held[sha256]} if sha256 in held else {}
        upload = requests.post(f"{blobs}/uploads/", params=mount, timeout=60)
        upload.raise_for_status()
        if upload.status_code != 201:  # 202: there was nothing to mount
            place = upload.headers["Location"]
            separator = "&" if "?" in place else "?"
            requests.put(f"{place}{separator}digest=sha256:{sha256}", data=data, timeout=600).raise_for_status()
    held[sha256] = name
    return described


@functools.cache
def _sha256(path: Path) -> str:
    """Return the SHA-256 of a layer, which all images share: read once."""
    return digest.hash_file(path)


def _base_layer(packages: str, work: Path) -> Path:
    """Return Debian with the servers as one layer; made once."""
    recipe = (packages, *LEFT_OUT, NO_CLUSTER, *FINISH[packages])
    identity = hashlib.sha256("\n".join(recipe).encode()).hexdigest()[:12]
    layer = work / f"layer-{identity}.tar"
    if layer.is_file():
        return layer
    work.mkdir(parents=True, exist_ok=True)
    root = work / f"layer-{identity}.part"
    shutil.rmtree(root, ignore_errors=True)
    log = work / "layer.log"
    what = "PostgreSQL, Redis, nginx and squid" if packages == PACKAGES else packages
    with steps.step(f"the layer of the stand-in images: Debian 13 with {what}", 30, log):
        _install_servers(packages, root, log)
        partial = layer.with_suffix(".writing")
        with tarfile.open(partial, "w") as archive:
            for path in sorted(root.rglob("*")):
                if not path.is_relative_to(root / "dev"):
                    archive.add(path, path.relative_to(root).as_posix(), recursive=False, filter=_timeless)
        shutil.rmtree(root)
        partial.rename(layer)
    return layer


def _install_servers(packages: str, root: Path, log: Path) -> None:
    """Make a root of Debian with the servers, and leave out what they do not need."""
    command = ["mmdebstrap", "--variant=minbase", f"--include={','.join(packages.split())}"]
    command += ["--dpkgopt=force-confold", f"--essential-hook={NO_CLUSTER}", "trixie", str(root)]
    steps.run([*command, *machine.mirrors()], log)
    for name in LEFT_OUT:
        left_out = root / name
        left_out.unlink() if left_out.is_file() else shutil.rmtree(left_out, ignore_errors=True)
    for name in ("var/log/nginx", "var/log/squid", "var/cache", "dev", "usr/share/nginx/conf"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for step in FINISH[packages]:
        subprocess.run(["chroot", str(root), *step.split()], check=True, capture_output=True)


def _timeless(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    member.mtime = 0
    return None if member.ischr() or member.isblk() or member.isfifo() else member


def _config(kind: Kind, layers: list[Path]) -> bytes:
    env = [PATH, *(f"{key}={value}" for key, value in {**PYTHON_SERVICE, **kind.env}.items())]
    run: dict[str, object] = {
        "Env": env,
        "Entrypoint": list(kind.entrypoint) or None,
        "Cmd": list(kind.command) or None,
    }
    run |= {"User": kind.user, "WorkingDir": kind.folder}
    top = {
        "architecture": "amd64",
        "os": "linux",
        "created": "2026-01-01T00:00:00Z",
        "config": run,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{_sha256(layer)}" for layer in layers]},
        "history": [{"created": "2026-01-01T00:00:00Z", "created_by": "stand-in"} for _ in layers],
    }
    return json.dumps(top, sort_keys=True).encode()


def _program_layer(kind: Kind, version: str) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name in sorted(kind.programs):
            path = PROGRAMS / name
            for file in sorted(path.glob("*.py")) if path.is_dir() else [path]:
                _add(archive, f"standin/{file.relative_to(PROGRAMS)}", file.read_bytes())
        if "migrate.py" in kind.programs:
            _add(archive, "entrypoint.sh", API_ENTRYPOINT.read_bytes(), mode=0o755)
            _add(archive, "app/api/app.py", APPLICATION.read_bytes())
            for number in range(1, REVISIONS + 1):
                name, content = revision(number)
                _add(archive, name, content)
        if "daemon" in kind.programs:
            _add(archive, DAEMON.lstrip("/"), ENTRYPOINT.read_bytes(), mode=0o755)
            _add(archive, "standin/daemon/official.pem", DIFY_KEY.read_bytes())
        _add(archive, "standin/VERSION", version.encode())
    return data.getvalue()


def revision(number: int, script: str = "") -> tuple[str, bytes]:
    """Return a migration of the api, shaped as alembic has them, and where it lies: one comes after the other."""
    before = f'"{number - 1:04d}"' if number > 1 else "None"
    text = f'revision = "{number:04d}"\ndown_revision = {before}\nUPGRADE = {script!r}\n'
    return f"app/api/migrations/versions/{number:04d}_step.py", text.encode()


def _busybox_layer(base: Path) -> bytes:
    """Return a layer with busybox and its names, as the tiny official image has."""
    data = io.BytesIO()
    with tarfile.open(base) as source, tarfile.open(fileobj=data, mode="w") as archive:
        for name in ("bin/busybox", "usr/bin/busybox"):
            try:
                content = source.extractfile(name)
                break
            except KeyError:
                continue
        assert content is not None
        _add(archive, "bin/busybox", content.read(), mode=0o755)
        for name in ("sh", "chown", "touch", "echo", "ls", "cat", "id", "sleep"):
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(link)
    return data.getvalue()


def _add(archive: tarfile.TarFile, name: str, data: bytes, mode: int = 0o644) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), mode
    archive.addfile(info, io.BytesIO(data))


def dify_checkout(source: Path, destination: Path) -> Path:
    """Copy a folder shaped like a Dify checkout; add the two entrypoints where it lacks upstream's code."""
    shutil.copytree(source / "docker", destination / "docker")
    for path in destination.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    for service, ours in ENTRYPOINTS.items():
        script = destination / "docker" / service / "docker-entrypoint.sh"
        if not script.exists():
            shutil.copyfile(ours, script)
    return destination
