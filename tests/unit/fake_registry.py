"""A small registry on loopback that keeps all in memory, and fails as it is told to."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

USER, PASSWORD = "pusher", "correct horse"
BASIC = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()


@dataclass
class Fault:
    """What goes wrong, `times` times, with requests of a method whose path has `part` in it.

    `cut` is how many bytes of a body are kept before the connection breaks; `forget` loses the upload first.
    """

    method: str
    part: str
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    times: int = 1
    skip: int = 0
    cut: int | None = None
    forget: bool = False


class FakeRegistry:
    """The registry's content, what it was asked, and what it does wrong."""

    def __init__(self) -> None:
        self.blobs: dict[str, dict[str, bytes]] = {}
        self.manifests: dict[tuple[str, str], tuple[str, bytes]] = {}
        self.uploads: dict[str, bytearray] = {}
        self.asked: list[tuple[str, str]] = []
        self.scopes: list[list[str]] = []
        self.faults: list[Fault] = []
        self.auth = ""
        self.tokens: set[str] = set()
        self.limit: int | None = None
        self.takes_pieces = True
        self.mounts = True
        # What stands before the path of a Location.
        self.named = ""
        self.lock = threading.Lock()
        self.host = ""

    def fault_of(self, method: str, path: str) -> Fault | None:
        """Return what is to go wrong with a request, if something is."""
        with self.lock:
            for fault in self.faults:
                if fault.method == method and fault.part in path and fault.times > 0:
                    if fault.skip > 0:
                        fault.skip -= 1
                        return None
                    fault.times -= 1
                    return fault
        return None

    def count(self, method: str, part: str = "") -> int:
        """Return how often something was asked."""
        return sum(1 for asked, path in self.asked if asked == method and part in path)


@contextmanager
def running() -> Iterator[FakeRegistry]:
    """Give a registry that answers."""
    registry = FakeRegistry()

    class Handler(_Handler):
        fake = registry

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    registry.host = f"127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield registry
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    fake: FakeRegistry
    protocol_version = "HTTP/1.1"
    # A head and its body in one packet: else each answer waits for an acknowledgement.
    wbufsize = 64 * 1024
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None: ...

    def do_GET(self) -> None:
        self._answer_request()

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    def _answer_request(self) -> None:
        fake = self.fake
        path = urlsplit(self.path).path
        fake.asked.append((self.command, self.path))
        if path == "/token":
            self._give_token()
            return
        fault = fake.fault_of(self.command, self.path)
        if fault and fault.cut is not None:
            data = self.rfile.read(min(fault.cut, int(self.headers.get("Content-Length") or 0)))
            upload = path.rpartition("/")[2]
            if fault.forget:
                fake.uploads.pop(upload, None)
            elif self.command == "PATCH":
                fake.uploads[upload] += data
            self.close_connection = True
            self.connection.shutdown(2)
            return
        data = self._body()
        if fault:
            if fault.forget:
                fake.uploads.pop(path.rpartition("/")[2], None)
            self._answer(fault.status, fault.headers, fault.body)
        elif not self._let_in():
            where = f'Bearer realm="http://{fake.host}/token",service="fake"'
            self._answer(401, {"WWW-Authenticate": where if fake.auth == "bearer" else 'Basic realm="fake"'})
        elif fake.limit is not None and len(data) > fake.limit:
            self._answer(413, {"Server": "nginx/1.2.3", "Content-Type": "text/html"}, b"<h1>413</h1>")
        else:
            self._serve(path, parse_qs(urlsplit(self.path).query), data)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            data = b""
            # Nothing at all where the client has gone.
            while size := int(self.rfile.readline() or b"0", 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return data
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _let_in(self) -> bool:
        given = self.headers.get("Authorization", "")
        if self.fake.auth == "bearer":
            return given.removeprefix("Bearer ") in self.fake.tokens
        return not self.fake.auth or given == BASIC

    def _give_token(self) -> None:
        if self.headers.get("Authorization") != BASIC:
            self._answer(401, {}, b"")
            return
        token = f"token-{len(self.fake.tokens)}"
        self.fake.tokens.add(token)
        self.fake.scopes.append(parse_qs(urlsplit(self.path).query).get("scope", []))
        self._answer(200, {}, json.dumps({"token": token}).encode())

    def _serve(self, path: str, query: dict[str, list[str]], data: bytes) -> None:
        fake = self.fake
        if path == "/v2/":
            self._answer(200)
        elif found := re.fullmatch(r"/v2/(.+)/blobs/uploads/", path):
            self._begin(found[1], query)
        elif found := re.fullmatch(r"/v2/(.+)/blobs/uploads/(.+)", path):
            self._go_on(found[1], found[2], query, data)
        elif found := re.fullmatch(r"/v2/(.+)/blobs/(.+)", path):
            blob = fake.blobs.get(found[1], {}).get(found[2])
            self._answer(404) if blob is None else self._answer(200, {}, blob)
        elif found := re.fullmatch(r"/v2/(.+)/manifests/(.+)", path):
            self._manifest((found[1], found[2]), data)
        else:
            self._answer(404)

    def _begin(self, repository: str, query: dict[str, list[str]]) -> None:
        fake = self.fake
        if fake.mounts and "mount" in query:
            blob = fake.blobs.get(query["from"][0], {}).get(query["mount"][0])
            if blob is not None:
                fake.blobs.setdefault(repository, {})[query["mount"][0]] = blob
                self._answer(201)
                return
        with fake.lock:
            upload = f"upload-{len(fake.asked)}-{len(fake.uploads)}"
            fake.uploads[upload] = bytearray()
        self._answer(202, {"Location": f"{fake.named}/v2/{repository}/blobs/uploads/{upload}?state=0", "Range": "0-0"})

    def _go_on(self, repository: str, upload: str, query: dict[str, list[str]], data: bytes) -> None:
        fake = self.fake
        content = fake.uploads.get(upload)
        if content is None:
            self._answer(404, {}, json.dumps({"errors": [{"code": "BLOB_UPLOAD_UNKNOWN"}]}).encode())
            return
        place = {
            "Location": f"/v2/{repository}/blobs/uploads/{upload}?state=1",
            "Range": f"0-{max(len(content) - 1, 0)}",
        }
        if self.command == "GET":
            self._answer(204, place)
        elif self.command == "DELETE":
            del fake.uploads[upload]
            self._answer(204)
        elif self.command == "PATCH":
            pieces = self.headers.get("Content-Range")
            if pieces and not fake.takes_pieces:
                self._answer(405)
            elif pieces and int(pieces.partition("-")[0]) != len(content):
                self._answer(416, place)
            else:
                content += data
                self._answer(202, place)
        else:
            content += data
            digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
            if query["digest"] != [digest]:
                self._answer(400)
                return
            fake.blobs.setdefault(repository, {})[digest] = bytes(content)
            del fake.uploads[upload]
            self._answer(201)

    def _manifest(self, name: tuple[str, str], data: bytes) -> None:
        if self.command == "PUT":
            self.fake.manifests[name] = (self.headers["Content-Type"], data)
            self._answer(201)
        elif name in self.fake.manifests:
            kind, content = self.fake.manifests[name]
            self._answer(200, {"Content-Type": kind}, content)
        else:
            self._answer(404)

    def _answer(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        self.send_response_only(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
