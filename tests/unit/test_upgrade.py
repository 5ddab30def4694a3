"""An upgrade: which version is older, what of the rows is lost, what is kept, and how it comes back."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from installer.commands import actions, prune, rollback
from installer.core import errors, layout
from installer.core.console import Console
from installer.engine.podman import Podman
from installer.host import judge, parse
from installer.release import carry, env_history, envfile, settings
from installer.upgrade import kept, rows, versions
from installer.upgrade import plan as upgrades
from tests.unit.hosts import GOOD, WANTED
from tests.unit.test_boot import program
from tests.unit.test_plan import planned

ORDER = ["0.15.8", "1.0.0-beta.1", "1.0.0-beta.2", "1.0.0-rc1", "1.0.0", "1.0.0-fix1", "1.0.1", "1.11.3", "1.12", "2.0"]
SECRET = "k" * 43


class TestVersions:
    def test_releases_are_in_their_order(self) -> None:
        for number, version in enumerate(ORDER):
            for other in ORDER[number + 1 :]:
                assert versions.is_older(version, other), (version, other)
                assert not versions.is_older(other, version)

    @pytest.mark.parametrize("other", ["main", "", "deploy-dev", "3f2a1bc"])
    def test_what_has_no_number_is_of_no_age(self, other: str) -> None:
        assert not versions.is_older("1.0.0", other)
        assert not versions.is_older(other, "1.0.0")

    def test_a_zero_at_the_end_and_a_v_mean_nothing(self) -> None:
        for other in ("1.0", "1.0.0", "v1"):
            assert not versions.is_older("1", other)
            assert not versions.is_older(other, "1")

    @given(st.lists(st.integers(0, 50), min_size=1, max_size=4), st.lists(st.integers(0, 50), min_size=1, max_size=4))
    def test_no_two_are_each_older_than_the_other(self, one: list[int], two: list[int]) -> None:
        left, right = (".".join(map(str, each)) for each in (one, two))
        assert not (versions.is_older(left, right) and versions.is_older(right, left))


class TestRows:
    def test_the_same_rows_and_more_are_well(self) -> None:
        compared = rows.compare({"dify": {"public.apps": 2}}, {"dify": {"public.apps": 3, "public.new": 1}})
        assert (compared.lost, compared.fewer, compared.total, compared.tables) == ((), (), 4, 2)

    def test_fewer_rows_are_told_and_a_table_that_is_gone(self) -> None:
        before = {"dify": {"public.logs": 5, "public.gone": 1, "public.empty": 0, "public.apps": 3}}
        compared = rows.compare(before, {"dify": {"public.logs": 4, "public.apps": 2}})
        assert compared.lost == ()
        assert compared.fewer == (
            "public.logs: 5 before, 4 now",
            "public.gone: 1 before, the table is gone",
            "public.apps: 3 before, 2 now",
        )

    @pytest.mark.parametrize("after", [{}, {"dify": {}}, {"dify": {"public.messages": 0}}])
    def test_peoples_work_that_is_gone_is_lost(self, after: rows.Rows) -> None:
        assert len(rows.compare({"dify": {"public.messages": 7}}, after).lost) == 1

    def test_many_are_told_by_the_first(self) -> None:
        assert rows.in_words(map(str, range(12))).endswith("; 9; and 2 more")

    def test_another_database_is_said_not_to_be_compared(self, tmp_path: Path) -> None:
        counted = rows.count({"DB_TYPE": "oceanbase"}, [], Podman(program(tmp_path, "podman")))
        assert "the database is oceanbase" in counted.why_not


class TestSettings:
    OLD = (
        "CONSOLE_WEB_URL=\nSECRET_KEY=sk-public\nLOG_LEVEL=INFO\nLIMIT=1\nGONE=\nVECTOR_STORE=weaviate\n"
        "CHECK_UPDATE_URL=\nDB_HOST=db\n"
    )
    NEW = (
        "CONSOLE_WEB_URL=\nFILES_URL=http://localhost\nSECRET_KEY=sk-public\nLOG_LEVEL=INFO\nLIMIT=2\nVECTOR_STORE=pgvector\n"
        "CHECK_UPDATE_URL=https://updates\nDB_HOST=db_postgres\nPLUGIN_DAEMON_KEY=public\nMARKETPLACE_ENABLED=true\n"
    )
    HERE = (
        f"CONSOLE_WEB_URL=http://10.0.0.5\nSECRET_KEY={SECRET}\nLOG_LEVEL=DEBUG\nLIMIT=1\nGONE=mine\n"
        "VECTOR_STORE=weaviate\nCHECK_UPDATE_URL=\nDB_HOST=db\nOURS=x\n"
    )

    @pytest.fixture
    def upgraded(self, tmp_path: Path) -> dict[str, str]:
        existing = env_history.Existing(path=tmp_path / ".env", text=env_history.marked(self.HERE))
        env = settings.compute(self.NEW, existing, settings.Asked(), {}, tmp_path, self.OLD)
        return dict(env.values)

    def test_what_was_chosen_goes_on_and_the_rest_follows(self, upgraded: dict[str, str]) -> None:
        assert (upgraded["LOG_LEVEL"], upgraded["OURS"], upgraded["LIMIT"]) == ("DEBUG", "x", "2")
        assert upgraded["DB_HOST"] == "db_postgres"
        assert "GONE" not in upgraded

    def test_secrets_and_where_data_are_stay_whatever_the_defaults_are(self, upgraded: dict[str, str]) -> None:
        assert (upgraded["SECRET_KEY"], upgraded["VECTOR_STORE"]) == (SECRET, "weaviate")

    def test_a_new_secret_is_generated_and_a_new_address_is_this_hosts(self, upgraded: dict[str, str]) -> None:
        assert upgraded["PLUGIN_DAEMON_KEY"] not in ("", "public")
        assert upgraded["FILES_URL"] == "http://10.0.0.5"

    def test_nothing_begins_to_call_home(self, upgraded: dict[str, str]) -> None:
        assert (upgraded["CHECK_UPDATE_URL"], upgraded["MARKETPLACE_ENABLED"]) == ("", "false")

    def test_once_more_changes_nothing(self, upgraded: dict[str, str], tmp_path: Path) -> None:
        text = "".join(f"{key}={value}\n" for key, value in upgraded.items())
        existing = env_history.Existing(path=tmp_path / ".env", text=text)
        assert settings.compute(self.NEW, existing, settings.Asked(), {}, tmp_path, self.OLD).values == upgraded

    def test_a_lost_key_of_the_older_release_is_refused(self, tmp_path: Path) -> None:
        text = self.HERE.replace(f"SECRET_KEY={SECRET}\n", "")
        recorded = dict.fromkeys(envfile.parse(self.HERE), True)
        existing = env_history.Existing(path=tmp_path / ".env", text=text, recorded=recorded)
        with pytest.raises(errors.PreflightFailed, match="has lost SECRET_KEY"):
            settings.compute(self.NEW, existing, settings.Asked(), {}, tmp_path, self.OLD)


RECORD = kept.Record(
    before="1.0",
    after="2.0",
    state="begun",
    when="2026-01-01T00:00:00Z",
    images={"docker.io/library/nginx:latest": "aa"},
    counted=rows.Counted(rows={"dify": {"public.apps": 3}}),
)


@pytest.fixture
def place(tmp_path: Path) -> layout.Installation:
    """An installation in which the newer Dify is, with the older one kept."""
    made = layout.Installation(tmp_path / "dify")
    for folder, words in ((made.folder, "newer"), (made.previous, "older")):
        for path in ("docker/.env", "bin/dify-installer", "podman-compose/bin/x", "install-report.json"):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(words)
    kept._write(made.previous, RECORD)
    return made


@pytest.fixture
def engine(tmp_path: Path) -> Podman:
    """An engine that has nothing; `unshare` runs what it is given."""
    script = 'if [ "$1" = unshare ]; then shift; exec "$@"; fi; case "$*" in *json*) echo "[]";; esac'
    return Podman(program(tmp_path, "podman", script))


def words(place: layout.Installation) -> list[str]:
    paths = (place.env, place.executable, place.venv / "bin/x", place.report)
    return [path.read_text() for path in paths]


class TestKept:
    def test_a_record_is_read_as_it_was_written(self, place: layout.Installation) -> None:
        assert kept.read(place) == RECORD
        assert kept.list_images(place) == (frozenset(["aa"]), ())
        assert kept.read(layout.Installation(place.folder / "none")) is None

    @pytest.mark.parametrize("content", ["", "[]", "{}", '{"from": "1"}'])
    def test_a_damaged_record_is_told(self, place: layout.Installation, content: str) -> None:
        layout.Installation(place.previous).upgrade_record.write_text(content)
        with pytest.raises(errors.CommandFailed, match="cannot be read"):
            kept.read(place)

    @pytest.mark.parametrize("state", ["made", "begun", "returning"])
    def test_what_has_not_ended_is_refused_to_others(self, place: layout.Installation, state: kept.State) -> None:
        kept.mark(place, state)
        with pytest.raises(errors.CommandFailed, match="was interrupted"):
            kept.require_ended(place)

    def test_the_older_one_comes_back_and_the_newer_one_is_put_aside(
        self, place: layout.Installation, engine: Podman
    ) -> None:
        aside = kept.put_back(place, layout.PROJECT_FAILED, engine, Console())
        assert words(place) == ["older"] * 4
        assert Path(aside, ".env").read_text() == "newer"
        assert Path(aside).name.startswith(layout.PROJECT_FAILED)
        assert not place.previous.exists()

    def test_one_that_had_changed_nothing_leaves_all_as_it_is(self, place: layout.Installation, engine: Podman) -> None:
        kept.mark(place, "made")
        assert kept.put_back(place, layout.PROJECT_FAILED, engine, Console()) == ""
        assert place.env.read_text() == "newer"
        assert place.executable.read_text() == "older"
        assert not place.previous.exists()

    def test_killed_at_any_moment_it_comes_back_all_the_same(
        self, place: layout.Installation, engine: Podman, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each rename and each command may be the last one."""
        for last in range(12):
            left = iter(range(last))

            def step(left: Iterator[int] = left) -> bool:
                if next(left, None) is None:
                    raise KeyboardInterrupt
                return False

            with monkeypatch.context() as killed:
                renamed, replaced, ran = Path.rename, Path.replace, Podman.run
                killed.setattr(Path, "rename", lambda *a, r=renamed, **k: step() or r(*a, **k))
                killed.setattr(Path, "replace", lambda *a, r=replaced, **k: step() or r(*a, **k))
                killed.setattr(Podman, "run", lambda *a, r=ran, **k: step() or r(*a, **k))
                try:
                    kept.put_back(place, layout.PROJECT_FAILED, engine, Console())
                    break
                except KeyboardInterrupt:
                    record = kept.read(place)
                    assert record is None or record.state != "done"
                    if record is None:
                        break
        else:
            kept.put_back(place, layout.PROJECT_FAILED, engine, Console())
        assert words(place) == ["older"] * 4
        (aside,) = place.folder.glob(f"{layout.PROJECT_FAILED}*")
        assert (aside / ".env").read_text() == "newer"

    def test_a_copy_is_made_of_all_and_the_one_before_goes(self, place: layout.Installation, engine: Podman) -> None:
        kept.mark(place, "done")
        kept.note(place, "2.0", "3.0", engine)
        kept.count(place, rows.Counted(rows={"dify": {"public.apps": 4}}))
        assert kept.make(place, engine, Console()) > 0
        found = kept.read(place)
        assert found is not None
        assert (found.before, found.after, found.state, found.counted.rows) == (
            "2.0",
            "3.0",
            "made",
            {"dify": {"public.apps": 4}},
        )
        assert words(layout.Installation(place.previous)) == ["newer"] * 4
        assert words(place) == ["newer"] * 4
        assert not place.previous_part.exists()
        assert not place.previous_gone.exists()

    def test_rows_that_cannot_be_counted_again_are_those_of_the_run_that_was_killed(
        self, place: layout.Installation, engine: Podman
    ) -> None:
        kept.mark(place, "done")
        for counted in (rows.Counted(rows={"dify": {"public.apps": 4}}), rows.Counted(why_not="it does not run")):
            kept.note(place, "2.0", "3.0", engine)
            kept.count(place, counted)
        entry = json.loads(layout.Installation(place.previous_part).upgrade_record.read_text())
        assert entry["rows"] == {"dify": {"public.apps": 4}}

    def test_what_may_not_be_read_is_refused(self, tmp_path: Path) -> None:
        script = 'echo "du: cannot read directory: Permission denied" >&2; exit 1'
        denied = Podman(program(tmp_path, "du", script))
        if denied.as_owner([]) == []:
            with pytest.raises(errors.PreflightFailed, match="not all of it may be read"):
                kept.measure(tmp_path, denied)


