"""The front door's checks against a real server, with TLS, under a name that only it has."""

from __future__ import annotations

import datetime
import http.server
import json
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from installer.checks import front_door
from installer.release import tls

NAME = "dify.invalid"
ANSWERS: dict[str, object] = {
    "/console/api/setup": {"step": "finished"},
    "/console/api/ping": {"result": "pong"},
    "/console/api/system-features": {"enable_marketplace": False},
    "/install": {},
}


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        known = self.path in ANSWERS and self.headers["Host"].startswith((NAME, "127.0.0.1"))
        self.send_response(200 if known else 404)
        self.send_header("X-Version", "1.11.3")
        self.end_headers()
        self.wfile.write(json.dumps(ANSWERS.get(self.path)).encode())

    def log_message(self, *_: object) -> None: ...


def serve(folder: Path, certificate_for: str | None) -> Iterator[tuple[int, Path]]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        path = folder / "certificate.pem"
        if certificate_for:
            pair = tls.make_self_signed(certificate_for, datetime.datetime.now(datetime.UTC))
            path.write_bytes(pair.certificate + pair.key)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(path)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port, path
        server.shutdown()


def levels(url: str, version: str = "1.11.3", certificate: Path | None = None) -> dict[str, str]:
    found = front_door.check_console(
        front_door.FrontDoor(url=url, version=version, certificate=certificate, logs="the logs")
    )
    return {check.check: check.level for check in found}


@pytest.mark.parametrize("host", ["127.0.0.1", NAME])
def test_http_by_address_and_by_a_name_unknown_here(tmp_path: Path, host: str) -> None:
    for port, _ in serve(tmp_path, None):
        found = levels(f"http://{host}:{port}")
        assert found.pop("/health") == "info"
        assert set(found.values()) == {"ok"}
        assert levels(f"http://{host}:{port}", version="1.12.0")["version"] == "error"


@pytest.mark.parametrize("host", ["127.0.0.1", NAME])
def test_https_trusts_exactly_the_certificate_that_was_installed(tmp_path: Path, host: str) -> None:
    for port, certificate in serve(tmp_path, host):
        assert levels(f"https://{host}:{port}", certificate=certificate)["console reachable"] == "ok"
        other = tmp_path / "other.pem"
        other.write_bytes(tls.make_self_signed(host, datetime.datetime.now(datetime.UTC)).certificate)
        assert levels(f"https://{host}:{port}", certificate=other)["console reachable"] == "error"


def test_a_certificate_for_another_name_is_an_error(tmp_path: Path) -> None:
    for port, certificate in serve(tmp_path, "other.invalid"):
        assert levels(f"https://{NAME}:{port}", certificate=certificate)["console reachable"] == "error"


def test_nobody_there_is_an_error_with_its_cause() -> None:
    found = front_door.check_console(
        front_door.FrontDoor(url="http://127.0.0.1:1", version="", certificate=None, logs="the logs")
    )
    assert "Connection refused" in found[0].seen
    assert "the logs" in found[0].remedy
