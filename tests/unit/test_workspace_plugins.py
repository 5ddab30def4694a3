"""Plugins of a workspace, against a console that answers as the real one and its plugin daemon do."""

from __future__ import annotations

from pathlib import Path

import pytest

from installer.core import errors
from installer.core.console import Console
from installer.workspace import plugins
from installer.workspace.client import ConsoleError
from tests.unit.console import State, package, refused, signed_in

QUIET = Console(silent=True)
OLLAMA, OTHER = "langgenius/ollama", "langgenius/openai_api_compatible"
OLD = f"{OLLAMA}:0.1.1@{'a' * 64}"
# As plugin daemon 0.5.2 tells of a missing wheel, shortened: uv's whole output, in its middle cut out by the daemon.
NO_WHEEL = (
    "failed: failed to launch plugin: failed to install dependencies: failed to install dependencies: exit status 1, "
    "output: DEBUG Found workspace root: /app\nTRACE term root==0a...0\n  root==0a0.dev0 depends on colorama==0.4.6\n"
    "error: No solution found when resolving dependencies\n  cause: Because colorama was not found in the provided "
    "package locations and you require colorama==0.4.6, we can conclude that your requirements are unsatisfiable.\n\n"
    "failed to init environment"
)


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "POLL_SECONDS", 0.0)


def bring(state: State, *paths: Path, started: plugins.Started = lambda: 0) -> list[plugins.Brought]:
    with signed_in(state) as client:
        return plugins.bring(client, [plugins.read_package(path) for path in paths], QUIET, started)


def told(state: State, *paths: Path) -> str:
    with pytest.raises(errors.WorkspaceFailed) as failure:
        bring(state, *paths)
    return f"{failure.value.message}; do: {failure.value.remedy}"


def test_what_is_missing_is_installed_all_at_the_same_time(tmp_path: Path) -> None:
    state = State()
    brought = bring(state, package(tmp_path, "ollama", "0.1.3"), package(tmp_path, "openai_api_compatible", "0.0.45"))
    assert [(each.name, each.version, each.what) for each in brought] == [
        (OLLAMA, "0.1.3", "installed"),
        (OTHER, "0.0.45", "installed"),
    ]
    first_look = next(number for number, call in enumerate(state.calls) if "/tasks/" in call)
    assert sum("install/pkg" in call for call in state.calls[:first_look]) == 2


@pytest.mark.parametrize(("there", "version"), [("0.1.3", "0.1.3"), ("0.1.10", "0.1.9")])
def test_what_is_there_as_new_or_newer_is_left_alone(tmp_path: Path, there: str, version: str) -> None:
    state = State()
    state.add_plugin(f"{OLLAMA}:{there}@{'a' * 64}")
    (brought,) = bring(state, package(tmp_path, "ollama", version))
    assert (brought.what, brought.version) == ("kept", there)
    assert not state.called("/upload/")


def test_one_that_is_being_debugged_is_left_alone(tmp_path: Path) -> None:
    state = State()
    state.add_plugin(OLD, source="remote")
    (brought,) = bring(state, package(tmp_path, "ollama", "0.1.3"))
    assert brought.what == "kept"


def test_an_older_one_is_upgraded(tmp_path: Path) -> None:
    state = State()
    state.add_plugin(OLD)
    (brought,) = bring(state, package(tmp_path, "ollama", "0.1.3"))
    assert (brought.what, brought.before, brought.version) == ("upgraded", "0.1.1", "0.1.3")
    assert state.plugins[OLLAMA]["version"] == "0.1.3"


def test_of_two_versions_the_newest_counts(tmp_path: Path) -> None:
    state = State()
    bring(state, package(tmp_path, "ollama", "0.1.10"), package(tmp_path, "ollama", "0.1.9"))
    assert state.plugins[OLLAMA]["version"] == "0.1.10"


def test_the_daemons_own_error_is_told_without_its_debugging(tmp_path: Path) -> None:
    text = told(State(install_states=[NO_WHEEL]), package(tmp_path, "ollama", "0.1.3"))
    assert "ollama 0.1.3 fails: No solution found" in text and "colorama==0.4.6" in text
    assert "DEBUG" not in text and "root==" not in text and "init environment" not in text
    assert "wheels that it needs are missing" in text


def test_one_that_fails_does_not_keep_the_others_from_being_installed(tmp_path: Path) -> None:
    state = State(install_states=[[NO_WHEEL], ["running", "running", "success"]])
    told(state, package(tmp_path, "ollama", "0.1.3"), package(tmp_path, "openai_api_compatible", "0.0.45"))
    assert set(state.plugins) == {OTHER}


