"""What the vector store says of its classes, asked as Weaviate is, and compared on both sides."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator

import pytest

from installer.backup import vectors
from installer.backup.file import Part
from installer.checks import probe

COUNTS = {"Vector_index_a_Node": 12, "Vector_index_b_Node": 0}
PART = Part(name=vectors.PART, bytes=0, sha256="", counts=COUNTS)


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._answer({"classes": [{"class": name} for name in COUNTS]})

    def do_POST(self) -> None:
        query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["query"]
        name = query.removeprefix("{Aggregate{").removesuffix("{meta{count}}}}")
        self._answer({"data": {"Aggregate": {name: [{"meta": {"count": COUNTS[name]}}]}}})

    def _answer(self, given: object) -> None:
        self.send_response(200 if self.headers.get("Authorization") == "Bearer right" else 401)
        self.end_headers()
        self.wfile.write(json.dumps(given).encode())

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A store on loopback, as the api's environment names it."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("WEAVIATE_ENDPOINT", f"http://127.0.0.1:{server.server_port}/")
        monkeypatch.setenv("WEAVIATE_API_KEY", "right")
        yield
        server.shutdown()


@pytest.mark.usefixtures("store")
def test_the_objects_of_each_class_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert probe.count_objects() == {"kind": "ok", "detail": "", "classes": COUNTS}
    monkeypatch.setenv("WEAVIATE_API_KEY", "wrong")
    refused = probe.count_objects()
    assert (refused["kind"], refused["classes"]) == ("connection", {})
    assert "wrong" not in refused["detail"]


@pytest.mark.parametrize(
    ("here", "level", "seen"),
    [
        (COUNTS, "ok", "12 objects on both sides, in 2 classes"),
        ({**COUNTS, "Vector_index_a_Node": 13}, "ok", "12 objects"),
        ({"Vector_index_a_Node": 5}, "warning", "Vector_index_a_Node: 12 there, 5 here"),
        ({}, "warning", "12 there, 0 here"),
        (None, "warning", "does not tell"),
    ],
)
def test_fewer_is_told_with_the_way_out(here: dict[str, int] | None, level: str, seen: str) -> None:
    (finding,) = vectors.compare([PART], here)
    assert finding.level == level
    assert seen in finding.seen
    assert bool(finding.remedy) == (level != "ok")


def test_where_a_backup_says_nothing_nothing_is_compared() -> None:
    assert vectors.compare([], COUNTS) == []
    assert vectors.count({"VECTOR_STORE": "qdrant"}, [], None) is None  # type: ignore[arg-type]
