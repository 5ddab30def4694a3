"""`doctor`: what it judges, and that what it packs for a support desk holds no secret."""

from __future__ import annotations

import json
import tarfile

import jsonschema
import pytest

from installer.release import envfile, masks
from tests.e2e.conftest import MachineMaker
from tests.e2e.server import Server
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


@pytest.fixture(scope="module")
def server(new_machine: MachineMaker, sample: Bundle) -> Server:
    """A server with https, whose key is one more secret."""
    made = Server(new_machine(), sample)
    made.install("--tls", "self-signed")
    return made


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


def test_what_is_wrong_is_judged(server: Server) -> None:
    server.run("mkdir", "backups")
    assert server.installer("backup", "backups").returncode == 0
    server.run("sh", "-c", f"echo LOG_LEVEL=DEBUG >> {server.folder}/docker/.env")
    server.run("sh", "-c", "kill -KILL $(podman inspect --format '{{.State.Pid}}' dify_sandbox_1)")
    server.await_healthy()
    told = server.installer("doctor").stdout
    assert "ok   backup" in told
    assert "WARN changed by hand: .env was edited and is not in effect" in told
    assert "WARN restarts: started again: sandbox 1 times" in told
    server.run("podman", "stop", "--time", "1", "dify_worker_1")
    failed = server.installer("doctor")
    assert failed.returncode == 6
    assert "FAIL containers up: worker: exited" in failed.stdout


def test_what_is_packed_holds_no_secret(server: Server) -> None:
    for line in PLANTED.values():
        server.run("podman", "exec", "dify_web_1", "sh", "-c", f"printf '%b\\n' '{line}' > /proc/1/fd/1")
    server.run("sh", "-c", f"printf '%s\\n' '{PLANTED['Sommer2026-x']}' >> {server.folder}/logs/theirs.log")
    packed = server.installer("doctor", "--bundle", "support.tar.gz")
    assert "look through it before you send it" in packed.stdout, packed.stderr
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
    for secret in (*PLANTED, *secrets, *key):
        assert secret not in everything, secret
