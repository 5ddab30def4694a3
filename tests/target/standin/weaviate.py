"""Stands in for weaviate: ready, keeps a file where its data belong, knows its key."""

import os
import pathlib

import web

pathlib.Path(os.environ["PERSISTENCE_DATA_PATH"], "data").write_text("here")


def objects(request):
    keys = os.environ["AUTHENTICATION_APIKEY_ALLOWED_KEYS"].split(",")
    anonymous = os.environ["AUTHENTICATION_ANONYMOUS_ACCESS_ENABLED"] == "true"
    allowed = anonymous or request.headers.get("Authorization", "").removeprefix("Bearer ") in keys
    return (200, {"objects": []}) if allowed else (401, {"code": 401})


web.serve(8080, {"/v1/.well-known/ready": lambda _request: (200, {}), "/v1/objects": objects})
