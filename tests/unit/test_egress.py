"""What containers ask for outside, read from packets as they are on the wire, and judged."""

from __future__ import annotations

import dataclasses
import datetime
import ipaddress
import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from installer.commands import watch_egress
from installer.core import layout
from installer.egress import judge, kernel_filter, namespaces, packets, questions, taps, watch
from installer.egress.judge import Known
from installer.egress.record import UNREADABLE, Record
from installer.engine import podman
from installer.release import intranet

# Packets as they were captured: a question for version.pm2.io, the first packet of a connection, and others.
ASKED = bytes.fromhex(
    "4500003c1a2b40004011 0000 0a590005 0a590001 d43100350028 0000"
    "abcd0100000100000000 0000 0776657273696f6e03706d3202696f 00 0001 0001"
)
ANSWERED = bytes.fromhex(
    "4500005c1a2c40004011 0000 0a590001 0a590005 0035d4310048 0000"
    "abcd8180000100020000 0000 0776657273696f6e03706d3202696f 00 0001 0001"
    "c00c 0005 0001 0000003c 0002 c00c"
    "c00c 0001 0001 0000003c 0004 cb007109"
)
CALLED = bytes.fromhex("4500003c0001400040060000 0a590005 cb007107 e1f8 01bb 00000001 00000000 a002 faf0 0000 0000")
CONTINUED = CALLED[:33] + b"\x18" + CALLED[34:]
ACCEPTED = CALLED[:33] + b"\x12" + CALLED[34:]
PINGED = bytes.fromhex("45000054000140004001 0000 0a590005 cb007107 0800 0000 0001 0001")
LATER_PART = bytes.fromhex("4500003c000100b940110000 0a590005 cb007107 4142434445464748")
SIX = "600000000028{}40 fd000000000000000000000000000005 20010db8000000000000000000000007"
CALLED_SIX = bytes.fromhex(SIX.format("06") + "e1f8 01bb 00000001 00000000 a002 faf0 0000 0000")
# Options of IPv6 stand before UDP.
ASKED_SIX = bytes.fromhex(
    SIX.format("3c") + "1100 0104 00000000 d431 0035 0020 0000 abcd0100000100000000 0000 0161 00 001c 0001"
)


def packet(data: bytes) -> packets.Packet:
    found = packets.read(data)
    assert found is not None
    return found


def message(data: bytes) -> questions.Message:
    found = questions.read(packet(data))
    assert found is not None
    return found


def test_a_question_is_read_with_who_asks_whom() -> None:
    read = packet(ASKED)
    assert (str(read.source), read.source_port) == ("10.89.0.5", 54321)
    assert (str(read.target), read.target_port, read.protocol_name) == ("10.89.0.1", 53, "udp")
    assert message(ASKED) == questions.Message("version.pm2.io", False)


def test_an_answer_is_read_with_the_addresses_that_it_leads_to() -> None:
    led_to = (ipaddress.IPv4Address("203.0.113.9"),)
    assert message(ANSWERED) == questions.Message("version.pm2.io", True, led_to)


def test_the_first_packet_of_a_connection_is_told_from_those_that_follow_and_from_an_answer() -> None:
    assert [packet(each).begins_connection for each in (CALLED, CONTINUED, ACCEPTED, ASKED)] == [True, *[False] * 3]
    assert packet(CALLED_SIX).begins_connection
    assert (str(packet(CALLED_SIX).target), packet(CALLED_SIX).target_port) == ("2001:db8::7", 443)


def test_options_of_ipv6_are_passed_over() -> None:
    assert message(ASKED_SIX) == questions.Message("a", False)


def test_a_later_part_of_a_packet_has_no_ports() -> None:
    assert (packet(LATER_PART).source_port, packet(LATER_PART).target_port) == (0, 0)
    assert packet(LATER_PART).protocol_name == "udp"


def test_a_question_over_tcp_has_its_length_before_it() -> None:
    head = bytes.fromhex("450000000001400040060000 0a590005 0a590001 e1f8 0035 00000001 00000001 5018 faf0 0000 0000")
    assert message(head + b"\x00\x20" + ASKED[28:]).name == "version.pm2.io"


def test_a_question_to_dockers_resolver_may_have_any_port() -> None:
    data = ASKED[:12] + bytes([127, 0, 0, 1, 127, 0, 0, 11]) + ASKED[20:22] + b"\x9c\x40" + ASKED[24:]
    assert message(data).name == "version.pm2.io"


