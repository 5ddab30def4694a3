"""A backup of a Dify that runs, and its way back: compared row by row and hash by hash."""

from __future__ import annotations

import io
import json
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from installer.backup import file
from tests.e2e.conftest import MachineMaker
from tests.e2e.server import Server
from tests.e2e.test_workspace import SCHEMA
from tests.target.bundle import Bundle

JOURNEYS = ["podman root", "podman dify", "docker root"]
# What a Dify has, and more: foreign keys, bytes, Korean, a large object.
FILL = """
CREATE TABLE apps (id serial PRIMARY KEY, name text NOT NULL, icon bytea);
CREATE TABLE messages (id serial PRIMARY KEY, app integer NOT NULL REFERENCES apps, said text NOT NULL);
INSERT INTO apps (name, icon) SELECT '앱 ' || n || ' ''"\\', decode(md5(n::text), 'hex') FROM generate_series(1, 100) n;
INSERT INTO messages (app, said) SELECT 1 + n % 100, '안녕하세요 ' || md5(n::text) FROM generate_series(1, 100000) n;
SELECT lo_from_bytea(4711, decode(repeat('00ff', 100000), 'hex'));
CREATE TABLE written (n bigserial PRIMARY KEY, at timestamptz DEFAULT now());
"""
# What is written while a backup is made stands in a table of its own.
HASH = """
SELECT md5(string_agg(a::text, '|' ORDER BY id)) FROM apps a;
SELECT md5(string_agg(m::text, '|' ORDER BY id)) FROM messages m;
SELECT md5(lo_get(4711));
"""
WRITER = """
while [ ! -e /tmp/stop ]; do psql -qtAX -U postgres -d dify -c 'INSERT INTO written DEFAULT VALUES'; sleep 0.02; done
"""
# Owned by the api's user, 1001, with names as people give them.
STORE = """
mkdir -p /app/api/storage/upload_files && cd /app/api/storage/upload_files
python3 - <<'END'
import pathlib
for number in range(2000):
    pathlib.Path(f"파일 {number} '\\"$.txt").write_bytes(str(number).encode() * 50)
END
"""
SUMS = """
cd {volumes}
find app weaviate plugin_daemon -type f -print0 | sort -z | xargs -0 sha256sum
stat -c '%u %a' app/storage/*
"""


each_journey = pytest.mark.parametrize("server", JOURNEYS, indirect=True, ids=lambda each: each.replace(" ", "-"))
# What goes wrong does so alike with each engine; rootless, the owners of the files are the hardest.
rootless = pytest.mark.parametrize("server", ["podman dify"], indirect=True, ids=["podman-dify"])


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest, lasting_machine: MachineMaker, sample: Bundle) -> Iterator[Server]:
    """A server whose Dify holds something."""
    engine, user = request.param.split()
    with Server(lasting_machine(engine), sample, user, engine=engine) as made:
        made.install()
        psql(made, FILL)
        inside(made, "api", STORE)
        made.run("mkdir", "backups")
        yield made


