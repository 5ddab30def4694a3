"""What the page of the report tells, in each language, and that nothing from outside becomes more than text in it."""

from __future__ import annotations

import dataclasses
import itertools
import re
from dataclasses import dataclass, field, fields
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_args

import pytest

from installer.commands import page
from installer.commands.page import facts, words
from installer.commands.page.html import VOID, Html, element, filled
from installer.commands.page.style import STYLE
from installer.commands.report import Inside, Model, Report, Step
from installer.core import layout
from installer.core.finding import Finding
from installer.plan import LANGUAGES, Language, Plan, Request
from installer.release.settings import Settings
from installer.workspace.ask import Answer
from installer.workspace.knowledge import Found
from installer.workspace.plugins import Brought
from tests.unit.test_manifest import SHA
from tests.unit.test_plan import planned

ROOT = Path(__file__).resolve().parent.parent.parent
EVIL = """<script>alert(1)</script><img src=x onerror='a'>"&`"""
HOST = (Finding("memory", "warning", "3.7 GiB", "give it more"), Finding("cpu", "ok", "2 processors"))
each_language = pytest.mark.parametrize("language", LANGUAGES)


class Seen(HTMLParser):
    """What stands in a page: its elements with their attributes, and its text; each element must be closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def tags(self) -> list[str]:
        return [tag for tag, _ in self.elements]


def asked(language: Language = "en", values: dict[str, str] | None = None) -> Plan:
    """Return a plan whose `.env` will have these values."""
    plan = planned(findings=HOST)
    given = {"DB_PASSWORD": "the-secret", "LOG_LEVEL": "DEBUG"} if values is None else values
    return dataclasses.replace(
        plan,
        request=Request(folder=Path("/opt/dify"), archive=Path("x.tar"), language=language),
        settings=Settings(text="", values=given, resolved=given, secrets=("the-secret",)),
    )


def reported(**changes: Any) -> Report:
    """Return the report of a run that went well, but for the changes."""
    report = Report(
        dify="1.11.3",
        folder="/opt/dify",
        url="http://10.0.0.5",
        log="/opt/dify/logs/install.log",
        started="2026-01-31T14:05:09+0900",
        result="done",
        steps=[Step(name="images", seconds=30.04, seen="10 loaded"), Step(name="start", seconds=10.0, seen="started")],
        checks=[Finding("console reachable", "ok", "ready for its first account")],
        models=[Finding("Ollama from this host", "warning", "refused", "start `ollama serve`")],
        notes=["3.7 GiB; do: give it more", "an older store was left"],
    )
    return dataclasses.replace(report, **changes)


def made(language: Language = "en", **changes: Any) -> Seen:
    return Seen(page.make(reported(**changes), asked(language)))


# -- what it tells


@each_language
def test_it_tells_what_was_installed_seen_and_how_long_it_took(language: Language) -> None:
    seen = made(language)
    for told in (
        "Dify 1.11.3",
        "http://10.0.0.5",
        "docker.io/a/b:1",
        f"sha256:{SHA}",
        "dify-images.tar",
        "3.7 GiB",
        "a/b:1.0.0",
    ):
        assert told in seen.text, told
    for told in ("podman 5.4.2", "2026-01-31 14:05:09 +0900", "30.0", "40.0", "10 loaded", "ollama serve", "refused"):
        assert told in seen.text, told
    assert "/opt/dify/bin/dify-installer status" in seen.text
    assert words.WORDS[language].first_account.partition("{")[0] in seen.text
    assert [each["width"] for tag, each in seen.elements if tag == "rect"] == ["100.0%", "33.3%"]
    assert ("html", {"lang": language}) in seen.elements


def test_warnings_are_counted_and_told_once() -> None:
    seen = made()
    assert "Installed. 2 checks passed; warnings to look at: 2." in seen.text
    assert "an older store was left" in seen.text
    assert "3.7 GiB; do:" not in seen.text
    quiet = Seen(page.make(reported(models=[]), dataclasses.replace(asked(), findings=())))
    assert "Installed. 1 checks passed." in quiet.text


def test_who_has_an_account_is_told_to_sign_in_and_who_has_models_not_of_models() -> None:
    later = made(checks=[Finding("console reachable", "ok", "in use")]).text
    assert words.ENGLISH.sign_in in later
    assert "INIT_PASSWORD" not in later
    assert "--vllm-url" not in later
    assert "--vllm-url" in made(models=[]).text


@each_language
def test_a_run_that_failed_tells_why_and_what_helps(language: Language) -> None:
    seen = made(language, result="a command failed", error="podman: no room", remedy="make `room`", checks=[], steps=[])
    told = words.WORDS[language]
    for text in (told.failed, "podman: no room", "make room", told.again, told.no_checks):
        assert text in seen.text
    assert told.open.partition("{")[0] not in seen.text


@each_language
def test_a_run_that_was_interrupted_tells_to_go_on(language: Language) -> None:
    seen = made(language, result="interrupted")
    assert words.WORDS[language].interrupted in seen.text
    assert words.WORDS[language].interrupted_remedy in seen.text


def test_another_folder_is_named_in_the_commands() -> None:
    place = layout.Installation(Path("/srv/the dify"))
    text = Seen(page.make(reported(), dataclasses.replace(asked(), place=place))).text
    assert "'/srv/the dify/bin/dify-installer' stop --dir '/srv/the dify'" in text


def test_settings_are_told_but_for_defaults_and_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "_example", lambda: {"LOG_LEVEL": "INFO", "MODE": "api"})
    values = {"DB_PASSWORD": "the-secret", "LOG_LEVEL": "DEBUG", "MODE": "api", "URL": "r://u:the-secret@h", "NONE": ""}
    text = Seen(page.make(reported(), asked(values=values))).text
    assert "4 of 5 settings differ" in text
    for told in ("LOG_LEVEL", "DEBUG", "r://u:********@h", "DB_PASSWORD", "(empty)"):
        assert told in text
    assert "MODE" not in text
    assert "the-secret" not in text


def test_a_secret_in_the_report_is_masked() -> None:
    plan = asked()
    plan.engine.runner.hide(["the-secret"])
    hidden = reported(error="the-secret", notes=["the-secret"], checks=[Finding("x", "ok", "the-secret")])
    assert "the-secret" not in page.make(hidden, plan)


@dataclass(kw_only=True, slots=True)
class LaterReport(Report):
    """A report with what a later version may add."""

    account: dict[str, Any] = field(default_factory=dict)
    first_answer: list[Finding] = field(default_factory=list)
    plugins: list[Any] = field(default_factory=list)
    remark: str = ""


def test_what_a_later_report_has_besides_is_told_under_its_name() -> None:
    later = LaterReport(
        result="done",
        account={"e_mail": "ops@example.com", "new": True, "seconds": None},
        first_answer=[Finding("chat", "ok", "pong")],
        plugins=["langgenius/ollama", EVIL],
    )
    seen = Seen(page.make(later, asked()))
    for told in ("Account", "E mail", "ops@example.com", "True", "First answer", "pong", "Plugins", EVIL):
        assert told in seen.text
    assert "Remark" not in seen.text


# -- how it is made


@each_language
def test_nothing_from_outside_is_more_than_text(language: Language) -> None:
    checks = [Finding(EVIL, "error", EVIL, EVIL)]
    texts = dict.fromkeys(("dify", "folder", "url", "log", "started", "result", "error", "remedy"), EVIL)
    report = reported(
        **texts, steps=[Step(name=EVIL, seconds=1, seen=EVIL)], checks=checks, models=checks, notes=[EVIL]
    )
    for result in ("done", EVIL):
        text = page.make(dataclasses.replace(report, result=result), asked(language, {EVIL: EVIL}))
        seen = Seen(text)
        assert EVIL in seen.text
        assert not {"script", "img", "a"} & set(seen.tags())
        assert not [name for _, each in seen.elements for name in each if name.startswith("on")]


@each_language
def test_nothing_is_loaded_from_anywhere(language: Language) -> None:
    text = page.make(reported(), asked(language))
    assert not re.search(r"url\(|@import|src=|<script", text)
    links = [each["href"] for tag, each in Seen(text).elements if tag in ("a", "link")]
    assert set(links) == {"data:,", "http://10.0.0.5"}


@each_language
def test_it_can_be_read_with_the_ears(language: Language) -> None:
    seen = made(language)
    levels = [int(tag[1]) for tag in seen.tags() if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert all(each.get("scope") in ("col", "row") for tag, each in seen.elements if tag == "th")
    assert all(each.get("aria-hidden") == "true" for tag, each in seen.elements if tag == "svg")
    assert seen.tags().count("main") == 1


def luminance(colour: str) -> float:
    """Return the relative luminance of #rrggbb (WCAG 2.2)."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_every_colour_of_text_has_contrast() -> None:
    schemes = [dict(re.findall(r"--(\w+): (#\w{6})", block)) for block in STYLE.split(":root")[1:]]
    assert len(schemes) == 2
    for scheme in schemes:
        for behind in ("paper", "tint"):
            for text in ("ink", "quiet", "link", "ok", "warning", "error"):
                dark, light = sorted((luminance(scheme[behind]), luminance(scheme[text])))
                assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, behind)


