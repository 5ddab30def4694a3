"""`doctor`: what it judges, and that what it packs for a support desk holds no secret."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator

import jsonschema
import pytest

from installer.release import envfile, masks
from tests.e2e.conftest import MachineMaker
from tests.e2e.server import Server
from tests.e2e.test_failures import LLM, await_text
from tests.e2e.test_workspace import SCHEMA
from tests.target.bundle import Bundle

# What people and programs write into logs, each with a secret that nothing else knows of.
PLANTED = {
    "hunter2-very-long": "postgresql://dify:hunter2-very-long@db:5432/dify",
    "abcdef0123456789xyz": "Authorization: Bearer abcdef0123456789xyz",
    "proj-AAAABBBBCCCC1111": "calling with sk-proj-AAAABBBBCCCC1111",
    "Sommer2026-x": "login failed: password=Sommer2026-x for ops",
    "quoted-secret-77": '{"api_key": "quoted-secret-77", "model": "qwen3"}',
    "eyJzdWIiOiIxMjM0NTY3": "cookie eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3.c2lnbmF0dXJl",
    "MIIEvgIBADANBgkqhk": "-----BEGIN PRIVATE KEY-----\\nMIIEvgIBADANBgkqhk\\n-----END PRIVATE KEY-----",
}
MODEL_KEY = "the-key-of-the-model-server"
OLLAMA = "http://10.0.0.5:11434"


@pytest.fixture(scope="module")
def server(lasting_machine: MachineMaker, sample: Bundle) -> Iterator[Server]:
    """A server with https, whose key is one more secret, a firewall, and a model server that wants a key."""
    made = Server(lasting_machine(), sample)
    made.machine.run("systemctl enable --now firewalld")
    made.put(LLM, "llm.py")
    ollama = made.machine.start(["python3", "llm.py", "ollama", "11434", MODEL_KEY])
    await_text(made, "ss -Hltn | grep -q :11434")
    try:
        made.install("--tls", "self-signed", "--ollama-url", OLLAMA, env={"DIFY_INSTALLER_API_KEY": MODEL_KEY})
        yield made
    finally:
        made.machine.run("pkill --full llm.py", check=False)
        ollama.wait(10)


def test_a_good_installation_is_told_what_is_missing(server: Server) -> None:
    done = server.installer("doctor", "--json")
    assert done.returncode == 0, done.stdout
    result = json.loads(done.stdout)
    jsonschema.validate(result, SCHEMA)
    levels = {each["check"]: each["level"] for each in result["checks"]}
    assert levels["backup"] == "warning"
    assert levels["certificate"] == "ok"
    assert levels["restarts"] == "ok"
    assert {"disk for data, backups and logs, images", "clock", "console reachable"} <= set(levels)
    assert (levels["firewall"], levels["disk trend"]) == ("ok", "info")
    assert levels["names inside"] == levels["Ollama from dify_plugin_daemon_1"] == "ok"
    seen = {each["check"]: each["seen"] for each in result["checks"]}
    assert seen["Ollama from dify_plugin_daemon_1"] == f"{OLLAMA}: it answers, and wants a key (status 401)"
    assert not {"changed by hand", "settings"} & set(levels)


def test_what_is_wrong_is_judged(server: Server) -> None:
    server.run("mkdir", "backups")
    assert server.installer("backup", "backups").returncode == 0
    server.run("sh", "-c", f"echo LOG_LEVEL=DEBUG >> {server.folder}/docker/.env")
    for name in ("dify-compose.yaml", "nginx/proxy.conf.template"):
        server.run("sh", "-c", f"echo '# mine' >> {server.folder}/docker/{name}")
    server.run("sh", "-c", "kill -KILL $(podman inspect --format '{{.State.Pid}}' dify_sandbox_1)")
    server.await_healthy()
    told = server.installer("doctor").stdout
    assert "ok   backup" in told
    assert "WARN changed by hand: .env was edited and is not in effect" in told
    assert "WARN restarts: started again: sandbox 1 times" in told
    assert "WARN changed by hand: dify-compose.yaml was edited and is not in effect" in told
    assert "do: the next install puts it back; what is to stay belongs into .env" in told
    assert "not as this dify-installer has it: nginx/proxy.conf.template" in told
    server.run("podman", "stop", "--time", "1", "dify_worker_1")
    failed = server.installer("doctor")
    assert failed.returncode == 6
    assert "FAIL containers up: worker: exited" in failed.stdout
    server.run("podman", "start", "dify_worker_1")


def test_what_grows_and_what_others_have_taken_away_is_told(server: Server) -> None:
    path = f"{server.folder}/disk-history.json"
    (noted,) = json.loads(server.machine.read(path))
    assert noted["data"] > 0
    server.run("sed", "-i", f's/"{noted["date"]}"/"2026-01-01"/; s/"data": [0-9]*/"data": 0/', path)
    server.run("firewall-cmd", "--remove-port=80/tcp")
    server.run("sed", "-i", "s/10.0.0.5:11434/no-such-host:1/", f"{server.folder}/model-servers.json")
    server.run("sed", "-i.kept", "/^SECRET_KEY=/d", f"{server.folder}/docker/.env")
    done = server.installer("doctor")
    server.run("mv", f"{server.folder}/docker/.env.kept", f"{server.folder}/docker/.env")
    assert done.returncode == 6
    assert "disk trend: the data have grown by" in done.stdout
    assert len(json.loads(server.machine.read(path))) == 2
    assert "WARN firewall: firewalld no longer has what the installation has added: 80/tcp" in done.stdout
    assert "as root: `firewall-cmd --permanent --add-port=80/tcp && firewall-cmd --add-port=80/tcp`" in done.stdout
    assert "WARN names inside: the api does not find the model server no-such-host" in done.stdout
    assert "WARN Ollama from dify_plugin_daemon_1: http://no-such-host:1: its name cannot be resolved" in done.stdout
    assert "FAIL settings: " in done.stdout and "has lost SECRET_KEY" in done.stdout


def test_what_is_packed_holds_no_secret(server: Server) -> None:
    for line in PLANTED.values():
        server.run("podman", "exec", "dify_web_1", "sh", "-c", f"printf '%b\\n' '{line}' > /proc/1/fd/1")
    server.run("sh", "-c", f"printf '%s\\n' '{PLANTED['Sommer2026-x']}' >> {server.folder}/logs/theirs.log")
    packed = server.installer("doctor", "--bundle", "support.tar.gz")
    assert "look through it before you send it" in packed.stdout, packed.stderr
    named = json.loads(server.installer("doctor", "--json", "--bundle", "again.tar.gz").stdout)
    jsonschema.validate(named, SCHEMA)
    assert named["file"] == "again.tar.gz"
    assert server.run("stat", "-c", "%a", "support.tar.gz").stdout.strip() == "600"
    with tarfile.open(server.machine.path("/root/support.tar.gz")) as archive:
        files = {entry.name: archive.extractfile(entry) for entry in archive}
        texts = {name: file.read().decode() for name, file in files.items() if file is not None}
    assert "calling with sk-" in texts["dify-doctor/containers/web.log"]
    assert {"dify-doctor/settings.txt", "dify-doctor/host/disks.txt", "dify-doctor/doctor.json"} <= set(texts)
    everything = "\n".join(texts.values())
    example = envfile.parse(server.machine.read(f"{server.folder}/docker/.env.example"))
    secrets = masks.secret_values(server.env(), example)
    assert len(secrets) >= 7
    key = [line for line in server.machine.read(f"{server.folder}/docker/nginx/ssl/dify.key").split() if len(line) > 30]
    assert OLLAMA.partition("//")[2] in everything
    for secret in (*PLANTED, *secrets, *key, MODEL_KEY):
        assert secret not in everything, secret


def test_ctrl_c_ends_what_follows_the_logs_without_a_word(server: Server) -> None:
    ended = server.run(
        "timeout", "--signal=INT", "--preserve-status", "5", "./dify-installer", "logs", "web", "--follow"
    )
    assert (ended.returncode, ended.stderr) == (130, "")
    assert "calling with sk-" in ended.stdout