def inside(server: Server, service: str, script: str) -> str:
    done = server.run(server.engine, "exec", server.container(service), "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    return done.stdout


def psql(server: Server, sql: str) -> str:
    command = ["exec", "-i", server.container("db_postgres"), "psql", "-qtAX", "-v", "ON_ERROR_STOP=1"]
    done = server.machine.run(
        [server.engine, *command, "-U", "postgres", "-d", "dify"], user=server.user, input=sql, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def sums(server: Server) -> str:
    """Return the hashes of all files, and the owners, as the containers see them."""
    command = SUMS.format(volumes=f"{server.folder}/docker/volumes")
    unshare = ["podman", "unshare"] if server.user != "root" else []
    done = server.run(*unshare, "sh", "-c", command)
    assert done.returncode == 0, done.stderr
    return done.stdout


def printed(server: Server, *command: str) -> dict[str, Any]:
    done = server.installer(*command, "--json")
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    jsonschema.validate(result, SCHEMA)
    return result


def newest(server: Server) -> str:
    return server.run("sh", "-c", "ls -t backups/*.tar.zst | head -1").stdout.strip()


@each_journey
@pytest.mark.feature("`backup` while Dify runs, `restore`", "works; rows and files are compared on both sides")
def test_what_a_backup_holds_comes_back(server: Server) -> None:
    rows, files = psql(server, HASH), sums(server)
    assert files.count("\n") > 2000
    writing = server.machine.start(
        [server.engine, "exec", server.container("db_postgres"), "sh", "-c", WRITER], user=server.user
    )
    made = printed(server, "backup", "backups")
    inside(server, "db_postgres", "touch /tmp/stop")
    writing.wait(10)
    parts = {part["name"]: part for part in made["parts"]}
    assert parts["database/dify"]["counts"]["public.messages"] == 100000
    assert parts["files/app"]["counts"]["app"] >= 2000
    assert "files/weaviate" in parts
    # It was stopped for its copy, and runs again.
    assert made["held_seconds"] > 0
    assert server.run("stat", "-c", "%a", made["file"]).stdout.strip() == "600"
    assert f"{made['file']}, " in server.installer("status").stdout

    psql(server, "DELETE FROM messages; DROP TABLE messages, apps; SELECT lo_unlink(4711);")
    inside(server, "api", "rm -r /app/api/storage/upload_files; echo new > /app/api/storage/new")
    key = server.env()["SECRET_KEY"]
    server.install("--set", "LOG_LEVEL=WARNING")
    restored = printed(server, "restore", made["file"])
    assert {each["level"] for each in restored["compared"]} == {"ok"}
    assert psql(server, HASH) == rows
    assert sums(server) == files
    assert 0 < int(psql(server, "SELECT count(*) FROM written")) == parts["database/dify"]["counts"]["public.written"]
    assert (server.env()["SECRET_KEY"], server.env()["LOG_LEVEL"]) == (key, "INFO")
    assert server.installer("status").returncode == 0
    # What was there before is still there.
    assert server.run("sh", "-c", f"ls {restored['kept']}").stdout.split()
    assert "run already" in server.install().stderr


@rootless
def test_a_file_is_opened_by_standard_tools(server: Server) -> None:
    path = shlex.quote(str(server.machine.path(f"{server.home}/{newest(server)}")))
    done = subprocess.run(["sh", "-c", f"zstd -dc {path} | tar -t"], capture_output=True, text=True, check=True)
    names = done.stdout.split()
    assert names[:2] == ["backup.json", "settings/000001"]
    assert names[-1] == "parts.json"


@rootless
def test_a_damaged_file_changes_nothing(server: Server, tmp_path: Path) -> None:
    before = server.containers()
    good = server.machine.path(f"{server.home}/{newest(server)}").read_bytes()
    middle = len(good) // 2
    for name, data in (
        ("cut", good[:middle]),
        ("flipped", good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :]),
    ):
        (tmp_path / name).write_bytes(data)
        server.put(tmp_path / name, f"{name}.tar.zst")
        for command in (("restore", f"{name}.tar.zst"), ("backup", "--verify", f"{name}.tar.zst")):
            refused = server.installer(*command)
            assert refused.returncode == 11, refused.stderr
            assert "is not as it was written" in refused.stderr
    assert server.containers() == before
    assert server.installer("backup", "--verify", newest(server)).returncode == 0


@rootless
def test_what_fails_half_way_is_taken_back(server: Server, tmp_path: Path) -> None:
    rows = psql(server, HASH)
    path = server.machine.path(f"{server.home}/{newest(server)}")
    with file.reading(path) as reader, file.writing(tmp_path / "bad", reader.head) as writer:
        for name, pieces in reader:
            content = b"".join(pieces) if name != "database/dify" else b"CREATE TABLE half (n int); SELECT nonsense;"
            writer.add(name, io.BytesIO(content), lambda _: None)
    server.put(tmp_path / "bad", "bad.tar.zst")
    failed = server.installer("restore", "bad.tar.zst")
    assert failed.returncode == 5, failed.stderr
    assert "nonsense" in failed.stderr
    assert "what was there before is back" in failed.stderr
    assert psql(server, HASH) == rows
    assert server.installer("status").returncode == 0


@rootless
def test_one_that_is_killed_is_taken_back_by_the_next_start(server: Server) -> None:
    rows, files = psql(server, HASH), sums(server)
    running = server.machine.start(["./dify-installer", "restore", newest(server)], user=server.user)
    aside = f"{server.folder}/.dify-installer-restore.json"
    server.run("sh", "-c", f"until test -e {aside}; do sleep 0.02; done; sleep 4", timeout=120)
    server.machine.run("pkill -KILL --full '[d]ify-installer restore'")
    running.wait(30)
    refused = server.installer(*server.arguments())
    assert refused.returncode == 5
    assert "a restore was interrupted" in refused.stderr
    started = server.installer("start")
    assert started.returncode == 0, started.stderr
    assert psql(server, HASH) == rows
    assert sums(server) == files
    assert not server.machine.exists(aside)


@rootless
def test_so_many_are_kept_as_are_wanted_and_never_others(server: Server) -> None:
    server.run("sh", "-c", "touch backups/dify-backup-theirs.tar.zst")
    made = printed(server, "backup", "backups", "--keep", "1")
    assert len(made["removed"]) == 1
    left = server.run("ls", "backups").stdout.split()
    assert sorted(left) == sorted([Path(made["file"]).name, "dify-backup-theirs.tar.zst"])


@rootless
def test_a_timer_makes_backups_until_it_is_to_end(server: Server, tmp_path: Path) -> None:
    systemctl = ["systemctl", *(["--user"] if server.user != "root" else [])]
    server.run("mkdir", "nightly")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key")], check=True)
    for name, mode in (("key", 0o600), ("key.pub", 0o644)):
        server.put(tmp_path / name, name, mode=mode)
    options = ["--keep", "2", "--split", "1M", "--recipient", "key.pub"]
    timed = server.installer("backup", "nightly", "--every", "daily", *options)
    assert timed.returncode == 0, timed.stderr
    assert "dify-backup.timer" in server.run(*systemctl, "list-timers").stdout
    started = server.run(*systemctl, "start", "dify-backup.service")
    assert started.returncode == 0, started.stderr
    *numbered, listed = sorted(server.run("ls", "nightly").stdout.split())
    assert len(numbered) > 1
    path = f"nightly/{listed.removesuffix('.sha256')}"
    assert path.endswith(".tar.zst.age")
    for name in (path, path.replace(".tar.zst", ".1.tar.zst")):
        proved = server.installer("backup", "--verify", name, "--identity", "key")
        assert proved.returncode == 0, proved.stderr
    server.run("rm", path.replace(".tar.zst", ".2.tar.zst"))
    refused = server.installer("restore", path, "--identity", "key")
    assert refused.returncode == 11
    assert f"are missing: {Path(path).name.replace('.tar.zst', '.2.tar.zst')}" in refused.stderr
    ended = server.installer("backup", "nightly", "--every", "never")
    assert ended.returncode == 0, ended.stderr
    assert "dify-backup" not in server.run(*systemctl, "list-unit-files").stdout
