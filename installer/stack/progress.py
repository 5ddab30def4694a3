"""What Dify's api does while it starts, by its log: it reads itself in twice, and migrates the database between.

Upstream logs a migration that has failed, and starts all the same, on a database that is not of its version (Dify
1.11.3, api/commands.py, `upgrade_db`). We take it for what it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from installer.core import errors
from installer.engine.base import Container, Engine
from installer.release import dify
from installer.stack import state

LOG_SECONDS = 30.0
# All of a first start: 155 migrations, and what surrounds them.
LOG_LINES = 600
REASONS = 3

# Ours, from before its program (stack.prepare_api), alembic's and upstream's.
_TO_DO = re.compile(r"dify-installer: (\d+) migrations to do")
_ONE = re.compile(r"Running upgrade .*-> \w+")
_DONE = ("Database migration successful", "Database migration skipped")
_FAILED = "Failed to execute database migration"
# The last line of a traceback: `psycopg2.errors.DuplicateTable: relation … already exists`.
_REASON = re.compile(r"(?:\w+\.)*\w*(?:Error|Exception|errors\.\w+)\b.*")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the api has come: in words, without the number that changes all the time, and why migrations failed."""

    words: str
    brief: str
    failed: tuple[str, ...] = ()


def look(engine: Engine) -> Progress | None:
    """Return how far the api has come, as `read`. Raises NotHealthy when its migrations have failed."""
    found = state.list_containers(engine)
    reached = read(found, engine)
    if reached is not None and reached.failed:
        logs = engine.log_commands(each.name for each in found if each.service == dify.API)
        raise errors.NotHealthy(
            "the api runs, but the migrations of its database have failed:\n    " + "\n    ".join(reached.failed),
            f"all of it is in {logs}; the database is of an older version than Dify is: mend what the log names, then "
            "run the same command again",
        )
    return reached


def read(found: Iterable[Container], engine: Engine) -> Progress | None:
    """Return how far the api has come since it was started; None where it does not run, or does not say."""
    api = next((each for each in found if each.service == dify.API and each.state == "running"), None)
    if api is None:
        return None
    command = ["logs", "--since", str(api.started), "--tail", str(LOG_LINES), api.name]
    result = engine.run(command, timeout=LOG_SECONDS, check=False)
    return judge((engine.runner.mask(result.stdout) + engine.runner.mask(result.stderr)).splitlines())


def judge(lines: Iterable[str]) -> Progress | None:
    """Return what these lines tell; what a container says on its two streams may have come in another order."""
    lines = list(lines)
    text = "\n".join(lines)
    if _FAILED in text:
        reasons = [line for line in lines if _REASON.fullmatch(line)][-REASONS:]
        return Progress("migrations that have failed", "migrations that have failed", tuple(reasons) or (_FAILED,))
    if any(words in text for words in _DONE):
        return _alike("the api, which reads its program in")
    todo = _TO_DO.search(text)
    several = todo is not None and todo[1] != "0"
    if done := len(_ONE.findall(text)):
        of = f" of {todo[1]}" if todo is not None and done <= int(todo[1]) else ""
        return Progress(f"the api: migration {done}{of}", "the api, which migrates the database")
    if several:
        assert todo is not None
        return _alike(f"the api, which reads its program in; {todo[1]} migrations follow")
    return _alike("the api, which reads its program in") if todo is not None else None


def _alike(words: str) -> Progress:
    return Progress(words, words)
