"""Model providers of the workspace: controllers/console/workspace/{model_providers,models}.py."""

import re

import backing
import flask
from console import client, models
from console.accounts import setup_required
from console.payload import payload
from console.tokens import login_required

console = flask.Blueprint("providers", __name__, url_prefix="/workspaces/current")
KINDS = ("llm", "text-embedding", "rerank", "speech2text", "moderation", "tts")
PROVIDER = "/model-providers/<path:name>/models"


def _route(path, method):
    def register(view):
        guarded = setup_required(login_required(view))
        console.add_url_rule(path, view.__name__, guarded, methods=[method])
        return view

    return register


def _kind(value):
    if value not in KINDS:
        raise ValueError(f"1 validation error\nmodel_type\n  Input should be one of {', '.join(KINDS)}")
    return value


def _asked(**more):
    given = payload("ParserCredentialBase", model=None, model_type=None, **more)
    _kind(given["model_type"])
    return given


def _named(provider, given):
    return {
        "tenant": provider.tenant,
        "provider": provider.name,
        "model": given["model"],
        "model_type": given["model_type"],
    }


@_route("/model-providers", "GET")
def listed():
    kind = flask.request.args.get("model_type")
    found = models.providers(flask.g.tenant).values()
    return {
        "data": [
            _described(provider)
            for provider in found
            if not kind or kind in provider.declaration["supported_model_types"]
        ]
    }


def _described(provider):
    declaration = provider.declaration
    custom = [_configured(model) for model in backing.find("model", tenant=provider.tenant, provider=provider.name)]
    keys = ("label", "description", "icon_small", "icon_small_dark", "background", "help", "supported_model_types")
    keys += ("configurate_methods", "provider_credential_schema", "model_credential_schema")
    return {
        "tenant_id": provider.tenant,
        "provider": provider.name,
        **{key: declaration.get(key) for key in keys},
        **provider.icons(),
        "preferred_provider_type": "custom",
        "custom_configuration": {
            "status": "active" if custom else "no-configure",
            "current_credential_id": None,
            "current_credential_name": None,
            "available_credentials": [],
            "custom_models": custom,
            "can_added_models": [],
        },
        "system_configuration": {"enabled": False, "current_quota_type": None, "quota_configurations": []},
    }


def _credentials(model):
    wanted = {key: model[key] for key in ("tenant", "provider", "model", "model_type")}
    return [
        {"credential_id": found["id"], "credential_name": found["name"]}
        for found in backing.find("credential", **wanted)
    ]


def _configured(model):
    offered = _credentials(model)
    current = next((each for each in offered if each["credential_id"] == model["credential"]), {})
    return {
        "model": model["model"],
        "model_type": model["model_type"],
        "credentials": None,
        "current_credential_id": current.get("credential_id"),
        "current_credential_name": current.get("credential_name"),
        "available_model_credentials": offered,
        "unadded_to_model_list": False,
    }


@_route(PROVIDER, "GET")
def provider_models(name):
    found = models.providers(flask.g.tenant).get(name)
    if found is None:
        return {"data": []}
    simple = {key: found.declaration.get(key) for key in ("label", "supported_model_types")}
    about = {"provider": found.name, "tenant_id": found.tenant, **simple, **found.icons()}
    return {"data": [{**model, "provider": about} for model in models.models_of(found)]}


@_route(PROVIDER, "DELETE")
def remove_model(name):
    given = _asked()
    found = models.provider(flask.g.tenant, name)
    backing.remove("model", **_named(found, given))
    backing.remove("credential", **_named(found, given))
    return "", 204


@_route(f"{PROVIDER}/credentials", "GET")
def shown_credentials(name):
    asked = flask.request.args
    found = models.provider(flask.g.tenant, name)
    named = _named(found, {"model": asked["model"], "model_type": _kind(asked["model_type"])})
    model = backing.one("model", **named)
    wanted = asked.get("credential_id") or (model or {}).get("credential")
    credential = backing.one("credential", id=wanted, **named) if wanted else None
    if asked.get("credential_id") and credential is None:
        raise ValueError(f"Credential with id {wanted} not found.")
    return {
        "credentials": found.obfuscated(credential["credentials"]) if credential else {},
        "current_credential_id": credential["id"] if credential else None,
        "current_credential_name": credential["name"] if credential else None,
        "load_balancing": {"enabled": False, "configs": []},
        "available_credentials": _credentials(named),
    }


