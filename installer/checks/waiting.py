"""Waits until Dify answers at its front door."""

from __future__ import annotations

import time

from installer.checks import front_door
from installer.core.console import Console
from installer.engine.base import Engine
from installer.release import compose, dify
from installer.stack import progress, state

POLL_SECONDS = 0.2
# Between two looks into the api's log: it takes processor time that the api starts with.
LOOK_SECONDS = 2.0


def await_console(
    front: front_door.FrontDoor, document: compose.Document, deadline: float, engine: Engine, console: Console
) -> None:
    """Wait until the front door answers as it should, and tell what the api does meanwhile.

    502 is normal while the api migrates its tables on the first start. `deadline` is a
    time.monotonic(). Raises NotHealthy with the last log lines of those who answer there, or when migrations failed.
    """
    looked, reached = 0.0, None
    while bad := [each for each in front_door.check_console(front) if each.level == "error"]:
        if time.monotonic() - looked >= LOOK_SECONDS:
            reached = progress.look(engine)
            looked = time.monotonic()
        told = f"{bad[0].check} ({bad[0].seen})"
        if reached is not None:
            told = reached.words if console.interactive else reached.brief
        console.waiting(told)
        if time.monotonic() > deadline:
            console.waiting("")
            found = state.list_containers(engine)
            suspects = state.find_unready(document, found, time.time())
            suspects |= {name: bad[0].seen for name in (dify.API, dify.PROXY) if name not in suspects}
            raise state.not_healthy(suspects, found, engine)
        time.sleep(POLL_SECONDS)
    console.waiting("")
    # Upstream's api answers even then.
    progress.look(engine)
