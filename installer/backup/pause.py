"""Has a container stopped for a while, and has it run again whatever happens to us meanwhile."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Iterator

from installer.engine.base import Engine

STOP_SECONDS = 60
MARGIN_SECONDS = 30
ASK_SECONDS = 30.0
# Waits until our process has ended or the note is gone; starts the container if the note is there still. The note goes
# first: who stops the container from then on means it.
KEEPER = """
while kill -0 "$1" 2>/dev/null && [ -e "$2" ]; do sleep 1; done
[ -e "$2" ] || exit 0
rm -f "$2"
shift 2
exec "$@"
"""
# In a session of its own, with nothing of ours open: what is sent to us does not reach it, and nobody waits for it.
LAUNCH = 'trap "" HUP; setsid --fork sh -c "$0" "$@" </dev/null >/dev/null 2>&1'


@contextlib.contextmanager
def stopped(name: str, engine: Engine) -> Iterator[None]:
    """Have a container stopped while the block runs, as it is told to end: all that it holds is on the disk then.

    A store whose files are copied while it runs, or as it was killed, may find less afterwards, in silence: Weaviate
    keeps the objects and loses the way to them (dify-docs#940, "Stop Weaviate Gracefully"). Should we be killed
    meanwhile, a shell that outlives us starts it: it may be somebody else's. Raises CommandFailed.
    """
    with tempfile.NamedTemporaryFile(prefix="dify-installer-pause-") as note:
        start = [engine.name, "start", name]
        keeper = [KEEPER, "sh", str(os.getpid()), note.name, *start]
        engine.runner.run(["sh", "-c", LAUNCH, *keeper], timeout=ASK_SECONDS)
        try:
            engine.run(["stop", "-t", str(STOP_SECONDS), name], timeout=STOP_SECONDS + MARGIN_SECONDS)
            yield
        finally:
            # After Ctrl-C no other program starts any more.
            tidying = dataclasses.replace(engine, runner=engine.runner.for_tidying())
            tidying.run(["start", name], timeout=STOP_SECONDS)
