"""The tables in docs/ that are made from the code: `make docs` writes them, `tests/unit/test_docs.py` compares.

A table stands between `<!-- generated: NAME -->` and `<!-- end -->`; NAME is a key of `tables`. The pages in docs/ko
are written by hand: the tests hold that they leave nothing out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import click

from installer.cli import cli
from installer.cluster import health, judge
from installer.commands.man import every_command
from installer.core.errors import EXIT_CODES
from installer.plan import CHECKS
from tests import features

# Without the topics, which do nothing by themselves.
COMMANDS = {name: each for name, each in every_command(cli).items() if not isinstance(each, click.Group)}
ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "docs"
BLOCK = re.compile(r"(?P<begin><!-- generated: (?P<name>[a-z-]+) -->\n).*?(?P<end><!-- end -->)", re.DOTALL)


def tables() -> dict[str, str]:
    """Return every table in Markdown, by the name of its block."""
    return {
        "commands": _table(("command", "what it does"), ((f"`{name}`", text) for name, text in commands().items())),
        "options": _options(),
        "exit-codes": _table(("code", "meaning"), ((str(code), text) for code, text in exit_codes().items())),
        "checks": _table(("check", "what is looked at"), ((f"`{name}`", text) for name, text in checks().items())),
        "running": _table(("check", "what is looked at"), ((f"`{name}`", text) for name, text in of_running().items())),
        "cluster": _table(("check", "what is looked at"), ((f"`{name}`", text) for name, text in of_cluster().items())),
        "hosts": _table(("host feature", "verdict", "shown by"), features.features()),
    }


def commands() -> dict[str, str]:
    """Return the commands of dify-installer and the first sentence of their help."""
    return {name: _first(command.help) for name, command in COMMANDS.items()}


def options(command: str) -> list[click.Option]:
    """Return the options of a command, in the order of its help."""
    return [each for each in COMMANDS[command].params if isinstance(each, click.Option) and not each.hidden]


def exit_codes() -> dict[int, str]:
    """Return the exit codes and what they mean, in their order."""
    return dict(sorted(EXIT_CODES.items()))


def checks() -> dict[str, str]:
    """Return the preflight checks and the first sentence of their docstrings, in the order in which they are shown."""
    return {name: _first(check.__doc__) for name, check in CHECKS.items()}


def of_cluster() -> dict[str, str]:
    """Return the checks of a cluster and the first sentence of their docstrings, in their order."""
    return {name: _first(check.__doc__) for name, check in judge.CHECKS.items()}


def of_running() -> dict[str, str]:
    """Return the checks of what runs on a cluster and the first sentence of their docstrings, in their order."""
    return {name: _first(check.__doc__) for name, check in {**health.CHECKS, **health.MORE}.items()}


def rewritten(page: str) -> str:
    """Return a page's text with the tables of today. Raises KeyError for a block that has no table."""
    today = tables()
    return BLOCK.sub(lambda found: found["begin"] + today[found["name"]] + found["end"], page)


def _options() -> str:
    """Return a table of the options for each subject, if the options have one; what `install` takes comes first."""
    taken_by: dict[tuple[str, str], list[str]] = {}
    subjects: dict[str, list[tuple[str, str]]] = {}
    of_install = {each.opts[0]: _help(each, "install") for each in options("install")}
    for command in ("install", *(name for name in COMMANDS if name != "install")):
        for option in options(command):
            own = _help(option, command)
            row = of_install.get(option.opts[0], own)
            # An option of the same name and another shape is another option.
            row = row if row[0] == own[0] else own
            if row not in taken_by:
                subjects.setdefault(getattr(option, "group", "") or "Of single commands", []).append(row)
            taken_by.setdefault(row, []).append(command)
    parts = []
    for subject, rows in subjects.items():
        told = ((f"`{usage}`", text, ", ".join(f"`{name}`" for name in taken_by[usage, text])) for usage, text in rows)
        title = f"{subject}:\n\n" if len(subjects) > 1 else ""
        parts.append(title + _table(("option", "meaning", "commands"), told))
    return "\n".join(parts)


def _help(option: click.Option, command: str) -> tuple[str, str]:
    """Return how an option is written and what it means, as `--help` says it, but for the range of a number."""
    record = option.get_help_record(click.Context(COMMANDS[command]))
    assert record is not None and option.help is not None
    default = f" [default: {option.default:g}]" if option.show_default and isinstance(option.default, float) else ""
    if option.show_default and isinstance(option.default, str):
        default = f" [default: {option.default}]"
    return record[0], " ".join(option.help.split()) + default


def _first(text: str | None) -> str:
    """Return the first paragraph of a text in one line."""
    return " ".join((text or "").strip().split("\n\n")[0].split())


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *(tuple(cell.replace("|", r"\|") for cell in row) for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    for path in sorted(PAGES.glob("*.md")):
        path.write_text(rewritten(path.read_text("utf-8")), "utf-8")
