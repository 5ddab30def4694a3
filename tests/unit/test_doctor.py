"""What `doctor` judges from data: names and model servers from inside, the disk's trend, barriers, changed files."""

from __future__ import annotations

import datetime
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from installer import cli
from installer.checks import barriers, changes, inside, known_servers, models, names, probe, trend
from installer.checks.models import Server
from installer.checks.trend import Day
from installer.commands import doctor, logs, status
from installer.core import errors, layout
from installer.core.marker import Rule
from installer.core.runner import Runner
from installer.engine.base import Container
from installer.engine.podman import Podman
from installer.release import compose, env_history
from tests.unit.test_boot import program

TODAY = datetime.date(2026, 3, 1)
GB = 10**9
OLLAMA = Server(kind="Ollama", url="http://gpu.corp.example:11434", key="very-secret")


@pytest.fixture
def place(tmp_path: Path) -> layout.Installation:
    place = layout.Installation(tmp_path / "dify")
    place.volumes.mkdir(parents=True)
    return place


def day(ago: int, free: int, data: int | None) -> Day:
    return Day(date=TODAY - datetime.timedelta(days=ago), free=free, data=data)


@pytest.mark.parametrize(
    ("days", "level", "said"),
    [
        ([], "info", "no trend yet"),
        ([day(0, 100 * GB, GB)], "info", "no trend yet"),
        ([day(10, 100 * GB, 5 * GB), day(0, 95 * GB, 5 * GB)], "ok", "the data have grown by nothing in 10 days"),
        ([day(10, 120 * GB, 5 * GB), day(0, 100 * GB, 6 * GB)], "ok", "full in 1000 days"),
        ([day(10, 120 * GB, 5 * GB), day(0, 100 * GB, 5 * GB + 1)], "ok", "full in more than ten years"),
        ([day(10, 99 * GB, 5 * GB), day(0, 20 * GB, 15 * GB)], "warning", "full in 20 days"),
        ([day(10, 99 * GB, 5 * GB), day(0, 2 * GB, 15 * GB)], "error", "full in 2 days"),
        ([day(10, 99 * GB, 5 * GB), day(0, GB, 15 * GB)], "error", "full in 1.0 days"),
        # Too many files to be counted in time, but for one day.
        ([day(10, 30 * GB, None), day(5, 25 * GB, GB), day(0, 20 * GB, None)], "warning", "the room has shrunk by"),
        # Whoever looks once in a while has a trend as well.
        ([day(200, 99 * GB, GB), day(100, 99 * GB, 5 * GB), day(0, 20 * GB, 15 * GB)], "ok", "in 100 days; 18.6 GiB"),
        # What was long ago does not count.
        ([day(300, 900 * GB, GB), day(10, 99 * GB, 5 * GB), day(0, 20 * GB, 15 * GB)], "warning", "in 10 days"),
    ],
)
def test_the_trend_of_the_disk(days: list[Day], level: str, said: str) -> None:
    found = trend.judge(days)
    assert (found.level, said in found.seen) == (level, True), found


def test_a_day_is_noted_once_and_so_many_are_kept(place: layout.Installation) -> None:
    for ago in range(70, -1, -1):
        for data in (1, ago):
            trend.note(place, {"db": data, "app": 5}, TODAY - datetime.timedelta(days=ago))
    days = trend.read(place.disk_history)
    assert len(days) == trend.KEPT
    assert (days[-1].date, days[-1].data, days[-2].data) == (TODAY, 5, 6)
    # Noted while the clock was wrong.
    assert trend.added([day(-400, 1, 1)], day(0, 2, 2)) == [day(0, 2, 2)]


@pytest.mark.parametrize("text", ["", "{}", "[1]", '[{"date": "x", "free": 1, "data": 1}]', '[{"date": "2026-01-01"}]'])
def test_a_history_that_makes_no_sense_is_begun_anew(place: layout.Installation, text: str) -> None:
    place.disk_history.write_text(text)
    assert len(trend.note(place, None, TODAY)) == 1
    assert trend.read(place.disk_history)[0].data is None


