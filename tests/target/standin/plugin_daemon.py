"""Stands in for the plugin daemon: takes packages, makes their environments and runs them, as the real one does."""

import os
import socket
import threading

import backing
import flask
import pages
from daemon import answers, dispatch, installs, management

ENV = os.environ


def debugging():
    listener = socket.create_server(("0.0.0.0", int(ENV["PLUGIN_REMOTE_INSTALLING_PORT"])))
    while True:
        listener.accept()[0].close()


def application():
    app = pages.application("plugin_daemon", {})

    @app.get("/health/check")
    def health():
        return {"status": "ok"}

    @app.before_request
    def check_key():
        asked = flask.request.path.startswith("/plugin/")
        if asked and flask.request.headers.get("X-Api-Key") != ENV["SERVER_KEY"]:
            return answers.failed("PluginDaemonUnauthorizedError", "unauthorized"), 401
        return None

    app.register_blueprint(management.management)
    app.register_blueprint(dispatch.dispatch)
    return app


backing.make_database()
backing.make_table()
backing.cache().ping()
threading.Thread(target=debugging, daemon=True).start()
installs.launch_all()
pages.serve(application(), int(ENV["SERVER_PORT"]))
