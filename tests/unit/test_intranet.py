"""What the proxy lets through: ranges as they are given, kept and told, and squid's rules for them."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from installer.core import errors
from installer.release import compose, envfile, intranet, render
from installer.release.dify import HEARS_INTERRUPT, SSRF_PROXY


@pytest.mark.parametrize(
    ("given_as", "kept_as"),
    [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("10.0.0.9", "10.0.0.9/32"),
        ("10.0.0.9:8443", "10.0.0.9/32:8443"),
        ("203.0.113.0/24:81", "203.0.113.0/24:81"),
        ("fd00::/8", "fd00::/8"),
        ("[fd00::9]:8443", "[fd00::9/128]:8443"),
        ("private", "private"),
        ("none", "none"),
    ],
)
def test_a_range_is_kept_in_its_usual_form_and_read_again(given_as: str, kept_as: str) -> None:
    assert intranet.checked(given_as) == kept_as
    assert intranet.joined(map(str, intranet.read(given_as))) in (kept_as, ",".join(intranet.PRIVATE_RANGES), "")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("10.0.0.5/8", "is 10.0.0.0/8 meant"),
        ("intranet.example", "is not CIDR"),
        ("10.0.0.0/8:99999", "a port that does not exist"),
        ("10.0.0.0/8:", "is not CIDR"),
        ("fd00::/8]:1", "is not CIDR"),
        ("", "is not CIDR"),
        ("127.0.0.1", "never reached"),
        ("169.254.169.254:80", "never reached"),
        ("fe80::/64", "never reached"),
    ],
)
def test_what_is_no_range_or_must_not_be_reached_is_refused(text: str, told: str) -> None:
    with pytest.raises(errors.UsageError) as caught:
        intranet.checked(text)
    assert told in f"{caught.value.message} {caught.value.remedy}"


def test_nothing_and_something_cannot_be_asked_for_together() -> None:
    with pytest.raises(errors.UsageError):
        intranet.read("none,10.0.0.0/8")


def test_without_a_setting_the_private_ranges_may_be_reached() -> None:
    assert intranet.read(None) == intranet.read("") == intranet.read("private")
    assert intranet.in_words(intranet.read(None)) == "10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, fc00::/7"
    assert intranet.in_words(intranet.read("none")) == "nothing"


def lines(text: str) -> list[str]:
    """Return the rules that decide, with their lists."""
    rules = intranet.write_rules(intranet.read(text)).splitlines()
    return [rule for rule in rules if rule.startswith(("acl", "http_access"))]


def test_the_stack_itself_is_refused_before_anything_is_let_through() -> None:
    rules = [rule for rule in lines("0.0.0.0/0") if rule.startswith("http_access")]
    assert rules == [
        "http_access allow stack_clients sandbox_port",
        "http_access deny !stack_clients",
        "http_access deny stack",
        "http_access deny never",
        "http_access deny !known",
        "http_access allow allowed",
        "http_access deny all",
    ]


def test_nothing_is_let_through_where_none_is_asked_for() -> None:
    assert [rule for rule in lines("none") if "_access allow" in rule] == [
        "http_access allow stack_clients sandbox_port"
    ]


def test_a_low_port_is_open_for_what_it_is_named_with_and_a_high_one_for_the_rest_too() -> None:
    rules = lines("10.0.0.0/8,10.0.0.9:81,192.0.2.0/24:9000")
    assert "acl SSL_ports port 1025-65535 81 9000" in rules
    assert "acl at_81 dst 10.0.0.9/32" in rules
    assert rules.index("http_access allow port_81 at_81") + 1 == rules.index("http_access deny port_81")
    assert "acl at_9000 dst 10.0.0.0/8 192.0.2.0/24" in rules
    assert "http_access deny port_9000" not in rules


def test_squid_gets_no_network_that_is_within_another() -> None:
    """It would ignore one of the two."""
    assert "acl allowed dst 10.0.0.0/8 fd00::/8" in lines("10.0.0.0/8,10.0.0.9,fd00::/8,fd00::9")


networks = st.builds(
    lambda number, length: ipaddress.ip_network((number, length), strict=False),
    st.integers(0, 2**32 - 1),
    st.integers(0, 32),
)


@given(st.lists(networks, max_size=5), st.integers(0, 2**32 - 1))
def test_an_address_is_either_allowed_or_beyond(allowed: list[ipaddress.IPv4Network], number: int) -> None:
    beyond = intranet._beyond(allowed)
    address = ipaddress.IPv4Address(number)
    assert any(address in network for network in beyond) != any(address in network for network in allowed)


def test_upstreams_proxy_gets_the_rules_as_it_starts(dify: Path) -> None:
    upstream = compose.load(dify / "docker/docker-compose.yaml")
    settings = {"SSRF_ALLOW_INTRANET": "10.1.0.0/16"}
    variables = envfile.resolve((dify / "docker/.env.example").read_text(), settings)
    choice = render.Choice(variables={**variables, **settings}, selinux=False)
    before = upstream["services"]["ssrf_proxy"]["entrypoint"][2]
    override = yaml.safe_load(render.override(upstream, choice))["services"]["ssrf_proxy"]
    rendered = yaml.safe_load(render.render(upstream, choice))["services"]["ssrf_proxy"]
    for service in (override, rendered):
        expanded = compose.expand_all(service, variables)
        assert "acl allowed dst 10.1.0.0/16" in expanded["environment"][intranet.VARIABLE]
        shell, option, script = expanded["entrypoint"]
        assert (shell, option) == ("sh", "-c")
        assert 'tell(quad($2) "/" bits($8))' in script
        # All that upstream does, but for how its last program is started (render.proxies_that_hear).
        prepared, _, program = before.rpartition("&& ")
        assert compose.expand_all(prepared, variables) in script
        assert f"&& {HEARS_INTERRUPT.format(program)}" in service["entrypoint"][2]


def test_the_proxy_is_in_every_network_of_the_stack(dify: Path) -> None:
    upstream = compose.load(dify / "docker/docker-compose.yaml")
    variables = envfile.resolve((dify / "docker/.env.example").read_text(), {"VECTOR_STORE": "milvus"})
    choice = render.Choice(variables=variables, selinux=False)
    services = yaml.safe_load(render.render(upstream, choice))["services"]
    assert set(services["ssrf_proxy"]["networks"]) == {"ssrf_proxy_network", "default", "milvus"}


def test_a_proxy_of_another_shape_is_left_alone() -> None:
    service = {"image": "x", "environment": {"A": "1"}, "entrypoint": ["squid"]}
    document = {"services": {SSRF_PROXY: service}}
    text = render.render(document, render.Choice(variables={}, selinux=False))
    assert yaml.safe_load(text)["services"][SSRF_PROXY]["environment"] == {"A": "1"}