@pytest.mark.parametrize("data", [ASKED, ANSWERED, CALLED, CONTINUED, PINGED, LATER_PART, CALLED_SIX, ASKED_SIX])
def test_what_is_cut_off_anywhere_is_read_as_far_as_it_goes(data: bytes) -> None:
    for length in range(len(data)):
        found = packets.read(data[:length])
        if found is not None:
            questions.read(found)


def test_a_name_that_leads_in_circles_or_is_no_text_ends() -> None:
    circle = ASKED[:40] + b"\xc0\x0c\x00\x01\x00\x01"
    assert questions.read(packet(circle)) is None
    evil = ASKED[:40] + b"\x05\x1b[2Ja\x00\x00\x01\x00\x01"
    assert message(evil).name == r"\027\0912ja"


@given(st.binary(max_size=300))
def test_no_bytes_make_it_fail(data: bytes) -> None:
    found = packets.read(data)
    if found is not None:
        questions.read(found)
        assert str(found.target)


@given(st.binary(max_size=200), st.booleans())
def test_no_message_makes_it_fail(data: bytes, is_answer: bool) -> None:
    read = questions.read(packet((ANSWERED if is_answer else ASKED)[:28] + data))
    assert read is None or all(each.isprintable() for each in read.name)


# -- the program for the kernel


def run(program: bytes, data: bytes, version: int) -> int:
    """Run a program as the kernel does (Documentation/networking/filter.rst); return how many bytes come."""
    code = [struct.unpack("=HBBI", program[at : at + 8]) for at in range(0, len(program), 8)]
    ethertype = {4: 0x0800, 6: 0x86DD}.get(version, 0x0806)
    accumulator = index = at = 0
    loads = {0x20: ">I", 0x28: ">H", 0x48: ">H", 0x30: ">B", 0x50: ">B"}
    while True:
        kind, if_true, if_false, value = code[at]
        at += 1
        if kind in loads and value != kernel_filter.ETHERTYPE:
            place = value + (index if kind in (0x48, 0x50) else 0)
            if place + struct.calcsize(loads[kind]) > len(data):
                return 0
            accumulator = struct.unpack_from(loads[kind], data, place)[0]
        elif kind == 0x06:
            return int(value)
        elif kind in (0x15, 0x45):
            at += if_true if (accumulator == value if kind == 0x15 else accumulator & value) else if_false
        else:
            accumulator = {0x20: ethertype, 0x54: accumulator & value}.get(kind, accumulator)
            index = {0xB1: (data[0] & 15) * 4, 0x01: value}.get(kind, index)
            at += value if kind == 0x05 else 0


INSIDE = [ipaddress.ip_network("10.89.0.0/24"), ipaddress.ip_network("fd00::/64")]


@pytest.mark.parametrize(
    ("data", "comes"),
    [
        (ASKED, True),
        (ANSWERED, True),
        (CALLED, True),
        (CALLED_SIX, True),
        (ASKED_SIX, True),
        (PINGED, True),
        (LATER_PART, True),
        # What follows in a connection, and all within the stack.
        (CONTINUED, False),
        (ACCEPTED, False),
        (CALLED[:16] + bytes([10, 89, 0, 7]) + CALLED[20:], False),
        (CALLED[:16] + bytes([127, 0, 0, 1]) + CALLED[20:], False),
        (CALLED_SIX[:24] + bytes.fromhex("fd000000000000000000000000000009") + CALLED_SIX[40:], False),
        (CALLED_SIX[:24] + bytes.fromhex("ff020000000000000000000000000002") + CALLED_SIX[40:], False),
    ],
)
def test_the_kernel_lets_through_what_leaves_the_stack_and_questions(data: bytes, comes: bool) -> None:
    program = kernel_filter.program(INSIDE)
    assert (run(program, data, data[0] >> 4) > 0) == comes


def test_on_a_bridge_only_what_comes_from_the_stack_is_let_through() -> None:
    program = kernel_filter.program(INSIDE, INSIDE)
    from_host = CALLED[:12] + bytes([10, 0, 0, 5]) + CALLED[16:]
    assert [run(program, each, 4) > 0 for each in (CALLED, from_host)] == [True, False]
    assert run(kernel_filter.program([], []), CALLED, 4) == 0
    assert run(program, b"\0" * 28, 0) == 0


addresses = st.one_of(
    st.sampled_from(["10.89.0.7", "127.0.0.1", "203.0.113.7", "8.8.8.8"]).map(ipaddress.IPv4Address),
    st.integers(0, 2**32 - 1).map(ipaddress.IPv4Address),
)


