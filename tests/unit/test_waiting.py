"""What is told while Dify starts, and that a migration that failed is no start."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest

from installer.checks import front_door, waiting
from installer.core import errors
from installer.core.console import Console
from installer.core.finding import Finding
from installer.core.runner import Runner
from installer.engine.docker import Docker
from installer.stack import progress

BAD = Finding("console reachable", "error", "status 502", "")
GOOD = Finding("console reachable", "ok", "ready")
FRONT = front_door.FrontDoor(url="http://10.0.0.5", version="1.11.3", certificate=None, logs="")


class Terminal(io.StringIO):
    """A stream that counts as a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Waits for a Dify whose door and whose log say these things one after the other; returns what was shown."""

    def wait(stream: io.StringIO, *steps: tuple[Finding, list[str]]) -> str:
        left = list(steps)

        def look(_engine: object) -> progress.Progress | None:
            reached = progress.judge(left[0][1])
            if reached is not None and reached.failed:
                raise errors.NotHealthy("failed", "")
            return reached

        def check(_front: object) -> list[Finding]:
            if len(left) > 1:
                del left[0]
            return [left[0][0]]

        left.insert(0, left[0])
        monkeypatch.setattr(front_door, "check_console", check)
        monkeypatch.setattr(progress, "look", look)
        monkeypatch.setattr(waiting, "POLL_SECONDS", 0)
        monkeypatch.setattr(waiting, "LOOK_SECONDS", 0)
        waiting.await_console(FRONT, {"services": {}}, 1e9, Docker(Runner({})), Console(stream=stream))
        return stream.getvalue()

    return wait


LOG = ["dify-installer: 155 migrations to do"]
ONE = "INFO  [alembic.runtime.migration] Running upgrade a -> b"


def test_a_person_sees_how_far_the_migrations_are(wait: Callable[..., str]) -> None:
    shown = wait(Terminal(), (BAD, []), (BAD, LOG), (BAD, [*LOG, ONE]), (BAD, [*LOG, ONE, ONE]), (GOOD, []))
    for words in ("status 502", "155 migrations follow", "migration 1 of 155", "migration 2 of 155"):
        assert words in shown


def test_a_pipe_gets_a_line_a_step(wait: Callable[..., str]) -> None:
    shown = wait(io.StringIO(), (BAD, LOG), (BAD, [*LOG, ONE]), (BAD, [*LOG, ONE, ONE]), (GOOD, []))
    assert len(shown.splitlines()) == 2


def test_an_answer_after_a_migration_that_failed_is_no_start(wait: Callable[..., str]) -> None:
    with pytest.raises(errors.NotHealthy):
        wait(io.StringIO(), (BAD, LOG), (GOOD, [*LOG, "Failed to execute database migration"]))
