"""What is refused where the rows are not ours: half a Dify on the way back, an upgrade without a copy, a lost key."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from installer import plan as plans
from installer.backup import arrival
from installer.bundle import verify
from installer.checks import inside, others
from installer.commands import back, backup, rollback, start
from installer.core import errors, layout, lock
from installer.core.console import Console
from installer.core.runner import Runner
from installer.engine import choose
from installer.engine.podman import Podman
from installer.release import carry, compose, env_history, envfile, external, settings
from installer.services import postgresql, reach, redis_server
from installer.system import leftovers
from installer.upgrade import kept, rows
from installer.upgrade import plan as upgrades
from tests.unit.test_arrival import COMPOSE, THEIRS, VARIABLES, made
from tests.unit.test_backup import HEAD
from tests.unit.test_boot import program
from tests.unit.test_external import REDIS, URL, computed
from tests.unit.test_upgrade import RECORD

THERE = external.database_settings(external.checked_database(URL))
CACHE = external.redis_settings(external.checked_redis(REDIS))
AT = "PostgreSQL at db.intranet:5433, dify_db and dify_plugin"


@pytest.fixture(autouse=True)
def bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundle that brings Dify 1.11.3."""

    class Bundle:
        dify = "1.11.3"

    monkeypatch.setattr(verify, "check_embedded", lambda _: Bundle)


def refusal(head: dict[str, object], variables: dict[str, str]) -> errors.BackupRefused:
    with pytest.raises(errors.BackupRefused) as caught:
        arrival.require_suitable(made(THEIRS, head), variables, COMPOSE)
    return caught.value


def test_a_backup_with_rows_does_not_come_beside_rows_of_others() -> None:
    found = refusal({}, {**VARIABLES, **THERE})
    assert "half a Dify" in found.message
    assert "--db-restored" in found.remedy and "psql" in found.remedy
    arrival.require_suitable(made(THEIRS), {**VARIABLES, **THERE}, COMPOSE, restored=True)


def test_a_backup_without_rows_needs_those_of_its_moment() -> None:
    head: dict[str, object] = {"database_at": AT}
    assert "dump that was made just before it" in refusal(head, {**VARIABLES, **THERE}).remedy
    arrival.require_suitable(made(THEIRS, head), {**VARIABLES, **THERE}, COMPOSE, restored=True)
    # Our own database would be empty.
    ours = refusal(head, VARIABLES)
    assert AT in ours.message and "--db-url" in ours.remedy
    with pytest.raises(errors.BackupRefused, match="has no rows"):
        arrival.require_suitable(made(THEIRS, head), VARIABLES, COMPOSE, restored=True)


def test_where_the_services_are_stays_as_it_is_here(tmp_path: Path) -> None:
    place = layout.Installation(tmp_path)
    place.project.mkdir()
    place.env.write_text(computed({**THERE, **CACHE}).text)
    old = {**THERE, "DB_HOST": "old.intranet", "DB_PASSWORD": "old", "REDIS_HOST": "old", "LOG_LEVEL": "DEBUG"}
    back_up = made(envfile.edit(place.env.read_text(), old), {"ours": True, "dify": "1.11.3"})
    written = envfile.parse(arrival.text_for(back_up, place, THEIRS))
    assert {key: written[key] for key in (*THERE, *CACHE)} == {**THERE, **CACHE}
    assert written["LOG_LEVEL"] == "DEBUG"
    assert compose.active_profiles(written) == compose.active_profiles(computed(THERE).resolved)


def test_a_redis_of_others_does_not_come_with_a_backup() -> None:
    values = arrival.carried(made(envfile.edit(THEIRS, {**CACHE, **THERE, "OWN": "1"})), THEIRS).values
    assert not {*external.REDIS_KEYS, "DB_HOST", "DB_EXTRAS", "DB_SSL_MODE", "DB_PASSWORD"} & values.keys()
    assert values["OWN"] == "1"


def test_a_backup_says_in_words_that_the_rows_are_not_in_it() -> None:
    told = backup.not_in_it(external.checked_database(URL))
    assert "PostgreSQL at db.intranet:5433, dify_db and dify_plugin" in told
    assert "dumped just before" in told
    assert backup.as_text(HEAD, ()).count("not in it") == len(HEAD.left_out)


MOVE = upgrades.Upgrade(
    before="1.0",
    after="2.0",
    begun=False,
    example="",
    carried=carry.Carried(values={}, new=(), changed=(), gone=()),
    data_bytes=0,
    room_bytes=0,
    replaced="",
    volumes=(),
)


def test_rows_of_others_are_not_changed_without_a_copy() -> None:
    database = external.checked_database(URL)
    with pytest.raises(errors.PreflightFailed, match="changes the rows in PostgreSQL at db.intranet:5433") as caught:
        upgrades._require_copy(MOVE, database, copied=False)
    assert "--db-copied" in caught.value.remedy and "pg_dump" in caught.value.remedy
    upgrades._require_copy(MOVE, database, copied=True)
    upgrades._require_copy(MOVE, None, copied=False)


@pytest.fixture
def place(tmp_path: Path) -> layout.Installation:
    """An installation with a database of others, whose upgrade is at RECORD's state."""
    result = layout.Installation(tmp_path / "dify")
    for folder in (result.folder, result.previous):
        layout.Installation(folder).project.mkdir(parents=True)
        layout.Installation(folder).env.write_text(computed(THERE).text)
    kept._write(result.previous, RECORD)
    return result


def test_the_way_back_by_hand_needs_the_rows_from_before(place: layout.Installation) -> None:
    with pytest.raises(errors.PreflightFailed, match="as Dify 2.0 has made them") as caught:
        rollback._require_rows(place, RECORD)
    assert "--db-restored" in caught.value.remedy
    place.env.write_text(computed({}).text)
    rollback._require_rows(place, RECORD)