@given(addresses, st.sampled_from([1, 6, 17, 47]), st.integers(0, 255), st.integers(0, 65535))
def test_the_kernel_never_keeps_back_what_we_would_tell(
    target: ipaddress.IPv4Address, protocol: int, flags: int, port: int
) -> None:
    ports = struct.pack(">HH", 40000, port)
    body = ports + bytes(9) + bytes([flags]) + bytes(10) if protocol == 6 else ports + bytes(8)
    data = CALLED[:9] + bytes([protocol]) + CALLED[10:16] + target.packed + body
    record = Record(lambda: 0.0)
    record.add("c", packet(data), "out")
    told = judge.judge(record, Known(networks=INSIDE))
    if told:
        assert run(kernel_filter.program(INSIDE), data, 4) > 0


# -- what is kept, and how it is judged

KNOWN = Known(
    networks=INSIDE,
    services={"api", "redis", "dify_api_1"},
    search={"dns.podman", "corp.example"},
    host={ipaddress.ip_address("10.0.0.5")},
    own_name="dify.corp.example",
    resolvers={ipaddress.ip_address("10.0.0.53")},
    servers={("10.7.0.9", 11434), ("models.corp.example", 443)},
    yours={("10.8.0.9", 5432), ("db.corp.example", 5432)},
    allowed=intranet.read("10.20.0.0/16,192.0.2.0/24:8443"),
    addresses={ipaddress.ip_address("10.89.0.5"): "dify_web_1"},
)


def call(target: str, port: int, protocol: int = packets.TCP) -> packets.Packet:
    return packets.Packet(
        source=ipaddress.ip_address("10.89.0.5"),
        target=ipaddress.ip_address(target),
        protocol=protocol,
        source_port=40000,
        target_port=port,
        flags=packets.SYN,
    )


def named(name: str, *leads_to: str, direction: Literal["out", "in"] = "out") -> Record:
    record = Record(lambda: 1000.0)
    record._count("dify_api_1", name)
    if leads_to:
        record.answers[name] = {ipaddress.ip_address(each) for each in leads_to}
    return record


@pytest.mark.parametrize(
    ("target", "port", "why"),
    [
        ("10.89.0.7", 5432, None),
        ("239.255.255.250", 1900, None),
        ("10.0.0.5", 9000, "this host"),
        ("10.0.0.53", 53, "the resolver"),
        ("10.7.0.9", 11434, "a model server"),
        ("10.8.0.9", 5432, "a database or Redis of yours"),
        ("10.20.3.4", 22, "--allow-intranet 10.20.0.0/16"),
        ("192.0.2.9", 8443, "--allow-intranet 192.0.2.0/24:8443"),
    ],
)
def test_an_address_that_is_named_is_expected_and_one_of_the_stack_is_not_told(
    target: str, port: int, why: str | None
) -> None:
    record = Record(lambda: 1000.0)
    record.add("dify_api_1", call(target, port), "out")
    rows = judge.judge(record, KNOWN)
    assert [(row.expected, row.why) for row in rows] == ([] if why is None else [(True, why)])


@pytest.mark.parametrize(
    ("target", "port"),
    [
        ("203.0.113.7", 443),
        ("10.0.0.53", 443),
        ("10.7.0.9", 22),
        ("192.0.2.9", 443),
        ("169.254.169.254", 80),
        ("10.8.0.9", 22),
    ],
)
def test_an_address_that_nothing_names_is_not_expected(target: str, port: int) -> None:
    record = Record(lambda: 1000.0)
    for _ in range(3):
        record.add("dify_api_1", call(target, port), "out")
    (row,) = judge.judge(record, KNOWN)
    assert (row.container, row.what, row.times, row.expected) == ("dify_api_1", f"{target}:{port}/tcp", 3, False)


@pytest.mark.parametrize(
    ("name", "leads_to", "expected"),
    [
        ("redis", [], None),
        ("redis.corp.example", [], None),
        ("anything.example.dns.podman", [], None),
        ("weaviate", ["10.89.0.9"], None),
        ("dify.corp.example", [], True),
        ("models.corp.example", [], True),
        ("db.corp.example", [], True),
        ("wiki.corp.example", ["10.20.0.9"], True),
        ("9.0.20.10.in-addr.arpa", [], True),
        ("7.0.89.10.in-addr.arpa", [], None),
        ("version.pm2.io", [], False),
        ("wiki.corp.example", ["10.20.0.9", "203.0.113.9"], False),
        ("7.113.0.203.in-addr.arpa", [], False),
        ("20.10.in-addr.arpa", [], False),
    ],
)
def test_a_name_is_judged_by_what_it_is_and_by_where_it_leads(
    name: str, leads_to: list[str], expected: bool | None
) -> None:
    rows = judge.judge(named(name, *leads_to), KNOWN)
    assert [row.expected for row in rows] == ([] if expected is None else [expected])


