"""The whole move: a Dify that somebody runs with docker, older, elsewhere, of another name, to an air-gapped server."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from installer.core import layout
from installer.engine.base import Name
from installer.release import envfile
from tests.e2e.conftest import MachineMaker
from tests.e2e.server import Server
from tests.e2e.test_backup import FILL, HASH, JOURNEYS, STORE, psql
from tests.e2e.test_workspace import SCHEMA
from tests.target.bundle import Bundle
from tests.target.machine import Machine

OLD, NEW = "1.9.2", "1.11.3"
FOLDER = "/srv/apps/old dify/docker"
PROJECT = "knowledge"
# What an administrator has changed of the old release's settings, and what that release had and the new one has not.
CHOSEN = {
    "SECRET_KEY": "sk-theirs-0123456789",
    "DB_PASSWORD": "their-password",
    "LOG_LEVEL": "DEBUG",
    "CONSOLE_WEB_URL": "http://192.0.2.7:8088",
    "EXPOSE_NGINX_PORT": "8088",
    "OLD_SWITCH": "on",
    "THEIRS": "1",
}
RESTORE = ("--restore", "old.tar.zst.age", "--identity", "key")
# Below the folders that the containers see; the names are people's.
FILES = "find {folder} -type f ! -name api ! -name worker ! -name data -print0 | sort -z | xargs -0 -r sha256sum"
PLUGIN = "mkdir -p /app/storage/plugin/lang && echo package > '/app/storage/plugin/lang/누군가@1.difypkg'"
PLACES = (("api", "/app/api/storage"), ("plugin_daemon", "/app/storage"), ("weaviate", "/var/lib/weaviate"))


class OldDify:
    """A Dify of an older release on a machine with docker, as its documentation says, and as people then change it."""

    def __init__(self, machine: Machine, bundle: Bundle, chosen: Mapping[str, str] = CHOSEN) -> None:
        self.machine, self.bundle, self.chosen = machine, bundle, dict(chosen)
        machine.push(bundle.archive, "/srv/images.tar")
        machine.run("docker load --quiet --input /srv/images.tar && rm /srv/images.tar", timeout=600)
        names = machine.run("docker images --format '{{.Repository}}:{{.Tag}}'").stdout.split()
        api = next(name for name in names if name.endswith(f"dify-api:{NEW}"))
        machine.run(["docker", "tag", api, api.replace(NEW, OLD)])
        folder = machine.path(FOLDER)
        shutil.copytree(bundle.checkout / "docker", folder)
        self._make_older(folder)
        self.compose("up", "--detach", "--pull", "never", "--quiet-pull")
        healthy = f"docker exec {PROJECT}-api-1 curl --silent --fail localhost:5001/health"
        machine.run(f"until {healthy}; do sleep 1; done", timeout=180)
        machine.push(bundle.executable, "/srv/dify-installer", mode=0o755)

    def _make_older(self, folder: Path) -> None:
        """Give it the older tag, the older name of the database, a volume of docker's, an administrator's `.env`."""
        upstream = folder / layout.COMPOSE_FILE
        text = upstream.read_text().replace(f"dify-api:{NEW}", f"dify-api:{OLD}").replace("db_postgres", "db")
        text = text.replace("./volumes/weaviate:", "vectors:").replace("\nvolumes:\n", "\nvolumes:\n  vectors:\n")
        upstream.write_text(text)
        example = folder / layout.ENV_EXAMPLE
        example.write_text(envfile.edit(example.read_text(), {"DB_HOST": "db", "OLD_SWITCH": "off"}))
        (folder / ".env").write_text(envfile.edit(example.read_text(), self.chosen))

    def compose(self, *arguments: str) -> str:
        """Run docker compose in its folder."""
        command = f'cd "{FOLDER}" && docker compose --project-name {PROJECT} {" ".join(arguments)}'
        return self.machine.run(command, timeout=600).stdout

    def inside(self, service: str, script: str) -> str:
        return self.machine.run(["docker", "exec", f"{PROJECT}-{service}-1", "sh", "-c", script]).stdout

    def psql(self, sql: str) -> str:
        command = ["docker", "exec", "-i", f"{PROJECT}-db-1", "psql", "-qtAX", "-v", "ON_ERROR_STOP=1"]
        return self.machine.run([*command, "-U", "postgres", "-d", "dify"], input=sql).stdout

    def export(self, *arguments: str) -> dict[str, Any]:
        done = self.machine.run(["/srv/dify-installer", "export", *arguments, "--json"])
        found: dict[str, Any] = json.loads(done.stdout)
        jsonschema.validate(found, SCHEMA)
        return found


@pytest.fixture(scope="module")
def old(lasting_machine: MachineMaker, upstream: Bundle) -> OldDify:
    made = OldDify(lasting_machine("docker"), upstream)
    made.psql(FILL)
    made.inside("api", STORE)
    made.inside("plugin_daemon", PLUGIN)
    made.inside("weaviate", """echo '[{"id": 1}, {"id": 2}]' > /var/lib/weaviate/Vector_index_1_Node.json""")
    return made


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A private key that stays where people are going; its public one is beside it."""
    path = tmp_path_factory.mktemp("keys") / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path


