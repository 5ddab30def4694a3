"""Reads the answer file of `--config`: YAML, as a person writes it; nothing in it may surprise the parser."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from installer.core import errors

# An answer file has some 30 lines; a larger one is something else.
LARGEST_BYTES = 1024 * 1024

Answer = bool | str | list[str]


class _PlainLoader(yaml.SafeLoader):
    """Refuses aliases: a few lines of them can stand for more than the memory holds."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not allowed in an answer file")
        return super().compose_node(parent, index)


def read_answers(path: Path, flags: set[str], lists: set[str], known: set[str]) -> dict[str, Answer]:
    """Return the answers by option name, without dashes, as the command line would give them.

    `flags` take true or false, `lists` also several values or KEY: VALUE pairs, all others a text or a number. A key
    without a value counts as not given. Raises UsageError with all that is wrong with the file.
    """
    answers = _load(path)
    unknown = sorted(str(key) for key in answers if key not in known)
    if unknown:
        raise errors.UsageError(
            f"the answer file {path} does not know {', '.join(unknown)}", f"known are: {', '.join(sorted(known))}"
        )
    found: dict[str, Answer] = {}
    wrong: list[str] = []
    for key, value in answers.items():
        if value is None:
            continue
        answer = _answer(value, is_flag=key in flags, is_list=key in lists)
        if answer is None:
            kind = "true or false" if key in flags else "a list or KEY: VALUE pairs" if key in lists else "one value"
            wrong.append(f"{key} must be {kind}")
        else:
            found[key] = answer
    if wrong:
        raise errors.UsageError(f"in the answer file {path} {'; '.join(wrong)}", "correct these lines")
    return found


def _load(path: Path) -> dict[str, Any]:
    try:
        text = path.read_bytes()
        if len(text) > LARGEST_BYTES:
            raise errors.UsageError(
                f"the answer file {path} has {len(text)} bytes, and is not read", "name the right file with --config"
            )
        answers = yaml.load(text.decode(), Loader=_PlainLoader) or {}  # noqa: S506 - a SafeLoader that takes even less
    except RecursionError as error:
        raise errors.UsageError(f"the answer file {path} is nested too deep", "write KEY: VALUE lines") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise errors.UsageError(f"the answer file {path} cannot be read: {error}", "correct it") from error
    if not isinstance(answers, dict):
        raise errors.UsageError(f"the answer file {path} has no KEY: VALUE lines", "write, for example, `ip: 10.0.0.5`")
    return answers


def _answer(value: Any, *, is_flag: bool, is_list: bool) -> Answer | None:
    """Return a value as the command line gives it, or None where it cannot be one."""
    if is_flag:
        return value if isinstance(value, bool) else None
    if is_list and isinstance(value, Mapping):
        pairs = [(key, "" if each is None else _scalar(each)) for key, each in value.items()]
        return None if any(each is None for _, each in pairs) else [f"{key}={each}" for key, each in pairs]
    if is_list and isinstance(value, list):
        texts = [_scalar(each) for each in value]
        return [each for each in texts if each is not None] if None not in texts else None
    text = _scalar(value)
    return [text] if is_list and text is not None else text


def _scalar(value: Any) -> str | None:
    """Return a text or a number as text; a boolean as Dify's settings have it."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, str | int | float) else None