def test_a_boot_in_the_middle_of_an_upgrade_starts_nothing_on_rows_of_others(
    place: layout.Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Podman(program(tmp_path, "podman", 'case "$*" in *json*) echo "[]";; esac'))
    monkeypatch.setattr(choose, "choose_engine", lambda *_: engine)
    monkeypatch.setattr(lock, "hold", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(leftovers, "remove_leftovers", lambda _: None)
    monkeypatch.setattr(back, "put_back", lambda *_: pytest.fail("it is started"))
    with pytest.raises(errors.NotHealthy, match="Dify 1.0 is back in .*, but not started") as caught:
        start.start(place, 10, Runner(), Console())
    assert "`dify-installer start`" in caught.value.remedy
    assert not place.previous.exists()


def test_rows_that_are_ours_are_not_left_behind(tmp_path: Path) -> None:
    place = layout.Installation(tmp_path)
    (place.volumes / "db/data").mkdir(parents=True)
    ours = env_history.Existing(path=place.env, text=computed({}).text)
    plans.require_one_place_of_rows(ours, computed(THERE), place)
    (place.volumes / "db/data/PG_VERSION").write_text("15")
    with pytest.raises(errors.PreflightFailed, match="do not go to another server by themselves"):
        plans.require_one_place_of_rows(ours, computed(THERE), place)
    theirs = env_history.Existing(path=place.env, text=computed(THERE).text)
    plans.require_one_place_of_rows(theirs, computed(THERE), place)
    plans.require_one_place_of_rows(None, computed(THERE), place)


def test_a_key_that_comes_from_anywhere_is_not_new(tmp_path: Path) -> None:
    request = plans.Request(folder=tmp_path, archive=tmp_path)
    assert plans.is_key_new(request, None)
    there = env_history.Existing(path=tmp_path, text="SECRET_KEY=sk-1\n")
    assert not plans.is_key_new(request, there)
    given = plans.Request(folder=tmp_path, archive=tmp_path, asked=settings.Asked(values={"SECRET_KEY": "sk-1"}))
    assert not plans.is_key_new(given, None)


@pytest.mark.parametrize(
    ("host", "answering", "resolver", "warned"),
    [
        ("db.intranet", ("10.0.0.1",), "host", False),
        ("db.intranet", (), "none", True),
        ("db.intranet", ("10.0.0.1",), "none", True),
        ("10.0.0.9", (), "none", False),
    ],
)
def test_a_name_that_containers_cannot_look_up_is_a_warning(
    host: str, answering: tuple[str, ...], resolver: str, *, warned: bool
) -> None:
    env = computed({**THERE, "DB_HOST": host, "CONTAINER_RESOLVERS": resolver})
    found = list(plans.warn_of_names(env, plans.Names(listed=answering, answering=answering)))
    assert bool(found) == warned
    assert all(each.level == "warning" and "--resolver" in each.remedy for each in found)


def test_a_finding_says_what_is_there_and_what_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = postgresql.Seen(version="15.4", revision="0003", missing=("dify_plugin",), warnings=(("few", "more"),))
    monkeypatch.setattr(reach, "require_not_here", lambda *_: None)
    monkeypatch.setattr(postgresql, "look", lambda *_, **__: seen)
    found = plans.check_database(computed(THERE), None, key_is_new=False)
    assert found is not None
    assert [each.level for each in found.findings] == ["ok", "warning"]
    assert "dify_db is there, dify_plugin is made; it holds a Dify, at 0003" in found.findings[0].seen
    assert found.missing == ("dify_plugin",)
    monkeypatch.setattr(redis_server, "look", lambda *_: redis_server.Seen(version="Redis 7.0", warnings=()))
    assert [each.level for each in plans.check_redis(computed(CACHE), None)] == ["ok"]
    assert plans.check_database(computed({}), None, key_is_new=True) is None
    assert list(plans.check_redis(computed({}), None)) == []


def test_rows_that_cannot_be_counted_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Podman(Runner())
    monkeypatch.setattr(postgresql, "count_rows", lambda *_: {"dify": {"public.apps": 2}})
    assert rows.count(THERE, [], engine).rows == {"dify": {"public.apps": 2}}

    def fail(*_: object) -> None:
        raise errors.PreflightFailed("nothing listens there")

    monkeypatch.setattr(postgresql, "count_rows", fail)
    assert rows.count(THERE, [], engine).why_not == "nothing listens there"


def test_who_is_not_reached_from_inside_is_told_first(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [{"kind": "connection", "detail": "no answer in time"}, {"kind": "ok", "detail": "it lets us connect"}]
    monkeypatch.setattr(inside, "find_container", lambda *_: "dify_api_1")
    monkeypatch.setattr(inside, "ask_inside", lambda *_, **__: asked)
    engine = Podman(Runner())
    found = others.check({**THERE, **CACHE}, [], Path("probe.py"), engine)
    assert [(each.check, each.level) for each in found] == [
        ("api reaches PostgreSQL at db.intranet:5433", "error"),
        ("api reaches Redis at 10.0.0.9:6380", "ok"),
    ]
    assert others.check({}, [], Path("probe.py"), engine) == []
    with pytest.raises(errors.NotHealthy) as caught, others.telling(lambda: found):
        raise errors.NotHealthy("the stack is not healthy: api (starting)", "fix it")
    assert caught.value.message.startswith("this host reaches what Dify's containers do not (PostgreSQL at db.intranet")
    assert "the stack is not healthy: api" in caught.value.message
    assert "let the containers through" in caught.value.remedy
    with pytest.raises(errors.NotHealthy, match="^slow$"), others.telling(list):
        raise errors.NotHealthy("slow")