@pytest.fixture(scope="module")
def exported(old: OldDify, key: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file, encrypted, carried away from the old machine."""
    old.machine.push(key.with_suffix(".pub"), "/srv/key.pub")
    told = old.export("/srv", "--recipient", "/srv/key.pub")
    assert told["backup"]["dify"] == OLD
    counts = {part["name"]: part["counts"] for part in told["parts"]}
    assert counts["database/dify"]["public.messages"] == 100000
    assert counts["files/app/storage"]["app/storage"] >= 2000
    assert counts["vectors"] == {"Vector_index_1_Node": 2}
    assert {"files/plugin_daemon", "files/weaviate", "files/sandbox/conf"} <= counts.keys()
    path = tmp_path_factory.mktemp("stick") / "export.tar.zst.age"
    shutil.copyfile(old.machine.path(told["file"]), path)
    # Another program opens it, with the same key.
    decrypted = subprocess.run(["age", "--decrypt", "--identity", str(key), str(path)], check=True, capture_output=True)
    opened = subprocess.run(["zstd", "-dc"], input=decrypted.stdout, check=True, capture_output=True).stdout
    assert opened.startswith(b"backup.json")
    return path


def files(run: Any) -> dict[str, str]:
    """Return the hashes of all files that the services hold, as they see them."""
    return {service: run(service, FILES.format(folder=folder)) for service, folder in PLACES}


@pytest.mark.feature("`export` of an older Dify that docker runs", "works; while it runs, or stopped")
def test_an_export_changes_nothing_of_the_old_dify(old: OldDify, exported: Path) -> None:
    states = old.machine.run("docker ps --format '{{.Names}} {{.State}}'").stdout.split()
    assert f"{PROJECT}-weaviate-1" in states
    assert set(states[1::2]) == {"running"}
    # Through a pipe, in pieces: a stick's file system may know no larger ones.
    old.machine.run("cd /srv && ./dify-installer export - | split --bytes 1M - piece. && cat piece.* > whole")
    proved = old.machine.run(["/srv/dify-installer", "backup", "--verify", "/srv/whole", "--json"])
    assert json.loads(proved.stdout)["backup"]["dify"] == OLD
    assert "sk-theirs" not in old.machine.run("/srv/dify-installer export /srv/told --silent; ls /srv").stdout


@pytest.mark.parametrize("journey", JOURNEYS, ids=lambda each: each.replace(" ", "-"))
@pytest.mark.feature("`--restore`: an older Dify arrives", "works; rows, files and hashes are the same on both sides")
def test_it_arrives_on_an_air_gapped_server(
    new_machine: MachineMaker, old: OldDify, exported: Path, key: Path, upstream: Bundle, journey: str
) -> None:
    engine: Name = "docker" if journey.startswith("docker") else "podman"
    user = journey.split()[1]
    server = Server(new_machine(engine), upstream, user, engine=engine)
    server.put(exported, "old.tar.zst.age", mode=0o600)
    server.put(key, "key", mode=0o600)
    judged = server.installer("preflight", *server.arguments(), *RESTORE)
    assert f"begins with Dify {OLD}" in judged.stdout
    assert not server.machine.exists(server.folder)
    if user != "root":
        _kill_in_the_middle(server)
    server.install(*RESTORE)
    report = server.report()
    assert {each["level"] for each in report["compared"]} == {"ok"}
    assert report["compared"][-1]["seen"] == "2 objects on both sides, in 1 classes"
    assert any("OLD_SWITCH" in note for note in report["notes"])
    assert psql(server, HASH) == old.psql(HASH)
    assert files(lambda service, script: _inside(server, service, script)) == files(old.inside)
    env = server.env()
    assert {key: env[key] for key in ("SECRET_KEY", "LOG_LEVEL", "THEIRS")} == {
        key: CHOSEN[key] for key in ("SECRET_KEY", "LOG_LEVEL", "THEIRS")
    }
    assert env["DB_PASSWORD"] not in ("", "difyai123456", CHOSEN["DB_PASSWORD"])
    assert (env["DB_HOST"], env["CONSOLE_WEB_URL"]) == ("db_postgres", server.url)
    assert "OLD_SWITCH" not in env
    if user == "root":
        # What follows is alike for all, and takes minutes.
        return
    # Typed again, it brings nothing a second time.
    psql(server, "DELETE FROM messages WHERE id = 1")
    server.install("--set", "LOG_LEVEL=INFO", *RESTORE)
    assert psql(server, "SELECT count(*) FROM messages").strip() == "99999"
    assert server.env()["LOG_LEVEL"] == "INFO"
    # In the place of what is there by now, which is kept.
    restored = server.installer("restore", *RESTORE[1:], "--json")
    assert restored.returncode == 0, restored.stderr
    assert psql(server, HASH) == old.psql(HASH)
    assert server.env()["SECRET_KEY"] == CHOSEN["SECRET_KEY"]


def _inside(server: Server, service: str, script: str) -> str:
    return server.run(server.engine, "exec", server.container(service), "sh", "-c", script).stdout


def _kill_in_the_middle(server: Server) -> None:
    """End an arrival while the rows come, and see that only the same command goes on."""
    running = server.start(*RESTORE)
    come = f"podman exec {server.container('db_postgres')} psql -qtAX -U postgres -d dify -c 'SELECT 1'"
    server.run("sh", "-c", f"until {come}; do sleep 0.1; done", timeout=300)
    server.machine.run("pkill -KILL --full '[d]ify-installer --ip'")
    running.wait(60)
    for command in (server.arguments(), ["start"]):
        refused = server.installer(*command)
        assert refused.returncode == 5, refused.stderr
        assert "--restore FILE" in refused.stderr


def test_what_cannot_be_taken_is_refused_before_the_first_change(
    new_machine: MachineMaker, exported: Path, key: Path, upstream: Bundle, tmp_path: Path
) -> None:
    server = Server(new_machine(), upstream)
    content = exported.read_bytes()
    middle = len(content) // 2
    (tmp_path / "bad").write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    server.put(tmp_path / "bad", "bad")
    server.put(key, "key", mode=0o600)
    for options, told in ((("--identity", "key"), "is not as it was written"), ((), "is encrypted")):
        refused = server.installer(*server.arguments(), "--restore", "bad", *options)
        assert refused.returncode == 11, refused.stderr
        assert told in refused.stderr
    assert not server.machine.exists(server.folder)


def test_a_stopped_dify_is_exported_as_well(old: OldDify) -> None:
    old.compose("stop")
    told = old.export("/srv/stopped.tar.zst", "--from", FOLDER)
    counts = {part["name"]: part["counts"] for part in told["parts"]}
    assert counts["database/dify"]["public.messages"] == 100000
    assert old.machine.run("docker ps --quiet").stdout == ""
    # Without its containers nothing tells where its data are.
    old.compose("down")
    gone = old.machine.run(["/srv/dify-installer", "export", "/srv"], check=False)
    assert gone.returncode == 2
    assert "docker compose up -d" in gone.stderr
