"""A console that answers as the real one of Dify 1.11.3 was seen to answer: statuses, codes, cookies, fields."""

from __future__ import annotations

import base64
import contextlib
import datetime
import http.server
import io
import json
import re
import ssl
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from installer.checks.front_door import FrontDoor
from installer.release import tls
from installer.workspace.client import Client, open_client

EMAIL, PASSWORD, INIT_PASSWORD = "ops@example.com", "passw0rd1", "init-password"
Answer = tuple[int, Any]
OK: Answer = (200, {"result": "success"})


def refused(status: int, code: str, message: str) -> Answer:
    return status, {"code": code, "message": message, "status": status}


@dataclass
class State:
    """What this Dify holds, and what it is to do wrong."""

    account: tuple[str, str] | None = None
    role: str = "owner"
    language: str = ""
    wrong: int = 0
    generation: int = 0  # of the tokens
    plugins: dict[str, dict[str, Any]] = field(default_factory=dict)  # by author/name
    uploaded: dict[str, tuple[str, str]] = field(default_factory=dict)  # identifier: author/name, version
    tasks: dict[str, list[str]] = field(default_factory=dict)  # states still to come; the last stays
    # What the daemon says of the next installations, one list each or the same for all.
    install_states: list[Any] = field(default_factory=lambda: ["running", "success"])
    models: dict[tuple[str, str, str], dict[str, Any]] = field(default_factory=dict)  # provider, model, type
    defaults: dict[str, tuple[str, str]] = field(default_factory=dict)
    model_faults: dict[str, str] = field(default_factory=dict)  # what the plugin says of a model
    datasets: dict[str, str] = field(default_factory=dict)  # names by ID
    documents: list[dict[str, Any]] = field(default_factory=list)  # what was asked to be indexed
    files: list[bytes] = field(default_factory=list)  # forms that were uploaded
    # States of a document still to come, a word of the error behind a colon; the last one stays.
    index_states: list[str] = field(default_factory=lambda: ["waiting", "indexing", "completed"])
    questions: list[str] = field(default_factory=list)
    hits: list[tuple[str, float]] = field(default_factory=list)  # passages and their scores
    apps: dict[str, str] = field(default_factory=dict)  # names by ID
    described: list[dict[str, Any]] = field(default_factory=list)  # all that were imported
    asked: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    refuse: dict[str, Answer] = field(default_factory=dict)  # by "METHOD path"
    calls: list[str] = field(default_factory=list)
    secure: bool = False

    def add_plugin(self, identifier: str, source: str = "package") -> None:
        name, _, version = identifier.partition("@")[0].rpartition(":")
        self.uploaded[identifier] = (name, version)
        self.plugins[name] = {
            "id": f"installation of {identifier}",
            "plugin_id": name,
            "plugin_unique_identifier": identifier,
            "version": version,
            "source": source,
        }

    def called(self, text: str) -> int:
        return sum(text in call for call in self.calls)


def shown(field: str, value: str) -> str:
    """Hide a secret as api/core/helper/encrypter.py does."""
    hidden = "*" * 20 if len(value) <= 8 else f"{value[:6]}{'*' * 12}{value[-2:]}"
    return hidden if field == "api_key" else value


def manifest_of(package: bytes) -> tuple[str, str]:
    with zipfile.ZipFile(io.BytesIO(package)) as archive:
        text = archive.read("manifest.yaml").decode()
    values = dict(re.findall(r"^(\w+): (.*)$", text, re.MULTILINE))
    return f"{values['author']}/{values['name']}", values["version"]


