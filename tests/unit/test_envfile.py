from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path

import pytest
from dotenv import dotenv_values
from hypothesis import given
from hypothesis import strategies as st

from installer.core import errors
from installer.release import envfile


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("$A", "1"),
        ("${A}", "1"),
        ("${A:-x}${EMPTY:-x}${UNSET:-x}", "1xx"),
        ("${EMPTY-x}${UNSET-x}", "x"),
        ("${UNSET:-${A}}", "1"),
        ("${UNSET:-${EMPTY:-${A}-deep}}", "1-deep"),
        ("${UNSET:-http://localhost/e/{hook_id}}/end", "http://localhost/e/{hook_id}/end"),
        ("${A:+yes}${EMPTY:+no}", "yes"),
        ("$$A $${A}", "$A ${A}"),
        ("cost: 5$", "cost: 5$"),
        ("${A:?must}", "1"),
    ],
)
def test_expand_follows_compose(text: str, expected: str) -> None:
    assert envfile.expand(text, {"A": "1", "EMPTY": ""}) == expected


def test_expand_names_a_required_variable() -> None:
    with pytest.raises(errors.UsageError, match="UNSET must be set: the address"):
        envfile.expand("${UNSET:?the address}", {})


@pytest.mark.parametrize("text", ["${A", "${A:-${B}", "${}", "${A=1}"])
def test_expand_refuses_what_compose_refuses(text: str) -> None:
    with pytest.raises(errors.BundleDamaged):
        envfile.expand(text, {})


def test_a_file_may_refer_to_itself() -> None:
    text = "STORE=qdrant\nPROFILES=${STORE:-weaviate},${DB:-postgresql}\n"
    assert envfile.resolve(text)["PROFILES"] == "qdrant,postgresql"
    assert envfile.resolve(text, {"DB": "mysql"})["PROFILES"] == "qdrant,mysql"


def test_edit_changes_only_what_is_asked() -> None:
    text = "# first\nA=1\n\n# second\nB='two words'\nC=\n# end\n"
    assert envfile.edit(text, {"B": "2", "C": "x y"}) == "# first\nA=1\n\n# second\nB=2\nC=x y\n# end\n"
    assert envfile.edit(text, {"A": "1", "B": "two words"}) == text


def test_edit_adds_missing_keys_once_under_a_heading() -> None:
    once = envfile.edit("A=1", {"B": "2"})
    assert once == f"A=1\n\n{envfile.ADDED_HEADER}\nB=2\n"
    assert envfile.edit(once, {"C": "3"}) == once + "C=3\n"


# What every reader must give back; of each the spelling is tried out with the readers themselves.
WRITABLE = [
    *(
        "",
        "plain",
        "http://10.0.0.5:8080/e/{hook_id}",
        "a b",
        "with # sign",
        'say "x"',
        "tab\there",
        "#first",
        "Dify@123",
    ),
    *(
        " leading",
        "trailing ",
        "it's",
        "'",
        '"',
        "p$a",
        "a$$b",
        "a$b$",
        "$",
        "${X",
        "$(id)",
        "`id`",
        "é 한국어",
        "\u00a0x",
    ),
    *(
        "a\\b",
        "a\\nb",
        "a\\",
        "\\",
        "a\\\\b",
        "Qazwsxedc!@#123",
        "p@ss/w#r:d",
        "p%40x",
        "a=b",
        "~",
        "*",
        "%s%d",
        "a;b&c|d",
    ),
]
# No spelling has the same meaning for both: podman-compose expands this in any quotes.
UNWRITABLE = ["${HOME}", "p${HOME}q", "${HOME:-x}", "a\nb", "a\rb", "a\0b", "\udcff", "'a\\", "'${X}'"]

# A file around the key, with the quotes that an open one would run into.
AROUND = "FIRST='1'\nKEY=before\nLAST=\"2\"\n"


def by_podman(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str | None]:
    """Return what podman-compose's reader makes of a file, in the environment that compose gets from us."""
    monkeypatch.setattr(os, "environ", {"HOME": "/root", "PATH": "/usr/bin", "USER": "root", "LOGNAME": "root"})
    (tmp_path / "env").write_bytes(text.encode())
    return dict(dotenv_values(tmp_path / "env"))


