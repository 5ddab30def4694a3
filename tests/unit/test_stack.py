from __future__ import annotations

import pytest

from installer.checks import starting
from installer.core.finding import Finding, any_failed
from installer.engine.base import Container
from installer.stack import state

DOCUMENT = {
    "services": {
        "init": {"image": "busybox"},
        "api": {"image": "api", "depends_on": {"init": {"condition": "service_completed_successfully"}}},
    }
}


def container(service: str, state: str, health: str = "", exit_code: int = 0, restarts: int = 0) -> Container:
    return Container(
        project="dify",
        service=service,
        folder="/opt/dify/docker",
        image=service,
        name=f"dify_{service}_1",
        state=state,
        health=health,
        exit_code=exit_code,
        restarts=restarts,
        created=100,
        started=100,
    )


DONE = container("init", "exited")


@pytest.mark.parametrize(
    ("found", "reasons"),
    [
        ([DONE, container("api", "running")], {}),
        ([DONE, container("api", "running", "healthy")], {}),
        ([DONE, container("api", "running", "starting")], {"api": "starting"}),
        ([DONE, container("api", "running", "unhealthy")], {"api": "unhealthy"}),
        ([DONE, container("api", "exited", exit_code=1)], {"api": "exited with status 1"}),
        ([DONE, container("api", "running", restarts=4)], {"api": "restarted 4 times"}),
        ([DONE], {"api": "not created"}),
        ([container("init", "exited", exit_code=2), container("api", "running")], {"init": "exited with status 2"}),
        ([container("init", "running"), container("api", "created")], {"init": "running", "api": "created"}),
    ],
)
def test_what_is_not_ready_is_named_with_its_reason(found: list[Container], reasons: dict[str, str]) -> None:
    assert state.find_unready(DOCUMENT, found, now=103) == reasons


def test_a_restarted_container_is_ready_once_it_has_stayed_up() -> None:
    assert state.find_unready(DOCUMENT, [DONE, container("api", "running", restarts=4)], now=200) == {}


def test_a_service_that_another_waits_for_to_end_is_a_one_shot() -> None:
    assert state.find_one_shots(DOCUMENT) == {"init"}


@pytest.mark.parametrize(
    ("found", "now", "since"),
    [
        ([DONE, container("api", "running", "starting")], 130, 100),
        ([DONE, container("api", "running")], 130, 100),
        ([DONE, container("api", "running", "starting")], 100 + 1201, None),
        ([DONE, container("api", "exited", exit_code=1)], 130, None),
        ([DONE, container("api", "running", "unhealthy")], 130, None),
        ([DONE, container("api", "running", restarts=2)], 103, None),
        ([DONE], 130, None),
        ([container("init", "running"), container("api", "created")], 130, 100),
    ],
)
def test_a_stack_starts_while_nothing_has_failed_and_it_is_young(
    found: list[Container], now: float, since: float | None
) -> None:
    assert state.starting_since(DOCUMENT, found, now, 1200) == since


def test_what_has_failed_is_a_warning_while_it_starts() -> None:
    failed = Finding("console reachable", "error", "status 502", "look")
    good = Finding("containers up", "ok", "12 services")
    warning, same = starting.judge_as_starting([failed, good], 1000.0, 1040.0)
    assert same == good
    assert warning.level == "warning"
    assert "(40 s ago), waiting for console reachable: status 502" in warning.seen
    assert not any_failed([warning, same])