def test_an_address_is_told_with_its_name_and_a_server_is_known_by_its_name() -> None:
    record = named("version.pm2.io", "203.0.113.9")
    record.answers["models.corp.example"] = {ipaddress.ip_address("198.51.100.4")}
    record.add("dify_web_1", call("203.0.113.9", 443), "out")
    record.add("dify_web_1", call("198.51.100.4", 443), "out")
    told = {row.what: row.why for row in judge.judge(record, KNOWN)}
    assert told["203.0.113.9:443/tcp"] == "nothing names it; it is version.pm2.io"
    assert told["198.51.100.4:443/tcp"] == "a model server"


def test_who_is_only_an_address_gets_its_name_once_it_is_known() -> None:
    record = Record(lambda: 1000.0)
    for source in ("10.89.0.5", "10.89.0.99"):
        record.add(ipaddress.ip_address(source), call("203.0.113.7", 443), "out")
    told = [row.container for row in judge.judge(record, KNOWN)]
    assert told == ["dify_web_1", "a container that was not known, 10.89.0.99"]


def test_answers_that_come_in_ask_for_nothing_and_what_cannot_be_read_is_told() -> None:
    record = Record(lambda: 1000.0)
    record.add("c", packet(ANSWERED), "in")
    record.add("c", packet(CALLED), "in")
    assert not record.asked and set(record.answers) == {"version.pm2.io"}
    record.add("c", packet(ASKED[:28] + b"\xff" * 40), "out")
    assert [row.what for row in judge.judge(record, KNOWN)] == [UNREADABLE]


def test_there_is_an_end_to_what_is_listed() -> None:
    record = Record(lambda: 1000.0)
    for number in range(70000):
        record._count("c", str(number))
    assert len(record.asked) + record.left_out == 70000
    assert record.left_out


# -- the network of a process


def native(address: str) -> str:
    return f"{int.from_bytes(ipaddress.ip_address(address).packed, sys.byteorder):08X}"


def test_a_process_is_seen_with_its_addresses_networks_and_connections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = tmp_path / "7/net"
    net.mkdir(parents=True)
    (tmp_path / "7/ns").mkdir()
    (tmp_path / "7/ns/net").write_text("")
    (net / "fib_trie").write_text(
        "Main:\n   |-- 10.89.0.5\n      /32 host LOCAL\n   |-- 10.89.0.0\n      /24 link UNICAST\n"
    )
    route = "eth0 {} {} 0001 0 0 0 {} 0 0 0\n"
    (net / "route").write_text(
        "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n"
        + route.format("00000000", native("10.89.0.1"), "00000000")
        + route.format(native("10.89.0.0"), "00000000", native("255.255.255.0"))
    )
    (net / "if_inet6").write_text(
        "fd000000000000000000000000000002 04 40 00 82 eth0\n"
        "fe80000000000000fc0000fffe000001 05 40 20 80 eth0\n"
        "00000000000000000000000000000001 01 80 10 80 lo\n"
    )
    other, mapped = native("203.0.113.7"), "0" * 16 + ("FFFF0000" if sys.byteorder == "little" else "0000FFFF")
    (net / "tcp").write_text(
        "  sl  local_address rem_address   st\n"
        f"   0: {native('0.0.0.0')}:0050 00000000:0000 0A 0\n"
        f"   1: {native('10.89.0.5')}:0050 {other}:C350 01 0\n"
        f"   2: {native('10.89.0.5')}:C351 {other}:01BB 01 0\n"
    )
    (net / "tcp6").write_text(f"  sl\n   0: {mapped}{native('10.89.0.5')}:C352 {mapped}{other}:0016 02 0\n")
    monkeypatch.setattr(namespaces, "PROC", tmp_path)
    view = namespaces.look(7)
    assert view is not None
    assert set(map(str, view.addresses)) == {"10.89.0.5", "fd00::2"}
    assert {str(network): name for network, name in view.networks.items()} == {
        "10.89.0.0/24": "eth0",
        "fd00::/64": "eth0",
    }
    assert [(str(each.target), each.port) for each in namespaces.list_connections(7)] == [
        ("203.0.113.7", 443),
        ("203.0.113.7", 22),
    ]
    assert namespaces.look(8) is None and namespaces.list_connections(8) == []