def test_after_an_upgrade_that_fails_the_version_before_is_back(tmp_path: Path) -> None:
    state = State(install_states=[[NO_WHEEL], ["success"]])
    state.add_plugin(OLD)
    assert "version 0.1.1 has been put back" in told(state, package(tmp_path, "ollama", "0.1.3"))
    assert state.plugins[OLLAMA]["version"] == "0.1.1"


def test_a_version_that_cannot_be_put_back_is_told(tmp_path: Path) -> None:
    state = State(install_states=[[NO_WHEEL], [NO_WHEEL]])
    state.add_plugin(OLD)
    assert "0.1.1 could not be put back: No solution" in told(state, package(tmp_path, "ollama", "0.1.3"))


def test_a_package_that_the_daemon_does_not_trust_is_told(tmp_path: Path) -> None:
    words = (
        "req_id: a75435f902 PluginDaemonBadRequestError: plugin verification has been enabled, and the plugin you want "
        "to install has a bad signature"
    )
    state = State(refuse={"POST /workspaces/current/plugin/upload/pkg": refused(400, "invalid_param", words)})
    state.add_plugin(OLD)
    text = told(state, package(tmp_path, "ollama", "0.1.3"))
    assert "fails: plugin verification has been enabled" in text and "signed" in text
    assert state.plugins[OLLAMA]["version"] == "0.1.1"


def test_an_installation_that_goes_on_since_an_earlier_run_is_waited_for(tmp_path: Path) -> None:
    identifier = f"{OLLAMA}:0.1.3@{'0' * 64}"
    state = State(tasks={"earlier": [identifier, "running", "running", "success"]})
    (brought,) = bring(state, package(tmp_path, "ollama", "0.1.3"))
    assert brought.what == "installed"
    assert not state.called("install/pkg")


def test_a_task_that_a_killed_daemon_has_left_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugins, "JOIN_SECONDS", 0.0)
    state = State(tasks={"earlier": [f"{OLLAMA}:0.1.3@{'0' * 64}", "running"]})
    bring(state, package(tmp_path, "ollama", "0.1.3"))
    assert state.called("install/pkg") == 1


def test_what_a_daemon_forgot_that_was_killed_meanwhile_is_begun_again(tmp_path: Path) -> None:
    state = State(install_states=[["running", "silent", "running"], ["running", "success"]])
    bring(state, package(tmp_path, "ollama", "0.1.3"))
    assert state.called("install/pkg") == 2


def test_a_restart_between_two_questions_is_noticed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "RESTART_SECONDS", -1.0)
    times = iter([100, 100, 170])
    state = State(install_states=[["running"] * 20, ["running", "success"]])
    bring(state, package(tmp_path, "ollama", "0.1.3"), started=lambda: next(times, 170))
    assert state.called("install/pkg") == 2


def test_an_installation_without_an_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "LONGEST_SECONDS", 0.0)
    text = told(State(install_states=["running"]), package(tmp_path, "ollama", "0.1.3"))
    assert "does not come to an end" in text


def test_the_daemon_may_need_a_moment_more_than_the_console() -> None:
    words = "Failed to request plugin daemon, url: plugin/t/management/list"
    state = State(refuse={"GET /workspaces/current/plugin/list": refused(400, "invalid_param", words)})

    class Watching(Console):
        def waiting(self, text: str) -> None:
            assert "daemon" in text or not text
            state.refuse.clear()

    with signed_in(state) as client:
        plugins.await_daemon(client, Watching(silent=True))
    assert state.called("/plugin/list") == 2


def test_a_daemon_that_never_comes_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "DAEMON_SECONDS", 0.0)
    words = "Failed to request plugin daemon, url: plugin/t/management/list"
    state = State(refuse={"GET /workspaces/current/plugin/list": refused(400, "invalid_param", words)})
    with signed_in(state) as client, pytest.raises(ConsoleError, match="Failed to request plugin daemon"):
        plugins.await_daemon(client, QUIET)


def test_a_plugin_is_removed_by_its_name_with_or_without_the_author() -> None:
    state = State()
    state.add_plugin(OLD)
    with signed_in(state) as client:
        removed = plugins.remove(client, "ollama")
        assert removed is not None and removed.name == OLLAMA
        assert plugins.remove(client, OLLAMA) is None
    assert not state.plugins


def test_a_name_that_two_plugins_have_needs_the_author() -> None:
    state = State()
    state.add_plugin(OLD)
    state.add_plugin(f"me/ollama:0.1.1@{'a' * 64}")
    with signed_in(state) as client, pytest.raises(errors.UsageError, match="me/ollama"):
        plugins.remove(client, "ollama")


def test_what_is_no_package_is_refused_before(tmp_path: Path) -> None:
    path = tmp_path / "x.difypkg"
    for content in (b"", b"not a zip"):
        path.write_bytes(content)
        with pytest.raises(errors.UsageError, match="not a plugin's package"):
            plugins.read_package(path)
