"""The program's first line; `bundle/seal_hook.py` has proved the executable before.

Called as `podman-compose`, it is podman-compose: that is how a host without Python gets one. With a word of ours it
unpacks an image store: an installation starts it so, a user's among his subordinate IDs.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main() -> int:
    """Run as what we were called; return the exit code."""
    if Path(sys.argv[0]).name == "podman-compose":
        return _podman_compose()
    from installer.core import layout, streams

    streams.open_standard_streams()
    if sys.argv[1:] == [layout.UNPACK]:
        from installer.images import unpack

        return unpack.main()
    from installer import cli

    return cli.main()


def _podman_compose() -> int:
    from installer.core import runner

    environment = runner.host_environment()
    os.environ.clear()
    os.environ.update(environment)
    from installer.engine import compose_program

    compose_program.main()
    return 0


if __name__ == "__main__":
    sys.exit(main())
