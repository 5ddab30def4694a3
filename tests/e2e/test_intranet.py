"""What workflows may reach in the intranet, through the real squid."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.e2e import intranet
from tests.e2e.conftest import MachineMaker
from tests.e2e.server import Server
from tests.target.bundle import Bundle
from tests.target.neighbour import NEIGHBOUR

JOURNEYS = ["podman root", "podman dify", "docker root"]


@pytest.fixture(scope="module", params=JOURNEYS, ids=lambda journey: journey.replace(" ", "-"))
def server(request: pytest.FixtureRequest, lasting_machine: MachineMaker, sample: Bundle) -> Iterator[Server]:
    """A server with an installation."""
    engine, user = request.param.split()
    with Server(lasting_machine(engine), sample, user, engine=engine) as made:
        # The network of rootless podman takes the routes that the machine has when it begins.
        intranet.serve(made)
        made.install()
        yield made


@pytest.mark.feature("HTTP nodes, code and tools that call http and https in the intranet", "works at any port")
def test_workflows_reach_the_intranet_and_nothing_of_the_stack(server: Server) -> None:
    """Through the real squid, from where HTTP nodes and tools (the api) and code (the sandbox) call."""
    for service in ("api", "sandbox"):
        # Upstream's configuration lets the sandbox answer at every other try.
        plain = [intranet.ask(server, f"http://{NEIGHBOUR}:9000/v1/models", service) for _ in range(4)]
        assert plain == ["200"] * 4, service
        assert intranet.ask(server, f"https://{NEIGHBOUR}:8444/v1/models", service) == "200"
        refused = {url: intranet.ask(server, url, service) for url in intranet.never_reached(server)}
        assert set(refused.values()) == {"403"}, refused
    # The proxy's other port leads to the sandbox, and to nothing else.
    for url in ("http://ssrf_proxy:8194/health", "--header Host:redis:6379 http://ssrf_proxy:8194/health"):
        # Where squid was up before the sandbox, the first request only lets it notice that.
        intranet.await_status(server, url, "200")


def test_nobody_waits_for_a_name_server_that_is_not_there(server: Server) -> None:
    """podman's own resolver says nothing at all when nobody has answered it."""
    assert server.env()["CONTAINER_RESOLVERS"] == "none"
    began = time.monotonic()
    assert intranet.ask(server, "http://name.example/") == "503"
    assert intranet.ask(server, "http://name.example/", proxy=False) == "000"
    assert time.monotonic() - began < 6


def test_what_may_be_reached_is_asked_for_shown_and_kept(server: Server) -> None:
    ours, others = f"http://{NEIGHBOUR}:9000/v1/models", f"http://{intranet.OUTSIDE}:9000/v1/models"
    asked = ["--allow-intranet", f"{intranet.OUTSIDE}/32:9000"]
    planned = server.installer("preflight", *server.arguments(), *asked, "--plan").stdout
    assert f"may reach {intranet.OUTSIDE}/32:9000" in planned
    assert "replaced, with what depends on them: ssrf_proxy" in planned
    containers = server.containers()
    server.install(*asked)
    assert [intranet.ask(server, url) for url in (ours, others)] == ["403", "200"]
    replaced = {name for name, number in server.containers().items() if containers[name] != number}
    assert replaced == {server.container("ssrf_proxy")}
    assert "run already" in server.install().stderr
    assert server.env()["SSRF_ALLOW_INTRANET"] == f"{intranet.OUTSIDE}/32:9000"
    server.install("--allow-intranet", "private")
    assert [intranet.ask(server, url) for url in (ours, others)] == ["200", "403"]
