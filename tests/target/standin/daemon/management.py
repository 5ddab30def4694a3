"""Packages, tasks and installations: /plugin/TENANT/management of the daemon. server/controllers/plugins.go"""

import datetime
import os

import backing
import flask
from daemon import answers, installs, package

management = flask.Blueprint("management", __name__, url_prefix="/plugin/<tenant>/management")
BAD_SIGNATURE = "plugin verification has been enabled, and the plugin you want to install has a bad signature"


@management.errorhandler(package.Refused)
def _refused(error):
    return answers.failed("PluginDaemonBadRequestError", str(error))


@management.errorhandler(installs.NotFound)
def _not_found(error):
    kind = "PluginNotFoundError" if str(error) == "plugin not found" else "PluginDaemonNotFoundError"
    return answers.failed(kind, str(error))


@management.errorhandler(LookupError)
def _missing(error):
    return answers.failed("PluginDaemonInternalServerError", str(error))


@management.post("/install/upload/package")
def upload(tenant):
    data = flask.request.files["dify_pkg"].read()
    verify = flask.request.form.get("verify_signature") == "true"
    verify = verify or os.environ.get("FORCE_VERIFYING_SIGNATURE", "true").lower() == "true"
    opened = package.read(data)
    declared = package.declaration(opened)
    identifier = package.identifier(opened, declared)
    installs.save(identifier, data, declared)
    if verify and not declared["verified"]:
        raise package.Refused(BAD_SIGNATURE)
    verification = {"authorized_category": "langgenius"} if declared["verified"] else None
    return answers.good({"unique_identifier": identifier, "manifest": declared, "verification": verification})


@management.post("/install/identifiers")
def install(tenant):
    given = flask.request.get_json()
    identifiers = given["plugin_unique_identifiers"]
    metas = given.get("metas") or []
    if len(metas) != len(identifiers):
        raise package.Refused("the number of metas must be equal to the number of plugin unique identifiers")
    return answers.good(installs.install(tenant, identifiers, given["source"], metas))


@management.post("/install/upgrade")
def upgrade(tenant):
    given = flask.request.get_json()
    old, new = given["original_plugin_unique_identifier"], given["new_plugin_unique_identifier"]
    if old == new:
        raise package.Refused("original and new plugin unique identifier are the same")
    if package.plugin_id(old) != package.plugin_id(new):
        raise package.Refused("original and new plugin id are different")
    return answers.good(installs.upgrade(tenant, old, new, given["source"], given.get("meta") or {}))


@management.post("/uninstall")
def uninstall(tenant):
    installs.uninstall(tenant, flask.request.get_json()["plugin_installation_id"])
    return answers.good(True)


def _dated(document):
    """Return a document with times as Go's JSON has them."""
    when = datetime.datetime.fromtimestamp(document["created_at"], datetime.UTC).isoformat()
    return {**document, "created_at": when, "updated_at": when}


@management.get("/install/tasks")
def tasks(tenant):
    page, size = int(flask.request.args["page"]), int(flask.request.args["page_size"])
    found = backing.find("task", tenant_id=tenant)[::-1]
    return answers.good([_dated(task) for task in found[(page - 1) * size : page * size]])


@management.get("/install/tasks/<task>")
def one_task(tenant, task):
    found = backing.one("task", id=task, tenant_id=tenant)
    if found is None:
        raise LookupError("record not found")
    return answers.good(_dated(found))


@management.post("/install/tasks/<task>/delete")
def forget_task(tenant, task):
    backing.remove("task", id=task, tenant_id=tenant)
    return answers.good(True)


@management.post("/install/tasks/delete_all")
def forget_tasks(tenant):
    backing.remove("task", tenant_id=tenant)
    return answers.good(True)


def _described(installation):
    identifier = installation["plugin_unique_identifier"]
    declared = installs.declaration(identifier)
    return {
        **_dated(installation),
        "installation_id": installation["id"],
        "name": declared["name"],
        "version": declared["version"],
        "checksum": identifier.partition("@")[2],
        "declaration": declared,
    }


@management.get("/list")
def listed(tenant):
    page, size = int(flask.request.args["page"]), int(flask.request.args["page_size"])
    found = installs.of_tenant(tenant)[::-1]
    shown = [_described(installation) for installation in found[(page - 1) * size : page * size]]
    return answers.good({"list": shown, "total": len(found)})


@management.post("/installation/fetch/batch")
def batch(tenant):
    wanted = flask.request.get_json()["plugin_ids"]
    found = installs.of_tenant(tenant)
    return answers.good([_described(each) for each in found if each["plugin_id"] in wanted])


@management.get("/fetch/manifest")
def manifest(tenant):
    try:
        return answers.good(installs.declaration(flask.request.args["plugin_unique_identifier"]))
    except LookupError:
        raise package.Refused("plugin not found") from None


@management.get("/models")
def models(tenant):
    shown = []
    for installation in installs.of_tenant(tenant):
        declared = installs.declaration(installation["plugin_unique_identifier"]).get("model")
        if declared:
            keys = ("id", "created_at", "updated_at", "tenant_id", "plugin_unique_identifier", "plugin_id")
            about = {key: _dated(installation)[key] for key in keys}
            shown.append({**about, "provider": declared["provider"], "declaration": declared})
    return answers.good(shown)
