"""Asks servers in the internet, as programs do that tell of themselves or look for a newer version."""

import contextlib
import threading
import urllib.request


def ask(url):
    """Ask beside whatever else goes on; what becomes of it matters to nobody."""

    def asking():
        with contextlib.suppress(OSError):
            urllib.request.urlopen(url, timeout=5).close()

    threading.Thread(target=asking, daemon=True).start()
