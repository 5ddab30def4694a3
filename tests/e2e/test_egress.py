"""Nothing leaves a machine, seen from outside of it; and what would is told by `watch-egress`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from tests.e2e.conftest import MachineMaker
from tests.e2e.console import EMAIL
from tests.e2e.server import Server
from tests.e2e.test_standins import Models
from tests.e2e.test_workspace import OLLAMA, SCHEMA, VLLM
from tests.target import machine as machines
from tests.target.browser import Browser
from tests.target.bundle import Bundle
from tests.target.outside import EVERYWHERE, HERE, Outside

PAGES = ["/", "/install", "/signin", "/apps", "/datasets", "/tools"]
# What may arrive outside, and why: it ends at the next machine, or asks it whether it is there.
EXPECTED = {
    rf"who has {re.escape(HERE)}": "the machine looks for its gateway",
    r"who has 198\.51\.100\.2": "it makes sure that its own address is nobody else's",
    r"protocol (0|58) ff02::\S+": "the kernel tells the link of an address of IPv6",
    r"name 1\.0\.0\.127\.in-addr\.arpa": "the installer asks whether the name server answers, which knows that itself",
}
FORBIDDEN = "forbidden.example"
ADDRESS = "203.0.113.9"
# A name, which leads somewhere where there is a name server, and an address.
ASK = f"curl -s -m 3 http://{FORBIDDEN}/; curl -s -m 1 http://{ADDRESS}:8443/; true"
TIMED = "import socket, time; began = time.time()\ntry: socket.getaddrinfo('name.example', 80)\nexcept OSError: pass\n"
TIMED += "print(time.time() - began)"


def unexpected(outside: Outside) -> list[str]:
    """Return what has come from the machine and is in no list."""
    return [each.what for each in outside.sent if not any(re.fullmatch(known, each.what) for known in EXPECTED)]


def watched(server: Server, command: str) -> tuple[int, dict[str, Any]]:
    """Watch while a command runs in `web`, until Ctrl-C; return the exit code and what was printed."""
    machine = server.machine
    at = f"--dir {server.folder} --minutes 5 --json"
    program = f"exec {server.folder}/bin/dify-installer"
    watching = machine.start(f"{program} watch-egress {at} >/root/seen.json 2>/root/seen.err")
    # The last of its sockets is the one on the host's bridges, which stands there.
    machine.run("until [ $(wc -l </proc/net/packet) -gt 1 ]; do sleep 0.1; done", timeout=60)
    server.run(server.engine, "exec", server.container("web"), "sh", "-c", command)
    machine.signal("INT", "dify-installer watch-egress")
    status = watching.wait(60)
    assert machine.read("/root/seen.err").count("\n") <= 2, machine.read("/root/seen.err")
    result: dict[str, Any] = json.loads(machine.read("/root/seen.json"))
    jsonschema.validate(result, SCHEMA)
    return status, result


def asked(result: dict[str, Any], *, expected: bool) -> set[tuple[str, str]]:
    return {(each["container"], each["what"]) for each in result["asked"] if each["expected"] == expected}


@pytest.fixture(scope="module")
def server(lasting_machine: MachineMaker, provided: Bundle) -> Server:
    return Server(lasting_machine(), provided)


@pytest.fixture(scope="module")
def outside(server: Server) -> Iterator[Outside]:
    """The outside of the server, with a name server that the host asks."""
    with Outside(server.machine) as around:
        server.machine.path("/etc/resolv.conf").write_text(f"nameserver {HERE}\n")
        yield around
        server.machine.run("pkill --full llm.py", check=False)


@pytest.mark.feature("a way out, and a name server that knows every name", "nothing asks for anything outside")
def test_nothing_leaves_the_machine_from_the_installation_to_the_answer_and_on_every_page(
    server: Server, outside: Outside, browser_root: Any, work: Any
) -> None:
    models = Models(server)
    ollama, vllm = models.start("ollama", OLLAMA), models.start("vllm", VLLM)
    told = server.install("--admin-email", EMAIL, "--ollama-url", ollama, "--vllm-url", vllm, "--require-llm")
    assert server.report()["inside"]["answer"]["answer"], told.stderr
    assert "CONTAINER_RESOLVERS" not in server.env()
    with Browser(browser_root, work, outside.network) as browser:
        for path in PAGES:
            browser.open(f"{server.url}{path}")
            assert browser.evaluate("document.title") == "Dify", path
            requests = browser.requests
            assert len(requests) > 1 and {url.startswith(server.url) for url in requests} == {True}, requests
    assert unexpected(outside) == []
    assert "name 1.0.0.127.in-addr.arpa" in {each.what for each in outside.sent}


def test_what_a_container_asks_for_is_seen_outside_and_told_by_the_watch(server: Server, outside: Outside) -> None:
    status, result = watched(server, ASK)
    assert (status, result["passed"], result["ended_early"], result["missed"]) == (12, False, True, 0)
    web = server.container("web")
    wanted = {(web, FORBIDDEN), (web, f"{EVERYWHERE}:80/tcp"), (web, f"{ADDRESS}:8443/tcp")}
    assert asked(result, expected=False) == wanted
    assert set(unexpected(outside)) == {f"name {FORBIDDEN}", f"tcp {EVERYWHERE}:80", f"tcp {ADDRESS}:8443"}
    assert len(result["containers"]) == len(server.containers())


def test_what_is_named_is_listed_as_expected_and_a_quiet_stack_ends_with_0(server: Server, outside: Outside) -> None:
    status, result = watched(server, f"curl -s -m 3 http://{machines.ADDRESS}:{OLLAMA}/; curl -s -m 1 http://10.9.9.9/")
    web = server.container("web")
    assert (status, result["passed"]) == (0, True), result
    assert {each["why"] for each in result["asked"]} == {"this host", "--allow-intranet 10.0.0.0/8"}
    assert (web, "10.9.9.9:80/tcp") in asked(result, expected=True)
    quiet = server.installer("watch-egress", "--minutes", "0.05")
    assert quiet.returncode == 0, quiet.stdout
    assert "nothing unexpected" in quiet.stdout


def test_only_root_may_and_only_an_installation_can_be_watched(server: Server) -> None:
    assert server.installer("watch-egress", "--dir", "/srv/none").returncode == 5
    refused = server.machine.run("su -s /bin/sh dify -c '/opt/dify/bin/dify-installer watch-egress'", check=False)
    assert refused.returncode == 2
    assert "only root sees" in refused.stderr


@pytest.mark.feature("rootless podman, `--resolver`, `watch-egress`", "works; root watches a user's containers")
def test_a_users_containers_ask_the_resolver_that_is_named_and_root_watches_them(
    new_machine: MachineMaker, sample: Bundle
) -> None:
    server = Server(new_machine(), sample, machines.USER)
    with Outside(server.machine) as around:
        planned = server.installer("preflight", *server.arguments(), "--resolver", HERE, "--plan").stdout
        assert f"containers ask {HERE}: {HERE} answers" in planned
        assert f"the containers ask {HERE} for names" in planned
        server.install("--resolver", HERE)
        assert unexpected(around) == []
        status, result = watched(server, ASK)
        web = server.container("web")
        assert status == 12
        assert asked(result, expected=False) >= {(web, FORBIDDEN), (web, f"{ADDRESS}:8443/tcp")}
        assert {container for container, _ in asked(result, expected=False)} == {web}
        assert f"name {FORBIDDEN}" in unexpected(around)


@pytest.mark.feature("no name server, docker", "containers ask nobody, docker not Google's; nobody waits")
def test_without_a_name_server_nobody_is_asked_and_nobody_waits(new_machine: MachineMaker, sample: Bundle) -> None:
    server = Server(new_machine("docker"), sample, engine="docker")
    with Outside(server.machine) as around:
        told = server.install()
        assert server.env()["CONTAINER_RESOLVERS"] == "none", told.stderr
        shown = server.run("docker", "exec", server.container("api"), "python3", "-c", TIMED)
        assert float(shown.stdout) < 1.0
        status, result = watched(server, ASK)
        web = server.container("web")
        assert status == 12
        assert asked(result, expected=False) == {(web, FORBIDDEN), (web, f"{ADDRESS}:8443/tcp")}
        assert set(unexpected(around)) == {f"tcp {ADDRESS}:8443"}
