"""Plugins of the workspace: controllers/console/workspace/plugin.py; all of it is asked from the daemon."""

import os

import flask
from console import client
from console.accounts import setup_required
from console.payload import payload
from console.tokens import login_required

console = flask.Blueprint("plugins", __name__, url_prefix="/workspaces/current/plugin")


def _get(path, **options):
    return client.call("GET", flask.g.tenant, f"management/{path}", **options)


def _post(path, **options):
    return client.call("POST", flask.g.tenant, f"management/{path}", **options)


def _route(path, method):
    def register(view):
        guarded = setup_required(login_required(view))
        console.add_url_rule(path, view.__name__, guarded, methods=[method])
        return view

    return register


def _pages():
    page, size = (int(flask.request.args.get(name, default)) for name, default in (("page", 1), ("page_size", 256)))
    if page < 1 or not 1 <= size <= 256:
        raise ValueError("1 validation error for ParserList\npage_size\n  Input should be between 1 and 256")
    return {"page": page, "page_size": size}


@_route("/upload/pkg", "POST")
def upload():
    package = flask.request.files["pkg"].read()
    # The real one looks at a header of the part that clients do not send: only the daemon refuses what is too large.
    files = {"dify_pkg": ("dify_pkg", package, "application/octet-stream")}
    return _post("install/upload/package", files=files, data={"verify_signature": "false"})


@_route("/install/pkg", "POST")
def install():
    identifiers = payload("ParserPluginIdentifiers", plugin_unique_identifiers=None)["plugin_unique_identifiers"]
    asked = {"plugin_unique_identifiers": identifiers, "source": "package", "metas": [{} for _ in identifiers]}
    return _post("install/identifiers", json=asked)


@_route("/tasks", "GET")
def tasks():
    return {"tasks": _get("install/tasks", params=_pages())}


@_route("/tasks/<task>", "GET")
def task(task):
    return {"task": _get(f"install/tasks/{task}")}


@_route("/tasks/<task>/delete", "POST")
def forget_task(task):
    return {"success": _post(f"install/tasks/{task}/delete")}


@_route("/tasks/delete_all", "POST")
def forget_tasks():
    return {"success": _post("install/tasks/delete_all")}


@_route("/list", "GET")
def listed():
    answer = _get("list", params={**_pages(), "response_type": "paged"})
    return {"plugins": answer["list"], "total": answer["total"]}


@_route("/list/installations/ids", "POST")
def installations():
    wanted = payload("ParserLatest", plugin_ids=None)["plugin_ids"]
    return {"plugins": _post("installation/fetch/batch", json={"plugin_ids": wanted})}


@_route("/fetch-manifest", "GET")
def manifest():
    wanted = {"plugin_unique_identifier": flask.request.args.get("plugin_unique_identifier", "")}
    return {"manifest": _get("fetch/manifest", params=wanted)}


@_route("/upgrade/marketplace", "POST")
def upgrade_from_marketplace():
    given = payload(
        "ParserMarketplaceUpgrade", original_plugin_unique_identifier=None, new_plugin_unique_identifier=None
    )
    if os.environ.get("MARKETPLACE_ENABLED", "true").lower() != "true":
        raise ValueError("marketplace is not enabled")
    return _upgrade(given, "marketplace", {"plugin_unique_identifier": given["new_plugin_unique_identifier"]})


@_route("/upgrade/github", "POST")
def upgrade_from_github():
    names = ("original_plugin_unique_identifier", "new_plugin_unique_identifier", "repo", "version", "package")
    given = payload("ParserGithubUpgrade", **dict.fromkeys(names))
    return _upgrade(given, "github", {name: given[name] for name in names[2:]})


def _upgrade(given, source, meta):
    asked = {name: given[name] for name in ("original_plugin_unique_identifier", "new_plugin_unique_identifier")}
    return _post("install/upgrade", json={**asked, "source": source, "meta": meta})


@_route("/uninstall", "POST")
def uninstall():
    number = payload("ParserUninstall", plugin_installation_id=None)["plugin_installation_id"]
    return {"success": _post("uninstall", json={"plugin_installation_id": number})}
