"""Registers models of a server with the workspace, as the console's form does; what a person registered stays.

Source: Dify 1.11.3, controllers/console/workspace/{model_providers,models}.py and
web/app/components/header/account-setting/model-provider-page; the forms are those of the plugins ollama 0.1.3 and
openai_api_compatible 0.0.45 (provider/*.yaml).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from installer.checks.models import Kind, ServerKind
from installer.core.console import Console
from installer.workspace import hops
from installer.workspace.client import Client, ConsoleError
from installer.workspace.servers import Model

BASE = "/workspaces/current"
# The name of our credentials, by which we know them again.
CREDENTIAL = "dify-installer"
# The last part of a provider's name: the plugin may be of another author.
PROVIDERS: dict[ServerKind, str] = {"Ollama": "ollama", "vLLM": "openai_api_compatible"}
TYPES: dict[Kind, str] = {"chat": "llm", "embedding": "text-embedding", "rerank": "rerank"}
# The form's own default.
MOST_TOKENS = 4096
# Of a longer key Dify shows the ends.
LONGEST_HIDDEN = 8
# How many texts are sent at once to be turned into vectors: one, as the form has it, makes knowledge slow.
CHUNKS = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Registered:
    """What became of a model; `default` tells whether it is the workspace's default of its kind."""

    model: Model
    provider: str
    what: Literal["added", "updated", "kept", "failed"]
    default: bool = False
    fault: hops.Fault | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """A model that the workspace knows."""

    provider: str
    name: str
    type: str
    active: bool
    default: bool


def list_providers(client: Client) -> list[str]:
    """Return the names of all model providers, as in `author/plugin/provider`."""
    return [str(each["provider"]) for each in client.get(f"{BASE}/model-providers")["data"]]


def list_models(client: Client) -> list[Known]:
    """Return the models that were registered with the workspace."""
    defaults = {type: find_default(client, type) for type in TYPES.values()}
    return [
        Known(
            provider=provider,
            name=each["model"],
            type=each["model_type"],
            active=each["status"] == "active",
            default=defaults.get(each["model_type"]) == (provider, each["model"]),
        )
        for provider in list_providers(client)
        for each in client.get(f"{BASE}/model-providers/{provider}/models")["data"]
        if each["fetch_from"] == "customizable-model"
    ]


def register(client: Client, models: Sequence[Model], console: Console) -> list[Registered]:
    """Register models, and make the first of each kind the default where there is none yet.

    Dify asks the model server before it accepts a model: what fails there is told of that model, and the others go on.
    """
    # Asked before anything is registered: Dify makes the first model that it knows the default when it is asked.
    unset = [type for type in TYPES.values() if find_default(client, type) is None]
    providers = list_providers(client)
    done: list[Registered] = []
    for model in models:
        console.waiting(f"{model.server.kind} to answer with {model.name}")
        done.append(_register(client, model, providers))
    console.waiting("")
    _choose_defaults(client, done, unset)
    defaults = {find_default(client, type) for type in {TYPES[each.model.kind] for each in done}}
    return [_marked(each, defaults) for each in done]


def remove(client: Client, known: Known) -> None:
    """Remove a model with its credentials from the workspace."""
    client.delete(f"{BASE}/model-providers/{known.provider}/models", {"model": known.name, "model_type": known.type})
    credentials = _read(client, known.provider, known.name, known.type)
    for each in credentials["available_credentials"]:
        body = {"model": known.name, "model_type": known.type, "credential_id": each["credential_id"]}
        client.delete(f"{BASE}/model-providers/{known.provider}/models/credentials", body)


def _register(client: Client, model: Model, providers: Iterable[str]) -> Registered:
    provider = next((each for each in providers if each.endswith(f"/{PROVIDERS[model.server.kind]}")), "")
    if not provider:
        words = f"no plugin for {model.server.kind} is installed"
        fault = hops.Fault("plugin", words, "add one: `dify-installer plugins add FILE`")
        return Registered(model=model, provider="", what="failed", fault=fault)
    try:
        return Registered(model=model, provider=provider, what=_save(client, model, provider))
    except ConsoleError as error:
        fault = hops.find_fault(error.words or error.message, "console" if error.status == 0 else "plugin")
        return Registered(model=model, provider=provider, what="failed", fault=fault)


