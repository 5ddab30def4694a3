"""What runs on the cluster, told, judged and furnished: status, doctor, plugins, models, the company's authorities.

The tests go on with what the ones before have left.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from installer.release import envfile, masks
from tests.e2e.console import EMAIL
from tests.target import machine
from tests.target.bundle import ROOT, Bundle
from tests.target.cluster.node import Company, Node
from tests.target.cluster.site import Site
from tests.target.private_registry import PrivateRegistry

SCHEMA = json.loads((ROOT / "specs/output.schema.json").read_text())
LLM = ROOT / "tests/target/llm.py"
OLLAMA, VLLM = 11434, 8443
KEY = "the-api-key-1234"
# Of what the executable has printed, to be looked through for secrets.
PRINTED: list[str] = []


@contextlib.contextmanager
def model_server(company: Company, *options: str) -> Iterator[None]:
    """Run a model server on the company's host next to the node."""
    enter = [*machine.DIES_WITH_US, "nsenter", f"--net={company.network}", sys.executable, str(LLM)]
    with subprocess.Popen([*enter, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            yield
        finally:
            server.kill()


@pytest.fixture(scope="module")
def servers(node: Node, private: PrivateRegistry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Two model servers next to the node, one of which has https by the company's authority and wants a key."""
    pem = tmp_path_factory.mktemp("vllm") / "server.pem"
    pem.write_text((private.folder / "registry.key").read_text() + private.authority.read_text())
    with (
        model_server(node.company, "ollama", str(OLLAMA)),
        model_server(node.company, "vllm", str(VLLM), KEY, "--tls", str(pem)),
    ):
        there = node.company.address
        yield ["--ollama-url", f"http://{there}:{OLLAMA}", "--vllm-url", f"https://{there}:{VLLM}"]


@pytest.fixture(scope="module")
def site(
    node: Node, private: PrivateRegistry, provided: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """A bundle with plugins on the cluster, in a namespace of its own; what was applied need not be ready yet."""
    made = Site(node, private, tmp_path_factory.mktemp("running"), namespace="running")
    made.write(provided)
    made.prepare()
    made.begin("small")
    yield made
    made.remove("small")


def printed(site: Site, bundle: Bundle, *command: str, status: int = 0) -> dict[str, Any]:
    """Run a command, and return what it prints, which is of the schema."""
    done = site.with_kubectl(bundle, *command, DIFY_INSTALLER_API_KEY=KEY)
    PRINTED.append(done.stdout + done.stderr)
    assert done.returncode == status, done.stdout + done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    jsonschema.validate(result, SCHEMA)
    return result


def levels(result: dict[str, Any]) -> dict[str, str]:
    return {each["check"]: each["level"] for each in result["checks"]}


def test_status_tells_a_start_from_a_failure(site: Site, provided: Bundle) -> None:
    first = printed(site, provided, "status")
    assert levels(first)["pods ready"] == "warning"
    assert "starting since" in first["checks"][1]["seen"], first["checks"]
    site.await_ready()
    now = printed(site, provided, "status")
    # The node has no Ingress controller.
    wrong = {check: level for check, level in levels(now).items() if level not in ("ok", "info")}
    assert wrong == {"address": "warning"}
    assert {"migration", "claims", "console reachable", "version", "api reaches plugin_daemon"} < set(levels(now))
    assert now["overview"]["engine"].startswith("Kubernetes v1.")
    assert {each["state"] for each in now["overview"]["services"]} == {"ready"}
    assert now["overview"]["changed"] == []


def test_the_bundles_plugins_are_installed_from_wheels_in_the_daemons_claim(site: Site, provided: Bundle) -> None:
    """By the first account, which is made; out of the archive beside the executable."""
    done = printed(site, provided, "plugins", "add", "--admin-email", EMAIL)["plugins"]
    assert [(each["name"], each["what"]) for each in done] == [
        ("langgenius/ollama", "installed"),
        ("langgenius/openai_api_compatible", "installed"),
    ]
    assert {each["what"] for each in printed(site, provided, "plugins", "add")["plugins"]} == {"kept"}
    assert (site.out / "admin-password").stat().st_mode & 0o777 == 0o600
    (volume,) = (site.node.folder / "volumes").glob("running-plugin-daemon-*")
    wheels = list((volume / "dify-installer/wheels").glob("*.whl"))
    assert wheels and {each.stat().st_uid for each in wheels} == {1001}


def test_a_model_server_with_the_companys_certificate_needs_its_authority(
    site: Site, provided: Bundle, servers: list[str], private: PrivateRegistry
) -> None:
    before = printed(site, provided, "models", "add", *servers, status=8)
    assert {each["name"]: each["what"] for each in before["models"]} == {
        "llama3:latest": "added",
        "bge-m3:567m": "added",
    }
    (refused,) = before["findings"]
    assert "TLS fails" in refused["seen"] and "--ca-bundle" in refused["remedy"], refused
    assert f"vLLM from {refused['check'].rpartition(' ')[2]}" == refused["check"]

    site.write(provided, "--ca-bundle", str(private.authority))
    assert "api runs with other settings than the folder's" in printed(site, provided, "status")["overview"]["changed"]
    site.apply("small")
    after = printed(site, provided, "models", "add", *servers)
    assert {each["name"]: each["what"] for each in after["models"]}["qwen3-32b"] == "added"
    assert {each["level"] for each in printed(site, provided, "models", "test")["findings"]} == {"ok"}
    assert "how are you" in printed(site, provided, "ask", "how are you")["answer"]


def test_doctor_finds_nothing_wrong_and_asks_the_model_servers(site: Site, provided: Bundle) -> None:
    found = printed(site, provided, "doctor")
    wrong = {check: level for check, level in levels(found).items() if level not in ("ok", "info")}
    assert wrong == {"address": "warning"}, found
    assert {"restarts", "memory", "settings", "names inside"} < set(levels(found))
    asked = [each["seen"] for each in found["checks"] if each["check"].startswith(("Ollama from", "vLLM from"))]
    assert len(asked) == 2 and "it answers, and wants a key" in asked[1], asked


def test_doctor_names_what_fails_with_its_remedy(site: Site, provided: Bundle) -> None:
    site.kubectl("set", "image", "deployment/web", f"web={site.registry.host}/dify/nothing:1")
    site.kubectl("scale", "deployment/sandbox", "--replicas=0")
    small = [
        {"op": "replace", "path": "/spec/template/spec/containers/0/resources", "value": {"limits": {"memory": "12Mi"}}}
    ]
    site.kubectl("patch", "deployment/plugin-daemon", "--type=json", f"--patch={json.dumps(small)}")
    deadline = time.monotonic() + 60
    while True:
        found = {each["check"]: each for each in printed(site, provided, "doctor", status=6)["checks"]}
        if "plugin-daemon" in found["memory"]["seen"] and "web" in found["images"]["seen"]:
            break
        assert time.monotonic() < deadline, found
        time.sleep(2)
    assert {found[check]["level"] for check in ("pods ready", "images", "memory")} == {"error"}
    assert "sandbox: it is scaled to none" in found["pods ready"]["seen"]
    assert "dify/nothing:1" in found["images"]["seen"]
    assert "limit 12Mi" in found["memory"]["seen"]
    assert "web runs another image" in found["settings"]["seen"]
    # Nginx has still the older web.
    assert found["web page"]["level"] == "ok"
    assert all(each["remedy"] for each in found.values() if each["level"] in ("warning", "error"))


def test_a_support_bundle_has_the_logs_of_every_pod(site: Site, provided: Bundle) -> None:
    path = site.folder / "doctor.tar.gz"
    assert printed(site, provided, "doctor", "--bundle", str(path), status=6)["file"] == str(path)
    with tarfile.open(path) as archive:
        texts = {each.name: archive.extractfile(each) for each in archive}
        content = {name: text.read().decode() for name, text in texts.items() if text is not None}
    PRINTED.extend(content.values())
    assert "OOMKilled" in content["dify-doctor/cluster/pods.yaml"]
    logs = [text for name, text in content.items() if name.startswith("dify-doctor/pods/migration-")]
    assert any("Running migrations" in text for text in logs), sorted(content)


def test_no_secret_is_in_what_was_printed(site: Site) -> None:
    values = envfile.resolve((site.out / "settings.env").read_text())
    example = envfile.parse((ROOT / "tests/sample/docker/.env.example").read_text())
    secrets = {each for each in masks.secret_values(values, example) if len(each) > 7}
    secrets |= {(site.out / "admin-password").read_text().strip(), KEY}
    assert len(secrets) > 5
    assert [text for text in PRINTED if any(secret in text for secret in secrets)] == []
