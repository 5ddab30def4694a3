"""Sees to it that a signal's handler runs soon, even where the main thread begins to wait just as the signal comes.

Python's own handler only notes the signal; ours runs when the main thread next executes bytecode. A wait for another
thread ends early for a signal that comes during it. One that comes between the last look and the wait is noticed only
when the wait ends (seen on a busy machine: a Ctrl-C without effect for a minute). So a thread of ours is told of each
signal (signal.set_wakeup_fd) and interrupts the main thread's wait, with a signal that means nothing.
"""

from __future__ import annotations

import os
import signal
import threading
import time

# Ignored by default, and nobody sends it to us.
NUDGE = signal.SIGURG
# The wait may begin some time after the signal, on a machine that is busy.
AFTER_SECONDS = (0.05, 0.2, 1.0, 3.0)


def watch_signals() -> None:
    """Start the thread; it ends with the program. To be called in the main thread, once."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.signal(NUDGE, lambda _number, _frame: None)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reading,), daemon=True).start()


def _watch(reading: int) -> None:
    while numbers := os.read(reading, 1):
        if numbers[0] != NUDGE:
            for seconds in AFTER_SECONDS:
                time.sleep(seconds)
                signal.pthread_kill(threading.main_thread().ident or 0, NUDGE)
