"""A Qdrant or an OpenSearch that runs already: its URL, the settings, and what is said of each refusal.

The servers are scripted here: each answers one way wrong. A real Qdrant is tried by `make test-stores`.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from installer import plan as plans
from installer.backup import arrival
from installer.commands import backup
from installer.core import errors, layout
from installer.release import compose, env_history, envfile, external, masks, render, vector_store
from installer.release.vector_store import VectorStore
from installer.services import reach
from installer.services import vector_store as service
from installer.upgrade import plan as upgrades
from tests.unit.test_arrival import COMPOSE, THEIRS, VARIABLES, made
from tests.unit.test_external import computed
from tests.unit.test_options import asked

SECRET = "k/ey+of:the@store"
ENCODED = "k%2Fey%2Bof%3Athe%40store"
QDRANT = f"qdrant://{ENCODED}@vectors.intranet"
OPENSEARCH = f"opensearch://dify:{ENCODED}@search.intranet:9201"
URLS = pytest.mark.parametrize("url", [QDRANT, OPENSEARCH, f"{QDRANT}:7000?tls=disable", f"{OPENSEARCH}?tls=disable"])


def settings_of(url: str) -> dict[str, str]:
    return external.vector_settings(external.checked_vectors(url))


@URLS
def test_the_settings_are_those_of_the_url_and_no_container_is_left(url: str) -> None:
    env = computed(settings_of(url))
    found = external.find_vectors(env.resolved)
    assert found == external.checked_vectors(url)
    assert isinstance(found, VectorStore)
    assert not {"qdrant", "opensearch", "weaviate"} & set(compose.active_profiles(env.resolved))
    assert external.find_addresses(env.resolved) == {(found.host, found.port)}
    assert external.compared(env.resolved) == ([found.where] if found.tls else [])
    (told,) = external.in_words(env.resolved)
    assert told.startswith(f"{found.where} with the vectors") and told.endswith("TLS")
    assert SECRET not in str((told, masks.without_secrets(env.resolved), found))
    assert SECRET in env.secrets


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("qdrant://host:6333", "names no key"),
        ("qdrant://user:key@host", "it has a key"),
        ("qdrant://key@host/collection", "more than a server"),
        ("qdrant://key@host?tls=off", "more than a server"),
        ("qdrant://key@qdrant", "a service of Dify's own"),
        ("qdrant://key@localhost", "the container itself"),
        ("opensearch://key@host", "names no password"),
        ("opensearch://u:secret@host?a=b", "more than a server"),
        ("elasticsearch://u:secret@host", "not of the shape"),
    ],
)
def test_a_url_that_dify_would_read_otherwise_is_refused(url: str, why: str) -> None:
    with pytest.raises(errors.UsageError) as caught:
        external.checked_vectors(url)
    assert why in f"{caught.value.message} {caught.value.remedy}"
    assert "secret" not in f"{caught.value.message} {caught.value.remedy}"


def test_the_url_is_never_on_the_command_line() -> None:
    with pytest.raises(errors.UsageError, match="DIFY_INSTALLER_VECTOR_URL"):
        asked(["--vector-url", QDRANT])
    there = asked([], {"DIFY_INSTALLER_VECTOR_URL": QDRANT}).asked.values
    assert (there["QDRANT_URL"], there["QDRANT_API_KEY"]) == ("https://vectors.intranet:6333", SECRET)
    # Its driver is no PostgreSQL's: the rows' word for TLS is their own.
    rows = "postgresql://u:p@rows.intranet/dify?sslmode=require"
    assert asked([], {"DIFY_INSTALLER_VECTOR_URL": QDRANT, "DIFY_INSTALLER_DB_URL": rows}).asked.values


def test_what_is_ours_or_a_clouds_own_is_no_server_of_others() -> None:
    for values in (
        {"VECTOR_STORE": "qdrant", "QDRANT_URL": "http://qdrant:6333"},
        {"VECTOR_STORE": "qdrant", "QDRANT_URL": "path:storage"},
        {"VECTOR_STORE": "weaviate", "QDRANT_URL": "http://other:6333"},
        {"VECTOR_STORE": "opensearch", "OPENSEARCH_HOST": "opensearch"},
        {"VECTOR_STORE": "opensearch", "OPENSEARCH_HOST": "o", "OPENSEARCH_AUTH_METHOD": "aws_managed_iam"},
    ):
        assert vector_store.find(values) is None, values


@pytest.mark.parametrize("url", [QDRANT, OPENSEARCH])
def test_the_api_finds_it_and_libpq_is_told_nothing(url: str, project: Path) -> None:
    env = computed(settings_of(url), project)
    choice = render.Choice(variables=env.resolved, selinux=False, ca_bundle=True)
    services = yaml.safe_load(render.render(compose.load(project / "docker-compose.yaml"), choice))["services"]
    assert not {"weaviate", "qdrant", "opensearch", "pgvector"} & set(services)
    environment = services["api"]["environment"]
    assert environment["SSL_CERT_FILE"] == "/etc/company-ca/ca-bundle.pem"
    assert not {"PGSSLMODE", "PGSSLROOTCERT"} & set(environment)
    for key, value in settings_of(url).items():
        assert envfile.expand(environment[key], env.resolved) == value


def test_a_knowledge_base_stays_with_its_store(tmp_path: Path) -> None:
    place = layout.Installation(tmp_path)
    theirs = env_history.Existing(path=place.env, text=computed(settings_of(QDRANT)).text)
    plans.require_one_store_of_vectors(theirs, computed(settings_of(QDRANT)), place)
    for after in (settings_of(OPENSEARCH), settings_of(f"{QDRANT}:7000"), {}):
        with pytest.raises(errors.PreflightFailed, match="Qdrant at vectors.intranet:6333"):
            plans.require_one_store_of_vectors(theirs, computed(after), place)


@pytest.mark.usefixtures("bundle")
def test_a_backup_comes_where_its_vectors_are(tmp_path: Path) -> None:
    there = settings_of(QDRANT)
    here = {**VARIABLES, **there}
    back_up = made(envfile.edit(THEIRS, there), {"vector_store": "qdrant"})
    arrival.require_suitable(back_up, here, COMPOSE)
    with pytest.raises(errors.BackupRefused, match="has no vectors: they are in Qdrant at vectors.intranet") as caught:
        arrival.require_suitable(back_up, {**VARIABLES, **settings_of(OPENSEARCH)}, COMPOSE)
    assert "--without-vectors" in caught.value.remedy
    with pytest.raises(errors.BackupRefused, match="do not go there by themselves"):
        arrival.require_suitable(made(THEIRS, {"vector_store": "qdrant"}), here, COMPOSE)
    place = layout.Installation(tmp_path)
    place.project.mkdir()
    place.env.write_text(computed(there).text)
    without = made(computed({}).text, {"ours": True, "dify": "1.11.3"}, without_vectors=True)
    written = envfile.parse(arrival.text_for(without, place, THEIRS))
    assert {key: written[key] for key in there} == there
    assert "Qdrant at vectors.intranet:6333" in backup.vectors_not_in_it(external.checked_vectors(QDRANT))
    (told,) = upgrades.told_of_others(computed(there).resolved)
    assert "the vectors in Qdrant at vectors.intranet:6333 are not ours" in told.seen


# -- what a server says


@dataclass
class Script:
    """What a server answers: by method and the end of the path, status and body; else what all is well with."""

    answers: dict[str, tuple[int, Any]]
    asked: list[str] = field(default_factory=list)
    names: set[str] = field(default_factory=set)

    def answer(self, method: str, path: str, body: str) -> tuple[int, Any]:
        """Return status and body, and keep what was made and not removed."""
        self.asked.append(f"{method} {path}")
        first, *rest = path.partition("?")[0].strip("/").removeprefix("collections/").split("/")
        asked = f"{method} /{'/'.join(['NAME' if 'dify_installer' in first else first, *rest])}"
        status, answer = self.answers.get(asked, (200, {}))
        if "dify_installer" in first and not rest:
            if method == "PUT" and status == 200:
                self.names.add(first)
            if method == "DELETE" and status == 200:
                self.names.discard(first)
            if method == "GET" and first not in self.names:
                return 404, {}
        return status, json.loads(body) if answer == "echo" else answer


Serve = Callable[[dict[str, tuple[int, Any]]], tuple[Script, int]]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Make a server of this host that answers as it is told."""
    servers: list[HTTPServer] = []

    def start(answers: dict[str, tuple[int, Any]]) -> tuple[Script, int]:
        script = Script(answers)

        class Handler(BaseHTTPRequestHandler):
            def _do(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
                status, answer = script.answer(self.command, self.path, body)
                raw = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            do_GET = do_PUT = do_POST = do_DELETE = _do

            def log_message(self, *_: object) -> None:
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return script, server.server_address[1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


ROOT = {"title": "qdrant - vector search engine", "version": "1.16.3"}
POINT = {"payload": {"page_content": "라마바 second"}}
GOOD_QDRANT: dict[str, tuple[int, Any]] = {
    "GET /": (200, ROOT),
    "POST /NAME/points/search": (200, {"result": [POINT]}),
    "POST /NAME/points/scroll": (200, {"result": {"points": [POINT], "next_page_offset": None}}),
}
HITS = (200, {"hits": {"hits": [{"_source": {"page_content": "라마바 second"}}]}})
DENIED = {"error": {"type": "security_exception", "reason": "no permissions for [indices:admin/create]"}, "status": 403}
GOOD_OPENSEARCH: dict[str, tuple[int, Any]] = {
    "GET /": (200, {"version": {"distribution": "opensearch", "number": "2.19.1"}}),
    "POST /_bulk": (200, {"errors": False, "items": [{"index": {"status": 201}}, {"index": {"status": 201}}]}),
    "POST /NAME/_search": HITS,
}


def look(kind: vector_store.Kind, port: int) -> str:
    store = VectorStore(kind=kind, host="127.0.0.1", port=port, tls=False, user="dify", secret=SECRET)
    return service.look(store, None)


def test_all_that_is_made_is_removed(serve: Serve) -> None:
    for kind, answers, version in (("qdrant", GOOD_QDRANT, "1.16.3"), ("opensearch", GOOD_OPENSEARCH, "2.19.1")):
        script, port = serve(answers)
        assert look(kind, port) == version  # type: ignore[arg-type]
        assert script.names == set()
        made = [each for each in script.asked if each.startswith("PUT /") and "dify_installer" in each]
        assert made
    # Names of OpenSearch have no capitals.
    assert all(each == each.lower() for each in made[0].split()[1:])


@pytest.mark.parametrize(
    ("change", "why", "remedy"),
    [
        ({"GET /": (200, "<html>")}, "does not answer as Qdrant does: status 200", "correct --vector-url"),
        ({"GET /collections": (401, "Invalid API key or JWT")}, "refuses the key: Invalid API key", "service.api_key"),
        ({"PUT /NAME": (403, {"status": {"error": "Global manage access is required"}})}, "may not make", "do all"),
        ({"PUT /NAME/index": (500, {"status": {"error": "disk"}})}, "refuses to make an index of", "its log"),
        ({"PUT /NAME/points": (507, {"status": {"error": "no space"}})}, "no space (507)", "its log"),
        ({"POST /NAME/points/search": (200, {"result": []})}, "not what was found", "name the Qdrant itself"),
        ({"DELETE /NAME": (403, {"status": {"error": "no"}})}, "is not removed: no", "remove it there"),
    ],
)
def test_a_refusal_of_qdrant_says_what_to_do(
    serve: Serve, change: dict[str, tuple[int, Any]], why: str, remedy: str
) -> None:
    script, port = serve(GOOD_QDRANT | change)
    with pytest.raises(errors.PreflightFailed) as caught:
        look("qdrant", port)
    assert why in caught.value.message
    assert remedy in caught.value.remedy
    assert SECRET not in caught.value.message
    assert len(script.names) == (1 if "DELETE /NAME" in change else 0)


@pytest.mark.parametrize(
    ("change", "why", "remedy"),
    [
        ({"GET /": (401, "Unauthorized")}, "does not let dify in", "%2F"),
        ({"GET /": (200, {"version": {"number": "8.19.0"}})}, "is not OpenSearch: it says Elasticsearch", "name an"),
        ({"GET /": (200, {})}, "does not answer as OpenSearch does", "correct --vector-url"),
        ({"PUT /NAME": (403, DENIED)}, "may not make an index: no permissions for", "indices_all on vector_index_*"),
        (
            {"PUT /NAME": (400, {"error": {"reason": "No handler for type [knn_vector] declared on field [vector]"}})},
            "k-NN plugin is not installed",
            "opensearch-knn",
        ),
        (
            {"POST /_bulk": (200, {"items": [{"index": {"status": 403, **DENIED}}] * 2})},
            "may not write documents: no permissions",
            "indices:data/write/bulk",
        ),
        ({"POST /_bulk": (200, {})}, "does not answer as OpenSearch does", "correct"),
        ({"POST /NAME/_search": (503, {"error": {"reason": "all shards failed"}})}, "all shards failed", "its log"),
        ({"DELETE /NAME": (403, DENIED)}, "is not removed", "remove it there"),
    ],
)
def test_a_refusal_of_opensearch_says_what_to_do(
    serve: Serve, change: dict[str, tuple[int, Any]], why: str, remedy: str
) -> None:
    script, port = serve(GOOD_OPENSEARCH | change)
    with pytest.raises(errors.PreflightFailed) as caught:
        look("opensearch", port)
    assert why in caught.value.message
    assert remedy in caught.value.remedy
    assert SECRET not in caught.value.message
    assert len(script.names) == (1 if "DELETE /NAME" in change else 0)


def test_a_user_who_may_not_see_the_version_can_be_enough(serve: Serve) -> None:
    _, port = serve(GOOD_OPENSEARCH | {"GET /": (403, DENIED)})
    assert look("opensearch", port) == "unknown"


def test_nothing_that_listens_and_no_authority_are_told(serve: Serve) -> None:
    _, port = serve(GOOD_QDRANT)
    with pytest.raises(errors.PreflightFailed, match="nothing says with which authority's"):
        service.look(VectorStore(kind="qdrant", host="127.0.0.1", port=port, tls=True, secret=SECRET), None)
    with pytest.raises(errors.PreflightFailed, match="nothing listens there") as caught:
        look("qdrant", 1)
    assert "--vector-url" in caught.value.remedy


def test_the_plan_says_what_it_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "require_not_here", lambda *_: None)
    monkeypatch.setattr(service, "look", lambda *_: "1.16.3")
    (found,) = plans.check_vectors(computed(settings_of(QDRANT)), None)
    assert (found.level, found.seen) == ("ok", "Qdrant at vectors.intranet:6333, version 1.16.3, TLS: it can be used")