def test_markup_is_made_by_element_alone() -> None:
    assert element("p", "<&>", Html("<b>x</b>"), class_="a b") == '<p class="a b">&lt;&amp;&gt;<b>x</b></p>'
    assert element("i", http_equiv='"') == '<i http-equiv="&quot;"></i>'
    assert filled("<{one}{two}", one="<", two=Html("<b>")) == "&lt;&lt;<b>"


# -- its words


def places(text: str) -> list[str]:
    return sorted(re.findall(r"\{(\w+)\}", text))


def test_each_language_has_every_text_with_the_same_places_to_fill() -> None:
    assert set(words.WORDS) == set(get_args(Language)) == set(LANGUAGES)
    for each in fields(words.Words):
        english, korean = getattr(words.ENGLISH, each.name), getattr(words.KOREAN, each.name)
        if isinstance(english, str):
            assert places(english) == places(korean), each.name
            assert english or each.name == "english"
            assert korean
    for name in ("levels", "signers"):
        assert set(getattr(words.ENGLISH, name)) == set(getattr(words.KOREAN, name))


def test_korean_knows_every_step() -> None:
    source = "".join((ROOT / "installer/commands" / name).read_text() for name in ("install.py", "workspace.py"))
    assert set(re.findall(r'result\.step\("([a-z -]+)"', source)) == set(words.KOREAN.steps)


