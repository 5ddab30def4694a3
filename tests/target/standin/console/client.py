"""Asks the plugin daemon, and turns its errors into the api's: api/core/plugin/impl/base.py."""

import json
import os
import uuid

import requests

# Errors that Dify shows to whoever asked; any other becomes a 500.
SHOWN = (
    "PluginDaemonBadRequestError",
    "PluginUniqueIdentifierError",
    "PluginNotFoundError",
    "PluginPermissionDeniedError",
)
INVOKE = (
    "InvokeRateLimitError",
    "InvokeAuthorizationError",
    "InvokeBadRequestError",
    "InvokeConnectionError",
    "InvokeServerUnavailableError",
)


class DaemonFailed(Exception):
    """An error that the api keeps to itself."""


class Unreachable(Exception):
    """The daemon does not answer: PluginDaemonInnerError."""


class InvokeError(ValueError):
    """What a model server did to a plugin; `kind` is the name of the plugin SDK's error."""

    def __init__(self, kind, description):
        super().__init__(description or kind)
        self.kind, self.description = kind, description or kind


class CredentialsRefused(ValueError):
    """The plugin has tried the credentials."""


class PluginFailed(ValueError):
    """The plugin raised what no part of the protocol is."""


def call(method, tenant, path, **options):
    """Return the data of an answer of `/plugin/TENANT/PATH`."""
    url = f"plugin/{tenant}/{path}"
    try:
        response = requests.request(method, f"{_url()}/{url}", headers=_headers(), timeout=600, **options)
    except requests.RequestException:
        raise ValueError(f"Failed to request plugin daemon, url: {url}") from None
    if response.status_code >= 400:
        raise DaemonFailed(f"status {response.status_code}")
    return _data(response.json())


def dispatch(tenant, plugin, path, data):
    """Yield what a plugin answers."""
    try:
        with requests.post(
            f"{_url()}/plugin/{tenant}/dispatch/{path}",
            json={"user_id": "unknown", "data": data},
            headers={**_headers(), "X-Plugin-ID": plugin},
            stream=True,
            timeout=600,
        ) as response:
            for line in response.iter_lines(chunk_size=None):
                text = line.decode().removeprefix("data:").strip()
                if text:
                    yield _data(json.loads(text))
    except requests.RequestException:
        raise Unreachable("Request to Plugin Daemon Service failed") from None


def _url():
    return os.environ.get("PLUGIN_DAEMON_URL") or "http://plugin_daemon:5002"


def _headers():
    return {"X-Api-Key": os.environ.get("PLUGIN_DAEMON_KEY", "")}


def _data(answer):
    if answer["code"] == 0:
        return answer["data"]
    try:
        error = json.loads(answer["message"])
        kind, message = error["error_type"], error["message"]
    except (ValueError, KeyError):
        raise ValueError(f"{answer['message']}, code: {answer['code']}") from None
    if kind == "PluginInvokeError":
        _raise_plugins(message)
    if kind in SHOWN:
        raise ValueError(f"req_id: {uuid.uuid4().hex[:10]} {kind}: {message}")
    raise DaemonFailed(f"{kind}: {message}")


def _raise_plugins(message):
    error = json.loads(message)
    kind, arguments = error.get("error_type"), error.get("args") or {}
    if kind in INVOKE:
        raise InvokeError(kind, arguments.get("description"))
    if kind == "CredentialsValidateFailedError":
        raise CredentialsRefused(error.get("message"))
    raise PluginFailed(message)
