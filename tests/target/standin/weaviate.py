"""Stands in for weaviate: its REST API with classes, objects and a search by vectors; data on its volume; its key.

https://docs.weaviate.io/weaviate/api/rest, the one of 1.27. The search reads the one form of GraphQL that the api's
stand-in writes, and the one that counts.
"""

import json
import os
import pathlib
import re

import outside
import web

DATA = pathlib.Path(os.environ["PERSISTENCE_DATA_PATH"])
COUNT = re.compile(r"\{Aggregate\{(\w+)\{meta\{count\}\}\}\}")
SEARCH = re.compile(r"\{Get\{(\w+)\(nearVector:\{vector:(\[[^]]*\])\} limit:(\d+)\)")

(DATA / "data").write_text("here")

if os.environ.get("DISABLE_TELEMETRY") != "true":
    outside.ask("https://telemetry.weaviate.io/")


def allowed(request):
    keys = os.environ["AUTHENTICATION_APIKEY_ALLOWED_KEYS"].split(",")
    anonymous = os.environ["AUTHENTICATION_ANONYMOUS_ACCESS_ENABLED"] == "true"
    return anonymous or request.headers.get("Authorization", "").removeprefix("Bearer ") in keys


def stored(name):
    """Return where the objects of a class are."""
    assert re.fullmatch(r"\w+", name), name
    return DATA / f"{name}.json"


def schema(request, given):
    if request.command == "POST":
        stored(given["class"]).write_text("[]")
        return 200, given
    if request.path == "/v1/schema":
        return 200, {"classes": [{"class": path.stem} for path in sorted(DATA.glob("*.json"))]}
    path = stored(request.path.rpartition("/")[2])
    if not path.is_file():
        return 404, {"error": [{"message": "no such class"}]}
    if request.command == "DELETE":
        path.unlink()
    return 200, {"class": path.stem}


def add(_request, given):
    for one in given["objects"]:
        path = stored(one["class"])
        others = [each for each in json.loads(path.read_text()) if each["id"] != one["id"]]
        path.write_text(json.dumps([*others, one]))
    return 200, [{**one, "result": {"status": "SUCCESS"}} for one in given["objects"]]


def near(one, other):
    return sum(a * b for a, b in zip(one, other, strict=True))


def graphql(request, given):
    if counted := COUNT.match(given["query"]):
        name = counted.group(1)
        return 200, {"data": {"Aggregate": {name: [{"meta": {"count": len(json.loads(stored(name).read_text()))}}]}}}
    return search(request, given)


def search(_request, given):
    name, vector, limit = SEARCH.match(given["query"]).groups()
    asked = json.loads(vector)
    found = [
        {**one["properties"], "_additional": {"distance": 1 - near(asked, one["vector"])}}
        for one in json.loads(stored(name).read_text())
    ]
    found.sort(key=lambda one: one["_additional"]["distance"])
    return 200, {"data": {"Get": {name: found[: int(limit)]}}}


ROUTES = {
    "/v1/schema": schema,
    "/v1/batch/objects": add,
    "/v1/graphql": graphql,
    "/v1/objects": lambda _request, _given: (200, {"objects": []}),
}


def answer(request):
    body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
    path = request.path.partition("?")[0]
    if path == "/v1/.well-known/ready":
        return 200, {}
    route = ROUTES.get(path) or (schema if path.startswith("/v1/schema/") else None)
    if route is None:
        return 404, {"error": "no such page"}
    return route(request, json.loads(body or b"null")) if allowed(request) else (401, {"code": 401})


web.serve(8080, {"*": answer})
