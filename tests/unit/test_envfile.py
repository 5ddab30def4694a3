from __future__ import annotations

import pytest

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


@pytest.mark.parametrize(
    "value", ["", "plain", "http://10.0.0.5:8080/e/{hook_id}", "a b", "with # sign", 'say "x"', "tab\there"]
)
def test_what_edit_writes_parse_reads(value: str) -> None:
    assert envfile.parse(envfile.edit("", {"KEY": value})) == {"KEY": value}


def test_edit_refuses_what_readers_disagree_about() -> None:
    with pytest.raises(errors.UsageError):
        envfile.edit("", {"KEY": "it's"})