@_route(f"{PROVIDER}/credentials", "POST")
def add_credentials(name):
    given = _asked(credentials=None)
    found = models.provider(flask.g.tenant, name)
    named = _named(found, given)
    label = given.get("name")
    if label and len(label) > 30:
        raise ValueError(
            "1 validation error for ParserCreateCredential\nname\n  String should have at most 30 characters"
        )
    names = [each["credential_name"] for each in _credentials(named)]
    if label in names:
        raise ValueError(f"Model credential with name '{label}' already exists for {given['model']}.")
    numbers = [int(each.split()[-1]) for each in names if re.fullmatch(r"API KEY\s+\d+", each)]
    label = label or f"API KEY {max(numbers, default=0) + 1}"
    tried = found.validate(given["model_type"], given["model"], given["credentials"])
    credential = backing.add("credential", **named, name=label, credentials=tried)
    if backing.one("model", **named) is None:
        backing.add("model", **named, credential=credential["id"], enabled=True)
    return {"result": "success"}, 201


@_route(f"{PROVIDER}/credentials", "PUT")
def change_credentials(name):
    given = _asked(credentials=None, credential_id=None)
    found = models.provider(flask.g.tenant, name)
    credential = backing.one("credential", id=given["credential_id"], **_named(found, given))
    if credential is None:
        raise ValueError("Credential record not found.")
    before = credential["credentials"]
    # A secret that was not changed comes back hidden.
    new = {key: before.get(key) if value == "[__HIDDEN__]" else value for key, value in given["credentials"].items()}
    tried = found.validate(given["model_type"], given["model"], new)
    backing.change(credential, credentials=tried, name=given.get("name") or credential["name"])
    return {"result": "success"}


@_route(f"{PROVIDER}/credentials", "DELETE")
def remove_credentials(name):
    given = _asked(credential_id=None)
    found = models.provider(flask.g.tenant, name)
    named = _named(found, given)
    if not backing.remove("credential", id=given["credential_id"], **named):
        raise ValueError("Credential record not found.")
    model = backing.one("model", **named)
    if model and not _credentials(named):
        backing.remove("model", **named)
    elif model and model["credential"] == given["credential_id"]:
        backing.change(model, credential=None)
    return "", 204


@_route(f"{PROVIDER}/credentials/validate", "POST")
def try_credentials(name):
    given = _asked(credentials=None)
    try:
        models.provider(flask.g.tenant, name).validate(given["model_type"], given["model"], given["credentials"])
    except client.CredentialsRefused as error:
        return {"result": "error", "error": str(error)}
    return {"result": "success"}


@_route(f"{PROVIDER}/enable", "PATCH")
def enable(name):
    return _switch(name, True)


@_route(f"{PROVIDER}/disable", "PATCH")
def disable(name):
    return _switch(name, False)


def _switch(name, enabled):
    model = backing.one("model", **_named(models.provider(flask.g.tenant, name), _asked()))
    if model:
        backing.change(model, enabled=enabled)
    return {"result": "success"}


@_route(f"{PROVIDER}/parameter-rules", "GET")
def rules(name):
    model = flask.request.args["model"]
    found, credentials = models.credentials_of(flask.g.tenant, name, "llm", model)
    schema = found.schema("llm", model, credentials) if credentials is not None else None
    return {"data": schema["parameter_rules"] if schema else []}


@_route("/models/model-types/<kind>", "GET")
def models_of_kind(kind):
    groups = []
    for found in models.providers(flask.g.tenant).values():
        added = models.models_of(found, _kind(kind), only_active=True)
        if added:
            about = {"tenant_id": found.tenant, "provider": found.name, "label": found.declaration["label"]}
            groups.append({**about, **found.icons(), "status": "active", "models": added})
    return {"data": groups}


@_route("/default-model", "GET")
def default_model():
    kind = _kind(flask.request.args.get("model_type"))
    chosen = backing.one("default", tenant=flask.g.tenant, model_type=kind)
    if chosen is None:
        # Whoever asks gets the first model there is, and it stays the default from then on.
        for found in models.providers(flask.g.tenant).values():
            for model in models.models_of(found, kind, only_active=True):
                chosen = chosen or _choose(kind, found.name, model["model"])
    if chosen is None:
        return {"data": None}
    found = models.provider(flask.g.tenant, chosen["provider"])
    about = {key: found.declaration.get(key) for key in ("label", "supported_model_types")}
    return {
        "data": {
            "model": chosen["model"],
            "model_type": kind,
            "provider": {"provider": found.name, "tenant_id": found.tenant, **about, **found.icons()},
        }
    }


@_route("/default-model", "POST")
def set_default_models():
    for setting in payload("ParserPostDefault", model_settings=None)["model_settings"]:
        kind = _kind(setting.get("model_type"))
        if setting.get("provider") is None:
            continue
        found = models.provider(flask.g.tenant, setting["provider"])
        if setting.get("model") not in [each["model"] for each in models.models_of(found, kind, only_active=True)]:
            raise ValueError(f"Model {setting.get('model')} does not exist.")
        _choose(kind, found.name, setting["model"])
    return {"result": "success"}


def _choose(kind, provider, model):
    backing.remove("default", tenant=flask.g.tenant, model_type=kind)
    return backing.add("default", tenant=flask.g.tenant, model_type=kind, provider=provider, model=model)
