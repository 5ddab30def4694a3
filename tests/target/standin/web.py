"""A small web server: routes are functions that return (status, headers, body)."""

import json
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# The first process of a container ignores a signal that it has no handler for.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))


def serve(port, routes, headers=None):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self):
            path = self.path.partition("?")[0]
            route = routes.get(path) or routes.get("*")
            status, body = route(self) if route else (404, {"error": "no such page"})
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Type", "text/html" if isinstance(body, bytes) else "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_DELETE = answer

        def log_message(self, form, *arguments):
            sys.stderr.write(form % arguments + "\n")

    ThreadingHTTPServer(("0.0.0.0", port), Handler).serve_forever()
