"""`push`: from the image archive into a company's registry, with nothing but the executable; pulled back by podman."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from installer.bundle import manifest
from installer.core import errors
from tests.e2e.conftest import MachineMaker
from tests.e2e.server import Server
from tests.target import machine as machines
from tests.target.bundle import Bundle
from tests.target.private_registry import PASSWORD, USER, PrivateRegistry

# No program is in it: neither an engine nor anything else is asked.
EMPTY_PATH = "/nonexistent"


@pytest.fixture(scope="module")
def company(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateRegistry]:
    with PrivateRegistry(tmp_path_factory.mktemp("company")) as registry:
        yield registry


def push(
    sample: Bundle, company: PrivateRegistry, out: Path, *options: str, password: str = PASSWORD, prefix: str = "dify"
) -> subprocess.CompletedProcess[str]:
    """Run the frozen executable against the registry."""
    command = [
        *company.enter,
        str(sample.executable),
        "push",
        "--registry",
        f"{company.host}/{prefix}",
        "--registry-user",
        USER,
    ]
    command += ["--registry-ca", str(company.authority), "--out", str(out), *options]
    path = os.environ["PATH"] if company.enter else EMPTY_PATH
    environment = {"PATH": path, "HOME": str(out.parent), "DIFY_INSTALLER_REGISTRY_PASSWORD": password}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def pushed(sample: Bundle, company: PrivateRegistry, out: Path, *options: str, prefix: str = "dify") -> dict[str, Any]:
    """Push, and return what is printed as JSON."""
    done = push(sample, company, out, "--json", *options, prefix=prefix)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_a_wrong_password_is_refused_before_the_first_byte(
    sample: Bundle, company: PrivateRegistry, tmp_path: Path
) -> None:
    refused = push(sample, company, tmp_path / "images.json", password="incorrect horse")
    assert refused.returncode == errors.RegistryFailed.exit_code
    assert "does not take this user and password" in refused.stderr
    assert "incorrect horse" not in refused.stderr + refused.stdout
    assert company.get("/v2/_catalog") == {"repositories": []}
    assert not (tmp_path / "images.json").exists()


def test_an_unknown_authority_is_refused_with_its_remedy(
    sample: Bundle, company: PrivateRegistry, tmp_path: Path
) -> None:
    command = [str(sample.executable), "push", "--registry", company.host, "--out", str(tmp_path / "images.json")]
    refused = subprocess.run(command, env={"PATH": EMPTY_PATH, "HOME": str(tmp_path)}, capture_output=True, text=True)
    assert refused.returncode == errors.RegistryFailed.exit_code
    assert "is not trusted" in refused.stderr
    assert "--registry-ca" in refused.stderr


def test_a_dry_run_sends_nothing(sample: Bundle, company: PrivateRegistry, tmp_path: Path) -> None:
    shown = push(sample, company, tmp_path / "images.json", "--dry-run")
    assert shown.returncode == 0, shown.stderr
    assert "to be sent" in shown.stdout
    assert company.get("/v2/_catalog") == {"repositories": []}
    assert not (tmp_path / "images.json").exists()


@pytest.mark.feature(
    "`push` into a company's registry: https by its own authority, a login", "works; podman pulls the same image IDs"
)
@pytest.mark.parametrize("form", ["gzip", "tar", "zstd"])
def test_what_podman_pulls_has_the_manifests_ids(
    sample: Bundle, company: PrivateRegistry, tmp_path: Path, run_root: Path, form: str
) -> None:
    out = tmp_path / "images.json"
    first = pushed(sample, company, out, "--layers", form, prefix=form)
    assert json.loads(out.read_text()) == first
    assert first["blobs"]["sent"] > 0 and first["blobs"]["mounted"] > 0
    again = pushed(sample, company, out, "--layers", form, prefix=form)
    assert (again["blobs"], again["bytes_sent"]) == ({"sent": 0, "mounted": 0, "there": 0}, 0)
    assert [row["digest"] for row in again["images"]] == [row["digest"] for row in first["images"]]

    bundle = manifest.loads((sample.folder / "manifest.json").read_bytes())
    ids = {image.reference: image.id for image in bundle.images}
    assert {row["reference"]: row["id"] for row in first["images"]} == ids
    podman = ["podman", "--root", str(tmp_path / "store"), "--runroot", str(run_root)]
    login = ["--cert-dir", str(company.certificates), "--creds", f"{USER}:{PASSWORD}"]
    # All of them once; of the other forms the smallest is enough.
    small = [row for row in first["images"] if "busybox" in row["reference"]]
    for row in first["images"] if form == "gzip" else small:
        name = f"{row['pull'].rpartition(':')[0]}@{row['digest']}"
        pulled = subprocess.run([*podman, "pull", "--quiet", *login, name], check=True, capture_output=True, text=True)
        assert pulled.stdout.strip() == ids[row["reference"]], row
    subprocess.run([*podman, "rmi", "--all", "--force"], check=True, capture_output=True)


def test_the_login_of_podman_serves(sample: Bundle, company: PrivateRegistry, tmp_path: Path) -> None:
    auth = tmp_path / "auth.json"
    login = ["podman", "login", "--authfile", str(auth), "--cert-dir", str(company.certificates), "--password-stdin"]
    command = [*login, "--username", USER, company.host]
    subprocess.run(command, input=PASSWORD, text=True, check=True, capture_output=True)
    command = [str(sample.executable), "push", "--registry", f"{company.host}/gzip", "--dry-run"]
    command += ["--registry-ca", str(company.authority), "--registry-auth-file", str(auth)]
    shown = subprocess.run(command, env={**os.environ, "PATH": EMPTY_PATH}, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    assert "login and the right to push are as they should be" in shown.stdout


@pytest.mark.feature(
    "`--from-registry`: a host has the executable alone, and pulls from the company's registry",
    "works; the engine pulls by digest, the image IDs are the bundle's",
)
def test_a_host_installs_from_the_registry(sample: Bundle, new_machine: MachineMaker, tmp_path: Path) -> None:
    machine = new_machine()
    server = Server(machine, sample, images=False)
    with PrivateRegistry(tmp_path / "company", beside=machine) as company:
        server.put(company.authority, "company.crt")
        from_there = ["--from-registry", f"{company.host}/dify", "--registry-user", USER]
        from_there += ["--registry-ca", "/root/company.crt"]
        login = {"DIFY_INSTALLER_REGISTRY_PASSWORD": PASSWORD}

        empty = server.installer(*server.arguments(), *from_there, env=login)
        assert empty.returncode == errors.RegistryFailed.exit_code, empty.stderr
        assert "is not there" in empty.stderr and "push --registry" in empty.stderr
        pushed(sample, company, tmp_path / "images.json")
        wrong = server.installer(
            *server.arguments(), *from_there, env={"DIFY_INSTALLER_REGISTRY_PASSWORD": "incorrect horse"}
        )
        assert wrong.returncode == errors.RegistryFailed.exit_code
        assert not machine.exists(server.folder)

        server.install(*from_there, env=login)
        step = next(each for each in server.report()["steps"] if each["name"] == "images")
        assert step["seen"] == f"10 pulled from {company.host}, 0 there already"
        assert server.get("/console/api/setup").stdout.strip().startswith("{")
        names = machine.run("podman images --format '{{.Repository}}'").stdout
        assert machines.ADDRESS not in names
        everything = machine.run(f"grep -rl '{PASSWORD}' /root /opt/dify /run/dify-installer* /etc", check=False)
        assert everything.stdout == ""

        # One that is gone comes again, and nothing else; the rest is done without the registry.
        web = next(
            each
            for each in machine.run("podman images --format '{{.Repository}}:{{.Tag}}'").stdout.split()
            if "/web:" in each
        )
        machine.run(f"podman rm --force --depend --time 0 {server.container('web')} && podman rmi {web}")
        server.install(*from_there, env=login)
        step = next(each for each in server.report()["steps"] if each["name"] == "images")
        assert step["seen"] == f"1 pulled from {company.host}, 9 there already"
    server.install()
