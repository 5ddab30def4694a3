"""Whom containers ask for names: as it is asked for, kept, told and rendered; and whether somebody answers."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from installer import plan as plans
from installer.core import errors
from installer.core.runner import Runner
from installer.engine.docker import Docker
from installer.engine.podman import Podman
from installer.host import resolvers as host_resolvers
from installer.plan import Names, Request
from installer.release import compose, dify, env_history, envfile, intranet, render, resolvers, settings
from installer.release.settings import Settings


@pytest.mark.parametrize(
    ("given_as", "kept_as"),
    [("10.0.0.53", "10.0.0.53"), ("FD00:0::53", "fd00::53"), ("none", "none"), ("host", "host")],
)
def test_a_resolver_is_kept_in_its_usual_form_and_read_again(given_as: str, kept_as: str) -> None:
    assert resolvers.checked(given_as) == kept_as
    assert resolvers.read(kept_as) == kept_as


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("dns.example", "is not an address"),
        ("10.0.0.53:53", "is not an address"),
        ("", "is not an address"),
        ("127.0.0.53", "each container itself"),
        ("::1", "each container itself"),
        ("0.0.0.0", "not an address that containers can ask"),
        ("224.0.0.251", "not an address that containers can ask"),
        ("fe80::1", "not an address that containers can ask"),
    ],
)
def test_what_is_no_resolver_is_refused(text: str, told: str) -> None:
    with pytest.raises(errors.UsageError, match=told):
        resolvers.checked(text)


@pytest.mark.parametrize("text", ["none,10.0.0.53", "host,none", "10.0.0.1,10.0.0.2,10.0.0.3,10.0.0.4"])
def test_what_cannot_be_together_or_is_too_much_is_refused(text: str) -> None:
    with pytest.raises(errors.UsageError):
        resolvers.read(text)


def test_they_are_told_in_words() -> None:
    assert resolvers.in_words(None) == resolvers.in_words("") == "the name servers of this host"
    assert resolvers.in_words("none") == "nobody"
    assert resolvers.in_words("10.0.0.53,10.0.0.54,10.0.0.53") == "10.0.0.53, 10.0.0.54"


@pytest.mark.parametrize(
    ("value", "dns", "options"),
    [
        (None, None, None),
        ("host", None, None),
        ("10.0.0.53,10.0.0.54", ["10.0.0.53", "10.0.0.54"], None),
        ("none", [resolvers.NOBODY], ["timeout:1", "attempts:1"]),
    ],
)
@pytest.mark.parametrize("engine", [Podman, Docker])
def test_every_service_gets_them_with_both_engines(
    dify: Path, engine: type[Podman | Docker], value: str | None, dns: list[str] | None, options: list[str] | None
) -> None:
    upstream = compose.load(dify / "docker/docker-compose.yaml")
    variables = envfile.resolve((dify / "docker/.env.example").read_text())
    variables |= {} if value is None else {"CONTAINER_RESOLVERS": value}
    choice = render.Choice(variables=variables, selinux=False)
    written = yaml.safe_load(engine(Runner()).render_file(upstream, choice))["services"]
    assert set(written) <= set(engine(Runner()).services_of(upstream, choice)["services"])
    for name, service in engine(Runner()).services_of(upstream, choice)["services"].items():
        assert (service.get("dns"), service.get("dns_opt")) == (dns, options), name
        if dns:
            assert written[name]["dns"] == dns, name
    rules = written["ssrf_proxy"]["environment"][intranet.VARIABLE]
    assert ("dns_timeout 1 second" in rules) == (value == "none")


def test_a_service_that_names_its_own_keeps_them() -> None:
    document = {"services": {"a": {"image": "x", "dns": ["10.9.9.9"]}, "b": {"image": "x"}}}
    choice = render.Choice(variables={"CONTAINER_RESOLVERS": "10.0.0.53"}, selinux=False)
    services = yaml.safe_load(render.render(document, choice))["services"]
    assert (services["a"]["dns"], services["b"]["dns"]) == (["10.9.9.9"], ["10.0.0.53"])


# -- which is chosen, and what is told of it


def asking(value: str | None = None) -> Request:
    values = {} if value is None else {dify.RESOLVERS: value}
    return Request(folder=Path("/x"), archive=Path("/y"), asked=settings.Asked(values=values))


def existing(text: str = "") -> env_history.Existing:
    return env_history.Existing(path=Path("/x/.env"), text=text)


DEAD, ALIVE = Names(listed=("10.0.0.1",), answering=()), Names(listed=("10.0.0.1",), answering=("10.0.0.1",))
EMPTY = Names(listed=(), answering=())


@pytest.mark.parametrize(
    ("asked", "found", "names", "chosen"),
    [
        (None, None, ALIVE, None),
        (None, None, DEAD, "none"),
        (None, None, EMPTY, "none"),
        ("host", None, DEAD, "host"),
        ("10.0.0.53", None, EMPTY, "10.0.0.53"),
        # A name server that is down now is no reason to change an installation that is there.
        (None, "", DEAD, None),
        (None, "", EMPTY, "none"),
        (None, "CONTAINER_RESOLVERS=host\n", EMPTY, None),
        (None, "CONTAINER_RESOLVERS=10.0.0.53\n", EMPTY, None),
        ("host", "CONTAINER_RESOLVERS=none\n", EMPTY, "host"),
    ],
)
def test_nobody_is_asked_where_nobody_is_there(
    asked: str | None, found: str | None, names: Names, chosen: str | None
) -> None:
    request = plans.with_resolvers(asking(asked), None if found is None else existing(found), names)
    assert request.asked.values.get(dify.RESOLVERS) == chosen


@pytest.mark.parametrize(
    ("value", "names", "level", "told"),
    [
        (None, ALIVE, "ok", "the name servers of this host: 10.0.0.1 answers"),
        (None, DEAD, "warning", "none answers (10.0.0.1)"),
        (None, EMPTY, "warning", "none answers (there is none)"),
        ("10.0.0.53", EMPTY, "warning", "none answers (10.0.0.53)"),
        ("none", EMPTY, "ok", "ask nobody for names that are not the stack's"),
        ("none", DEAD, "ok", "to have 10.0.0.1 asked: --resolver host"),
    ],
)
def test_it_is_told_whom_they_ask_and_whether_somebody_answers(
    value: str | None, names: Names, level: str, told: str
) -> None:
    resolved = {} if value is None else {dify.RESOLVERS: value}
    (finding,) = plans.check_resolver(Settings(text="", values=resolved, resolved=resolved, secrets=()), names)
    assert (finding.level, told in finding.seen) == (level, True), finding.seen
    assert bool(finding.remedy) == (level == "warning")


# -- whether somebody answers


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """A name server on 127.0.0.1 that refuses everything, at a port of its own; it keeps what it was asked."""
    asked: list[bytes] = []
    listening = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listening.bind(("127.0.0.1", 0))
    monkeypatch.setattr(host_resolvers, "PORT", listening.getsockname()[1])

    def answer() -> None:
        while True:
            data, sender = listening.recvfrom(512)
            if not data:
                return
            asked.append(data)
            listening.sendto(data[:2] + b"\x81\x85" + data[4:], sender)

    thread = threading.Thread(target=answer)
    thread.start()
    yield asked
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ending:
        ending.sendto(b"", listening.getsockname())
    thread.join()
    listening.close()


def test_a_server_that_answers_anything_is_there_and_one_that_is_not_is_not_waited_for(server: list[bytes]) -> None:
    # Where nobody listens, the kernel says so at once.
    assert host_resolvers.find_answering(["127.0.0.1", "127.0.0.2", "127.0.0.1"]) == ("127.0.0.1",)
    assert len(server) == 1
    assert server[0][2:] == host_resolvers.QUESTION


def test_what_is_asked_is_a_name_that_each_server_knows_itself() -> None:
    assert host_resolvers.QUESTION[10:].startswith(b"\x011\x010\x010\x03127\x07in-addr\x04arpa\0")
    assert host_resolvers.find_answering([]) == ()


def test_behind_systemd_resolved_those_that_it_asks_are_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conf, behind = tmp_path / "resolv.conf", tmp_path / "behind"
    monkeypatch.setattr(host_resolvers, "CONF", conf)
    monkeypatch.setattr(host_resolvers, "BEHIND_RESOLVED", behind)
    assert host_resolvers.list_resolvers() == ()
    conf.write_text("nameserver 127.0.0.53\n")
    assert host_resolvers.list_resolvers() == ("127.0.0.53",)
    behind.write_text("nameserver 10.0.0.53\n")
    assert host_resolvers.list_resolvers() == ("10.0.0.53",)
    conf.write_text("nameserver 10.0.0.1\n")
    assert host_resolvers.list_resolvers() == ("10.0.0.1",)