@pytest.mark.parametrize("value", WRITABLE)
def test_what_edit_writes_podman_composes_reader_and_ours_read(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = envfile.edit(AROUND, {"KEY": value, "ADDED": value})
    expected = {"FIRST": "1", "KEY": value, "LAST": "2", "ADDED": value}
    assert envfile.parse(text) == envfile.read(text) == envfile.resolve(text) == expected
    assert by_podman(text, tmp_path, monkeypatch) == expected


@pytest.mark.parametrize("value", UNWRITABLE)
def test_edit_refuses_what_no_spelling_means_the_same(value: str) -> None:
    with pytest.raises(errors.UsageError, match="KEY") as caught:
        envfile.edit(AROUND, {"KEY": value})
    assert value not in caught.value.message


def test_edit_writes_a_literal_where_a_reference_stood() -> None:
    assert envfile.edit("A=\nB=${A}\n", {"B": ""}) == "A=\nB=\n"
    assert envfile.edit("A=a$bc\n", {"A": "a$bc"}) == "A='a$bc'\n"


# Recorded from compose-go 2.16.2 (`dotenv.ParseWithLookup`), with HOME=/root in the environment; None is an error.
COMPOSE_GO: list[tuple[str, dict[str, str] | None]] = [
    ("A=a$b\nB='a$b ${X}'\nC='a\\\\'\nD=2", {"A": "a", "B": "a$b ${X}", "C": "a\\\\", "D": "2"}),
    ("A=${HOME}\nB=${HOME:-x}${A}", {"A": "/root", "B": "/root/root"}),
    ("A='a\\'\nB=1", None),
    ("A=${X", None),
    ("A=a\\", {"A": "a\\"}),
    ("A=Qaz!@#123", {"A": "Qaz!@#123"}),
    ("A=x #y", {"A": "x"}),
    ("A=x\t#y", {"A": "x\t#y"}),
    ("A= x", {"A": "x"}),
    ('A="x$$y"', {"A": "x$y"}),
    ("A='it\\'s'", {"A": "it's"}),
    ("A=a\\\\b", {"A": "a\\\\b"}),
]


@pytest.mark.parametrize(("text", "expected"), COMPOSE_GO)
def test_what_is_accepted_docker_compose_reads_so(text: str, expected: dict[str, str] | None) -> None:
    try:
        accepted = envfile.read(text)
    except errors.UsageError:
        return
    assert accepted == expected


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("KEY='a\\'", "quote never closes"),
        ('KEY="x', "quote never closes"),
        ("KEY='x' y", "quote never closes, or something stands behind"),
        ("KEY=${OOPS", "only `"),
        ("KEY=${FIRST=1}", "only `"),
        ("KEY=${FIRST:?must}", "only `"),
        ("KEY=${FIRST-x}", "only `"),
        ("KEY=${FIRST:-${FIRST}}", "only `"),
        ("KEY=${HOME}", "refers to HOME, which no line above sets: it would be another value at boot"),
        ("KEY=${HOME:-x}", "refers to HOME"),
        ("KEY=${LAST}", "refers to LAST"),
        ("KEY=${EMPTY:-x}", "differently"),
        ("KEY='${FIRST}'", "in single quotes too"),
        ("KEY=a$bc", "differently"),
        ("KEY=a$$bc", "differently"),
        ('KEY="a\\$b"', "differently"),
        ("KEY='a\\\\b'", "differently"),
        ("KEY=x\t# y", "differently"),
        ("KEY=a\0b", "byte 0"),
        ("KEY", "neither KEY=VALUE nor a comment"),
        ("two words", "neither KEY=VALUE nor a comment"),
    ],
)
def test_a_line_that_readers_read_differently_is_named(line: str, reason: str) -> None:
    text = f"# a comment\n\nFIRST=1\nEMPTY=\n\n{line}\nLAST=2\n"
    with pytest.raises(errors.UsageError) as caught:
        envfile.read(text)
    assert caught.value.message.startswith(".env, line 6")
    assert reason in caught.value.message
    assert caught.value.remedy


def test_a_byte_order_mark_is_named() -> None:
    with pytest.raises(errors.UsageError, match="byte order mark"):
        envfile.read("\ufeffA=1\n")


def test_references_to_lines_above_mean_the_same_to_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "A=1\nB=${A}\nA=2\nC=\"${A}${B:-x}\"\nexport D=${A} # ours\nE='$A'\n"
    expected = {"A": "2", "B": "1", "C": "21", "D": "2", "E": "$A"}
    assert envfile.read(text) == envfile.resolve(text) == expected
    assert by_podman(text, tmp_path, monkeypatch) == expected


def test_lines_may_end_as_windows_ends_them() -> None:
    text = "A=1\r\nB='x y'\r\n"
    assert envfile.read(text) == {"A": "1", "B": "x y"}
    assert envfile.edit(text, {"A": "2"}) == "A=2\r\nB='x y'\r\n"


