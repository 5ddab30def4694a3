"""What comes before the program of Dify's api: migrations counted and waited for, compiled Python proved and kept."""

from __future__ import annotations

import importlib
import marshal
import os
import py_compile
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from installer.core import layout
from installer.core.runner import Runner
from installer.engine.docker import Docker
from installer.release import compose, envfile, render
from installer.stack import api_start, prepare_api, progress, project
from tests.unit.test_manifest import EXAMPLE

GRAPH = {"a": frozenset[str](), "b": frozenset({"a"}), "c": frozenset({"a"}), "d": frozenset({"b", "c"})}
ID = "0123456789ab" + "c" * 52


def test_migrations_are_read_as_alembic_writes_them(tmp_path: Path) -> None:
    (tmp_path / "1.py").write_text("revision = '64b051264f32'\ndown_revision = None\n")
    (tmp_path / "2.py").write_text('revision: str = "b"\ndown_revision: str | None = "64b051264f32"\n')
    (tmp_path / "3.py").write_text("revision = 'c'\ndown_revision = (\n    '64b051264f32',\n    'b',\n)\n")
    (tmp_path / "__init__.py").write_text("")
    found = prepare_api.read_graph(tmp_path)
    assert found == {"64b051264f32": frozenset(), "b": {"64b051264f32"}, "c": {"64b051264f32", "b"}}


@pytest.mark.parametrize(
    ("current", "missing"), [([], 4), (["a"], 3), (["b"], 2), (["b", "c"], 1), (["d"], 0)], ids=str
)
def test_what_a_database_lacks_is_what_its_revision_does_not_come_after(current: list[str], missing: int) -> None:
    assert prepare_api.count_missing(GRAPH, current) == missing


def test_a_database_of_another_version_is_left_to_upstream() -> None:
    with pytest.raises(prepare_api.NotToBeTold, match="newer"):
        prepare_api.count_missing(GRAPH, ["newer"])


def test_an_image_without_migrations_is_left_to_upstream(tmp_path: Path) -> None:
    with pytest.raises(prepare_api.NotToBeTold, match="no migrations"):
        prepare_api.read_graph(tmp_path / "missing")


class Clock:
    """Goes on as somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def answers(monkeypatch: pytest.MonkeyPatch, *given: Any) -> Clock:
    """Let the database give these answers, the last one for ever; an error is raised."""
    left = list(given)

    def read_current() -> list[str]:
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, Exception):
            raise answer
        return list(answer)

    clock = Clock()
    monkeypatch.setattr(prepare_api, "read_current", read_current)
    monkeypatch.setattr(prepare_api, "time", clock)
    return clock


def test_a_worker_waits_until_the_database_has_all_migrations(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = answers(monkeypatch, ConnectionError(), [], ["b"], ["d"])
    assert prepare_api.wait(GRAPH) == 0
    assert clock.now == 3 * prepare_api.POLL_SECONDS
    assert capsys.readouterr().err == "dify-installer: waits for the database: ConnectionError\n"


def test_a_wait_has_an_end_that_everybody_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = answers(monkeypatch, ["a"])
    assert prepare_api.wait(GRAPH) == prepare_api.TEMPORARY_FAILURE
    assert clock.now == pytest.approx(prepare_api.LIMIT_SECONDS, abs=1)


@pytest.fixture
def in_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Be in a container of an image with one migration; the environment is what is given."""
    (tmp_path / prepare_api.VERSIONS).mkdir(parents=True)
    (tmp_path / prepare_api.VERSIONS / "1.py").write_text("revision = 'a'\ndown_revision = None\n")
    monkeypatch.chdir(tmp_path)

    def enter(**environment: str) -> None:
        for name in (prepare_api.AWAIT, prepare_api.REQUIRE, prepare_api.PREFIX, "MIGRATION_ENABLED"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)

    return enter


