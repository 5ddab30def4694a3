"""What fails inside of Dify: each fault is told by its hop, and the same command works when it is mended."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.e2e.conftest import MachineMaker
from tests.e2e.console import EMAIL, Console
from tests.e2e.server import Server
from tests.e2e.test_failures import COMPANY_CA
from tests.e2e.test_standins import Models
from tests.e2e.test_workspace import EMBEDDER, await_nothing_left
from tests.target import difypkg
from tests.target.bundle import Bundle
from tests.target.neighbour import NEIGHBOUR

KEY = "the-api-key-1234"
OLLAMA, SLOW, VECTORS, SMALL, KEYED, SECURE = 11434, 11435, 11436, 8000, 8001, 8443
# Short, for what a plugin that ends in the middle makes everybody wait for.
LONGEST_QUESTION = 8
# The daemon asks for what is in nobody's wheelhouse.
LACKING = b"no-such-package-anywhere==1.0\n"


@pytest.fixture(scope="module")
def server(lasting_machine: MachineMaker, provided: Bundle) -> Server:
    """A server with an account and plugins, and no model server yet."""
    made = Server(lasting_machine(), provided)
    made.install("--admin-email", EMAIL, "--set", f"PLUGIN_MAX_EXECUTION_TIMEOUT={LONGEST_QUESTION}")
    return made


@pytest.fixture(scope="module")
def models(server: Server) -> Iterator[Models]:
    made = Models(server)
    made.start("ollama", OLLAMA)
    yield made
    server.machine.run("pkill --full llm.py", check=False)


def put(server: Server, tmp_path: Path, name: str, data: bytes) -> str:
    (tmp_path / name).write_bytes(data)
    server.put(tmp_path / name, name)
    return name


def add_models(server: Server, *arguments: str, key: str = "") -> tuple[int, str]:
    """Register models; return the status and all that was told."""
    done = server.installer("models", "add", *arguments, env={"DIFY_INSTALLER_API_KEY": key} if key else {})
    return done.returncode, done.stdout + done.stderr


class TestPlugins:
    def test_a_damaged_package_is_refused_and_named(
        self, server: Server, owner: rsa.RSAPrivateKey, tmp_path: Path
    ) -> None:
        good = difypkg.signed(difypkg.versioned(difypkg.contents(difypkg.OLLAMA), "9.0.0"), owner)
        cut = server.installer("plugins", "add", put(server, tmp_path, "cut.difypkg", good[: len(good) // 2]))
        assert cut.returncode == 2
        assert "cut.difypkg" in cut.stderr
        changed = difypkg.added(good, "more.py", b"# slipped in\n")
        refused = server.installer("plugins", "add", put(server, tmp_path, "changed.difypkg", changed))
        assert refused.returncode == 10
        assert "signature" in refused.stderr
        assert self.versions(server)["langgenius/ollama"] != "9.0.0"

    def test_a_plugin_without_its_wheels_is_told_in_the_words_of_uv(
        self, server: Server, owner: rsa.RSAPrivateKey, tmp_path: Path
    ) -> None:
        files = {**difypkg.versioned(difypkg.contents(difypkg.OLLAMA), "9.0.1"), difypkg.REQUIREMENTS: LACKING}
        lacking = put(server, tmp_path, "lacking.difypkg", difypkg.signed(files, owner))
        failed = server.installer("plugins", "add", lacking)
        assert failed.returncode == 10
        assert "no-such-package-anywhere" in failed.stderr
        assert self.versions(server)["langgenius/ollama"] != "9.0.1"

    def test_a_daemon_that_is_killed_in_the_middle_begins_again(
        self, server: Server, owner: rsa.RSAPrivateKey, tmp_path: Path
    ) -> None:
        """The kernel kills it, as for lack of memory; podman starts it again, and it knows nothing of its work."""
        files = difypkg.versioned(difypkg.contents(difypkg.OLLAMA), "9.0.2")
        name = put(server, tmp_path, "newer.difypkg", difypkg.signed(files, owner))
        daemon = server.container("plugin_daemon")
        running = server.machine.start(["./dify-installer", "plugins", "add", name])
        # The machine sees what runs in its containers. The pattern is not to find the shell that looks.
        server.run("sh", "-c", "until pgrep --full '[u]v (venv|pip)' >/dev/null; do sleep 0.01; done", timeout=60)
        server.run("sh", "-c", f"kill -KILL $(podman inspect --format '{{{{.State.Pid}}}}' {daemon})")
        printed, _ = running.communicate(timeout=300)
        assert running.returncode == 0, printed
        assert self.versions(server)["langgenius/ollama"] == "9.0.2"

    @staticmethod
    def versions(server: Server) -> dict[str, str]:
        listed = json.loads(server.installer("plugins", "list", "--json").stdout)["plugins"]
        return {each["name"]: each["version"] for each in listed}


class TestModels:
    def test_a_server_that_is_not_there_refuses_the_key_or_lacks_the_model(self, models: Models) -> None:
        server = models.server
        status, told = add_models(server, "--vllm-url", f"http://{NEIGHBOUR}:{KEYED}")
        assert status == 8
        assert "refused" in told
        url = models.start("vllm", KEYED, KEY)
        status, told = add_models(server, "--vllm-url", url, key="another-key-5678")
        assert status == 8
        assert "status 401" in told and "DIFY_INSTALLER_API_KEY" in told
        assert "another-key-5678" not in told
        status, told = add_models(server, "--vllm-url", url, "--model", "no-such", key=f"{url}={KEY}")
        assert status == 8
        assert "does not have the model no-such" in told
        assert add_models(server, "--vllm-url", url, key=f"{url}={KEY}")[0] == 0

    def test_a_key_that_was_changed_is_told_and_the_new_one_is_taken(self, models: Models) -> None:
        server = models.server
        models.stop(KEYED)
        url = models.start("vllm", KEYED, "a-newer-key-9999")
        failed = server.installer("models", "test", "qwen3-32b")
        assert failed.returncode == 10
        assert "hop key" in failed.stdout
        status, told = add_models(server, "--vllm-url", url, key="a-newer-key-9999")
        assert (status, "qwen3-32b updated" in told) == (0, True), told
        assert server.installer("models", "test", "qwen3-32b").returncode == 0

    def test_a_company_s_certificate_is_trusted_where_its_authority_is_named(self, models: Models) -> None:
        server = models.server
        server.run("sh", "-c", COMPANY_CA)
        url = models.start("vllm", SECURE, "--tls", f"{server.home}/server.pem", "--models", "secure")
        status, told = add_models(server, "--vllm-url", url)
        assert status == 8
        assert "certificate" in told
        # The install command goes on from there: the account is known, models and a first answer follow.
        server.install("--ca-bundle", "ca.pem", "--admin-email", EMAIL, "--vllm-url", url)
        assert [each["what"] for each in server.report()["inside"]["models"]] == ["added"]


class TestQuestions:
    def test_what_is_too_long_for_a_model_fails_at_the_model(self, models: Models) -> None:
        url = models.start("vllm", SMALL, "--context", "64", "--models", "small")
        assert add_models(models.server, "--vllm-url", url)[0] == 0
        failed = self.ask(models.server, "word " * 100, "--with", "small", status=10)
        assert "hop model" in failed and "maximum context length" in failed

    def test_a_slow_model_is_waited_for(self, models: Models) -> None:
        url = models.start("ollama", SLOW, "--slow", "0.3", "--models", "slow")
        assert add_models(models.server, "--ollama-url", url)[0] == 0
        asked = models.server.installer("ask", "one two three", "--with", "slow", "--json")
        answer: dict[str, Any] = json.loads(asked.stdout)
        assert "one two three" in answer["answer"]
        assert answer["seconds"] - answer["first_seconds"] > 0.6

    def test_a_plugin_that_crashes_is_told_with_the_logs_that_know(self, models: Models) -> None:
        server = models.server
        running = server.machine.start(["./dify-installer", "ask", "one two three four five", "--with", "slow"])
        models.neighbour.await_asked(SLOW)
        time.sleep(0.5)
        server.run("podman", "exec", server.container("plugin_daemon"), "pkill", "--full", "ollama-.*/bin/python")
        printed, _ = running.communicate(timeout=120)
        assert running.returncode == 10, printed
        # Of what ended in the middle Dify says nothing but this.
        assert "Internal Server Error" in printed
        assert "dify-installer logs api plugin_daemon" in printed
        self.ask(server, "again", "--with", "slow", status=0)

    @staticmethod
    def ask(server: Server, question: str, *arguments: str, status: int) -> str:
        done = server.installer("ask", question, *arguments)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stderr


@pytest.fixture(scope="class")
def embedding(models: Models, embedder: Path) -> str:
    """The name of a registered model that embeds for real."""
    shutil.copytree(embedder, models.server.machine.path(EMBEDDER))
    named = ["--models", "all-minilm:embedding"]
    url = models.start("ollama", VECTORS, "--embedder", EMBEDDER, *named)
    assert add_models(models.server, "--ollama-url", url)[0] == 0
    return "all-minilm"


class TestKnowledge:
    def test_what_a_killed_run_has_left_is_removed(self, server: Server, embedding: str) -> None:
        console = Console(server.machine, server.url)
        console.login(server.run("cat", f"{server.folder}/admin-password").stdout.strip())
        console.post("/datasets", {"name": "dify-installer: knowledge 0a0a0a0a"}, 201)
        (found,) = self.tried(server, embedding, 0)
        assert "yard" in found["seen"]
        await_nothing_left(server)

    @pytest.mark.feature("`models test`", "a part that is stopped is named as the hop at which knowledge fails")
    @pytest.mark.parametrize(("service", "hop"), [("worker", "worker"), ("weaviate", "vector store")])
    def test_a_stopped_part_is_named_as_the_hop(self, server: Server, embedding: str, service: str, hop: str) -> None:
        container = server.container(service)
        server.run("podman", "stop", container)
        try:
            (failed,) = self.tried(server, embedding, 10)
        finally:
            server.run("podman", "start", container)
        assert f"fails at the hop {hop}:" in failed["seen"] and failed["remedy"]
        await_nothing_left(server)

    @staticmethod
    def tried(server: Server, name: str, status: int) -> list[dict[str, str]]:
        done = server.installer("models", "test", name, "--json")
        assert done.returncode == status, done.stdout + done.stderr
        findings: list[dict[str, str]] = json.loads(done.stdout)["findings"]
        return findings


def test_a_locked_account_is_told_and_not_tried_further(server: Server) -> None:
    """The last test here: nobody gets in afterwards."""
    console = Console(server.machine, server.url)
    # Dify counts, and locks when there were more than five (services/account_service.py).
    for _ in range(6):
        console.login("wrong-passw0rd", 401)
    refused = server.installer("plugins", "list")
    assert refused.returncode == 9
    assert f"Dify has locked {EMAIL}" in refused.stderr