def test_the_copy_needs_room_before_anything_is_changed() -> None:
    wanted = dataclasses.replace(WANTED, kept_bytes=10**15)
    failed = [each for each in judge.judge(GOOD, wanted) if each.level == "error"]
    assert [each.check for each in failed] == ["space"]


def test_mount_points_are_read_as_they_are() -> None:
    lines = "36 35 98:0 / /a\\040b rw - ext4 /dev/x rw\n37 35 98:0 / /c rw - ext4 /dev/x rw\nhalf\n"
    assert parse.mount_points(lines) == ["/a b", "/c"]


MOVE = upgrades.Upgrade(
    before="1.0",
    after="2.0",
    begun=False,
    example="",
    carried=carry.Carried(values={"X": "secret"}, new=("NEW",), changed=("CHANGED",), gone=("GONE",)),
    data_bytes=5 * 1024**3,
    room_bytes=5 * 1024**3,
    replaced="0.9",
    volumes=(),
)


def test_the_plan_names_versions_keys_and_what_goes_and_no_value() -> None:
    told = "\n".join(each.what for each in actions._upgrade(dataclasses.replace(planned(), upgrade=MOVE)))
    for part in ("Dify 1.0 becomes 2.0", "5.0 GiB", "are new: NEW", "CHANGED", "were set here: GONE", "Dify 0.9"):
        assert part in told
    assert "secret" not in told
    assert actions._upgrade(planned()) == []


def test_a_key_that_vanished_is_a_warning_and_volumes_that_are_not_copied() -> None:
    found = upgrades.check(dataclasses.replace(MOVE, volumes=("dify_es",)), planned().bundle, None)
    assert [each.level for each in found] == ["ok", "warning", "warning"]
    assert "GONE" in found[1].seen
    assert "dify_es" in found[2].seen


def test_what_was_put_aside_is_told_to_who_goes_back_and_who_prunes() -> None:
    back = rollback.RolledBack(dify="1.0", left="2.0", aside="/opt/dify/docker.after-x", since="then", seconds=3.0)
    assert "remove /opt/dify/docker.after-x only when" in rollback.as_text(back)
    pruned = prune.Pruned(dify="1.0", bytes=1024, images=3, freed_bytes=2048, left=("/x",), remove="rm -rf /x")
    assert prune.as_text(pruned) == (
        "Dify 1.0 is removed, 1.0 KiB; 3 images are removed; there is 2.0 KiB more room\n"
        "What was put aside stays, with people's data in it: /x\n"
        "  do: when nobody needs it: rm -rf /x"
    )
