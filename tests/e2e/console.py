"""Dify's console as a browser uses it: cookies, the CSRF token, streams; plain requests, none of the product's code."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from typing import Any

import requests

from tests.target.network import Host, Inside

EMAIL, PASSWORD = "ops@example.com", "correct-horse-1"
PROVIDERS = "/workspaces/current/model-providers/langgenius"
PLUGINS = "/workspaces/current/plugin"
APP = """\
app: {name: Example, mode: chat, icon: "x"}
kind: app
version: 0.5.0
model_config:
  pre_prompt: Be short.
  model: {provider: %s, name: "%s", mode: chat, completion_params: {temperature: 0.1}}
"""


class Console:
    """A browser on a host's LAN, at the address of a Dify."""

    def __init__(self, host: Host, url: str) -> None:
        self.url, self.inside = url, Inside(host)

    def ask(self, method: str, path: str, **options: Any) -> requests.Response:
        """Ask the console's API, with the CSRF token of the cookie."""
        cookies = self.inside.session.cookies
        token = cookies.get("csrf_token") or cookies.get("__Host-csrf_token") or ""
        headers = {"X-CSRF-Token": token, **options.pop("headers", {})}
        return self.inside.request(method, f"{self.url}/console/api{path}", headers=headers, **options)

    def get(self, path: str, **parameters: Any) -> Any:
        """Return the JSON of an answer that must be good."""
        answer = self.ask("GET", path, params=parameters)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, body: Any, status: int = 200) -> Any:
        """Return the JSON of the answer to a JSON body, which must have this status."""
        answer = self.ask("POST", path, json=body)
        assert answer.status_code == status, f"{answer.status_code} {answer.text}"
        return answer.json()

    def login(self, password: str = PASSWORD, status: int = 200, email: str = EMAIL) -> Any:
        """Log in; the password travels as base64."""
        hidden = base64.b64encode(password.encode()).decode()
        return self.post("/login", {"email": email, "password": hidden, "remember_me": True}, status)

    def upload(self, package: bytes) -> requests.Response:
        """Upload a plugin's package."""
        return self.ask("POST", f"{PLUGINS}/upload/pkg", files={"pkg": ("a.difypkg", package)})

    def install(self, package: bytes, seconds: float = 120) -> tuple[str, str]:
        """Upload and install a plugin; return how that ends and what the daemon says of it."""
        uploaded = self.upload(package)
        assert uploaded.status_code == 200, uploaded.text
        wanted = {"plugin_unique_identifiers": [uploaded.json()["unique_identifier"]]}
        begun = self.post(f"{PLUGINS}/install/pkg", wanted)
        if begun["all_installed"]:
            return "success", "all installed"
        deadline = time.monotonic() + seconds
        while True:
            task = self.get(f"{PLUGINS}/tasks/{begun['task_id']}")["task"]
            if task["status"] in ("success", "failed"):
                return task["status"], task["plugins"][0]["message"]
            assert time.monotonic() < deadline, task
            time.sleep(0.2)

    def installed(self) -> dict[str, dict[str, Any]]:
        """Return the installed plugins by AUTHOR/NAME."""
        listed = self.get(f"{PLUGINS}/list", page=1, page_size=256)["plugins"]
        return {plugin["plugin_id"]: plugin for plugin in listed}

    def example(self, provider: str, model: str) -> str:
        """Import an app that asks a model, and return its ID."""
        done = self.post("/apps/imports", {"mode": "yaml-content", "yaml_content": APP % (provider, model)})
        assert done["status"] == "completed", done
        return str(done["app_id"])

    def chat(self, app: str, question: str) -> Iterator[dict[str, Any]]:
        """Ask an app as its editor does, and give the events of the stream as they come."""
        body = {"inputs": {}, "query": question, "response_mode": "streaming", "model_config": {}}
        yield from events(self.ask("POST", f"/apps/{app}/chat-messages", json=body, stream=True))


def events(answer: requests.Response) -> Iterator[dict[str, Any]]:
    """Give the events of a stream; pings are none."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    for line in answer.iter_lines(chunk_size=None):
        if line.startswith(b"data: "):
            yield json.loads(line.removeprefix(b"data: "))


def said(stream: Iterator[dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    """Return the whole answer of a stream, and its last event."""
    text, last = "", {}
    for last in stream:
        text += last.get("answer", "")
    return text, last
