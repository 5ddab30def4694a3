"""Stands in for Ollama and vLLM on a target machine: lists models, and asks for a key if it has one.

Run there: python3 llm.py ollama|vllm PORT [KEY] [--local] [--tls PEM]
"""

import json
import ssl
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KIND, PORT = sys.argv[1], int(sys.argv[2])
KEY = sys.argv[3] if len(sys.argv) > 3 else ""
PATHS = {"ollama": "/api/tags", "vllm": "/v1/models"}
ANSWERS = {
    "ollama": {"models": [{"name": "llama3:latest"}, {"name": "bge-m3:567m"}]},
    "vllm": {"object": "list", "data": [{"id": "qwen3-32b", "object": "model"}]},
}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if KEY and self.headers.get("Authorization") != f"Bearer {KEY}":
            self.send_response(401)
            self.end_headers()
            return
        known = self.path == PATHS[KIND]
        self.send_response(200 if known else 404)
        self.end_headers()
        self.wfile.write(json.dumps(ANSWERS[KIND] if known else {}).encode())


server = ThreadingHTTPServer(("127.0.0.1" if "--local" in sys.argv else "0.0.0.0", PORT), Handler)
if "--tls" in sys.argv:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[sys.argv.index("--tls") + 1])
    server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
