"""Reads and edits `.env` files, and expands the variables of compose files.

The lines that nobody changed stay as they are, comments and order included: an
administrator must find again what he wrote.

Two programs read `.env`, each in its own way: podman-compose by python-dotenv, docker compose by
compose-go. What both of them read as the same is the rule here, and no more than that:

- A value stands bare, or in single or double quotes. What `edit` writes is a literal: no reader expands
  anything in it. A value for which there is no such spelling is refused.
- `${NAME}` and `${NAME:-default}` outside of single quotes are references, which a person may write by hand. They
  lead to a line further up in the same file, never to the environment of whoever starts the stack: that is
  another one at boot.
- Every other `$` that one of the two readers would expand belongs into single quotes.

Sources: python-dotenv 1.2.1 (`parser.py`, `variables.py`), which is asked itself; compose-go 2.16.2
(`dotenv/parser.go`, `template/template.go`), whose rules `_as_docker_reads` follows.
"""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass

from dotenv.parser import Binding, parse_stream
from dotenv.variables import Variable, parse_variables

from installer.core import errors

ADDED_HEADER = "# Added by dify-installer"

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# What needs no quotes, for people and for a shell that sources the file; whether the readers agree is asked as well.
_PLAIN = re.compile(r"[A-Za-z0-9_./:@%+,={}\-*?&<>;()\[\]~^|!]*(?: [A-Za-z0-9_./:@%+,={}\-*]+)*")
# Stands behind a new line while it is tried out: a quote that does not close runs into these.
_TRIAL_END = "\nNEXT='1'\nLAST=\"2\"\n"
_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-[^${}]*)?\}")
# White space but the line break, as compose-go has it (`isSpace`).
_BLANKS = "\t\v\f\r \x85\xa0"
# And with it (Go's unicode.IsSpace): Python's own strip() takes more.
_SPACE = _BLANKS + "\n\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
# Compose files nest twice at most; without an end, a long line of `${A:-` would end in a RecursionError.
_DEEPEST = 50
_DOCKER_KEY = re.compile(r"[^=:\n]*")
_DOCKER_QUOTED = {
    quote: re.compile(rf"{quote}((?:\\.|[^{quote}\\])*){quote}", re.DOTALL)
    for quote in ("'", '"')
}  # fmt: skip
_DOCKER_ESCAPE = re.compile(r'\\([abfnrtv$"\\])')
_ESCAPED = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "$": "$$"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A line that sets a key."""

    key: str
    # As it stands in the file: without its quotes, not expanded.
    value: str
    # Counted from 1.
    line: int
    # In single quotes.
    literal: bool


class _Unclear(Exception):
    """A text that cannot be read or expanded; the reason does not quote it, since it may be a secret.

    `line` and `key` say where, if that is known.
    """

    def __init__(self, reason: str, line: int = 0, key: str = "") -> None:
        super().__init__(reason)
        self.line = line
        self.key = key


class _NotSet(_Unclear):
    """A variable that is required is not set."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{name} must be set" + (f": {message}" if message else ""))
        self.name = name


def parse(text: str) -> dict[str, str]:
    """Return the values as they stand in the file, unexpanded; the last of a repeated key wins.

    Raises nothing: a line that cannot be read is passed over.
    """
    return {entry.key: entry.value for entry in _entries(text)}


def lines(text: str) -> dict[str, int]:
    """Return in which line, counted from 1, each key is set; the last of a repeated key."""
    return {entry.key: entry.line for entry in _entries(text)}


# An installation asks for the same few texts some fifty times, and python-dotenv takes 20 ms for Dify's.
@functools.lru_cache(maxsize=64)
def _bindings(text: str) -> tuple[Binding, ...]:
    return tuple(parse_stream(io.StringIO(text)))


@functools.lru_cache(maxsize=64)
def _entries(text: str) -> tuple[Entry, ...]:
    return tuple(
        Entry(key=binding.key, value=binding.value or "", line=_line(binding), literal=_quote_of(binding) == "'")
        for binding in _bindings(text)
        if binding.key is not None and not binding.error
    )


def _line(binding: Binding) -> int:
    """Return where a binding stands; what the parser gives is where the empty lines before it begin."""
    original = binding.original.string
    lead = original[: len(original) - len(original.lstrip())]
    return binding.original.line + len(re.findall(r"\r\n|\n|\r", lead))


