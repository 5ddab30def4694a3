"""Installs, upgrades and removes: internal/service/install_plugin.go, internal/tasks and models/curd."""

import logging
import os
import pathlib
import shutil
import threading

import backing
from daemon import environment, package, process

# PLUGIN_LOCAL_LAUNCHING_CONCURRENT: so many environments are made at the same time.
launching = threading.Semaphore(int(os.environ.get("PLUGIN_LOCAL_LAUNCHING_CONCURRENT") or 2))
running = {}
_locks = {}
_changing = threading.Lock()


class NotFound(Exception):
    """There is no such installation."""


def _bucket(name, default):
    root = pathlib.Path(os.environ.get("PLUGIN_STORAGE_LOCAL_ROOT") or "/app/storage")
    return root / (os.environ.get(name) or default)


def _packages(identifier):
    return _bucket("PLUGIN_PACKAGE_CACHE_PATH", "plugin_packages") / identifier


def _installed(identifier):
    return _bucket("PLUGIN_INSTALLED_PATH", "plugin") / identifier.replace(":", "-", 1)


def save(identifier, data, declared):
    """Keep an uploaded package, and what it declares."""
    path = _packages(identifier)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    if backing.one("declaration", identifier=identifier) is None:
        backing.add("declaration", identifier=identifier, declaration=declared)


def declaration(identifier):
    found = backing.one("declaration", identifier=identifier)
    if found is None:
        raise LookupError("plugin not found\nfailed to get plugin declaration")
    return found["declaration"]


def launch(identifier):
    """Make a plugin's environment and start it, unless it runs. Raises process.Failed and environment.Failed."""
    lock = _locks.setdefault(identifier, threading.Lock())
    with lock:
        if identifier in running:
            return
        with launching:
            folder = environment.folder_of(identifier)
            try:
                environment.prepare(folder, package.read(_installed(identifier).read_bytes()))
            except environment.Failed as error:
                raise environment.Failed(f"{error}\nfailed to init environment") from error
            plugin = process.Plugin(folder, declaration(identifier)["meta"]["runner"]["entrypoint"])
            plugin.start()
            running[identifier] = plugin


def launch_all():
    """Start what was installed before, as the real one's watch dog does."""
    for installation in backing.find("plugin"):
        threading.Thread(target=_try, args=(installation["identifier"],), daemon=True).start()


def _try(identifier):
    try:
        launch(identifier)
    except Exception:
        logging.getLogger("daemon").exception("cannot launch %s", identifier)


# -- tasks


def install(tenant, identifiers, source, metas):
    """Return the answer to a wish to install, whose work goes on in threads."""
    declared = {identifier: declaration(identifier) for identifier in identifiers}
    known = {identifier: backing.one("plugin", identifier=identifier) is not None for identifier in identifiers}
    if all(known.values()):
        for identifier, meta in zip(identifiers, metas, strict=True):
            _note(tenant, identifier, source, meta)
        return {"all_installed": True, "task_id": ""}
    task = _task(tenant, declared)
    for identifier, meta in zip(identifiers, metas, strict=True):

        def done(identifier=identifier, meta=meta):
            _note(tenant, identifier, source, meta)
            return "installed"

        threading.Thread(target=_work, args=(task["id"], identifier, known[identifier], done), daemon=True).start()
    return {"all_installed": False, "task_id": task["id"]}


def upgrade(tenant, old, new, source, meta):
    before = backing.one("installation", tenant_id=tenant, plugin_unique_identifier=old, source=source)
    if before is None:
        raise NotFound("plugin installation not found for this tenant")
    declared = declaration(new)

    def done():
        if backing.one("plugin", identifier=new) is None:
            backing.add("plugin", identifier=new)
        backing.change(before, plugin_unique_identifier=new, meta=meta)
        _let_go(old)
        return "upgraded"

    if backing.one("plugin", identifier=new):
        done()
        return {"all_installed": True, "task_id": ""}
    task = _task(tenant, {new: declared})
    threading.Thread(target=_work, args=(task["id"], new, False, done), daemon=True).start()
    return {"all_installed": False, "task_id": task["id"]}


def _task(tenant, declared):
    plugins = [
        {
            "plugin_unique_identifier": identifier,
            "labels": about["label"],
            "icon": about["icon"],
            "icon_dark": about.get("icon_dark", ""),
            "plugin_id": package.plugin_id(identifier),
            "status": "pending",
            "message": "",
        }
        for identifier, about in declared.items()
    ]
    return backing.add(
        "task", tenant_id=tenant, status="running", total_plugins=len(plugins), completed_plugins=0, plugins=plugins
    )


def _work(task, identifier, known, done):
    try:
        if not known:
            _tell(task, identifier, "running", "starting")
            _installed(identifier).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(_packages(identifier), _installed(identifier))
            launch(identifier)
        _tell(task, identifier, "success", done())
    except Exception as error:
        logging.getLogger("daemon").exception("cannot install %s", identifier)
        _installed(identifier).unlink(missing_ok=True)
        _tell(task, identifier, "failed", f"failed to launch plugin: {error}")


def _tell(number, identifier, status, message):
    """Note how a plugin of a task is; long messages lose their middle (install_plugin_utils.go)."""
    if len(message) > 1024:
        message = f"{message[:512]}...{message[-512:]}"
    with _changing:
        task = backing.one("task", id=number)
        if task is None:
            return
        for plugin in task["plugins"]:
            if plugin["plugin_unique_identifier"] == identifier:
                plugin |= {"status": status, "message": message}
        successes = sum(plugin["status"] == "success" for plugin in task["plugins"])
        overall = "failed" if status == "failed" else task["status"]
        overall = "success" if successes == len(task["plugins"]) else overall
        backing.change(task, plugins=task["plugins"], completed_plugins=successes, status=overall)


# -- installations


def _note(tenant, identifier, source, meta):
    """Note that a tenant has a plugin; one that it has in another version stays (curd.InstallPlugin)."""
    with _changing:
        if backing.one("installation", tenant_id=tenant, plugin_id=package.plugin_id(identifier)):
            return
        if backing.one("plugin", identifier=identifier) is None:
            backing.add("plugin", identifier=identifier)
        backing.add(
            "installation",
            tenant_id=tenant,
            plugin_id=package.plugin_id(identifier),
            plugin_unique_identifier=identifier,
            runtime_type="local",
            endpoints_setups=0,
            endpoints_active=0,
            source=source,
            meta=meta or {},
        )


def uninstall(tenant, number):
    found = backing.one("installation", id=number, tenant_id=tenant)
    if found is None:
        raise NotFound("plugin not found")
    backing.remove("installation", id=number)
    _let_go(found["plugin_unique_identifier"])


def _let_go(identifier):
    """Stop and remove a plugin that no tenant has any more."""
    if backing.find("installation", plugin_unique_identifier=identifier):
        return
    backing.remove("plugin", identifier=identifier)
    _installed(identifier).unlink(missing_ok=True)
    plugin = running.pop(identifier, None)
    if plugin:
        plugin.stop()


def of_tenant(tenant, **wanted):
    return backing.find("installation", tenant_id=tenant, **wanted)