def package(folder: Path, name: str, version: str, author: str = "langgenius") -> Path:
    """Make a file that looks like a plugin's package."""
    path = folder / f"{author}-{name}_{version}.difypkg"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("manifest.yaml", f"author: {author}\nname: {name}\nversion: {version}\n")
    return path


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        self._serve()

    do_POST = do_PUT = do_DELETE = do_GET

    @property
    def state(self) -> State:
        return self.server.state

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        self.query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.body = body
        self.cookies = SimpleCookie(self.headers.get("Cookie", ""))
        self.new_cookies: list[str] = []
        path = unquote(parts.path)
        self.state.calls.append(f"{self.command} {path}")
        if path == "/v1/chat-messages":
            self._stream()
            return
        assert path.startswith("/console/api"), path
        self._answer(*self._route(path.removeprefix("/console/api")))

    def _answer(self, status: int, content: Any) -> None:
        data = b"" if content is None else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for cookie in self.new_cookies:
            self.send_header("Set-Cookie", cookie)
        self.end_headers()
        self.wfile.write(data)

    def _stream(self) -> None:
        assert self.headers["Authorization"] == "Bearer app-key"
        self.state.asked.append(self.json)
        if answer := self.state.refuse.get("POST /v1/chat-messages"):
            self._answer(*answer)
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Connection", "close")
        self.end_headers()
        for event in self.state.events:
            self.wfile.write(
                b"event: ping\n\n" if event["event"] == "ping" else f"data: {json.dumps(event)}\n\n".encode()
            )

    @property
    def json(self) -> Any:
        return json.loads(self.body or b"{}")

    def _cookie(self, name: str) -> str:
        full = f"__Host-{name}" if self.state.secure else name
        return self.cookies[full].value if full in self.cookies else ""

    def _set(self, name: str, value: str) -> None:
        full, end = (f"__Host-{name}", "; Secure") if self.state.secure else (name, "")
        self.new_cookies.append(f"{full}={value}; Path=/; HttpOnly; SameSite=Lax; Max-Age=3600{end}")

    def _tokens(self) -> None:
        for name in ("access_token", "refresh_token", "csrf_token"):
            self._set(name, f"{name}-{self.state.generation}")

    def _route(self, path: str) -> Answer:
        state = self.state
        if answer := state.refuse.get(f"{self.command} {path}"):
            return answer
        open_to_all: dict[str, Callable[[], Answer]] = {
            "GET /setup": lambda: (200, {"step": "finished" if state.account else "not_started"}),
            "GET /init": lambda: (200, {"status": "finished" if state.account else "not_started"}),
            "POST /init": self._init,
            "POST /setup": self._setup,
            "POST /login": self._login,
            "POST /refresh-token": self._refresh,
        }
        if route := open_to_all.get(f"{self.command} {path}"):
            return route()
        current = f"-{state.generation}"
        if self._cookie("access_token") != "access_token" + current:
            return refused(401, "unauthorized", "Invalid token.")
        if self.headers.get("X-CSRF-Token") != "csrf_token" + current:
            return refused(401, "unauthorized", "CSRF token is missing or invalid.")
        for pattern, handle in ROUTES:
            if match := re.fullmatch(pattern, f"{self.command} {path}"):
                return handle(self, *match.groups())
        return refused(404, "not_found", f"no {self.command} {path}")

    def _init(self) -> Answer:
        if self.json["password"] != INIT_PASSWORD:
            return refused(401, "init_validate_failed", "Init validation failed.")
        self.new_cookies.append("session=validated; HttpOnly; Path=/")
        return 201, {"result": "success"}

    def _setup(self) -> Answer:
        if self.state.account:
            return refused(403, "already_setup", "Dify has been successfully installed.")
        if "session" not in self.cookies:
            return refused(401, "not_init_validated", "Init validation has not been completed yet.")
        self.state.account = (self.json["email"], self.json["password"])
        self.state.language = self.json["language"]
        return 201, {"result": "success"}

    def _login(self) -> Answer:
        state = self.state
        if state.wrong > 5:
            return refused(429, "email_code_login_limit", "Too many incorrect password attempts.")
        if (self.json["email"], base64.b64decode(self.json["password"]).decode()) != state.account:
            state.wrong += 1
            return refused(401, "authentication_failed", "Invalid email or password.")
        state.wrong = 0
        self._tokens()
        return OK

    def _refresh(self) -> Answer:
        if self._cookie("refresh_token") != f"refresh_token-{self.state.generation - 1}":
            return 401, {"result": "fail", "message": "Invalid refresh token"}
        self._tokens()
        return OK

    def workspace(self) -> Answer:
        return 200, {"id": "t", "name": "ops's Workspace", "role": self.state.role}

    def list_plugins(self) -> Answer:
        return 200, {"plugins": list(self.state.plugins.values()), "total": len(self.state.plugins)}

    def upload(self) -> Answer:
        content = self.body[self.body.index(b"PK") :]
        name, version = manifest_of(content[: content.rindex(b"\r\n--")])
        identifier = f"{name}:{version}@{'0' * 64}"
        self.state.uploaded[identifier] = (name, version)
        return 200, {"unique_identifier": identifier, "manifest": {}}

    def install(self) -> Answer:
        (identifier,) = self.json["plugin_unique_identifiers"]
        name, _ = self.state.uploaded[identifier]
        if name in self.state.plugins:
            return refused(400, "invalid_param", "req_id: 0 PluginDaemonInternalServerError: already installed")
        task = f"task-{len(self.state.tasks)}"
        states = self.state.install_states
        self.state.tasks[task] = [identifier, *(states.pop(0) if isinstance(states[0], list) else states)]
        return 200, {"all_installed": False, "task_id": task}

    def list_tasks(self) -> Answer:
        return 200, {"tasks": [self._task(task, states[1]) for task, states in self.state.tasks.items()]}

    def one_task(self, task: str) -> Answer:
        states = self.state.tasks[task]
        state = states.pop(1) if len(states) > 2 else states[1]
        if state == "silent":
            return refused(400, "invalid_param", "Failed to request plugin daemon, url: plugin/t/management")
        if state == "success":
            self.state.add_plugin(states[0])
        return 200, {"task": self._task(task, state)}

    def _task(self, task: str, state: str) -> dict[str, Any]:
        kind, _, words = state.partition(": ")
        plugin = {"plugin_unique_identifier": self.state.tasks[task][0], "status": kind, "message": words}
        return {"id": task, "status": kind, "plugins": [plugin]}

    def uninstall(self) -> Answer:
        for name, plugin in list(self.state.plugins.items()):
            if plugin["id"] == self.json["plugin_installation_id"]:
                del self.state.plugins[name]
        return 200, {"success": True}

    def providers(self) -> Answer:
        return 200, {"data": [{"provider": f"{name}/{name.partition('/')[2]}"} for name in self.state.plugins]}

    def provider_models(self, provider: str) -> Answer:
        data = [
            {"model": name, "model_type": type, "fetch_from": "customizable-model", "status": "active"}
            for (each, name, type) in self.state.models
            if each == provider
        ]
        return 200, {"data": data}

    def credentials(self, provider: str) -> Answer:
        given = self.state.models.get((provider, self.query["model"], self.query["model_type"]))
        name = given["name"] if given else None
        there = [{"credential_id": f"id of {name}", "credential_name": name}] if given else []
        return 200, {
            "credentials": {key: shown(key, value) for key, value in given["credentials"].items()} if given else {},
            "current_credential_id": f"id of {name}" if given else None,
            "current_credential_name": name,
            "available_credentials": there,
        }

    def save_credentials(self, provider: str) -> Answer:
        body = self.json
        if answer := self.state.model_faults.get(body["model"]):
            return refused(400, "invalid_param", answer)
        self.state.models[provider, body["model"], body["model_type"]] = body
        return 201, {"result": "success"}

    def remove_model(self, provider: str) -> Answer:
        self.state.models.pop((provider, self.json["model"], self.json["model_type"]), None)
        return 204, None

    def default(self) -> Answer:
        type = self.query["model_type"]
        if type not in self.state.defaults:
            # The real one makes the first model that it knows the default when it is asked.
            for provider, name, each in self.state.models:
                if each == type:
                    self.state.defaults.setdefault(type, (provider, name))
        found = self.state.defaults.get(type)
        return 200, {"data": {"model": found[1], "provider": {"provider": found[0]}} if found else None}

    def set_default(self) -> Answer:
        for each in self.json["model_settings"]:
            self.state.defaults[each["model_type"]] = (each["provider"], each["model"])
        return OK

    def list_apps(self) -> Answer:
        return 200, {"data": [{"id": id, "name": name} for id, name in self.state.apps.items()]}

    def import_app(self) -> Answer:
        described = json.loads(self.json["yaml_content"])
        self.state.described.append(described)
        app = f"app-{len(self.state.described)}"
        self.state.apps[app] = described["app"]["name"]
        return 200, {"id": "import", "status": "completed", "app_id": app}

    def remove_app(self, app: str) -> Answer:
        del self.state.apps[app]
        return 204, None

    def make_key(self, _app: str) -> Answer:
        return 201, {"id": "key-id", "token": "app-key"}

    def remove_key(self, _app: str) -> Answer:
        return 204, None

    def upload_file(self) -> Answer:
        self.state.files.append(self.body)
        return 201, {"id": f"file-{len(self.state.files)}"}

    def list_datasets(self) -> Answer:
        return 200, {"data": [{"id": id, "name": name} for id, name in self.state.datasets.items()]}

    def make_dataset(self) -> Answer:
        dataset = f"dataset-{len(self.state.datasets) + 1}"
        assert len(self.json["name"]) <= 40
        self.state.datasets[dataset] = self.json["name"]
        return 201, {"id": dataset}

    def remove_dataset(self, dataset: str) -> Answer:
        del self.state.datasets[dataset]
        return 204, None

    def add_document(self, _dataset: str) -> Answer:
        self.state.documents.append(self.json)
        return 200, {"documents": [{"id": "document"}], "batch": "batch-1"}

    def index_status(self, _dataset: str, _batch: str) -> Answer:
        states = self.state.index_states
        kind, _, words = (states.pop(0) if len(states) > 1 else states[0]).partition(": ")
        return 200, {"data": [{"indexing_status": kind, "error": words or None, "total_segments": 3}]}

    def hit(self, _dataset: str) -> Answer:
        self.state.questions.append(self.json["query"])
        records = [{"segment": {"content": text}, "score": score} for text, score in self.state.hits]
        return 200, {"query": {"content": self.json["query"]}, "records": records}