def test_a_history_that_cannot_be_written_is_no_failure(
    place: layout.Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert len(trend.note(place, {}, TODAY)) == 1
    assert not place.disk_history.exists()
    assert trend.note(layout.Installation(place.folder / "missing"), {}, TODAY) == []


def test_addresses_of_model_servers_are_kept_without_keys(place: layout.Installation) -> None:
    assert known_servers.read(place) == []
    known_servers.keep(place, [OLLAMA, OLLAMA])
    assert "very-secret" not in place.model_servers.read_text()
    assert [(each.kind, each.url, each.key) for each in known_servers.read(place)] == [("Ollama", OLLAMA.url, "")]
    vllm = Server(kind="vLLM", url="http://10.0.0.9:8000/v1", key="k")
    known_servers.add(place, [vllm, Server(kind="vLLM", url="http://10.0.0.9:8000")])
    assert [each.base for each in known_servers.read(place)] == [OLLAMA.url, "http://10.0.0.9:8000/v1"]
    known_servers.keep(place, [vllm])
    assert [each.kind for each in known_servers.read(place)] == ["vLLM"]
    place.model_servers.write_text('[{"kind": "other", "url": "http://x"}]')
    assert known_servers.read(place) == []


def answer(kind: str, detail: str = "", code: int = 0) -> dict[str, Any]:
    return {"kind": kind, "detail": detail, "models": [], "described": {}, "code": code}


@pytest.mark.parametrize(
    ("answered", "host", "level", "said"),
    [
        (answer("ok", "it has 1 models"), "ok", "ok", "it has 1 models"),
        (answer("status", "it answers with status 401", 401), "status", "ok", "wants a key"),
        (answer("status", "it answers with status 403", 403), "status", "ok", "wants a key"),
        (answer("status", "it answers with status 502", 502), "status", "warning", "status 502"),
        (answer("connection", "no answer in time"), "connection", "warning", "no answer in time"),
    ],
)
def test_a_model_server_that_wants_a_key_can_be_reached(
    answered: dict[str, Any], host: str, level: str, said: str
) -> None:
    found = models.judge_again(OLLAMA, "dify_plugin_daemon_1", answered, answer(host))
    assert (found.level, said in found.seen, bool(found.remedy)) == (level, True, level != "ok")
    assert found.check == "Ollama from dify_plugin_daemon_1"


def container(service: str, state: str = "running") -> Container:
    return Container(
        project="dify",
        service=service,
        folder="/opt/dify/docker",
        name=f"dify_{service}_1",
        image="",
        state=state,
        health="",
        exit_code=0,
        restarts=0,
        created=0,
        started=0,
    )


def test_the_host_is_asked_for_the_remedy_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[tuple[str, str]] = []

    def from_inside(where: str, questions: list[dict[str, Any]], *_: object) -> list[dict[str, Any]]:
        asked.append((where, questions[0]["url"]))
        return [answer("connection", "refused")]

    monkeypatch.setattr(inside, "ask_inside", from_inside)
    monkeypatch.setattr(models, "ask", lambda **_: answer("ok"))
    engine = Podman(Runner())
    assert models.ask_again([OLLAMA], [container("web")], "", tmp_path, engine) == []
    (found,) = models.ask_again([OLLAMA], [container("api"), container("plugin_daemon")], "", tmp_path, engine)
    assert asked == [("dify_plugin_daemon_1", f"{OLLAMA.url}/api/tags")]
    assert "the host reaches it and the container does not" in found.remedy


DOCUMENT: compose.Document = {
    "services": {
        "api": {"networks": ["ssrf_proxy_network", "default"]},
        "redis": {},
        "db_postgres": {"networks": {"default": {"aliases": ["db"]}}},
        "sandbox": {"networks": ["ssrf_proxy_network"]},
        "etcd": {"networks": ["milvus"]},
        "exporter": {"network_mode": "host"},
        "worker": {},
    }
}


def test_names_are_those_that_the_api_can_know() -> None:
    found = [container(name) for name in ("api", "redis", "db_postgres", "sandbox", "etcd", "exporter", "stranger")]
    found.append(container("worker", "exited"))
    assert names.list_services(DOCUMENT, found) == ["api", "db_postgres", "redis", "sandbox"]
    urls = [OLLAMA.url, f"{OLLAMA.url}/v1", "http://10.0.0.9:8000", "http://[fd00::1]:8000", "https://vllm:8443"]
    assert names.list_hosts(urls) == ["gpu.corp.example", "vllm"]


def resolved(**seen: tuple[float, str]) -> dict[str, Any]:
    listed = {name: {"seconds": seconds, "fault": fault} for name, (seconds, fault) in seen.items()}
    return {"kind": "ok", "detail": "", "names": listed}


@pytest.mark.parametrize(
    ("seen", "levels", "said"),
    [
        (resolved(redis=(0.01, ""), gpu=(0.2, "")), ["ok"], "2 names, each within 0.20 s"),
        (resolved(redis=(0.01, "Name or service not known"), gpu=(0.2, "")), ["error"], "does not find redis (Name"),
        (resolved(redis=(0.01, ""), gpu=(0.2, "No address")), ["warning"], "model server gpu (No address)"),
        (resolved(redis=(0.01, ""), gpu=(4.0, "")), ["warning"], "waits for names: gpu 4.0 s"),
        (resolved(redis=(9.0, "x"), gpu=(9.0, "x")), ["error", "warning", "warning"], "redis 9.0 s, gpu 9.0 s"),
        (answer("unknown", "cannot be asked from dify_api_1: no python3"), ["warning"], "cannot be asked"),
    ],
)
def test_names_are_judged(seen: dict[str, Any], levels: list[str], said: str) -> None:
    found = names.judge(["redis"], ["gpu"], seen)
    assert [each.level for each in found] == levels
    assert said in found[-1].seen
    assert all(bool(each.remedy) == (each.level != "ok") for each in found)


def test_the_probe_resolves_names_as_a_text_in_another_python(tmp_path: Path) -> None:
    """As in a container: podman's place is taken by a program that runs the Python of this host."""
    engine = Podman(program(tmp_path, "podman", "exec python3 -I -S -"))
    question = {"names": ["localhost", "no-such-host.invalid", "a" * 70 + ".example"]}
    (told,) = inside.ask_inside("dify_api_1", [question], Path(probe.__file__), engine, function="resolve")
    assert told["names"]["localhost"]["fault"] == ""
    assert told["names"]["no-such-host.invalid"]["fault"]
    assert told["names"]["a" * 70 + ".example"]["fault"]
    assert names.judge([], ["localhost"], probe.resolve(["localhost"]))[0].level == "ok"
    assert probe.resolve([])["names"] == {}


SOURCE = Rule("trusted", "source", "10.89.0.0/24")


@pytest.mark.parametrize(
    ("ports", "gone", "levels", "said"),
    [
        ((80, 443), [], ["ok"], "lets the ports in"),
        ((80,), [], ["warning"], "from 443"),
        ((80, 443), [SOURCE], ["warning"], "10.89.0.0/24 in zone trusted"),
        ((), [Rule("public", "port", "80/tcp"), SOURCE], ["warning", "warning"], "from 80, 443"),
        (None, [], ["info"], "may not ask"),
    ],
)
def test_the_firewall_is_judged(ports: tuple[int, ...] | None, gone: list[Rule], levels: list[str], said: str) -> None:
    found = barriers.judge_firewall(ports, [80, 443], gone)
    assert [each.level for each in found] == levels
    assert said in found[-1].seen
    if "from 443" in said:
        assert found[0].remedy == (
            "as root: `firewall-cmd --permanent --add-port=443/tcp && firewall-cmd --add-port=443/tcp`"
        )


# After the manual pages ausearch(8) and fapolicyd.rules(5).
AUDITED = """\
----
type=PROCTITLE msg=audit(02/20/26 10:00:00.123:456) : proctitle=/bin/sh /opt/dify/bin/podman-compose
type=PATH msg=audit(02/20/26 10:00:00.123:456) : item=0 name=/opt/dify/bin/podman-compose inode=1 mode=file,755
type=SYSCALL msg=audit(02/20/26 10:00:00.123:456) : arch=x86_64 syscall=execve success=no exit=EPERM exe=/usr/bin/bash
type=FANOTIFY msg=audit(02/20/26 10:00:00.123:456) : resp=deny
----
type=PATH msg=audit(02/20/26 10:01:00.123:457) : item=0 name=/home/other/tool inode=2
type=FANOTIFY msg=audit(02/20/26 10:01:00.123:457) : resp=deny
----
type=PATH msg=audit(02/20/26 10:02:00.123:458) : item=0 name=/opt/dify/bin/dify-installer inode=3
type=FANOTIFY msg=audit(02/20/26 10:02:00.123:458) : resp=allow
"""
TOLD = """\
rule=9 dec=deny_syslog perm=open auid=0 pid=9 exe=/tmp/x : path=/tmp/_MEIab12/libssl.so.3 ftype=application/x-sharedlib
rule=9 dec=allow perm=open auid=0 pid=9 exe=/usr/bin/bash : path=/opt/dify/bin/dify-installer trust=1
"""


def test_denials_of_fapolicyd_that_concern_us_are_told(place: layout.Installation) -> None:
    denials = barriers.parse_denials(AUDITED, TOLD)
    assert len(denials) == 3
    (found,) = barriers.judge_denials(denials, layout.Installation(Path("/opt/dify")))
    assert (found.level, "denied 2 times" in found.seen) == ("warning", True)
    assert "_MEIab12" in found.seen
    assert "fapolicyd-cli --file add /opt/dify/bin/ --trust-file dify" in found.remedy
    assert barriers.judge_denials(denials[1:2], place) == []
    assert barriers.judge_denials([], place) == []
    assert [each.level for each in barriers.judge_denials(None, place)] == ["info"]


@pytest.mark.parametrize(
    ("active", "audit", "found"),
    [
        ("false", "exit 1", []),
        ("true", "echo Error opening /var/log/audit/audit.log; exit 1", None),
        ("true", "echo '<no matches>' >&2; exit 1", []),
        ("true", "echo ----; echo name=/opt/dify/bin/x; echo resp=deny", ["name=/opt/dify/bin/x resp=deny"]),
    ],
)
def test_the_logs_of_fapolicyd_are_read_as_far_as_we_may(
    tmp_path: Path, active: str, audit: str, found: list[str] | None
) -> None:
    program(tmp_path, "systemctl", active)
    program(tmp_path, "journalctl", "exit 0")
    assert barriers.find_denials(program(tmp_path, "ausearch", audit)) == found


def test_edited_files_are_judged_by_whose_they_are() -> None:
    found = changes.judge_files(
        [".env", "dify-compose.yaml"],
        ["web runs another image than the bundle's"],
        ["dify-compose.yaml", "nginx/proxy.conf.template", *(f"a{number}" for number in range(6))],
        ".env",
    )
    assert [each.level for each in found] == ["warning"] * 4
    assert "puts into effect what .env says" in found[0].remedy
    assert "the next install puts it back" in found[1].remedy
    assert "another image" in found[2].seen
    assert found[3].seen == "not as this dify-installer has it: nginx/proxy.conf.template, a0, a1, a2, a3 and 2 more"
    assert changes.judge_files([], [], [], ".env") == []


def test_a_cut_env_is_an_error_and_its_copy_is_named(
    place: layout.Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert changes.judge_settings(place) == []
    whole = env_history.marked("CONSOLE_WEB_URL=http://10.0.0.5\nSECRET_KEY=abc\nLOG_LEVEL=INFO\n")
    env_history.write(place, whole)
    env_history.write(place, whole.replace("INFO", "DEBUG"))
    assert changes.judge_settings(place) == []
    place.env.write_text("CONSOLE_WEB_URL=http://10.0.0.5\n")
    (found,) = changes.judge_settings(place)
    assert (found.level, "has lost SECRET_KEY" in found.seen) == ("error", True)
    assert ".env.before" in found.remedy

    def fails(*_: object) -> None:
        raise errors.UsageError(".env makes no sense", "look")

    monkeypatch.setattr(status, "look", fails)
    engine = Podman(Runner())
    with pytest.raises(errors.NotHealthy, match="has lost"):
        doctor._look(place, engine, [found])
    with pytest.raises(errors.UsageError):
        doctor._look(place, engine, [])


@pytest.mark.parametrize(
    ("follow", "number", "quiet"),
    [(True, signal.SIGINT, True), (True, signal.SIGTERM, False), (False, signal.SIGINT, False)],
)
def test_ctrl_c_ends_what_follows_the_logs_without_a_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], follow: bool, number: int, quiet: bool
) -> None:
    def run(**_: object) -> None:
        with logs._ended_by_ctrl_c(logs.Asked(follow=follow)):
            raise errors.Interrupted(signal.Signals(number))

    monkeypatch.setattr(cli.cli, "main", run)
    kept = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        assert cli.main([]) == 128 + number
    finally:
        for each, handler in kept.items():
            signal.signal(each, handler)
    assert ("what was done is kept" in capsys.readouterr().err) == (not quiet)


def test_what_was_packed_is_named_in_the_json(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from click.testing import CliRunner

    from tests.unit import test_overview

    judged = doctor.Judged(glance=test_overview.glance(), findings=())
    monkeypatch.setattr(doctor, "judge", lambda *_: judged)
    monkeypatch.setattr(doctor, "pack", lambda *_: ["doctor.json"])
    path = tmp_path / "support.tar.gz"
    for more, file in ((["--bundle", str(path)], str(path)), ([], None)):
        shown = CliRunner().invoke(cli.cli, ["doctor", "--json", "--dir", str(tmp_path), *more])
        assert json.loads(shown.output).get("file") == file