def test_resolve_names_the_line_that_cannot_be_expanded() -> None:
    with pytest.raises(errors.UsageError, match=r"\.env, line 2, B: a `\$\{` in it is never closed"):
        envfile.resolve("A=1\nB=${A\n")
    with pytest.raises(errors.UsageError, match=r"\.env, line 1, A: X must be set: please"):
        envfile.resolve("A=${X:?please}\n")


def test_upstreams_example_means_the_same_to_all(dify: Path) -> None:
    text = (dify / "docker/.env.example").read_text()
    assert envfile.read(text) == envfile.resolve(text)


# The compose specification, "Interpolation": https://github.com/compose-spec/compose-spec/blob/main/12-interpolation.md
SET, EMPTY = {"VARIABLE": "value", "FOO": "foo"}, {"VARIABLE": "", "FOO": "foo"}


@pytest.mark.parametrize(
    ("text", "when_set", "when_empty", "when_unset"),
    [
        ("$VARIABLE", "value", "", ""),
        ("${VARIABLE}", "value", "", ""),
        ("${VARIABLE:-default}", "value", "default", "default"),
        ("${VARIABLE-default}", "value", "", "default"),
        ("${VARIABLE:?error}", "value", None, None),
        ("${VARIABLE?error}", "value", "", None),
        ("${VARIABLE:+replacement}", "replacement", "", ""),
        ("${VARIABLE+replacement}", "replacement", "replacement", ""),
        ("${VARIABLE:-${FOO}}", "value", "foo", "foo"),
        ("${VARIABLE?$FOO}", "value", "", None),
        ("${VARIABLE:-${FOO:-default}}", "value", "foo", "foo"),
        ("$$VARIABLE $${VARIABLE}", "$VARIABLE ${VARIABLE}", "$VARIABLE ${VARIABLE}", "$VARIABLE ${VARIABLE}"),
        ("${VARIABLE:-}", "value", "", ""),
        ("${VARIABLE:--}x", "valuex", "-x", "-x"),
    ],
)
def test_expand_follows_the_compose_specification(
    text: str, when_set: str | None, when_empty: str | None, when_unset: str | None
) -> None:
    for variables, expected in ((SET, when_set), (EMPTY, when_empty), ({"FOO": "foo"}, when_unset)):
        if expected is None:
            with pytest.raises(errors.UsageError, match="VARIABLE must be set"):
                envfile.expand(text, variables)
        else:
            assert envfile.expand(text, variables) == expected


def test_expand_ends_where_defaults_nest_without_end() -> None:
    with pytest.raises(errors.BundleDamaged, match="too deeply"):
        envfile.expand("${A:-" * 5000 + "}" * 5000, {})


# Text of what matters to the readers, more often than chance would have it.
PIECES = st.sampled_from(
    [
        "a",
        "0",
        "$",
        "{",
        "}",
        "${FIRST}",
        "${",
        "\\",
        "'",
        '"',
        " ",
        " #",
        "#",
        "\t",
        "=",
        ":",
        "é",
        "\u00a0",
        "\x1c",
        "\u2028",
    ]
)
VALUES = st.lists(PIECES, max_size=8).map("".join) | st.text(st.characters(codec="utf-8"), max_size=20)


@given(value=VALUES)
def test_any_value_that_is_accepted_is_read_as_it_was_given(value: str) -> None:
    try:
        text = envfile.edit(AROUND, {"KEY": value})
    except errors.UsageError:
        return
    expected = {"FIRST": "1", "KEY": value, "LAST": "2"}
    assert envfile.parse(text) == envfile.read(text) == expected
    assert dict(dotenv_values(stream=io.StringIO(text))) == expected
    assert envfile.edit(text, {"KEY": value}) == text


@given(value=VALUES.map(lambda value: value.replace("\r", "").replace("\n", "")))
def test_what_is_accepted_by_hand_podman_composes_reader_reads_so(value: str) -> None:
    text = f"FIRST=1\nKEY={value}\nLAST='2'\n"
    try:
        accepted = envfile.read(text)
    except errors.UsageError:
        return
    assert dict(dotenv_values(stream=io.StringIO(text))) == accepted == envfile.resolve(text)


@given(text=st.text(max_size=60) | st.lists(PIECES, max_size=12).map("".join), value=VALUES)
def test_expand_and_the_readers_end_with_a_result_or_an_error_of_ours(text: str, value: str) -> None:
    with contextlib.suppress(errors.UsageError, errors.BundleDamaged):
        envfile.expand(text, {"FIRST": value, "a": "${a}"})
    for act in (envfile.read, envfile.resolve, envfile.require_readable):
        with contextlib.suppress(errors.UsageError):
            act(text)
