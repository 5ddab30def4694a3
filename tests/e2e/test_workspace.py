"""One command, from a bundle to the first answer, and what works inside of Dify afterwards."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.e2e.conftest import MachineMaker
from tests.e2e.console import EMAIL, Console
from tests.e2e.server import Server
from tests.e2e.test_standins import Models
from tests.target.bundle import ROOT, Bundle
from tests.target.neighbour import NEIGHBOUR

SCHEMA = json.loads((ROOT / "specs/output.schema.json").read_text())
OLLAMA, VLLM = 11434, 8000
KEY = "the-api-key-1234"
JOURNEYS = ["podman root", "podman dify", "docker root"]
EMBEDDING = "bge-m3:567m"
# On the machine: a real model, which is served by that name. It knows English, and little of Korean.
EMBEDDER = "/root/embedder"


@pytest.fixture(scope="module", params=JOURNEYS, ids=lambda journey: journey.replace(" ", "-"))
def server(
    request: pytest.FixtureRequest, lasting_machine: MachineMaker, provided: Bundle, embedder: Path
) -> Iterator[Server]:
    """A server that one command has brought from nothing to an answer."""
    engine, user = request.param.split()
    with Server(lasting_machine(engine), provided, user, engine=engine) as made:
        models = Models(made)
        shutil.copytree(embedder, made.machine.path(EMBEDDER))
        ollama, vllm = models.start("ollama", OLLAMA, "--embedder", EMBEDDER), models.start("vllm", VLLM, KEY)
        made.install(*asked(ollama, vllm), env={"DIFY_INSTALLER_API_KEY": KEY})
        yield made
        made.machine.run("pkill --full llm.py", check=False)


def asked(ollama: str, vllm: str) -> list[str]:
    servers = ["--ollama-url", ollama, "--vllm-url", vllm, "--ollama-model", "llama3:context=6000,tools=yes"]
    return ["--admin-email", EMAIL, *servers, "--ollama-model", EMBEDDING, "--language", "ko", "--require-llm"]


def printed(server: Server, *command: str, status: int = 0) -> dict[str, Any]:
    """Run a command with --json, and return what it prints, which is of the schema."""
    done = server.installer(*command, "--json")
    assert done.returncode == status, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    jsonschema.validate(result, SCHEMA)
    return result


@pytest.mark.feature("`--admin-email`, no network", "one command ends with the first answer of a model")
def test_one_command_ends_with_an_answer(server: Server) -> None:
    report = server.report()
    jsonschema.validate(report, SCHEMA)
    inside = report["inside"]
    assert inside["account"] == EMAIL
    assert [each["what"] for each in inside["plugins"]] == ["installed", "installed"]
    found = {each["name"]: (each["kind"], each["what"], each["default"]) for each in inside["models"]}
    assert found == {
        "llama3:latest": ("chat", "added", True),
        EMBEDDING: ("embedding", "added", True),
        "qwen3-32b": ("chat", "added", False),
    }
    assert inside["models"][0]["context"] == 6000 and inside["models"][0]["tools"]
    answer = inside["answer"]
    assert "대한민국" in answer["question"] and answer["answer"]
    assert 0 < answer["first_seconds"] <= answer["seconds"]
    assert answer["answer_tokens"] > 0


def test_a_knowledge_base_has_found_what_is_meant_and_is_gone(server: Server) -> None:
    found = server.report()["inside"]["knowledge"]
    assert found["model"] == EMBEDDING
    assert (found["question"], found["passages"]) == ("주차는 어디에 하나요?", 3)
    assert "마당" in found["passage"]
    assert found["index_seconds"] > 0 and found["find_seconds"] > 0
    assert {"worker", "vector store"} < set(found["path"])
    assert found["answer"]["sources"][0] == found["passage"]
    assert found["question"] in found["answer"]["answer"]
    await_nothing_left(server)


def await_nothing_left(server: Server) -> None:
    """See that no knowledge base and no app is there, and wait until the worker has removed what they left."""
    console = Console(server.machine, server.url)
    console.login(server.run("cat", f"{server.folder}/admin-password").stdout.strip())
    assert console.get("/datasets")["data"] == [] and console.get("/apps")["data"] == []
    volumes = f"{server.folder}/docker/volumes"
    left = f"find {volumes}/weaviate {volumes}/app/storage/upload_files -type f -not -name data"
    server.machine.run(f'until files=$({left}) && test -z "$files"; do sleep 0.1; done', timeout=20)


def test_the_password_is_its_owners_alone_and_nowhere_else(server: Server) -> None:
    path = f"{server.folder}/admin-password"
    assert server.run("stat", "--format", "%a", path).stdout.strip() == "600"
    password = server.run("cat", path).stdout.strip()
    console = Console(server.machine, server.url)
    console.login(password)
    assert console.get("/account/profile")["interface_language"] == "ko-KR"
    for secret in (password, KEY):
        places = server.run("grep", "-rlF", secret, f"{server.folder}/logs", f"{server.folder}/install-report.json")
        assert places.stdout == ""


def test_the_same_command_again_changes_nothing(server: Server) -> None:
    there = f"http://{NEIGHBOUR}"
    server.install(*asked(f"{there}:{OLLAMA}", f"{there}:{VLLM}"), env={"DIFY_INSTALLER_API_KEY": KEY})
    inside = server.report()["inside"]
    assert {each["what"] for each in (*inside["plugins"], *inside["models"])} == {"kept"}
    assert inside["answer"]["answer"]


def test_commands_for_later_know_the_account(server: Server) -> None:
    names = [each["name"] for each in printed(server, "plugins", "list")["plugins"]]
    assert names == ["langgenius/ollama", "langgenius/openai_api_compatible"]
    assert [each["level"] for each in printed(server, "models", "test")["findings"]] == ["ok", "ok", "ok"]
    assert printed(server, "models", "remove", "qwen3-32b")["models"][0]["name"] == "qwen3-32b"
    assert printed(server, "models", "remove", "qwen3-32b")["models"] == []
    assert "qwen3-32b" not in [each["name"] for each in printed(server, "models", "list")["models"]]
    assert "how are you" in printed(server, "ask", "how are you")["answer"]


def test_a_model_server_that_is_gone_is_named_as_the_hop(server: Server) -> None:
    server.machine.run(f"pkill --full 'llm.py [a-z]* {OLLAMA}'")
    failed = server.installer("ask", "how are you")
    assert failed.returncode == 10
    assert "hop connection" in failed.stderr
    findings = printed(server, "models", "test", status=10)["findings"]
    fails = {each["check"] for each in findings if "hop connection" in each["seen"]}
    assert fails == {"llama3:latest", EMBEDDING}


def test_a_wrong_password_is_told_and_tried_once(server: Server) -> None:
    server.run("sh", "-c", f"echo wrong-passw0rd > {server.folder}/wrong; chmod 600 {server.folder}/wrong")
    given = ["--admin-password-file", f"{server.folder}/wrong"]
    first, second = (server.installer("plugins", "list", *given) for _ in range(2))
    assert (first.returncode, second.returncode) == (9, 9)
    assert "does not know" in first.stderr and "not tried again" in second.stderr
    assert printed(server, "plugins", "list")["passed"]
