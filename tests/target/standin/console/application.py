"""The api as a whole: health, and the console's and the service's addresses."""

import os

import backing
import flask
import outside
import pages
from console import accounts, apps, chat, datasets, plugins, providers


def make(version):
    app = pages.application("api", {"X-Version": version})
    app.secret_key = os.environ["SECRET_KEY"]
    console = flask.Blueprint("console", __name__, url_prefix="/console/api")
    for module in (accounts, plugins, providers, apps, chat, datasets):
        console.register_blueprint(module.console)
    app.register_blueprint(console)
    app.register_blueprint(chat.service, url_prefix="/v1")

    @app.get("/health")
    def health():
        return {"status": "ok"}

    @app.get("/console/api/ping")
    def ping():
        return {"result": "pong"}

    @app.get("/console/api/system-features")
    def features():
        return {"enable_marketplace": os.environ.get("MARKETPLACE_ENABLED", "true").lower() == "true"}

    @app.get("/console/api/version")
    def newest_version():
        if url := os.environ.get("CHECK_UPDATE_URL"):
            outside.ask(url)
        return {"version": version}

    @app.get("/console/api/setup")
    def setup():
        with backing.transaction() as cursor:
            cursor.execute("SELECT count(*) FROM setups")
            assert cursor.fetchone()[0] == 1
        return accounts.setup_status()

    return app
