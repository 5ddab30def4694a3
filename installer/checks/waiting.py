"""Waits until Dify answers at its front door."""

from __future__ import annotations

import time

from installer.checks import front_door
from installer.core.console import Console
from installer.engine.base import Engine
from installer.release import compose, dify
from installer.stack import state

POLL_SECONDS = 0.2


def await_console(
    front: front_door.FrontDoor, document: compose.Document, deadline: float, engine: Engine, console: Console
) -> None:
    """Wait until the front door answers as it should.

    502 is normal while the api migrates its tables on the first start. `deadline` is a
    time.monotonic(). Raises NotHealthy with the last log lines of those who answer there.
    """
    while bad := [each for each in front_door.check_console(front) if each.level == "error"]:
        console.waiting(f"{bad[0].check} ({bad[0].seen})")
        if time.monotonic() > deadline:
            console.waiting("")
            found = state.list_containers(engine)
            suspects = state.find_unready(document, found, time.time())
            suspects |= {name: bad[0].seen for name in (dify.API, dify.PROXY) if name not in suspects}
            raise state.not_healthy(suspects, found, engine)
        time.sleep(POLL_SECONDS)
    console.waiting("")
