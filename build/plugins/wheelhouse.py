"""Collects the wheels that plugins need, for the daemon's own Python, in the daemon's own image; and proves them.

All plugins share one folder of wheels: the daemon's uv takes from it what a package's requirements.txt asks for
(docs/decisions/015). What has no wheel is built into one there, where the compiler and the glibc are the right ones.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from build.failure import BuildError
from build.plugins.package import REQUIREMENTS, Daemon, Package
from build.spec import EPOCH
from installer.core import digest, files
from installer.core.console import Console
from installer.core.runner import Result, Runner

WHEELS_SECONDS = 3600.0
PROOF_SECONDS = 1200.0
LOCK = "requirements.lock"
# What the daemon on the server is told, of the folder that it has there (installer/release/render.py).
EXTRA_ARGS = "--no-index --find-links=/wheels"
# Of the environment of this machine, what says where packages come from; names alone are on the command line.
PASSED_ON = (
    *("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
)
# Where a company's authorities are told to programs.
AUTHORITIES = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE")
AUTHORITIES_INSIDE = "/authorities.pem"

# uv resolves as it will on the server; pip, which checks the same hashes, has a command that downloads and builds.
COLLECT = f"""
set -eu
for plugin in /plugins/*/; do
    uv pip compile --quiet --generate-hashes --no-header --no-annotate --python "$(command -v python3)" \
        --output-file "$plugin/{LOCK}" "$plugin/{REQUIREMENTS}"
    python3 -m pip wheel --quiet --disable-pip-version-check --no-deps --require-hashes --wheel-dir /wheels \
        --requirement "$plugin/{LOCK}"
done
"""
# What the daemon does (plugin daemon 0.5.2, setup_python_environment.go), with its arguments and without a network.
PROVE = f"""
set -eu
for plugin in /plugins/*/; do
    mkdir /tmp/plugin && cd /tmp/plugin
    cp "$plugin/{REQUIREMENTS}" .
    uv venv --quiet .venv --python "$(command -v python3)"
    VIRTUAL_ENV=/tmp/plugin/.venv uv pip install --quiet --requirement {REQUIREMENTS} $PIP_EXTRA_ARGS
    .venv/bin/python -c 'import dify_plugin'
    cd / && rm -rf /tmp/plugin
done
"""


def collect(
    packages: Sequence[Package],
    daemon: Daemon,
    identity: str,
    program: str,
    work: Path,
    runner: Runner,
    console: Console,
) -> list[Path]:
    """Return the wheels for all packages, sorted; those of an earlier build where nothing has changed.

    `identity` is the ID of the daemon's image, which the engine has. Raises BuildError when a requirement cannot be
    met, or the wheels do not suffice without a network.
    """
    texts = [each.requirements or "" for each in packages]
    key = json.dumps([identity, sorted(texts), COLLECT])
    folder = work / f"wheelhouse-{digest.hash_bytes(key.encode())[:16]}"
    if not folder.is_dir():
        partial = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(partial, ignore_errors=True)
        wheels, plugins = partial / "wheels", partial / "plugins"
        files.folder(wheels)
        for each in packages:
            files.folder(plugins / each.file_name)
            files.write(plugins / each.file_name / REQUIREMENTS, each.requirements or "")
        console.line(f"wheels   for {len(packages)} plugins, in {daemon.image}")
        _run(COLLECT, daemon, program, partial, runner, network=True)
        _prove(daemon, program, partial, runner)
        partial.rename(folder)
    return sorted((folder / "wheels").glob("*.whl"))


def _prove(daemon: Daemon, program: str, folder: Path, runner: Runner) -> None:
    _run(PROVE, daemon, program, folder, runner, network=False)


def _run(script: str, daemon: Daemon, program: str, folder: Path, runner: Runner, *, network: bool) -> None:
    """Run a script in the daemon's image, as root there, with the plugins' lists and the wheels."""
    command = [program, "run", "--rm", "--pull=never", "--platform", f"linux/{daemon.architecture}"]
    # The network of this machine: its names, its proxies on the loopback, its way out.
    command += ["--network", "host" if network else "none", "--security-opt", "label=disable"]
    command += ["--volume", f"{folder / 'plugins'}:/plugins", "--volume", f"{folder / 'wheels'}:/wheels"]
    command += ["--env", f"PIP_EXTRA_ARGS={EXTRA_ARGS}"]
    # What is built carries this time: the same sources give the same wheel.
    command += ["--env", f"SOURCE_DATE_EPOCH={EPOCH}", *_told(network)]
    command += ["--user", "0", "--entrypoint", "/bin/sh", daemon.image, "-c", script]
    result = runner.run(command, timeout=WHEELS_SECONDS if network else PROOF_SECONDS, check=False)
    if not result.ok:
        raise _failure(result, runner, network)


def _told(network: bool) -> list[str]:
    """Return the options that tell a container where packages come from, and whom to trust."""
    if not network:
        return []
    options = [part for name in PASSED_ON if os.environ.get(name) for part in ("--env", name)]
    trusted = next((path for name in AUTHORITIES if Path(path := os.environ.get(name, "")).is_file()), None)
    if trusted:
        options += ["--volume", f"{Path(trusted).resolve()}:{AUTHORITIES_INSIDE}:ro"]
        options += [part for name in AUTHORITIES for part in ("--env", f"{name}={AUTHORITIES_INSIDE}")]
    return options


def _failure(result: Result, runner: Runner, network: bool) -> BuildError:
    words = runner.mask(result.last_words)
    if not network:
        return BuildError(
            f"the plugins cannot be installed from the wheels that were collected: {words}",
            "a plugin needs something that its requirements.txt does not say: leave it out, or tell its author",
        )
    return BuildError(
        f"the wheels of the plugins cannot be had: {words}",
        "check the network, and that this machine runs containers of the server's architecture; a mirror of PyPI is "
        "named with UV_DEFAULT_INDEX and PIP_INDEX_URL; or leave plugins out with --plugin none",
    )