@each_language
def test_the_page_tells_of_the_account_the_models_and_the_answer(language: Language) -> None:
    answer = Answer(
        provider="langgenius/ollama/ollama",
        model="qwen3:8b",
        question="?",
        answer=EVIL,
        first_seconds=0.36,
        seconds=1.04,
        prompt_tokens=20,
        answer_tokens=6,
        path=("api",),
    )
    inside = Inside(
        account="ops@example.com",
        password_file="/opt/dify/admin-password",
        plugins=[Brought(name="langgenius/ollama", version="0.1.3", what="installed")],
        models=[
            Model(
                name="qwen3:8b",
                server="http://o:11434",
                provider="langgenius/ollama/ollama",
                kind="chat",
                context=16384,
                tools=True,
                vision=False,
                what="added",
                default=True,
            )
        ],
        answer=answer,
        knowledge=Found(
            provider="langgenius/ollama/ollama",
            model="bge-m3",
            question="Where?",
            passage="In the yard.",
            passages=3,
            index_seconds=2.1,
            find_seconds=0.4,
            path=("api", "worker"),
            answer=answer,
        ),
    )
    seen = Seen(page.make(reported(inside=inside), asked(language)))
    said = words.WORDS[language]
    for text in (said.inside, said.default, "langgenius/ollama", "0.1.3", "16384", "ops@example.com", EVIL):
        assert text in seen.text
    assert said.knowledge in seen.text and "In the yard." in seen.text and said.answered_with_it in seen.text
    assert "/opt/dify/admin-password" in seen.text.replace("\u200b", "")
    assert "INIT_PASSWORD" not in seen.text
    assert "script" not in seen.tags()
