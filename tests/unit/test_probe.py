"""The probe against real servers on loopback."""

from __future__ import annotations

import http.server
import json
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from installer.checks import models, probe
from installer.checks.probe import probe as ask

TAGS = {"models": [{"name": "llama3:latest"}]}


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/keyed" and self.headers.get("Authorization") != "Bearer right":
            self.send_error(401)
            return
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "http://127.0.0.1:1/keyed")
            self.end_headers()
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>" if self.path == "/page" else json.dumps(TAGS).encode())

    def log_message(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_models_are_listed_and_found(url: str) -> None:
    assert ask(f"{url}/api/tags", models="ollama") == {
        "kind": "ok",
        "detail": "it has 1 models",
        "models": ["llama3:latest"],
        "described": {},
        "code": 0,
    }
    assert ask(f"{url}/api/tags", models="ollama", wanted=["llama3"])["kind"] == "ok"
    assert ask(f"{url}/api/tags", models="ollama", wanted=["llama3:70b"])["kind"] == "model"


def test_a_key_is_sent(url: str) -> None:
    assert ask(f"{url}/keyed", key="right")["kind"] == "ok"
    refused = ask(f"{url}/keyed", key="wrong")
    assert (refused["kind"], refused["detail"]) == ("status", "it answers with status 401")


def test_a_redirect_is_told_and_never_followed_with_the_key(url: str) -> None:
    answer = ask(f"{url}/moved", key="right")
    assert answer["kind"] == "status"
    assert "a redirect to http://127.0.0.1:1/keyed" in answer["detail"]


def test_another_service_is_told_apart(url: str) -> None:
    assert ask(f"{url}/page", models="ollama")["kind"] == "status"
    assert ask(f"{url}/api/tags", models="openai")["kind"] == "status"


def test_name_and_connection_are_told_apart() -> None:
    assert ask("http://no-such-host.invalid/")["kind"] == "name"
    assert ask("http://127.0.0.1:1/")["kind"] == "connection"


def test_tls_is_told_apart(url: str, tmp_path: Path) -> None:
    assert ask(url.replace("http:", "https:"))["kind"] == "tls"
    certificate = tmp_path / "self.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "2"]
    subprocess.run([*command, "-keyout", str(certificate), "-out", str(certificate)], check=True, capture_output=True)
    lines = certificate.read_text()
    if "CERTIFICATE" not in lines:
        raise AssertionError(lines)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        key = tmp_path / "key.pem"
        subprocess.run([*command, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
        context.load_cert_chain(certificate, key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        answer = ask(f"https://127.0.0.1:{server.server_port}/")
        server.shutdown()
    assert answer["kind"] == "tls"
    assert "self-signed" in answer["detail"] or "self signed" in answer["detail"]


def test_it_runs_as_text_in_an_isolated_python(url: str) -> None:
    """As inside a container: from standard input, with the standard library alone."""
    program = Path(probe.__file__).read_text() + f"\nprint(json.dumps(probe({url + '/api/tags'!r}, models='ollama')))\n"
    result = subprocess.run(
        [sys.executable, "-I", "-S", "-"], input=program, capture_output=True, text=True, check=True
    )
    assert json.loads(result.stdout)["kind"] == "ok"


@pytest.mark.parametrize(
    ("kind", "given", "asked"),
    [
        ("Ollama", "http://h:11434", "http://h:11434/api/tags"),
        ("Ollama", "http://h:11434/", "http://h:11434/api/tags"),
        ("vLLM", "http://h:8000", "http://h:8000/v1/models"),
        ("vLLM", "http://h:8000/v1/", "http://h:8000/v1/models"),
    ],
)
def test_where_the_lists_are(kind: str, given: str, asked: str) -> None:
    server = models.Server(kind="Ollama" if kind == "Ollama" else "vLLM", url=given)
    assert server.question["url"] == asked


def test_a_port_lets_us_connect_or_not(url: str) -> None:
    port = int(url.rpartition(":")[2])
    assert probe.connect("127.0.0.1", port)["kind"] == "ok"
    assert probe.connect("127.0.0.1", 1)["kind"] == "connection"
    assert probe.connect("no-such-host.invalid", 1)["kind"] == "name"
