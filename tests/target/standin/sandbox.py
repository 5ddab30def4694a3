"""Stands in for the sandbox: healthy, and runs nothing for who lacks its key."""

import os

import web


def run(request):
    if request.headers.get("X-Api-Key") != os.environ["API_KEY"]:
        return 401, {"code": -401}
    return 200, {"code": 0}


web.serve(int(os.environ["SANDBOX_PORT"]), {"/health": lambda _request: (200, "ok"), "/v1/sandbox/run": run})