def _quote_of(binding: Binding) -> str:
    """Return the quote that a binding's value begins with, if it does."""
    value = binding.original.string.partition("=")[2].lstrip(" \t")
    return value[:1] if value[:1] in ("'", '"') else ""


def require_readable(text: str) -> None:
    """Refuse a file in which a line sets nothing that could be told, such as a quote that never closes.

    Raises UsageError naming the line.
    """
    for binding in _bindings(text):
        line = _line(binding)
        first = binding.original.string.strip().partition("\n")[0]
        name = _DOCKER_KEY.match(first.removeprefix("export "))
        key = name.group().strip() if name and _NAME.fullmatch(name.group().strip()) else ""
        if "\0" in binding.original.string:
            raise _refused(line, key, "it holds a byte 0, which no setting can have", _EDIT)
        if binding.error and key and "=" in first:
            raise _refused(line, key, "its quote never closes, or something stands behind the closing one", _EDIT)
        if binding.error or (binding.key is not None and binding.value is None):
            raise _refused(line, "", "it is neither KEY=VALUE nor a comment", _EDIT)


def resolve(text: str, overrides: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the values expanded; one outside of single quotes may refer to lines above and to `overrides`.

    `overrides` win over the file, as the environment does in docker compose. Raises UsageError naming the line
    for a variable that cannot be expanded.
    """
    values = dict(overrides or {})
    for entry in _entries(text):
        if entry.key not in (overrides or {}):
            try:
                values[entry.key] = entry.value if entry.literal else _expanded(entry.value, values)
            except _Unclear as error:
                raise _refused(entry.line, entry.key, str(error)) from error
    return values


def read(text: str) -> dict[str, str]:
    """Return the values expanded, as podman-compose and docker compose hand them to containers alike.

    Raises UsageError naming key and line where the two would not, or where one of them fails.
    """
    require_readable(text)
    if text.startswith("\ufeff"):
        raise _refused(
            1, "", "it begins with a byte order mark, which podman-compose takes for a part of the first key"
        )
    entries = _entries(text)
    above: set[str] = set()
    for entry in entries:
        _require_references(entry, above)
        above.add(entry.key)
    by_podman = _as_podman_reads(text)
    try:
        by_docker = _as_docker_reads(text)
    except _Unclear as error:
        raise _refused(error.line, error.key, f"{error}, says docker compose") from error
    for entry, one, other in zip(entries, by_podman, by_docker, strict=False):
        if one != other:
            raise _refused(
                entry.line, entry.key, "podman-compose and docker compose read its value differently", _differing(entry)
            )
    if len(by_podman) != len(by_docker) or len(entries) != len(by_podman):
        raise errors.UsageError(".env: podman-compose and docker compose do not find the same keys in it", _EDIT)
    return dict(by_podman)


_EDIT = "correct it with an editor: one KEY=VALUE on a line; then run the same command again"


def _differing(entry: Entry) -> str:
    return (
        f"write the value in single quotes, without `${{…}}` in it; or let us write it: --set {entry.key}=…. "
        "Then run the same command again"
    )


def _refused(line: int, key: str, reason: str, remedy: str = "") -> errors.UsageError:
    """Make the error that names where in `.env` something is wrong; never the value, which may be a secret."""
    where = f".env, line {line}" + (f", {key}" if key else "")
    default = f"correct that line with an editor{f', or give the value by --set {key}=…' if key else ''}"
    return errors.UsageError(f"{where}: {reason}", remedy or f"{default}; then run the same command again")


def _require_references(entry: Entry, above: set[str]) -> None:
    """Refuse references that only one reader expands, or whose value the file does not tell."""
    spans = list(_REFERENCE.finditer(entry.value))
    if entry.literal:
        if any(isinstance(atom, Variable) for atom in parse_variables(entry.value)):
            raise _refused(
                entry.line, entry.key, "podman-compose expands `${…}` in single quotes too, docker compose does not"
            )
        return
    left = _REFERENCE.sub("", entry.value)
    if "${" in left:
        raise _refused(
            entry.line, entry.key, "only `${NAME}` and `${NAME:-default}` mean the same to both compose programs"
        )
    for span in spans:
        if span.group(1) not in above:
            raise _refused(
                entry.line,
                entry.key,
                f"it refers to {span.group(1)}, which no line above sets: it would be another value at boot",
                f"write the value out, or set {span.group(1)} in a line above; then run the same command again",
            )


def _as_podman_reads(text: str) -> list[tuple[str, str]]:
    """Return what python-dotenv makes of a file, in order, without the environment."""
    values: dict[str, str | None] = {}
    result = []
    # It opens the file as text, which makes one line break of each kind.
    for binding in _bindings(text.replace("\r\n", "\n").replace("\r", "\n")):
        if binding.key is not None and not binding.error:
            value = "".join(atom.resolve(values) for atom in parse_variables(binding.value or ""))
            values[binding.key] = value
            result.append((binding.key, value))
    return result


def _as_docker_reads(text: str) -> list[tuple[str, str]]:
    """Return what compose-go makes of a file, in order, without the environment. Raises _Unclear."""
    values: dict[str, str] = {}
    result = []
    rest = text.lstrip(_SPACE)
    while rest:
        if rest.startswith("#"):
            rest = rest.partition("\n")[2].lstrip(_SPACE)
            continue
        line, key = text.count("\n", 0, len(text) - len(rest)) + 1, ""
        try:
            key, rest = _docker_key(rest)
            value, rest = _docker_value(rest, values)
        except _Unclear as error:
            raise _Unclear(str(error), line, key) from error
        values[key] = value
        result.append((key, value))
        rest = rest.lstrip(_SPACE)
    return result


def _docker_key(rest: str) -> tuple[str, str]:
    rest = re.sub(r"\Aexport[\t\n\f\r ]+", "", rest)
    written = _DOCKER_KEY.match(rest)
    end = written.end() if written else 0
    key = rest[:end].rstrip(_SPACE)
    if rest[end : end + 1] not in ("=", ":") or not key or not all(each.isalnum() or each in "_.-[]" for each in key):
        raise _Unclear("it is neither KEY=VALUE nor a comment")
    return key, rest[end + 1 :].lstrip(_BLANKS)


def _docker_value(rest: str, values: Mapping[str, str]) -> tuple[str, str]:
    quote = rest[:1]
    if quote not in _DOCKER_QUOTED:
        bare, _, rest = rest.partition("\n")
        return _expanded(bare.partition(" #")[0].rstrip(_SPACE), values), rest
    quoted = _DOCKER_QUOTED[quote].match(rest)
    if quoted is None:
        raise _Unclear("its quote never closes")
    value = re.sub(rf"\\(\\|{quote})", lambda found: quote if found[1] == quote else found[0], quoted[1])
    if quote == '"':
        if re.search(r"\\0", value):
            raise _Unclear("it has an octal escape in double quotes")
        value = _expanded(_DOCKER_ESCAPE.sub(lambda found: _ESCAPED.get(found[1], found[1]), value), values)
    return value, rest[quoted.end() :]


def edit(text: str, changes: Mapping[str, str]) -> str:
    """Return `text` with the keys of `changes` set, literally: in place where they stand, the rest at the end.

    Raises UsageError for a value that cannot be written so that all readers read it.
    """
    lines: list[str] = []
    missing = dict(changes)
    for binding in _bindings(text):
        lines.append(_edited(binding, changes))
        if binding.key is not None:
            missing.pop(binding.key, None)
    result = "".join(lines)
    if not missing:
        return result
    if result and not result.endswith("\n"):
        result += "\n"
    header = "" if ADDED_HEADER in text else f"\n{ADDED_HEADER}\n"
    return result + header + "".join(f"{key}={quote(value, key)}\n" for key, value in missing.items())


def _edited(binding: Binding, changes: Mapping[str, str]) -> str:
    original = binding.original.string
    if binding.key is None or binding.key not in changes:
        return original
    value = changes[binding.key]
    if (binding.value or "") == value and _reads_as(original.strip("\r\n"), binding.key, value):
        return original
    # A binding may begin with the blank lines before it, and ends with its own newline.
    lead = original[: len(original) - len(original.lstrip("\r\n"))]
    end = next((end for end in ("\r\n", "\n") if original.endswith(end)), "")
    return f"{lead}{binding.key}={quote(value, binding.key)}{end}"


def quote(value: str, key: str = "") -> str:
    """Return `value` as it must stand behind `KEY=`, so that every reader takes it literally.

    Raises UsageError, naming `key`, for a value that cannot be written so.
    """
    subject = f"the value of {key}" if key else "a value"
    if re.search(r"[\0\n\r]", value) or not _encodable(value):
        raise errors.UsageError(
            f"{subject} holds a line break, a byte 0 or a byte that is not UTF-8, which .env cannot",
            "choose a value without them",
        )
    escaped = value.replace("'", "\\'")
    doubled = value.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$")
    forms = [f"'{escaped}'", f'"{doubled}"', value]
    if _PLAIN.fullmatch(value):
        forms.insert(0, value)
    for form in forms:
        if _reads_as(f"KEY={form}", "KEY", value):
            return form
    reason = "which podman-compose expands whatever the quotes are" if "${" in value else ""
    reason = reason and f"holds `${{…}}`, {reason}"
    raise errors.UsageError(
        f"{subject} {reason or 'holds quotes or backslashes that podman-compose and docker compose read differently'}",
        "choose a value without them; a reference to another setting is written into .env by hand",
    )


def _encodable(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _reads_as(line: str, key: str, value: str) -> bool:
    """Tell whether both readers find `value` in a line, whatever stands behind it, and find no reference there."""
    expected = [(key, value), ("NEXT", "1"), ("LAST", "2")]
    try:
        return _as_podman_reads(line + _TRIAL_END) == expected == _as_docker_reads(line + _TRIAL_END)
    except _Unclear:
        return False


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Expand `$NAME`, `${NAME}`, `${NAME:-default}`, `${NAME-default}`, `${NAME:+other}`, `${NAME:?message}`.

    `text` is of a compose file. Defaults may nest and may hold braces of their own
    (`${URL:-http://host/e/{hook_id}}`), as in docker compose, whose braces are counted; `$$` is a dollar sign. An
    unknown name is empty. What a variable holds is not expanded again.
    Raises BundleDamaged for braces that never close or an operator that does not exist, and UsageError for a
    required variable that is not set.
    """
    try:
        return _expanded(text, variables)
    except _NotSet as error:
        raise errors.UsageError(f"{error}, says the compose file", f"set it: --set {error.name}=…") from error
    except _Unclear as error:
        raise errors.BundleDamaged(
            f"the compose file holds {text!r}: {error}", "take the bundle again from where it was built"
        ) from error


def _expanded(text: str, variables: Mapping[str, str], depth: int = 0) -> str:
    """Expand as docker compose does. Raises _Unclear."""
    if depth > _DEEPEST:
        raise _Unclear("its variables are nested too deeply")
    result: list[str] = []
    position = 0
    while (dollar := text.find("$", position)) >= 0:
        result.append(text[position:dollar])
        value, position = _expand_one(text, dollar, variables, depth)
        result.append(value)
    result.append(text[position:])
    return "".join(result)


def _expand_one(text: str, dollar: int, variables: Mapping[str, str], depth: int) -> tuple[str, int]:
    """Expand what begins at the dollar sign; return its value and where it ends."""
    following = text[dollar + 1 : dollar + 2]
    if following == "$":
        return "$", dollar + 2
    if following == "{":
        end = _closing_brace(text, dollar + 1)
        return _substitute(text[dollar + 2 : end], variables, depth), end + 1
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
    raise _Unclear("a `${` in it is never closed")


def _substitute(expression: str, variables: Mapping[str, str], depth: int) -> str:
    name = _NAME.match(expression)
    if name is None:
        raise _Unclear("no name stands behind a `${` in it")
    operator, word = _operator(expression[name.end() :])
    value = variables.get(name.group())
    given = bool(value) if operator.startswith(":") else value is not None
    if operator.endswith("-"):
        return value if given and value is not None else _expanded(word, variables, depth + 1)
    if operator.endswith("+"):
        return _expanded(word, variables, depth + 1) if given else ""
    if operator.endswith("?") and not given:
        raise _NotSet(name.group(), _expanded(word, variables, depth + 1))
    return value or ""


def _operator(rest: str) -> tuple[str, str]:
    length = 2 if rest.startswith(":") else min(len(rest), 1)
    operator, word = rest[:length], rest[length:]
    if operator not in ("", "-", "+", "?", ":-", ":+", ":?"):
        raise _Unclear(f"a `${{NAME{operator}…}}` in it has an operator that does not exist")
    return operator, word
