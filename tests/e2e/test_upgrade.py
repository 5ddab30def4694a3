"""A newer Dify on an installation: data and settings go on, a failure takes itself back, and so does a person."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from installer.engine.base import Name
from installer.release import envfile
from tests.e2e.conftest import MachineMaker
from tests.e2e.server import Server
from tests.e2e.test_backup import FILL, HASH, JOURNEYS, STORE, inside, printed, psql, sums
from tests.target.bundle import Bundle
from tests.target.newer import NEW, OLD

# Settings that this host has chosen; the newer release does not know the last one any more.
CHOSEN = {"LOG_LEVEL": "WARNING", "POSTGRES_MAX_CONNECTIONS": "120", "PIP_MIRROR_URL": "http://10.0.0.9/simple"}
# A copy of it takes a while.
LARGE = "dd if=/dev/urandom of=/app/api/storage/large bs=1M count=300 status=none"
KILL = "pkill -KILL --full '[d]ify-installer --ip'"
# The newer api runs, and migrates.
STARTING = "grep -qs begun {record} && podman ps --format '{{{{.Names}}}}' | grep -q dify_api"
FAKE_DU = "#!/bin/sh\necho 99999999999999 /\n"


def carry(server: Server, bundle: Bundle) -> None:
    """Put another bundle in the place of the one that was installed from."""
    server.put(bundle.executable, "dify-installer", mode=0o755)
    server.put(bundle.archive, "dify-images.tar")


@contextmanager
def filled(journey: str, machine: MachineMaker, sample: Bundle, newer: Bundle) -> Iterator[Server]:
    """Yield a server whose older Dify holds something, with the newer bundle beside it."""
    engine: Name = "docker" if journey.startswith("docker") else "podman"
    with Server(machine(engine), sample, journey.split()[1], engine=engine) as made:
        made.install(*(word for key, value in CHOSEN.items() for word in ("--set", f"{key}={value}")))
        psql(made, FILL)
        inside(made, "api", STORE)
        carry(made, newer)
        yield made


@pytest.fixture
def server(
    request: pytest.FixtureRequest, new_machine: MachineMaker, sample: Bundle, newer: Bundle
) -> Iterator[Server]:
    with filled(request.param, new_machine, sample, newer) as made:
        yield made


each_journey = pytest.mark.parametrize("server", JOURNEYS, indirect=True, ids=lambda each: each.replace(" ", "-"))


def content(server: Server) -> tuple[str, str]:
    """Return the hashes of the rows, and those of the files that nobody writes while Dify runs."""
    return psql(server, HASH), "\n".join(line for line in sums(server).splitlines() if "upload_files" in line)


def versions(server: Server) -> set[str]:
    """Return of which versions the containers are."""
    listed = server.run(server.engine, "ps", "--format", "{{.Image}}").stdout.split()
    return {each.rpartition(":")[2] for each in listed if "difysample" in each}


def image_ids(server: Server) -> dict[str, str]:
    """Return which image each container was made from."""
    names = server.containers()
    shown = server.run(server.engine, "inspect", "--format", "{{.Image}}", *names)
    return dict(zip(names, shown.stdout.split(), strict=True))


def record(server: Server) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(server.machine.read(f"{server.folder}/previous/upgrade.json"))
    return read


@each_journey
@pytest.mark.feature("a newer Dify on an installation; `rollback`; `prune`", "works; rows and files are compared")
def test_a_newer_bundle_upgrades_and_a_person_goes_back(server: Server, sample: Bundle, newer: Bundle) -> None:
    before, ran = content(server), image_ids(server)
    secrets = {key: server.env()[key] for key in ("SECRET_KEY", "DB_PASSWORD", "REDIS_PASSWORD")}
    plan = server.installer("preflight", *server.arguments(), "--plan").stdout
    assert f"Dify {OLD} becomes {NEW}" in plan
    for told in ("are new: UPLOAD_FILE_SIZE_LIMIT", "taken over: ACCESS_TOKEN_EXPIRE_MINUTES", "PIP_MIRROR_URL"):
        assert told in plan
    assert CHOSEN["PIP_MIRROR_URL"] not in plan

    server.install()
    assert versions(server) == {NEW}
    assert content(server) == before
    assert "note" in psql(server, "SELECT column_name FROM information_schema.columns WHERE table_name = 'written'")
    env = server.env()
    assert {key: env[key] for key in secrets} == secrets
    assert (env["LOG_LEVEL"], env["POSTGRES_MAX_CONNECTIONS"]) == ("WARNING", "120")
    assert (env["ACCESS_TOKEN_EXPIRE_MINUTES"], env["UPLOAD_FILE_SIZE_LIMIT"]) == ("30", "15")
    assert "PIP_MIRROR_URL" not in env
    notes = "\n".join(server.report()["notes"])
    assert "PIP_MIRROR_URL" in notes
    assert f"Dify {OLD} is kept" in notes
    assert envfile.parse(server.machine.read(f"{server.folder}/previous/docker/.env"))["PIP_MIRROR_URL"]
    assert f"kept: Dify {OLD}" in server.installer("status").stdout
    assert record(server)["rows"]["dify"]["public.messages"] == 100000
    # The same command again repairs, and keeps what is kept.
    assert "run already" in server.install().stderr
    assert record(server)["state"] == "done"

    carry(server, sample)
    older = server.installer(*server.arguments())
    assert older.returncode == 4, older.stderr
    assert "the bundle is older" in older.stderr

    psql(server, "INSERT INTO written DEFAULT VALUES")
    back = printed(server, "rollback")
    assert (back["dify"], back["left"]) == (OLD, NEW)
    assert versions(server) == {OLD}
    assert image_ids(server) == ran
    assert content(server) == before
    assert psql(server, "SELECT count(*) FROM written") == "0\n"
    assert CHOSEN.items() <= server.env().items()
    assert server.run("ls", back["aside"]).returncode == 0
    assert not server.machine.exists(f"{server.folder}/previous")
    assert server.installer("status").returncode == 0
    assert server.installer("rollback").returncode == 2

    carry(server, newer)
    server.install()
    pruned = printed(server, "prune")
    assert (pruned["dify"], pruned["left"]) == (OLD, [back["aside"]])
    assert pruned["bytes"] > 1_000_000
    assert pruned["images"] >= 4
    assert not server.machine.exists(f"{server.folder}/previous")
    assert f":{OLD}" not in server.run(server.engine, "images", "--format", "{{.Repository}}:{{.Tag}}").stdout
    assert server.installer("rollback").returncode == 2
    assert server.installer("status").returncode == 0
    assert content(server) == before


@pytest.fixture(scope="class")
def failing(
    request: pytest.FixtureRequest, lasting_machine: MachineMaker, sample: Bundle, newer: Bundle
) -> Iterator[Server]:
    """A server whose older Dify holds so much that a copy takes a while."""
    with filled(request.param, lasting_machine, sample, newer) as made:
        inside(made, "api", LARGE)
        yield made


@pytest.mark.parametrize("failing", ["podman dify"], indirect=True, ids=["podman-dify"])
class TestFailures:
    """What goes wrong does so alike with each engine; rootless, the owners of the files are the hardest."""

    @pytest.fixture
    def held(self, failing: Server) -> tuple[str, str]:
        """What the older Dify holds."""
        assert versions(failing) == {OLD}
        return content(failing)

    @pytest.mark.usefixtures("held")
    def test_without_room_nothing_is_changed(self, failing: Server) -> None:
        running = failing.containers()
        script = f"mkdir -p bin && printf %s {shlex.quote(FAKE_DU)} > bin/du && chmod +x bin/du"
        failing.run("sh", "-c", script)
        path = f"{failing.home}/bin:/usr/local/bin:/usr/bin:/bin"
        refused = failing.installer(*failing.arguments(), env={"PATH": path})
        assert refused.returncode == 4, refused.stderr
        assert "FAIL space" in refused.stderr
        assert failing.containers() == running
        assert not failing.machine.exists(f"{failing.folder}/previous.part")

    @pytest.mark.parametrize(
        ("prepare", "clean", "told"),
        [
            ("touch /app/api/storage/refuses-0.2.0", "rm /app/api/storage/refuses-0.2.0", "refuses to start"),
            ("CREATE TABLE trap ()", "DROP TABLE trap", "half way"),
            ("CREATE TABLE loses ()", "DROP TABLE loses", "public.messages: 100000 before, 0 now"),
        ],
        ids=["refuses", "migration", "loses"],
    )
    @pytest.mark.feature("an upgrade that fails", "the old version comes back by itself, with the old data")
    def test_what_fails_takes_itself_back(
        self, failing: Server, held: tuple[str, str], prepare: str, clean: str, told: str
    ) -> None:
        def do(what: str) -> None:
            inside(failing, "api", what) if what.startswith(("touch", "rm")) else psql(failing, what)

        do(prepare)
        failed = failing.installer(*failing.arguments(), "--timeout", "60")
        assert failed.returncode in (5, 6), failed.stderr
        assert told in failed.stderr
        assert f"Dify {OLD} is back and runs" in failed.stderr
        assert versions(failing) == {OLD}
        assert content(failing) == held
        assert "note" not in psql(
            failing, "SELECT column_name FROM information_schema.columns WHERE table_name = 'written'"
        )
        assert CHOSEN.items() <= failing.env().items()
        assert not failing.machine.exists(f"{failing.folder}/previous")
        installed = failing.run(f"{failing.folder}/bin/dify-installer", "status")
        assert installed.returncode == 0, installed.stdout
        assert f"Dify {OLD} at" in installed.stdout
        do(clean)
        failing.run("podman", "unshare", "sh", "-c", f"rm -r {failing.folder}/docker.failed-*")

    def begin(self, server: Server, until: str) -> None:
        """Begin an upgrade, and kill it once a shell finds `until` true."""
        running = server.start()
        found = server.run("sh", "-c", f"until {until}; do sleep 0.02; done", timeout=200)
        assert found.returncode == 0
        server.machine.run(KILL)
        running.wait(30)

    def test_killed_while_the_copy_is_made_it_begins_anew(self, failing: Server, held: tuple[str, str]) -> None:
        self.begin(failing, f"test -e {failing.folder}/previous.part/docker")
        assert not failing.machine.exists(f"{failing.folder}/previous")
        # A boot would do the same: the older one runs again.
        started = failing.run(f"{failing.folder}/bin/dify-installer", "start")
        assert started.returncode == 0, started.stderr
        assert content(failing) == held

    def test_killed_while_the_newer_one_starts_the_older_one_comes_back_at_a_boot(
        self, failing: Server, held: tuple[str, str]
    ) -> None:
        self.begin(failing, STARTING.format(record=f"{failing.folder}/previous/upgrade.json"))
        refused = failing.installer("backup", "x")
        assert refused.returncode == 5
        assert "was interrupted" in refused.stderr
        started = failing.run(f"{failing.folder}/bin/dify-installer", "start")
        assert started.returncode == 0, started.stderr
        assert versions(failing) == {OLD}
        assert content(failing) == held
        assert not failing.machine.exists(f"{failing.folder}/previous")

    def test_killed_while_the_newer_one_starts_the_same_command_goes_on(
        self, failing: Server, held: tuple[str, str]
    ) -> None:
        self.begin(failing, STARTING.format(record=f"{failing.folder}/previous/upgrade.json"))
        done = failing.install()
        assert "by the run that was interrupted" in done.stderr
        assert versions(failing) == {NEW}
        assert content(failing) == held
        assert record(failing)["state"] == "done"
        assert record(failing)["rows"]["dify"]["public.messages"] == 100000
        assert failing.installer("uninstall").returncode == 0
        kept = failing.run("ls", f"{failing.folder}/previous").stdout.split()
        assert "docker" in kept
        assert "bin" not in kept
        assert not failing.run("podman", "images", "--quiet").stdout
