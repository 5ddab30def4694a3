"""The page, section by section, from the facts and the words of a language."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from installer import VERSION
from installer.bundle import manifest
from installer.commands.page.facts import Facts
from installer.commands.page.html import Html, element, filled, join
from installer.commands.page.style import STYLE
from installer.commands.page.words import Words
from installer.core import layout
from installer.core.console import size
from installer.core.finding import Finding, Level
from installer.release.masks import HIDDEN

# What the report has besides gets a section of its own, by its name there.
TOLD = {
    *("dify", "folder", "url", "log", "started", "result", "steps", "checks", "models", "inside", "notes"),
    *("error", "remedy"),
}
FINDING = {field.name for field in fields(Finding)}
# Whatever is put in: nothing is loaded, nothing runs, nothing is sent.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
# In paths and in long names.
BREAKS = re.compile(r"(?<=\w)(?=/)|(?<=_)(?=\w)")
# So that a browser does not ask a server for one.
NO_ICON = "data:,"


def page(facts: Facts, words: Words) -> str:
    """Return the whole page."""
    title = f"Dify {facts.report['dify']} · {words.kicker} · {facts.server}"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("link", rel="icon", href=NO_ICON),
        element("title", title),
        element("style", Html(STYLE)),
    )
    sections = (
        *(_failure(facts, words), _next(facts, words), _inside(facts, words)),
        *(_checklist(facts, words), _models(facts, words)),
        *(_other(name, value, words) for name, value in facts.report.items() if name not in TOLD and value),
        *(_notes(facts, words), _times(facts, words), _installed(facts, words), _settings(facts, words)),
    )
    body = element("body", element("main", _top(facts, words), *sections), _foot(words))
    return f"<!DOCTYPE html>\n{element('html', head, body, lang=words.language)}\n"


def _foot(words: Words) -> Html:
    made_by = words.made_by.format(version=VERSION, name=layout.REPORT)
    return element("footer", element("p", made_by))


def _top(facts: Facts, words: Words) -> Html:
    level, verdict = _verdict(facts, words)
    report = facts.report
    about = [
        (words.server, facts.server),
        (words.system, facts.system),
        (words.engine, facts.engine),
        (words.user, facts.user),
        (words.folder, _code(report["folder"])),
        (words.log, _code(report["log"])),
        (words.started, _moment(report["started"])),
        (words.took, _seconds(sum(each["seconds"] for each in report["steps"]), words)),
    ]
    return element(
        "header",
        element("p", words.kicker, class_="kicker"),
        element("h1", f"Dify {report['dify']}"),
        element("p", verdict, class_=f"verdict {level}"),
        element("p", _link(report["url"]), class_="address") if report["result"] == "done" else "",
        _pairs(about, "about"),
    )


def _verdict(facts: Facts, words: Words) -> tuple[Level, str]:
    report = facts.report
    if report["error"]:
        return "error", words.failed
    if report["result"] != "done":
        return "warning", words.interrupted
    found = [each["level"] for each in (*facts.host_checks, *report["checks"], *report["models"])]
    warnings, passed = found.count("warning"), found.count("ok")
    if warnings:
        return "warning", words.done_with_warnings.format(count=passed, warnings=warnings)
    return "ok", words.done.format(count=passed)


def _failure(facts: Facts, words: Words) -> Html:
    report = facts.report
    if report["result"] == "done":
        return Html()
    if not report["error"]:
        return _section(words.failure, element("p", words.interrupted_remedy))
    about = [(words.what_happened, _prose(report["error"])), (words.what_to_do, _prose(report["remedy"]))]
    return _section(words.failure, _pairs(about, "told"), element("p", words.again))


def _next(facts: Facts, words: Words) -> Html:
    report = facts.report
    server, user = element("b", facts.server), element("b", facts.user)
    commands = [
        (words.look, _command(facts, "status")),
        (words.stop, _command(facts, "stop")),
        (words.start, _command(facts, "start")),
        (words.remove, _command(facts, "uninstall")),
    ]
    kept = element("p", filled(words.hand_over, user=user, server=server))
    if report["result"] != "done":
        return _section(words.next, kept, _pairs(commands, "commands"))
    env = _code(str(facts.env))
    steps = [filled(words.open, url=_link(report["url"])), _account(facts, words)]
    if not report["models"]:
        steps.append(filled(words.add_models, options=join([_code("--ollama-url"), ", ", _code("--vllm-url")])))
    folder, volumes = _code(report["folder"]), _code(str(facts.volumes))
    steps.append(filled(words.back_up, folder=folder, env=env, volumes=volumes))
    return _section(
        words.next, element("ol", *(element("li", step) for step in steps)), kept, _pairs(commands, "commands")
    )


def _account(facts: Facts, words: Words) -> Html | str:
    """Say how somebody gets in."""
    report = facts.report
    if inside := report.get("inside"):
        file = inside["password_file"]
        told = words.sign_in_here if file else words.sign_in_as
        return filled(told, account=element("b", inside["account"]), file=_code(file))
    if any("first account" in each["seen"] for each in report["checks"]):
        return filled(words.first_account, env=_code(str(facts.env)))
    return words.sign_in


def _inside(facts: Facts, words: Words) -> Html:
    """Tell of plugins, models and the first answer."""
    inside = facts.report.get("inside")
    if not inside or not (inside["plugins"] or inside["models"]):
        return Html()
    plugins = [
        (each["name"], join([each["version"], ", ", words.became.get(each["what"], each["what"])]))
        for each in inside["plugins"]
    ]
    models = [(each["name"], join([_about(each, words)])) for each in inside["models"]]
    told: list[Html] = []
    if answer := inside["answer"]:
        told += [element("h3", words.first_answer), *_said(answer["question"], answer, words)]
    if found := inside["knowledge"]:
        told += [element("h3", words.knowledge), *_found(found, words)]
    return _section(words.inside, _pairs([*plugins, *models], "about"), *told)


def _said(asked: str, answer: Mapping[str, Any], words: Words) -> list[Html]:
    measured = words.measured.format(
        first=_seconds(answer["first_seconds"], words),
        whole=_seconds(answer["seconds"], words),
        tokens=answer["answer_tokens"],
        model=answer["model"],
    )
    return [element("p", asked), element("blockquote", answer["answer"]), element("p", measured)]


def _found(found: Mapping[str, Any], words: Words) -> list[Html]:
    indexed = words.indexed.format(
        model=found["model"],
        passages=found["passages"],
        index=_seconds(found["index_seconds"], words),
        find=_seconds(found["find_seconds"], words),
    )
    told = [element("p", found["question"]), element("blockquote", found["passage"]), element("p", indexed)]
    return told + (_said(words.answered_with_it, found["answer"], words) if found["answer"] else [])


def _about(model: Mapping[str, Any], words: Words) -> str:
    able = [words.able[each] for each in ("tools", "vision") if model[each]]
    facts = [words.kinds.get(model["kind"], model["kind"]), words.context.format(tokens=model["context"]), *able]
    facts += [words.default] if model["default"] else []
    return ", ".join([*facts, words.became.get(model["what"], model["what"])])


def _checklist(facts: Facts, words: Words) -> Html:
    checks = facts.report["checks"]
    return _section(
        words.checklist,
        element("h3", words.finished_stack),
        _findings(checks, words) if checks else element("p", words.no_checks),
        element("h3", words.this_host),
        _findings(facts.host_checks, words),
        element("p", words.english, class_="aside") if words.english else "",
    )


def _models(facts: Facts, words: Words) -> Html:
    models = facts.report["models"]
    return _section(words.models, _findings(models, words)) if models else Html()


def _notes(facts: Facts, words: Words) -> Html:
    if not facts.notes:
        return Html()
    return _section(words.notes, element("ul", *(element("li", _prose(note)) for note in facts.notes)))


def _times(facts: Facts, words: Words) -> Html:
    steps = facts.report["steps"]
    longest = max((each["seconds"] for each in steps), default=0) or 1
    rows = [
        element(
            "tr",
            element("th", words.steps.get(each["name"], each["name"]), scope="row"),
            element("td", _bar(each["seconds"] / longest), element("span", _prose(each["seen"]), class_="seen")),
            element("td", _seconds(each["seconds"], words), class_="number"),
        )
        for each in steps
    ]
    total = element(
        "tr",
        element("th", words.total, scope="row"),
        element("td"),
        element("td", _seconds(sum(each["seconds"] for each in steps), words), class_="number"),
    )
    heads = (words.step, words.seen, words.time)
    return _section(words.times, _table("times", heads, rows, element("tfoot", total)))


def _bar(part: float) -> Html:
    """Return a bar of that part of the longest one; the number beside it says the same to who cannot see it."""
    rect = element("rect", width=f"{max(part * 100, 0.3):.1f}%", height="10")
    return element("svg", rect, width="100%", height="10", aria_hidden="true", class_="bar")


def _installed(facts: Facts, words: Words) -> Html:
    bundle = facts.bundle
    about = [
        (words.dify, bundle.dify),
        (words.commit, _code(f"{bundle.source} {bundle.commit}".strip())),
        (words.installer, f"dify-installer {VERSION}"),
        (words.architecture, bundle.architecture),
        *(
            [(words.choices, ", ".join(f"{key} {text}" for key, text in bundle.variables.items()))]
            * bool(bundle.variables)
        ),
        *([(words.base, bundle.base)] * bool(bundle.base)),
    ]
    files = [_hashed(each.name, [("SHA-256", each.sha256)], each.size) for each in facts.files]
    images = [
        _hashed(each.reference, [(words.image_id, f"sha256:{each.id}"), (words.digest, each.digest)], each.size)
        for each in bundle.images
    ]
    return _section(
        words.installed,
        _pairs(about, "about"),
        element("h3", words.files),
        _table("hashes", (words.file, words.size), files),
        element("p", words.files_note, class_="aside"),
        element("h3", f"{words.images} ({len(images)})"),
        _table("hashes", (words.image, words.size), images),
        *(_plugins(bundle.plugins, words) if bundle.plugins else ()),
    )


def _plugins(plugins: manifest.Plugins, words: Words) -> tuple[Html, ...]:
    rows = [
        _hashed(each.identity, [(f"{words.signers[each.signer]}, SHA-256", each.file.sha256)], each.file.size)
        for each in plugins.packages
    ]
    return (
        element("h3", f"{words.plugins} ({len(rows)})"),
        _table("hashes", (words.package, words.size), rows),
        element("p", words.plugins_note.format(count=len(plugins.others)), class_="aside"),
    )


def _hashed(name: str, hashes: Iterable[tuple[str, str]], count: int) -> Html:
    told = [
        element("div", element("span", f"{label} ") if label else "", text, class_="hash")
        for label, text in hashes
        if text
    ]
    return element("tr", element("th", _broken(name), *told, scope="row"), element("td", size(count), class_="number"))


def _settings(facts: Facts, words: Words) -> Html:
    secrets = [key for key, text in facts.settings.items() if text == HIDDEN]
    rows = [
        element("tr", element("th", _broken(key), scope="row"), element("td", _broken(text) if text else words.empty))
        for key, text in facts.settings.items()
        if key not in secrets
    ]
    note = words.settings_note.format(changed=len(facts.settings), total=facts.settings_total)
    told = join([_code(key) if number == 0 else join([", ", _code(key)]) for number, key in enumerate(secrets)])
    return _section(
        words.settings,
        element("p", note),
        _table("settings", (words.key, words.value), rows),
        element("p", filled(words.secrets, keys=told), class_="aside") if secrets else "",
    )


def _other(name: str, value: Any, words: Words) -> Html:
    """Return what the report has besides, by its shape: a list, names with values, or a text."""
    return _section(_name(name, words), _shown(value, words))


def _shown(value: Any, words: Words) -> Html:
    if isinstance(value, Mapping):
        return _pairs([(_name(key, words), _shown(each, words)) for key, each in value.items()], "about")
    if isinstance(value, list | tuple):
        if value and all(
            isinstance(each, Mapping) and set(each) == {"check", "level", "seen", "remedy"} for each in value
        ):
            return _findings(value, words)
        return element("ul", *(element("li", _shown(each, words)) for each in value))
    return join(["" if value is None else str(value)])


def _name(name: str, words: Words) -> str:
    told = name.replace("_", " ")
    return words.others.get(name, told[:1].upper() + told[1:])


def _findings(findings: Iterable[Mapping[str, Any]], words: Words) -> Html:
    rows = [
        element(
            "tr",
            element("th", _broken(each["check"]), scope="row"),
            element("td", element("span", words.levels[each["level"]], class_=f"level {each['level']}")),
            element("td", _prose(each["seen"]), _remedy(each["remedy"], words)),
        )
        for each in findings
    ]
    return _table("findings", (words.check, words.state, words.seen), rows)


def _remedy(text: str, words: Words) -> Html:
    return element("p", filled(words.do, remedy=_prose(text)), class_="remedy") if text else Html()


def _section(title: str, *content: str) -> Html:
    return element("section", element("h2", title), element("div", *content))


def _table(kind: str, heads: Iterable[str], rows: Iterable[str], *more: str) -> Html:
    head = element("tr", *(element("th", each, scope="col") for each in heads))
    return element("table", element("thead", head), element("tbody", *rows), *more, class_=kind)


def _pairs(pairs: Iterable[tuple[str, str]], kind: str) -> Html:
    """Return names with their values, but for those without one; each pair stays together on paper."""
    told = (element("div", element("dt", name), element("dd", text)) for name, text in pairs if text)
    return element("dl", *told, class_=kind)


def _command(facts: Facts, command: str) -> Html:
    return _code(f"{facts.program} {command}{facts.option}")


def _code(text: str) -> Html:
    return element("code", text)


def _link(url: str) -> Html:
    """Return a link; an address that is none of a web page stays text."""
    return element("a", url, href=url) if url.startswith(("http://", "https://")) else join([url])


def _broken(text: str) -> Html:
    """Return a long name that may be broken where a reader would break it."""
    return Html(element("wbr").join(join([piece]) for piece in BREAKS.split(text)))


def _prose(text: str) -> Html:
    """Return a sentence of ours; what stands in backticks is code."""
    pieces = text.split("`")
    if len(pieces) % 2 == 0:
        return _broken(text)
    return join(_code(piece) if number % 2 else _broken(piece) for number, piece in enumerate(pieces))


def _moment(text: str) -> str:
    """Return a time as people write it: 2026-01-31 14:05:09 +0900."""
    return f"{text[:10]} {text[11:19]} {text[19:]}".strip()


def _seconds(seconds: float, words: Words) -> str:
    return words.seconds.format(seconds=f"{seconds:.1f}")