PROVIDER = "/workspaces/current/model-providers/(.+)/models"
ROUTES: list[tuple[str, Callable[..., Answer]]] = [
    ("POST /files/upload", Handler.upload_file),
    ("GET /datasets", Handler.list_datasets),
    ("POST /datasets", Handler.make_dataset),
    ("DELETE /datasets/([^/]+)", Handler.remove_dataset),
    ("POST /datasets/([^/]+)/documents", Handler.add_document),
    ("GET /datasets/([^/]+)/batch/([^/]+)/indexing-status", Handler.index_status),
    ("POST /datasets/([^/]+)/hit-testing", Handler.hit),
    ("POST /workspaces/current", Handler.workspace),
    ("GET /workspaces/current/plugin/list", Handler.list_plugins),
    ("POST /workspaces/current/plugin/upload/pkg", Handler.upload),
    ("POST /workspaces/current/plugin/install/pkg", Handler.install),
    ("GET /workspaces/current/plugin/tasks", Handler.list_tasks),
    ("GET /workspaces/current/plugin/tasks/(.+)", Handler.one_task),
    ("POST /workspaces/current/plugin/uninstall", Handler.uninstall),
    ("GET /workspaces/current/model-providers", Handler.providers),
    (f"GET {PROVIDER}", Handler.provider_models),
    (f"DELETE {PROVIDER}", Handler.remove_model),
    (f"GET {PROVIDER}/credentials", Handler.credentials),
    (f"(?:POST|PUT) {PROVIDER}/credentials", Handler.save_credentials),
    (f"DELETE {PROVIDER}/credentials", Handler.remove_model),
    ("GET /workspaces/current/default-model", Handler.default),
    ("POST /workspaces/current/default-model", Handler.set_default),
    ("GET /apps", Handler.list_apps),
    ("POST /apps/imports", Handler.import_app),
    ("DELETE /apps/([^/]+)", Handler.remove_app),
    ("POST /apps/([^/]+)/api-keys", Handler.make_key),
    ("DELETE /apps/([^/]+)/api-keys/key-id", Handler.remove_key),
]


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    state: State


