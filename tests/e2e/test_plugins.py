"""A bundle with plugins: built, signed, carried, laid down, and installed without a network."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from installer.bundle import manifest
from installer.core import layout
from tests.e2e.conftest import MachineMaker
from tests.e2e.server import Server
from tests.target import bundle as bundles
from tests.target import uv
from tests.target.bundle import Bundle
from tests.target.registry import Registry

DESCRIBED = {
    "author": "somebody",
    "name": "answers",
    "version": "0.1.0",
    "meta": {"arch": ["amd64"], "runner": {"language": "python", "version": "3.12", "entrypoint": "main"}},
}
# The second one has no wheel on PyPI: the build makes one.
REQUIREMENTS = "dify_plugin>=0.5.0\ndocopt==0.6.2\n"
# What the plugin daemon does with a package (plugin daemon 0.5.2, setup_python_environment.go).
INSTALL = """
set -e
rm -rf /tmp/plugin && mkdir /tmp/plugin && cd /tmp/plugin
python3 -m zipfile -e /dify-plugins/packages/somebody-answers_0.1.0.difypkg .
uv venv --quiet .venv --python "$(command -v python3)"
VIRTUAL_ENV=.venv uv pip install --quiet -r requirements.txt $PIP_EXTRA_ARGS
.venv/bin/python -c 'import dify_plugin, docopt; print("installed")'
"""
JOURNEYS = ["podman root", "podman dify", "docker root"]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package that nobody has signed."""
    path = tmp_path_factory.mktemp("packages") / "answers.difypkg"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("manifest.yaml", yaml.safe_dump(DESCRIBED))
        archive.writestr("requirements.txt", REQUIREMENTS)
    return path


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The key of an installation's owner, made as the documents say."""
    path = tmp_path_factory.mktemp("keys") / "plugins.pem"
    subprocess.run(["openssl", "genrsa", "-out", str(path), "4096"], check=True, capture_output=True)
    return path


def build(command: list[str], registry: Registry, work: Path) -> subprocess.CompletedProcess[str]:
    environment = {**bundles.environment(registry), **bundles.containers_conf(work)}
    return subprocess.run(bundles.contained(command), cwd=bundles.ROOT, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def plugged(package: Path, key: Path, registry: Registry, work: Path) -> Bundle:
    """The sample, whose plugin daemon has uv and pip, with a plugin."""
    with registry:
        made = bundles.prepare("plugged", bundles.SAMPLE, registry, work, {"plugin_daemon": [uv.layer(work)]})
        options = ("--plugin", str(package), "--plugin-key", str(key))
        done = build(bundles.command(made, work, *options), registry, work)
        assert done.returncode == 0, done.stderr
        assert "plugins  somebody/answers:0.1.0; with" in done.stderr
        again = build(bundles.command(made, work, *options), registry, work)
        assert "nothing has changed: the archive of the last build is kept" in again.stderr
        assert "wheels   for" not in again.stderr
        # For an installation that exists, from the same wheels.
        file = ["--engine", "podman", "--source", str(made.checkout), "--work", str(work / "build")]
        tar = ["--output", str(made.folder / "plugins.tar"), "--plugin-key", str(key), str(package)]
        command = [*bundles.command(made, work)[:3], "plugin", *file, *tar]
        done = build(command, registry, work)
        assert done.returncode == 0, done.stderr
        assert "plugins add plugins.tar" in done.stderr
    return made


def test_plugins_are_in_the_manifest_and_not_in_the_executable(plugged: Bundle, sample: Bundle) -> None:
    described = manifest.loads((plugged.folder / layout.MANIFEST).read_bytes())
    assert described.plugins is not None
    (one,) = described.plugins.packages
    assert (one.identity, one.signer) == ("somebody/answers:0.1.0", "owner")
    names = [file.path for file in described.plugins.others]
    assert "keys/owner.pem" in names
    assert any(name.startswith("wheels/docopt-0.6.2-") for name in names)
    assert any(name.startswith("wheels/dify_plugin-") for name in names)
    assert described.plugins.image in [image.reference for image in described.images]
    assert plugged.executable.stat().st_size - sample.executable.stat().st_size < 200_000


def test_what_the_server_would_refuse_is_refused_at_the_build(
    plugged: Bundle, package: Path, registry: Registry, work: Path
) -> None:
    other = dataclasses.replace(plugged, folder=work / "dist-refused", payload=work / "payload-refused")
    with registry:
        unsigned = build(bundles.command(other, work, "--plugin", str(package)), registry, work)
    assert unsigned.returncode == 5, unsigned.stderr
    assert "pull " not in unsigned.stderr
    assert "is not signed by Dify" in unsigned.stderr
    assert "--plugin-key FILE" in unsigned.stderr


@pytest.fixture(scope="module", params=JOURNEYS, ids=lambda journey: journey.replace(" ", "-"))
def server(request: pytest.FixtureRequest, lasting_machine: MachineMaker, plugged: Bundle) -> Iterator[Server]:
    """A server with an installation that has brought plugins."""
    engine, user = request.param.split()
    with Server(lasting_machine(engine), plugged, user, engine=engine) as made:
        made.install()
        yield made


@pytest.mark.feature("a bundle with plugins, no network", "works; their signatures stay, the wheels come along")
def test_a_plugin_is_installed_without_a_network(server: Server) -> None:
    steps = {step["name"]: step["seen"] for step in server.report()["steps"]}
    assert "1 packages" in steps["plugins"]
    daemon = server.container("plugin_daemon")
    done = server.run(server.engine, "exec", daemon, "sh", "-c", INSTALL)
    assert done.stdout == "installed\n", done.stderr
    shown = server.run(server.engine, "exec", daemon, "env").stdout
    told = dict(line.partition("=")[::2] for line in shown.splitlines())
    assert told["THIRD_PARTY_SIGNATURE_VERIFICATION_ENABLED"] == "true"
    assert told.get("FORCE_VERIFYING_SIGNATURE", "true") == "true"
    key = told["THIRD_PARTY_SIGNATURE_VERIFICATION_PUBLIC_KEYS"]
    assert server.run(server.engine, "exec", daemon, "cat", key).stdout.startswith("-----BEGIN RSA PUBLIC KEY-----")
    private = server.run("sh", "-c", f"grep -r 'PRIVATE KEY' {server.folder}/docker/plugins")
    assert private.stdout == ""


def test_what_somebody_prunes_or_changes_is_mended_where_that_is_needed(server: Server) -> None:
    described = json.loads((server.bundle.folder / layout.MANIFEST).read_text())["plugins"]
    before = server.containers()
    server.run(server.engine, "rmi", described["image"])
    server.run("mv", "dify-images.tar", "moved.tar")
    assert "run already" in server.install().stderr
    wheel = next(file["path"] for file in described["others"] if file["path"].startswith("wheels/docopt"))
    folder = f"{server.folder}/docker/plugins"
    server.run("sh", "-c", f"echo > {folder}/{wheel}; echo > {folder}/theirs")
    server.run("mv", "moved.tar", "dify-images.tar")
    assert "1 packages, 1 files written" in server.install().stderr
    assert server.containers() == before
    assert server.machine.exists(f"{folder}/theirs")
    listed = server.run(server.engine, "ps", "--all", "--format", "{{.Names}}").stdout.split()
    assert "dify-installer-plugins" not in listed


def test_the_image_of_the_plugins_goes_with_the_installation(server: Server) -> None:
    removed = server.installer("uninstall")
    assert removed.returncode == 0, removed.stderr
    assert server.run(server.engine, "images", "--quiet").stdout == ""
