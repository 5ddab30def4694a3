"""The program's first line: proves the executable, then runs the command line.

Called as `podman-compose`, it is podman-compose: that is how a host without Python gets one.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path


def main() -> int:
    """Run as what we were called; return the exit code."""
    if Path(sys.argv[0]).name == "podman-compose":
        return _podman_compose()
    if getattr(sys, "frozen", False):
        # Before anything else is imported from it: a flipped byte must not run.
        from installer.bundle import seal

        if not seal.is_intact(Path(sys.executable)):
            damaged = (
                f"error: {sys.executable} is damaged: its bytes are not those that were built\n"
                "   do: copy it again from the machine that built it and compare it with SHA256SUMS\n"
            )
            with contextlib.suppress(OSError):
                os.write(2, damaged.encode())
            return 3
    from installer.core import streams

    streams.open_standard_streams()
    from installer import cli

    return cli.main()


def _podman_compose() -> int:
    from installer.core import runner

    environment = runner.host_environment()
    os.environ.clear()
    os.environ.update(environment)
    import podman_compose

    podman_compose.main()
    return 0


if __name__ == "__main__":
    sys.exit(main())