@contextlib.contextmanager
def signed_in(state: State) -> Iterator[Client]:
    """Serve a console, and give a client that is signed in."""
    state.account = state.account or (EMAIL, PASSWORD)
    with serve(state) as front, open_client(front) as client:
        encoded = base64.b64encode(PASSWORD.encode()).decode()
        client.post("/login", {"email": EMAIL, "password": encoded, "remember_me": True})
        yield client


@contextlib.contextmanager
def serve(state: State, certificate_folder: Path | None = None) -> Iterator[FrontDoor]:
    """Serve a console, with https where a folder for its certificate is given, and give its front door."""
    with Server(("127.0.0.1", 0), Handler) as server:
        server.state = state
        certificate = None
        if certificate_folder is not None:
            pair = tls.make_self_signed("127.0.0.1", datetime.datetime.now(datetime.UTC))
            certificate = certificate_folder / "dify.pem"
            certificate.write_bytes(pair.certificate + pair.key)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
            state.secure = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        url = f"{'https' if certificate else 'http'}://127.0.0.1:{server.server_port}"
        try:
            yield FrontDoor(url=url, version="1.11.3", certificate=certificate, logs="the logs")
        finally:
            # Else its thread goes on with a socket that is closed, and then with whatever gets that number.
            server.shutdown()