def test_a_container_is_known_by_its_monitor_and_not_by_what_runs_in_it_besides() -> None:
    assert podman._monitored(["/usr/bin/conmon", "-c", "1", "-n", "dify_api_1", "-l", "x"]) == "dify_api_1"
    assert podman._monitored(["conmon", "-n", "dify_api_1", "-e", "--exec-attach"]) == ""
    assert podman._monitored(["conmon", "-n"]) == ""


# -- which packets are whose


class Given:
    """A tap that gives packets of ours."""

    def __init__(self, *packets_of: tuple[packets.Packet, Literal["out", "in"], str]) -> None:
        self.packets = packets_of

    def read(self) -> Iterator[tuple[packets.Packet, Literal["out", "in"], str]]:
        yield from self.packets


def seen_from(*addresses: str, **networks: str) -> namespaces.View:
    return namespaces.View(
        number=len(addresses),
        addresses=frozenset(map(ipaddress.ip_address, addresses)),
        networks={ipaddress.ip_network(name): interface for interface, name in networks.items()},
    )


def test_on_a_bridge_only_containers_that_are_not_watched_themselves_are_heard() -> None:
    watched = watch.Watched(Record(lambda: 0.0), networks=set(INSIDE))
    bridge = seen_from("10.89.0.1", "10.0.0.5", podman1="10.89.0.0/24", lan0="10.0.0.0/24")

    def called(source: str) -> packets.Packet:
        return dataclasses.replace(packet(CALLED), source=ipaddress.ip_address(source))

    given: tuple[tuple[packets.Packet, Literal["out", "in"], str], ...] = (
        (called("10.89.0.99"), "in", "podman1"),
        # Seen a second time where it came in, from one that is watched, from the bridge, and from elsewhere.
        (called("10.89.0.99"), "in", "veth0"),
        (called("10.89.0.5"), "in", "podman1"),
        (called("10.89.0.1"), "out", "podman1"),
        (called("10.0.0.5"), "out", "lan0"),
    )
    places = {
        1: watch.Place("dify_api_1", seen_from("10.89.0.5"), cast(taps.Tap, Given())),
        2: watch.Place("", bridge, cast(taps.Tap, Given(*given))),
    }
    watch.keep(places[2], watched, places)
    assert [str(who) for who, _ in watched.record.asked] == ["10.89.0.99"]
    assert [times.count for times in watched.record.asked.values()] == [1]


# -- what is told


def seen(*rows: judge.Row, notes: tuple[str, ...] = ()) -> watch_egress.Seen:
    return watch_egress.Seen(
        started=datetime.datetime(2026, 6, 1, tzinfo=datetime.UTC),
        seconds=60.0,
        ended_early=False,
        containers=("dify_api_1",),
        missed=0,
        asked=rows,
        notes=notes,
    )


def test_what_is_not_expected_fails_and_so_does_what_could_not_be_seen() -> None:
    (bad,) = judge.judge(named("version.pm2.io"), KNOWN)
    (good,) = judge.judge(named("wiki.corp.example", "10.20.0.9"), KNOWN)
    assert seen().passed and seen(good).passed
    assert not seen(bad, good).passed and not seen(notes=("5 packets were missed",)).passed
    text = watch_egress.as_text(seen(bad, good))
    assert "FAIL dify_api_1: asked for the name version.pm2.io, once" in text
    assert "ok   dify_api_1: asked for the name wiki.corp.example" in text
    assert "nothing unexpected" in watch_egress.as_text(seen(good))
    assert json.loads(json.dumps(watch_egress.as_fields(seen(bad))))["asked"][0]["what"] == "version.pm2.io"


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("http://10.0.0.9:11434", ("10.0.0.9", 11434)),
        ("https://Models.example/v1", ("models.example", 443)),
        ("ftp://x", None),
        ("http://[", None),
        ("", None),
    ],
)
def test_a_model_server_is_known_by_host_and_port(url: str, found: tuple[str, int] | None) -> None:
    assert watch_egress.host_and_port(url) == found


def test_the_servers_of_the_last_run_stand_in_its_report(tmp_path: Path) -> None:
    place = layout.Installation(tmp_path)
    assert watch_egress.used_servers(place) == []
    place.report.write_text('{"inside": null}')
    assert watch_egress.used_servers(place) == []
    place.report.write_text('{"inside": {"models": [{"server": "http://10.0.0.9:11434"}]}}')
    assert watch_egress.used_servers(place) == ["http://10.0.0.9:11434"]
