"""Reads and edits `.env` files, and expands the variables of compose files.

The lines that nobody changed stay as they are, comments and order included: an
administrator must find again what he wrote.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping

from dotenv.parser import Binding, parse_stream

from installer.core import errors

ADDED_HEADER = "# Added by dify-installer"

# What can stand bare behind `KEY=` for python-dotenv (podman-compose), docker compose and a shell alike.
_PLAIN = re.compile(r"[A-Za-z0-9_./:@%+,={}\-*?&<>;()\[\]~^|!$]*(?: [A-Za-z0-9_./:@%+,={}\-*]+)*")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def parse(text: str) -> dict[str, str]:
    """Return the values as they stand in the file, unexpanded; the last of a repeated key wins."""
    return {key: value or "" for key, value in _bindings(text)}


def _bindings(text: str) -> Iterator[tuple[str, str | None]]:
    for binding in parse_stream(io.StringIO(text)):
        if binding.key is not None and not binding.error:
            yield binding.key, binding.value


def resolve(text: str, overrides: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the values with `${…}` expanded; a value may refer to earlier keys and to `overrides`.

    `overrides` win over the file, as the environment does in docker compose.
    """
    values = dict(overrides or {})
    for key, raw in parse(text).items():
        if key not in (overrides or {}):
            values[key] = expand(raw, values)
    return values


def edit(text: str, changes: Mapping[str, str]) -> str:
    """Return `text` with the keys of `changes` set: in place where they stand, the rest at the end."""
    lines: list[str] = []
    missing = dict(changes)
    for binding in parse_stream(io.StringIO(text)):
        lines.append(_edited(binding, changes))
        if binding.key is not None:
            missing.pop(binding.key, None)
    result = "".join(lines)
    if not missing:
        return result
    if result and not result.endswith("\n"):
        result += "\n"
    header = "" if ADDED_HEADER in text else f"\n{ADDED_HEADER}\n"
    return result + header + "".join(f"{key}={quote(value)}\n" for key, value in missing.items())


def _edited(binding: Binding, changes: Mapping[str, str]) -> str:
    original = binding.original.string
    if binding.key is None or binding.key not in changes or (binding.value or "") == changes[binding.key]:
        return original
    # A binding may begin with the blank lines before it, and ends with its own newline.
    lead = original[: len(original) - len(original.lstrip("\r\n"))]
    end = "\n" if original.endswith("\n") else ""
    return f"{lead}{binding.key}={quote(changes[binding.key])}{end}"


def quote(value: str) -> str:
    """Return `value` as it must stand behind `KEY=`.

    Raises UsageError for a value that the readers of `.env` files disagree about.
    """
    if _PLAIN.fullmatch(value):
        return value
    if "\n" in value or "'" in value:
        raise errors.UsageError(
            "a value for .env holds a line break or a single quote, which compose programs read differently",
            "choose a value without them",
        )
    return f"'{value}'"


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Expand `$NAME`, `${NAME}`, `${NAME:-default}`, `${NAME-default}`, `${NAME:+other}`, `${NAME:?message}`.

    Defaults may nest and may hold braces of their own (`${URL:-http://host/e/{hook_id}}`), as in
    docker compose, whose braces are counted; `$$` is a dollar sign. An unknown name is empty.
    Raises BundleDamaged for braces that never close or a required variable that is not set.
    """
    result: list[str] = []
    position = 0
    while (dollar := text.find("$", position)) >= 0:
        result.append(text[position:dollar])
        value, position = _expand_one(text, dollar, variables)
        result.append(value)
    result.append(text[position:])
    return "".join(result)


def _expand_one(text: str, dollar: int, variables: Mapping[str, str]) -> tuple[str, int]:
    """Expand what begins at the dollar sign; return its value and where it ends."""
    following = text[dollar + 1 : dollar + 2]
    if following == "$":
        return "$", dollar + 2
    if following == "{":
        end = _closing_brace(text, dollar + 1)
        return _substitute(text[dollar + 2 : end], variables), end + 1
    name = _NAME.match(text, dollar + 1)
    if name is None:
        return "$", dollar + 1
    return variables.get(name.group(), ""), name.end()


def _closing_brace(text: str, opening: int) -> int:
    depth = 0
    for index in range(opening, len(text)):
        depth += {"{": 1, "}": -1}.get(text[index], 0)
        if depth == 0:
            return index
    raise errors.BundleDamaged(f"a variable is never closed in {text!r}", "mend the compose file or the .env file")


def _substitute(expression: str, variables: Mapping[str, str]) -> str:
    name = _NAME.match(expression)
    if name is None:
        raise errors.BundleDamaged(f"no variable name in ${{{expression}}}", "mend the compose file or the .env file")
    operator, word = _operator(expression[name.end() :])
    value = variables.get(name.group())
    given = bool(value) if operator.startswith(":") else value is not None
    if operator.endswith("-"):
        return value if given and value is not None else expand(word, variables)
    if operator.endswith("+"):
        return expand(word, variables) if given else ""
    if operator.endswith("?") and not given:
        raise errors.UsageError(f"{name.group()} must be set: {expand(word, variables)}", "set it in .env or by --set")
    return value or ""


def _operator(rest: str) -> tuple[str, str]:
    length = 2 if rest.startswith(":") else min(len(rest), 1)
    operator, word = rest[:length], rest[length:]
    if operator not in ("", "-", "+", "?", ":-", ":+", ":?"):
        raise errors.BundleDamaged(
            f"unknown operator {operator!r} in a variable", "mend the compose file or the .env file"
        )
    return operator, word