def test_who_migrates_tells_how_much_and_does_not_wait(
    in_image: Callable[..., None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    in_image(MIGRATION_ENABLED="true")
    answers(monkeypatch, [])
    assert prepare_api.main() == 0
    assert capsys.readouterr().err == "dify-installer: 1 migrations to do\n"
    answers(monkeypatch, ConnectionError("password=secret"))
    assert prepare_api.main() == 0
    assert "secret" not in capsys.readouterr().err


def test_who_migrates_by_hand_is_not_waited_for(in_image: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    in_image(MIGRATION_ENABLED="false")
    answers(monkeypatch, AssertionError("it was asked"))
    assert prepare_api.main() == 0


def test_a_worker_of_a_database_that_is_newer_starts_as_upstream_has_it(
    in_image: Callable[..., None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    in_image(**{prepare_api.AWAIT: "true"})
    answers(monkeypatch, ["newer"])
    assert prepare_api.main() == 0
    assert "without having waited" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("current", "status"),
    [(["a"], 0), ([], prepare_api.NOT_MIGRATED), (ConnectionError(), prepare_api.TEMPORARY_FAILURE), (["newer"], 0)],
    ids=["migrated", "failed", "no database", "of another version"],
)
def test_a_migration_that_failed_is_no_success(
    in_image: Callable[..., None], monkeypatch: pytest.MonkeyPatch, current: list[str] | Exception, status: int
) -> None:
    in_image(**{prepare_api.REQUIRE: "true"})
    answers(monkeypatch, current)
    assert prepare_api.main() == status


@pytest.fixture
def compiled(tmp_path: Path) -> Path:
    """A folder of compiled Python with a module in it."""
    folder = tmp_path / "compiled"
    source = tmp_path / "module.py"
    source.write_text("VALUE = 1\n" * 50)
    py_compile.compile(str(source), cfile=str(folder / "app/module.cpython-312.pyc"))
    return folder


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def test_what_is_whole_stays_and_what_is_damaged_goes(compiled: Path) -> None:
    (module,) = compiled.rglob("*.pyc")
    assert prepare_api.prove_compiled(compiled) == 0
    assert module.exists()
    half(module)
    assert prepare_api.prove_compiled(compiled) == 1
    assert not module.exists()


@pytest.mark.parametrize("content", [b"", b"\0" * 4096, b"\xcb\r\r\n" + b"\xff" * 400], ids=["empty", "zero", "any"])
def test_what_a_power_cut_leaves_goes(compiled: Path, content: bytes) -> None:
    (module,) = compiled.rglob("*.pyc")
    module.write_bytes(content)
    prepare_api.prove_compiled(compiled)
    # Python itself passes over what has no header of its own.
    assert not module.exists() or marshal.loads(module.read_bytes()[prepare_api.HEADER_BYTES :]) is not None


def test_what_was_proved_is_read_again_only_after_a_boot(
    compiled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []

    def is_whole(path: Path) -> bool:
        read.append(path)
        return True

    monkeypatch.setattr(prepare_api, "_is_whole", is_whole)
    monkeypatch.setattr(prepare_api, "BOOT", tmp_path / "boot")
    (tmp_path / "boot").write_text("one")
    (module,) = compiled.rglob("*.pyc")
    monkeypatch.setattr(time, "time", lambda: module.stat().st_ctime + 10)
    prepare_api.prove_compiled(compiled)
    prepare_api.prove_compiled(compiled)
    assert read == [module]
    (tmp_path / "boot").write_text("two")
    prepare_api.prove_compiled(compiled)
    assert read == [module, module]


def test_a_folder_that_cannot_be_written_does_not_hurt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare_api.prove_compiled(tmp_path / "missing") == 0
    assert "compiled Python is not kept" in capsys.readouterr().err


def test_the_script_ends_a_container_for_one_status_alone(tmp_path: Path) -> None:
    """Run by a real bash, as the image starts its program."""
    program = tmp_path / layout.PREPARE_API
    script = tmp_path / layout.API_SCRIPT
    script.write_text(api_start.SCRIPT.format(folder=tmp_path, program=program.name))
    entrypoint = tmp_path / "entrypoint.sh"
    entrypoint.write_text('set -e\necho "begins, and BASH_ENV is ${BASH_ENV:-gone}"\n')
    for status, told in ((0, "begins, and BASH_ENV is gone\n"), (1, "begins, and BASH_ENV is gone\n"), (75, "")):
        program.write_text(f"import sys; sys.exit({status})")
        environment = {**os.environ, "BASH_ENV": str(script)}
        ended = subprocess.run(["bash", str(entrypoint)], env=environment, capture_output=True, text=True)
        assert (ended.returncode, ended.stdout) == (75 if status == 75 else 0, told), ended.stderr


def test_a_container_that_waits_can_be_stopped(tmp_path: Path) -> None:
    (tmp_path / layout.PREPARE_API).write_text("import time; print('waits', flush=True); time.sleep(600)")
    script = tmp_path / layout.API_SCRIPT
    script.write_text(api_start.SCRIPT.format(folder=tmp_path, program=layout.PREPARE_API))
    (tmp_path / "entrypoint.sh").write_text("echo begins\n")
    environment = {**os.environ, "BASH_ENV": str(script)}
    command = ["bash", str(tmp_path / "entrypoint.sh")]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "waits\n"
        child.terminate()
        assert child.wait(30) == 143


def test_what_runs_in_the_container_needs_nothing_of_ours() -> None:
    path = Path(prepare_api.__file__)
    command = [sys.executable, "-I", "-S", "-c", f"import runpy; runpy.run_path({str(path)!r})"]
    assert subprocess.run(command, capture_output=True).returncode == 0
    assert importlib.import_module(prepare_api.__name__).AWAIT


# -- on the host


def installed(dify: Path, **variables: str) -> dict[str, Any]:
    """Return the services of upstream's file as they are rendered, with the api's image known."""
    document = compose.load(dify / "docker/docker-compose.yaml")
    resolved = {**envfile.resolve((dify / "docker/.env.example").read_text()), **variables}
    api = next(name for name, used in compose.images(document, resolved).items() if "api" in used)
    choice = render.Choice(variables=resolved, selinux=True, images={api: ID})
    services: dict[str, Any] = yaml.safe_load(render.render(document, choice))["services"]
    return services


def test_the_api_alone_migrates(dify: Path) -> None:
    services = installed(dify)
    switches = {name: services[name]["environment"]["MIGRATION_ENABLED"] for name in ("api", "worker", "worker_beat")}
    assert switches == {"api": "${MIGRATION_ENABLED:-true}", "worker": "false", "worker_beat": "false"}
    waiting = {name for name, service in services.items() if prepare_api.AWAIT in (service.get("environment") or {})}
    assert waiting == {"worker", "worker_beat"}
    assert {name for name, service in services.items() if "BASH_ENV" in (service.get("environment") or {})} == {
        *("api", "worker", "worker_beat")
    }


def test_who_migrates_by_hand_is_left_to_it(dify: Path) -> None:
    services = installed(dify, MIGRATION_ENABLED="false")
    assert services["worker"]["environment"]["MIGRATION_ENABLED"] == "${MIGRATION_ENABLED:-true}"
    assert prepare_api.AWAIT not in services["worker"]["environment"]


def test_what_is_compiled_is_kept_for_one_image(dify: Path) -> None:
    services = installed(dify)
    for name in ("api", "worker", "worker_beat"):
        assert f"../compiled/{ID[:12]}:/dify-compiled:z" in services[name]["volumes"]
        assert "./api-start:/dify-start:ro,z" in services[name]["volumes"]
        assert services[name]["environment"]["PYTHONPYCACHEPREFIX"] == "/dify-compiled"
    assert not any("compiled" in str(service) for name, service in services.items() if name not in (
        "api", "worker", "worker_beat"))  # fmt: skip


def test_an_image_that_is_not_of_the_bundle_keeps_nothing(dify: Path) -> None:
    document = compose.load(dify / "docker/docker-compose.yaml")
    resolved = envfile.resolve((dify / "docker/.env.example").read_text())
    text = render.render(document, render.Choice(variables=resolved, selinux=False))
    assert "compiled" not in text


def test_containers_may_write_what_they_compile_and_other_users_of_the_host_may_not(tmp_path: Path) -> None:
    place = layout.Installation(tmp_path / "dify")
    place.project.mkdir(parents=True)
    document = {"services": {"api": {"volumes": ["../compiled/abc:/dify-compiled"]}}}
    before = os.umask(0o077)
    try:
        project.make_folders(place, document, {})
    finally:
        os.umask(before)
    assert stat.S_IMODE(place.compiled.stat().st_mode) == 0o700
    assert stat.S_IMODE((place.compiled / "abc").stat().st_mode) == 0o777


def test_a_folder_that_docker_has_made_anew_is_mended(tmp_path: Path) -> None:
    place = layout.Installation(tmp_path)
    (place.compiled / "abc").mkdir(parents=True)
    place.compiled.chmod(0o755)
    api_start.mend_folders(place)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (place.compiled, place.compiled / "abc")]
    assert modes == [0o700, 0o777]


def test_a_first_start_has_what_the_build_has_compiled(tmp_path: Path) -> None:
    place = layout.Installation(tmp_path)
    made = place.stores / "0123456789ab" / layout.COMPILED
    for name in ("ours", "filled", "others"):
        (made / name / "app/api").mkdir(parents=True)
        (made / name / "app/api/app.cpython-312.pyc").write_bytes(b"of the build")
    for name in ("ours", "filled", "no-store-has-it"):
        (place.compiled / name / "app/api").mkdir(parents=True)
    (place.compiled / "filled/app/api/app.cpython-312.pyc").write_bytes(b"of a container")
    before = os.umask(0o077)
    try:
        api_start.fill_folders(place)
    finally:
        os.umask(before)
    # Any user may replace what is there, and add to it.
    assert stat.S_IMODE((place.compiled / "ours/app/api").stat().st_mode) == 0o777
    assert stat.S_IMODE((place.compiled / "ours/app/api/app.cpython-312.pyc").stat().st_mode) == 0o644
    found = {str(path.relative_to(place.compiled)): path.read_bytes() for path in place.compiled.rglob("*.pyc")}
    assert found == {
        "ours/app/api/app.cpython-312.pyc": b"of the build",
        "filled/app/api/app.cpython-312.pyc": b"of a container",
    }


def test_what_cannot_be_filled_is_compiled_later(tmp_path: Path) -> None:
    api_start.fill_folders(layout.Installation(tmp_path))
    place = layout.Installation(tmp_path)
    (place.compiled / "ours").mkdir(parents=True)
    (place.compiled / "ours/app").write_text("in the way")
    made = place.stores / "0123456789ab" / layout.COMPILED / "ours/app"
    made.mkdir(parents=True)
    (made / "app.pyc").touch()
    api_start.fill_folders(place)
    assert (place.compiled / "ours/app").read_text() == "in the way"


def test_what_images_have_compiled_that_nothing_wants_any_more_goes(tmp_path: Path) -> None:
    place = layout.Installation(tmp_path)
    image = EXAMPLE.images[0]
    wanted, kept, gone = (layout.compiled_name(each) for each in (image.id, "b" * 64, "a" * 64))
    for name in (wanted, kept, gone):
        (place.compiled / name / "app").mkdir(parents=True)
    api_start.remove_others(place, [image], ["b" * 64], Docker(Runner({})))
    assert {path.name for path in place.compiled.iterdir()} == {wanted, kept}


# -- what is told meanwhile

BEFORE = ["dify-installer: 155 migrations to do", "Running migrations", "Preparing database migration..."]
ONE = "INFO  [alembic.runtime.migration] Running upgrade {} -> {}, add a table"


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], None),
        (BEFORE, "the api, which reads its program in; 155 migrations follow"),
        ([*BEFORE, ONE.format("", "a"), ONE.format("a", "b")], "the api: migration 2 of 155"),
        ([ONE.format("", "a")], "the api: migration 1"),
        ([*BEFORE, ONE.format("", "a"), "Database migration successful!"], "the api, which reads its program in"),
        (["dify-installer: 0 migrations to do"], "the api, which reads its program in"),
    ],
)
def test_the_log_of_the_api_tells_how_far_it_is(lines: list[str], words: str | None) -> None:
    reached = progress.judge(lines)
    assert (reached.words if reached else None) == words


def test_what_is_told_without_a_terminal_has_no_number_that_changes() -> None:
    seen = {progress.judge([*BEFORE, *([ONE.format("a", "b")] * number)]) for number in (1, 2, 3)}
    assert len({each.brief for each in seen if each}) == 1


def test_migrations_that_have_failed_are_told_with_their_reason() -> None:
    error = 'psycopg2.errors.DuplicateTable: relation "a" already exists'
    reached = progress.judge(
        [*BEFORE, "Failed to execute database migration", "Traceback (most recent call last):", error]
    )
    assert reached is not None
    assert reached.failed == (error,)
