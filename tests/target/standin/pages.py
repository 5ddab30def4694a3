"""Serves a Flask application the way a container of the stack is asked: HTTP/1.1, streams, a quick end."""

import logging
import re
import signal
import sys

import flask
from werkzeug.exceptions import HTTPException
from werkzeug.serving import WSGIRequestHandler, run_simple

# The first process of a container ignores a signal that it has no handler for.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))


class Problem(Exception):
    """An answer that is an error: api/libs/external_api.py has the shape."""

    def __init__(self, status, code, message):
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


def application(name, headers):
    app = flask.Flask(name)
    # Dify allows uploads of this size, and its form parser keeps them in memory.
    app.config["MAX_CONTENT_LENGTH"] = 200 * 1024 * 1024
    app.json.sort_keys = False

    @app.after_request
    def _mark(response):
        for key, value in headers.items():
            response.headers[key] = value
        return response

    @app.errorhandler(Problem)
    def _problem(error):
        return _failure(error.status, error.code, error.message)

    @app.errorhandler(HTTPException)
    def _http(error):
        return _failure(error.code, re.sub(r"(?<!^)(?=[A-Z])", "_", type(error).__name__).lower(), error.description)

    @app.errorhandler(ValueError)
    def _value(error):
        return _failure(400, "invalid_param", str(error))

    @app.errorhandler(Exception)
    def _other(error):
        app.logger.error("failed", exc_info=error)
        return {"message": "Internal Server Error", "code": "unknown", "status": 500}, 500

    return app


def _failure(status, code, message):
    headers = {"WWW-Authenticate": 'Bearer realm="api"'} if status == 401 else {}
    return {"code": code, "message": message, "status": status}, status, headers


class _Requests(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"


def serve(app, port):
    # Each answer is a line of the log, which would be read by nobody.
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    run_simple("0.0.0.0", port, app, threaded=True, request_handler=_Requests)
