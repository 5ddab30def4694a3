"""What a workspace knows of model providers and their models: core/provider_manager.py and its configuration."""

import os

import backing
from console import client


class Provider:
    """A model provider that a plugin brings, in a workspace."""

    def __init__(self, tenant, entry):
        self.tenant, self.plugin = tenant, entry["plugin_id"]
        self.short, self.declaration = entry["provider"], entry["declaration"]
        self.name = f"{self.plugin}/{self.short}"

    @property
    def fields(self):
        return (self.declaration.get("model_credential_schema") or {}).get("credential_form_schemas") or []

    @property
    def secrets(self):
        return {field["variable"] for field in self.fields if field["type"] == "secret-input"}

    def icons(self):
        at = f"{os.environ.get('CONSOLE_API_URL', '')}/console/api/workspaces/{self.tenant}/model-providers/{self.name}"
        return {
            name: {language: f"{at}/{name}/{language}" for language in ("en_US", "zh_Hans")}
            for name in ("icon_small", "icon_small_dark")
            if self.declaration.get(name)
        }

    def ask(self, path, kind, model, credentials, **data):
        """Yield what the plugin answers."""
        question = {"provider": self.short, "model_type": kind, "model": model, "credentials": credentials, **data}
        return client.dispatch(self.tenant, self.plugin, path, question)

    def validate(self, kind, model, credentials):
        """Return the credentials that were asked for, tried by the plugin; core/model_runtime/schema_validators."""
        asked = {**credentials, "__model_type": kind}
        chosen = {}
        for field in self.fields:
            if any(asked.get(wanted["variable"]) != wanted["value"] for wanted in field.get("show_on") or ()):
                continue
            value = _field(field, credentials)
            if value:
                chosen[field["variable"]] = value
        next(iter(self.ask("model/validate_model_credentials", kind, model, chosen)), None)
        return chosen

    def schema(self, kind, model, credentials):
        for answer in self.ask("model/schema", kind, model, credentials):
            return answer["model_schema"]
        return None

    def obfuscated(self, credentials):
        return {key: _obfuscated(value) if key in self.secrets else value for key, value in credentials.items()}


def _field(field, credentials):
    name = field["variable"]
    value = credentials.get(name)
    if not value:
        if field.get("required"):
            raise ValueError(f"Variable {name} is required")
        return field.get("default")
    if field.get("max_length") and len(value) > field["max_length"]:
        raise ValueError(f"Variable {name} length should not be greater than {field['max_length']}")
    if not isinstance(value, str):
        raise ValueError(f"Variable {name} should be string")
    options = [option["value"] for option in field.get("options") or ()]
    if field["type"] in ("select", "radio") and options and value not in options:
        raise ValueError(f"Variable {name} is not in options")
    return value


def _obfuscated(token):
    if not token:
        return token
    return "*" * 20 if len(token) <= 8 else token[:6] + "*" * 12 + token[-2:]


def providers(tenant):
    """Return the providers of all installed plugins, by their full name."""
    entries = client.call("GET", tenant, "management/models", params={"page": 1, "page_size": 256})
    found = (Provider(tenant, entry) for entry in entries)
    return {provider.name: provider for provider in found}


def provider(tenant, name):
    found = providers(tenant).get(name if "/" in name else f"langgenius/{name}/{name}")
    if found is None:
        raise ValueError(f"Provider {name} does not exist.")
    return found


def models_of(provider, kind=None, *, only_active=False):
    """Return the models that were added for a provider, as a list of models shows them."""
    shown = []
    for model in backing.find("model", tenant=provider.tenant, provider=provider.name):
        if kind and model["model_type"] != kind:
            continue
        credential = backing.one("credential", id=model["credential"]) if model["credential"] else None
        try:
            schema = provider.schema(
                model["model_type"], model["model"], credential["credentials"] if credential else {}
            )
        except Exception:
            # As in the real one: what cannot be asked is not shown.
            continue
        status = "active" if model["enabled"] else "disabled"
        status = status if credential else "credential-removed"
        if schema is None or (only_active and status != "active"):
            continue
        kept = ("model", "label", "model_type", "features", "model_properties", "deprecated")
        shown.append(
            {
                **{key: schema.get(key) for key in kept},
                "fetch_from": "customizable-model",
                "status": status,
                "load_balancing_enabled": False,
                "has_invalid_load_balancing_configs": False,
            }
        )
    return shown


def credentials_of(tenant, name, kind, model):
    """Return the provider of a model and the credentials that are used for it; no credentials if it has none."""
    found = provider(tenant, name)
    for known in backing.find("model", tenant=tenant, provider=found.name, model=model, model_type=kind):
        credential = backing.one("credential", id=known["credential"]) if known["credential"] else None
        if credential and known["enabled"]:
            return found, credential["credentials"]
    return found, None
