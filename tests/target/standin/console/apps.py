"""Apps: controllers/console/app/{app,app_import}.py and controllers/console/apikey.py."""

import secrets
import uuid

import backing
import flask
import yaml
from console.accounts import setup_required
from console.payload import payload
from console.tokens import login_required
from pages import Problem

console = flask.Blueprint("apps", __name__, url_prefix="/apps")
DSL_VERSION = "0.5.0"
MODES = ("chat", "agent-chat", "completion", "advanced-chat", "workflow")


def route(blueprint, path, method):
    def register(view):
        guarded = setup_required(login_required(view))
        blueprint.add_url_rule(path, view.__name__, guarded, methods=[method])
        return view

    return register


def app_of(number):
    found = backing.one("app", id=str(number), tenant=flask.g.tenant)
    if found is None:
        raise Problem(404, "app_not_found", "App not found.")
    return found


def shown(app, *, whole=False):
    keys = ("id", "name", "description", "mode", "icon_type", "icon", "icon_background", "created_at")
    described = {key: app.get(key) for key in keys}
    described |= {"created_by": app["created_by"], "tags": [], "workflow": None, "access_mode": None}
    if whole:
        described |= {"enable_site": True, "enable_api": True, "api_base_url": f"{flask.request.host_url}v1"}
        described |= {"model_config": app["model_config"], "deleted_tools": []}
    return described


@route(console, "", "GET")
def listed():
    page, limit = (int(flask.request.args.get(name, default)) for name, default in (("page", 1), ("limit", 20)))
    wanted = {"mode": mode} if (mode := flask.request.args.get("mode", "all")) != "all" else {}
    found = backing.find("app", tenant=flask.g.tenant, **wanted)[::-1]
    found = [app for app in found if flask.request.args.get("name", "") in app["name"]]
    start = (page - 1) * limit
    return {
        "page": page,
        "limit": limit,
        "total": len(found),
        "has_more": len(found) > start + limit,
        "data": [shown(app) for app in found[start : start + limit]],
    }


@route(console, "/imports", "POST")
def imported():
    given = payload("AppImportPayload", mode=None)
    result = {"id": str(uuid.uuid4()), "app_id": None, "app_mode": None, "current_dsl_version": DSL_VERSION}
    result |= {"imported_dsl_version": "", "error": ""}
    try:
        version, app = _import(given)
    except (ValueError, yaml.YAMLError) as error:
        return {**result, "status": "failed", "error": str(error)}, 400
    older = [int(part) for part in version.split(".")[:2]] < [int(part) for part in DSL_VERSION.split(".")[:2]]
    status = "completed-with-warnings" if older else "completed"
    return {**result, "status": status, "app_id": app["id"], "app_mode": app["mode"], "imported_dsl_version": version}


def _import(given):
    if given["mode"] != "yaml-content":
        raise ValueError("Error fetching YAML from URL: this stand-in reaches nothing outside")
    if not given.get("yaml_content"):
        raise ValueError("yaml_content is required when import_mode is yaml-content")
    data = yaml.safe_load(given["yaml_content"])
    if not isinstance(data, dict):
        raise ValueError("Invalid YAML format: content must be a mapping")
    version, about = data.get("version") or "0.1.0", data.get("app")
    if not isinstance(version, str):
        raise ValueError(f"Invalid version type, expected str, got {type(version)}")
    if not about:
        raise ValueError("Missing app data in YAML content")
    if about.get("mode") not in MODES:
        raise ValueError("loss app mode" if not about.get("mode") else f"{about['mode']!r} is not a valid AppMode")
    if about["mode"] in MODES[:3] and not isinstance(data.get("model_config"), dict):
        raise ValueError("Missing model_config for chat/agent-chat/completion app")
    app = backing.add(
        "app",
        tenant=flask.g.tenant,
        mode=about["mode"],
        name=given.get("name") or about.get("name", ""),
        description=given.get("description") or about.get("description", ""),
        icon_type=about.get("icon_type") or "emoji",
        icon=str(about.get("icon", "")),
        icon_background=about.get("icon_background", "#FFFFFF"),
        model_config=data.get("model_config"),
        created_by=flask.g.account["id"],
    )
    return version, app


@route(console, "/<uuid:number>", "GET")
def detail(number):
    return shown(app_of(number), whole=True)


@route(console, "/<uuid:number>", "DELETE")
def delete(number):
    app = app_of(number)
    backing.remove("app", id=app["id"])
    backing.remove("key", app=app["id"])
    return "", 204


def _key(found):
    return {**{name: found[name] for name in ("id", "token", "created_at")}, "type": "app", "last_used_at": None}


@route(console, "/<uuid:number>/api-keys", "GET")
def keys(number):
    return {"data": [_key(found) for found in backing.find("key", app=app_of(number)["id"])]}


@route(console, "/<uuid:number>/api-keys", "POST")
def add_key(number):
    app = app_of(number)
    if len(backing.find("key", app=app["id"])) >= 10:
        raise Problem(400, "bad_request", "Cannot create more than 10 API keys for this resource type.")
    return _key(backing.add("key", app=app["id"], token=f"app-{secrets.token_urlsafe(18)}")), 201


@route(console, "/<uuid:number>/api-keys/<uuid:key>", "DELETE")
def remove_key(number, key):
    if not backing.remove("key", id=str(key), app=app_of(number)["id"]):
        raise Problem(404, "not_found", "API key not found")
    return "", 204
