"""What people see: lines and progress bars on standard error.

The machine's result (`--json`, `build images`) goes to standard output and not through here.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, Protocol, TextIO

from installer.core import errors
from installer.core.streams import close_quietly

# Terminal colours (ECMA-48) by what they mean.
COLOURS = {"ok": "32", "warning": "33", "error": "31"}
MEANINGS = {"ok  ": "ok", "WARN": "warning", "FAIL": "error"}
MARK = re.compile(r"^( *)(ok  |WARN|FAIL)(?= )", re.MULTILINE)


# How often a long step tells how far it is where its lines stay.
LINE_SECONDS = 10.0


class Bar(Protocol):
    """Told of the bytes (or things) that are done."""

    def update(self, n: int) -> object: ...


class _Lines:
    """Tells how far a step is where there is no terminal: a line every ten seconds, if it takes so long."""

    def __init__(self, console: Console, label: str, total: int, unit: str) -> None:
        self._console, self._label, self._total, self._unit = console, label, total, unit
        self._done = 0
        self._told = time.monotonic()

    def update(self, n: int) -> None:
        self._done += n
        if time.monotonic() - self._told >= LINE_SECONDS:
            self._told = time.monotonic()
            self._console.line(
                f"  {self._label}: {_amount(self._done, self._unit)} of {_amount(self._total, self._unit)}"
            )


class Console:
    """Writes to `stream` (standard error); a silent one writes nothing at all."""

    def __init__(self, *, silent: bool = False, stream: TextIO | None = None) -> None:
        self.silent = silent
        self.stream = sys.stderr if stream is None else stream
        self._waited_for = ""
        self._bar: Any = None

    @property
    def interactive(self) -> bool:
        """Whether a person watches: bars make sense on a terminal only."""
        return not self.silent and self.stream.isatty()

    def line(self, text: str = "") -> None:
        """Write one line; above the bar, if there is one."""
        if self._bar is not None:
            self._bar.write(text, file=self.stream)
        elif not self.silent:
            self._write(f"{self.coloured(text)}\n")

    def paint(self, meaning: str, text: str) -> str:
        """Return `text` in the colour of what it means (a level, or "error"), where there are colours."""
        return f"\033[{COLOURS[meaning]}m{text}\033[0m" if self.colours and meaning in COLOURS else text

    @property
    def colours(self) -> bool:
        """Whether colours make sense: on a terminal that has them, unless NO_COLOR is set (https://no-color.org)."""
        return self.interactive and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    def coloured(self, text: str) -> str:
        """Return `text` with the marks of findings at the beginning of lines painted, where there are colours."""
        if not self.colours:
            return text
        return MARK.sub(lambda found: found.group(1) + self.paint(MEANINGS[found.group(2)], found.group(2)), text)

    def _write(self, text: str) -> None:
        """Write; a reader who has gone away (`| head`), or a full disk, does not end an installation."""
        try:
            self.stream.write(text)
            self.stream.flush()
        except (OSError, ValueError):
            self.silent = True
            close_quietly(self.stream)

    def waiting(self, text: str) -> None:
        """Show what is being waited for: one line that changes on a terminal, a new line elsewhere when it does."""
        if text == self._waited_for:
            return
        self._waited_for = text
        if not self.interactive:
            if text:
                self.line(f"  waiting for {text}")
            return
        width = shutil.get_terminal_size().columns - 1
        self._write(f"\r\033[K{f'  waiting for {text}'[:width] if text else ''}")

    @contextlib.contextmanager
    def progress(self, label: str, total: int, *, unit: str = "B") -> Iterator[Bar]:
        """Show how far a long step is: a bar on a terminal, a line at its end elsewhere."""
        if not self.interactive:
            started = time.monotonic()
            yield _Lines(self, label, total, unit)
            self.line(f"{label}: {_amount(total, unit)} in {time.monotonic() - started:.1f} s")
            return
        from tqdm import tqdm  # imported late: `--help` need not wait for it

        scaled = unit == "B"
        with tqdm(
            desc=label,
            total=total,
            unit=unit,
            unit_scale=scaled,
            unit_divisor=1024,
            file=self.stream,
            leave=True,
            dynamic_ncols=True,
        ) as bar:
            self._bar = bar
            try:
                yield bar
            finally:
                self._bar = None


def _amount(total: int, unit: str) -> str:
    return size(total) if unit == "B" else f"{total} {unit}"


def size(count: int) -> str:
    """Return bytes for people: `3.2 GiB`."""
    value = float(count)
    for name in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {name}" if name == "B" else f"{value:.1f} {name}"
        value /= 1024
    return f"{value:.1f} GiB"


def read_size(text: str) -> int:
    """Return the bytes of a size, as 4G, 700M or a number. Raises UsageError."""
    found = re.fullmatch(r"(\d+)([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if found is None or int(found.group(1)) == 0:
        raise errors.UsageError(f"{text!r} is not a valid size", "write, for example, 4G or 700M")
    power = " KMGT".index(found.group(2).upper() or " ")
    return int(found.group(1)) << (10 * power)


def print_result(text: str) -> None:
    """Write a result to standard output, in colours where it is a terminal that has them.

    A reader who has gone away has read what he wanted. Raises CommandFailed when it cannot be written.
    """
    stream_result([Console(stream=sys.stdout).coloured(text).removesuffix("\n")])


def stream_result(lines: Iterable[str]) -> None:
    """Write lines to standard output, each as soon as it comes, until there are no more or nobody reads them.

    Raises CommandFailed when they cannot be written.
    """
    try:
        for line in lines:
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
    except BrokenPipeError:
        close_quietly(sys.stdout)
    except OSError as error:
        close_quietly(sys.stdout)
        raise errors.CommandFailed(
            f"the result cannot be written to standard output: {error.strerror}", "make room where it goes"
        ) from error
