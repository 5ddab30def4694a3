"""The shell's completion of our command line."""

from __future__ import annotations

import click
from click import shell_completion

from installer.core import layout

# What click's own `main` looks for.
VARIABLE = f"_{layout.EXECUTABLE}_COMPLETE".replace("-", "_").upper()


def script(command: click.Command, shell: str) -> str:
    """Return what `shell` (bash, zsh, fish) has to read to complete our options and commands."""
    kind = shell_completion.get_completion_class(shell)
    assert kind is not None
    return kind(command, {}, layout.EXECUTABLE, VARIABLE).source()
