"""The manual page, made from the command line itself: roff, as man(7) has it."""

from __future__ import annotations

import inspect
import re

import click

from installer import VERSION
from installer.core import errors, layout


def page(group: click.Group) -> str:
    """Return the manual page of the program and all its commands."""
    context = click.Context(group, info_name=layout.EXECUTABLE)
    lines = [f'.TH {layout.EXECUTABLE.upper()} 8 "" "{layout.EXECUTABLE} {VERSION}"', ".SH NAME"]
    lines += [f"{layout.EXECUTABLE} \\- install Dify on a server without a network", ".SH SYNOPSIS"]
    lines += [f".B {layout.EXECUTABLE}", "[COMMAND] [OPTIONS]", ".SH DESCRIPTION", *_text(group.help or "")]
    for name, command in every_command(group).items():
        arguments = [each.human_readable_name for each in command.params if isinstance(each, click.Argument)]
        typed = _escaped(" ".join([name, "[OPTIONS]", *arguments]))
        lines += [f".SH {name.upper()}", f".B {typed}", *_text(command.help or ""), *_options(command, context)]
    lines.append(".SH EXIT STATUS")
    for code, meaning in sorted(errors.EXIT_CODES.items()):
        lines += [".TP", str(code), _escaped(meaning)]
    return "\n".join(lines)


def every_command(group: click.Group) -> dict[str, click.Command]:
    """Return all commands by what is typed for them; a topic stands before its own."""
    found: dict[str, click.Command] = {}
    for name, command in group.commands.items():
        found[name] = command
        if isinstance(command, click.Group):
            found |= {f"{name} {inner}": each for inner, each in every_command(command).items()}
    return found


def _options(command: click.Command, parent: click.Context) -> list[str]:
    context = click.Context(command, parent=parent)
    lines = []
    for parameter in command.get_params(context):
        if record := parameter.get_help_record(context):
            names, told = record
            lines += [".TP", f".B {_escaped(names)}", _escaped(told)]
    return lines


def _text(text: str) -> list[str]:
    """Return paragraphs; what click keeps as it is, behind \\b, is kept."""
    lines: list[str] = []
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        kept = paragraph.startswith("\b\n")
        body = paragraph.removeprefix("\b\n").splitlines()
        lines += [".PP", *([".nf"] if kept else []), *map(_escaped, body), *([".fi"] if kept else [])]
    return lines


def _escaped(text: str) -> str:
    r"""Return text that roff prints as it is: no command at the start of a line, `\` and `-` as themselves."""
    plain = text.replace("\\", "\\\\").replace("-", "\\-")
    return f"\\&{plain}" if plain.startswith((".", "'")) else plain
