"""Servers in the intranet of a machine, and questions to them from where a workflow asks."""

from __future__ import annotations

import time
from pathlib import Path

from tests.e2e.server import Server
from tests.target import machine as machines
from tests.target.neighbour import NEIGHBOUR, Neighbour

LLM = Path(machines.__file__).with_name("llm.py")
# An address that belongs to others (RFC 5737), here the host next door's as well.
OUTSIDE = "203.0.113.7"
LINK_LOCAL = "169.254.169.254"
CERTIFICATE = "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=x -keyout key.pem -out server.crt"


def serve(server: Server) -> None:
    """Start servers at 9000 (http) and 8444 (https) of all addresses of a host next door."""
    server.put(LLM, "llm.py")
    server.run("sh", "-c", f"{CERTIFICATE} && cat key.pem server.crt > server.pem")
    neighbour = Neighbour(server.machine, OUTSIDE, LINK_LOCAL)
    for command in ("vllm 9000", f"vllm 8444 '' --tls {server.home}/server.pem"):
        neighbour.start(f"python3 {server.home}/llm.py {command}")
    for url in (f"http://{NEIGHBOUR}:9000/v1/models", f"https://{NEIGHBOUR}:8444/v1/models"):
        server.machine.run(f"until curl -skf {url}; do sleep 0.1; done", timeout=60)


def never_reached(server: Server) -> list[str]:
    """Return addresses of the stack's own services, by name and by number, of the proxy itself, and of link-local."""
    form = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}"
    shown = server.run(server.engine, "inspect", "--format", form, *map(server.container, ("redis", "db_postgres")))
    redis, database = shown.stdout.split()
    return [
        *("http://redis:6379/", f"http://{redis}:6379/", f"https://{redis}:6379/", f"http://[::ffff:{redis}]:6379/"),
        *("http://db_postgres:5432/", f"http://{database}:5432/", f"https://{database}:5432/"),
        *("http://plugin_daemon:5002/health/check", "http://sandbox:8194/health", "http://api:5001/health"),
        *("http://127.0.0.1:3128/", "http://localhost:3128/", "http://[::1]:3128/", "http://0.0.0.0:3128/"),
        *(f"http://{LINK_LOCAL}:9000/v1/models", f"http://{OUTSIDE}:9000/v1/models", f"https://{OUTSIDE}:8444/"),
    ]


def await_status(server: Server, url: str, wanted: str) -> None:
    """Wait until a URL, asked without the proxy, gives this status."""
    deadline = time.monotonic() + 30
    while (status := ask(server, url, proxy=False)) != wanted:
        assert time.monotonic() < deadline, f"{url}: {status}"
        time.sleep(0.5)


def ask(server: Server, url: str, service: str = "api", *, proxy: bool = True) -> str:
    """Return the status that a service gets for a URL, after curl's options if any; the proxy's comes first."""
    options = ["--silent", "--insecure", "--max-time", "20", "--output", "/dev/null"]
    told = "%{http_connect} %{http_code}"
    through = ["--proxy", "http://ssrf_proxy:3128"] if proxy else []
    command = ["exec", server.container(service), "curl", *options, "--globoff", "--write-out", told, *through]
    connected, status = server.run(server.engine, *command, *url.split()).stdout.split()
    return connected if connected not in ("000", "200") else status
