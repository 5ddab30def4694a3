"""The shape of every answer of the daemon: pkg/entities/response.go and types/exception/errors.go."""

import json

CODES = {
    "PluginDaemonBadRequestError": -400,
    "PluginUniqueIdentifierError": -400,
    "PluginDaemonUnauthorizedError": -401,
    "PluginDaemonNotFoundError": -404,
    "PluginNotFoundError": -404,
}


def good(data):
    return {"code": 0, "message": "success", "data": data}


def failed(kind, message):
    text = json.dumps({"message": message, "error_type": kind, "args": None})
    return {"code": CODES.get(kind, -500), "message": text, "data": None}
