"""A Dify that keeps its vectors in a company's own Qdrant: TLS, on another host, a key."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import MachineMaker
from tests.e2e.server import Server
from tests.e2e.test_backup import inside, printed
from tests.e2e.test_external import ENCODED, SECRET, check_of
from tests.target.bundle import Bundle
from tests.target.neighbour import NEIGHBOUR, Neighbour
from tests.target.servers import Authority, Qdrant

PORT = 6333
URL = f"qdrant://{ENCODED}@{NEIGHBOUR}:{PORT}"
PLACE = f"Qdrant at {NEIGHBOUR}:{PORT}"
# What the api's client does with the variables of its environment (httpx takes SSL_CERT_FILE, and so does urllib).
REACHES = """
import json, os, urllib.request
def ask(method, path, content=None):
    headers = {"api-key": os.environ["QDRANT_API_KEY"], "Content-Type": "application/json"}
    body = json.dumps(content).encode() if content else None
    request = urllib.request.Request(os.environ["QDRANT_URL"] + path, body, headers, method=method)
    return json.load(urllib.request.urlopen(request))["status"]
print(ask("PUT", "/collections/one", {"vectors": {"size": 2, "distance": "Cosine"}}), os.environ["VECTOR_STORE"])
"""


@dataclass(frozen=True, kw_only=True)
class Company:
    """A server, and the Qdrant that the company has beside it."""

    server: Server
    store: Qdrant

    def install(self, *arguments: str, url: str = URL, ca: str = "ca.pem") -> Any:
        """Install with the address in the environment; the status is the caller's to judge."""
        options = [*self.server.arguments(), "--ca-bundle", f"{self.server.home}/{ca}", *arguments]
        return self.server.installer(*options, env={"DIFY_INSTALLER_VECTOR_URL": url})


@pytest.fixture(scope="module")
def company(lasting_machine: MachineMaker, sample: Bundle) -> Iterator[Company]:
    server = Server(lasting_machine(), sample)
    Neighbour(server.machine)
    beside = ["nsenter", f"--net=/proc/{server.machine.init()}/root/run/netns/neighbour"]
    with Qdrant(Path(os.environ["QDRANT"]), SECRET, NEIGHBOUR, PORT, beside) as store:
        for name, content in (
            ("ca.pem", store.authority.certificate),
            ("stranger.pem", Authority("stranger").certificate),
        ):
            (store.folder / name).write_bytes(content)
            server.put(store.folder / name, name)
        yield Company(server=server, store=store)


def test_what_cannot_be_is_refused_before_the_first_change(company: Company) -> None:
    cases: list[tuple[str, str, list[str]]] = [
        (URL.replace(ENCODED, "wrong"), "ca.pem", ["refuses the key", "--vector-url"]),
        (f"{URL}?tls=disable", "ca.pem", ["does not answer as Qdrant does", "if it speaks TLS there"]),
        (URL.replace(str(PORT), "6399"), "ca.pem", ["nothing listens there"]),
        (URL, "stranger.pem", ["is not of an authority that is trusted", "--ca-bundle"]),
    ]
    for url, ca, said in cases:
        result = company.install(url=url, ca=ca)
        assert result.returncode == 4, result.stderr
        for each in said:
            assert each in result.stderr
        assert SECRET not in result.stderr and ENCODED not in result.stderr
        assert not company.server.machine.exists(f"{company.server.folder}/docker")
        assert company.store.collections() == []


def test_install_on_it_ends_healthy_without_a_vector_store(company: Company) -> None:
    server = company.server
    result = company.install()
    assert result.returncode == 0, result.stderr
    assert not {"weaviate", "qdrant"} & {name.split("_", 1)[-1].removesuffix("_1") for name in server.containers()}
    checks = {check["check"]: check["level"] for check in server.report()["checks"]}
    assert set(checks.values()) <= {"ok", "info"}
    assert f"api reaches {PLACE}" in checks
    assert inside(server, "api", f"python3 -c '{REACHES}'") == "ok qdrant\n"
    assert company.store.collections() == ["one"]


def test_the_same_command_again_changes_nothing_and_doctor_asks_it(company: Company) -> None:
    server = company.server
    containers, env = server.containers(), server.env()
    assert "run already" in server.install().stderr
    assert (server.containers(), server.env()) == (containers, env)
    found = check_of(server, "doctor", check="vectors")
    assert (found["level"], f"{PLACE}, version 1." in found["seen"]) == ("ok", True)
    assert f"not ours: {PLACE}" in server.installer("status").stdout
    assert company.store.collections() == ["one"]


def test_a_backup_and_the_end_of_the_installation_leave_the_vectors_where_they_are(company: Company) -> None:
    server = company.server
    made = printed(server, "backup", "rest.tar.zst")
    assert f"the vectors, which are not ours: {PLACE}" in made["backup"]["left_out"][0]
    removed = server.installer("uninstall", "--purge-data", "dify")
    assert PLACE in removed.stderr
    assert company.store.collections() == ["one"]