def _save(client: Client, model: Model, provider: str) -> Literal["added", "updated", "kept"]:
    """Save the credentials of a model, unless it has some that are not ours, or ours for the same server and key."""
    type = TYPES[model.kind]
    path = f"{BASE}/model-providers/{provider}/models/credentials"
    wanted = _form(model)
    body = {"model": model.name, "model_type": type, "name": CREDENTIAL, "credentials": wanted}
    there = _read(client, provider, model.name, type)
    if not there["current_credential_id"]:
        client.post(path, body)
        return "added"
    if there["current_credential_name"] != CREDENTIAL or _is_same(there["credentials"], wanted):
        return "kept"
    client.put(path, {**body, "credential_id": there["current_credential_id"]})
    return "updated"


def _read(client: Client, provider: str, name: str, type: str) -> dict[str, Any]:
    path = f"{BASE}/model-providers/{provider}/models/credentials"
    answer: dict[str, Any] = client.get(path, model=name, model_type=type, config_from="custom-model")
    return answer


def _is_same(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    same_server = all(there.get(key) == wanted[key] for key in ("base_url", "endpoint_url") if key in wanted)
    return same_server and _may_be(wanted.get("api_key", ""), there.get("api_key") or "")


def _may_be(key: str, shown: str) -> bool:
    """Tell whether a key may be the one that Dify shows like this (core/helper/encrypter.py, obfuscated_token).

    Of a key of eight characters or fewer it shows nothing: that one is taken as another, and is saved again. A run
    without a key is content with the one that is there.
    """
    return not key or (len(key) > LONGEST_HIDDEN and shown == f"{key[:6]}{'*' * 12}{key[-2:]}")


def _form(model: Model) -> dict[str, str]:
    """Return what the provider's form asks for."""
    return _ollama_form(model) if model.server.kind == "Ollama" else _openai_form(model)


def _ollama_form(model: Model) -> dict[str, str]:
    form = {"base_url": model.server.base, "context_size": str(model.context)}
    if model.kind == "chat":
        form |= {
            "mode": "chat",
            "max_tokens": str(min(model.context, MOST_TOKENS)),
            "vision_support": str(model.vision).lower(),
            "function_call_support": str(model.tools).lower(),
        }
    return form


def _openai_form(model: Model) -> dict[str, str]:
    form = {
        "endpoint_url": model.server.base,
        "endpoint_model_name": model.name,
        "context_size": str(model.context),
        "vision_support": "support" if model.vision else "no_support",
    }
    if model.server.key:
        form["api_key"] = model.server.key
    if model.kind == "chat":
        form |= {
            "mode": "chat",
            "max_tokens_to_sample": str(min(model.context, MOST_TOKENS)),
            "function_calling_type": "tool_call" if model.tools else "no_call",
            "stream_function_calling": "supported" if model.tools else "not_supported",
        }
    elif model.kind == "embedding":
        form["max_chunks"] = str(CHUNKS)
    return form


def find_default(client: Client, type: str) -> tuple[str, str] | None:
    """Return provider and name of the workspace's default model of a type, or None."""
    data = client.get(f"{BASE}/default-model", model_type=type)["data"]
    return (data["provider"]["provider"], data["model"]) if data else None


def _choose_defaults(client: Client, done: Sequence[Registered], unset: Sequence[str]) -> None:
    chosen: dict[str, Registered] = {}
    for each in done:
        if each.what != "failed" and TYPES[each.model.kind] in unset:
            chosen.setdefault(TYPES[each.model.kind], each)
    if chosen:
        wanted = [
            {"model_type": type, "provider": each.provider, "model": each.model.name} for type, each in chosen.items()
        ]
        client.post(f"{BASE}/default-model", {"model_settings": wanted})


def _marked(registered: Registered, defaults: Iterable[tuple[str, str] | None]) -> Registered:
    return Registered(
        model=registered.model,
        provider=registered.provider,
        what=registered.what,
        fault=registered.fault,
        default=(registered.provider, registered.model.name) in defaults,
    )
