"""Documentation that must not drift: tables, links, commands, both languages, the decisions that the code points to."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from build.cli import cli as build_cli
from installer.cli import cli
from installer.commands.man import every_command
from tests import docs, features

ROOT = docs.ROOT
READMES = (ROOT / "README.md", ROOT / "README.ko.md")
ENGLISH = sorted(docs.PAGES.glob("*.md"))
KOREAN = sorted((docs.PAGES / "ko").glob("*.md"))
DECISIONS = sorted((docs.PAGES / "decisions").glob("*.md"))
ALL = [*sorted(ROOT.glob("*.md")), *ENGLISH, *KOREAN, *DECISIONS]
LANGUAGES = {"en": (READMES[0], ENGLISH, docs.PAGES), "ko": (READMES[1], KOREAN, docs.PAGES / "ko")}
README_LINES = 150


# Options of other programs that the pages name by themselves.
FOREIGN_OPTIONS = {"--check", "--ignore-missing"}

each_page = pytest.mark.parametrize("page", ALL, ids=lambda path: path.relative_to(ROOT).as_posix())
each_language = pytest.mark.parametrize("language", LANGUAGES)


def read(page: Path) -> str:
    return page.read_text("utf-8")


def of_code(page: str) -> list[str]:
    """Return the lines of a page's code blocks, which are indented, without their comments."""
    lines = (line for line in page.splitlines() if line.startswith("    ") and line.strip())
    return [re.split(r"(?:^|\s)#\s", line.strip())[0].strip() for line in lines]


def of_text(page: str) -> str:
    """Return a page without its code blocks."""
    return "\n".join(line for line in page.splitlines() if not line.startswith("    "))


def spans(page: str) -> list[str]:
    """Return what stands in backticks outside of code blocks."""
    return re.findall(r"`([^`\n]+)`", of_text(page))


def headings(page: str) -> list[tuple[int, str]]:
    """Return the level and the text of each heading."""
    return [(len(marks), text) for marks, text in re.findall(r"^(#+) (.+)$", of_text(page), re.MULTILINE)]


def anchors(page: str) -> set[str]:
    """Return the names that GitHub gives to the headings of a page."""
    texts = (re.sub(r"[^\w\- ]", "", text.lower()) for _, text in headings(page))
    return {text.strip().replace(" ", "-") for text in texts}


# -- tables


@pytest.mark.parametrize("page", ENGLISH, ids=lambda path: path.name)
def test_the_generated_tables_are_todays(page: Path) -> None:
    assert docs.rewritten(read(page)) == read(page), "run `make docs`"


def test_every_table_stands_in_one_page() -> None:
    written = [name for page in ENGLISH for _, name, _ in docs.BLOCK.findall(read(page))]
    assert sorted(written) == sorted(docs.tables())


@each_language
def test_the_pages_tell_every_exit_code(language: str) -> None:
    page = read(LANGUAGES[language][2] / "exit-codes.md")
    for code in docs.exit_codes():
        assert f"| {code} |" in page, code


@each_language
def test_the_pages_tell_every_preflight_check(language: str) -> None:
    page = read(LANGUAGES[language][2] / "checks.md")
    assert set(docs.checks()) == set(re.findall(r"^\| `([a-z ]+)` \|", page, re.MULTILINE))


@each_language
def test_the_pages_tell_every_check_of_a_cluster(language: str) -> None:
    page = read(LANGUAGES[language][2] / "kubernetes.md")
    for check in {**docs.of_cluster(), **docs.of_running()}:
        assert f"| `{check}` |" in page, check


@each_language
def test_the_pages_tell_every_command_and_option(language: str) -> None:
    page = read(LANGUAGES[language][2] / "options.md")
    for command in docs.commands():
        assert f"| `{command}` |" in page, command
        for option in docs.options(command):
            assert re.search(rf"^\| `{option.opts[0]}[ `]", page, re.MULTILINE), option.opts[0]


@each_language
def test_the_pages_tell_every_variable_of_make_bundle(language: str) -> None:
    page = read(LANGUAGES[language][2] / "building.md")
    recipe = read(ROOT / "Makefile").split("\nbundle:")[1].split("\n\n")[0]
    passed = re.findall(r"\$\(if \$\(([A-Z_]+)\),--", recipe)
    assert passed
    for variable in passed:
        assert re.search(rf"^\| `{variable}=", page, re.MULTILINE), variable


@each_language
def test_the_ratios_are_those_of_the_benchmark(language: str) -> None:
    results = read(ROOT / "tests/bench/RESULTS.md")
    ratios = re.findall(r"(?<![\d.])0\.\d\d(?!\d)", read(LANGUAGES[language][2] / "performance.md"))
    assert len(ratios) == 9
    for ratio in ratios:
        assert f"**{ratio}**" in results or f" {ratio} |" in results, ratio


def test_the_table_of_hosts_is_not_empty() -> None:
    assert len(features.features()) > 20


# -- pages


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.name)
def test_the_readme_is_a_front_page(readme: Path) -> None:
    assert len(read(readme).splitlines()) <= README_LINES


def test_both_languages_have_the_same_pages() -> None:
    assert [page.name for page in ENGLISH] == [page.name for page in KOREAN]


@pytest.mark.parametrize(
    ("english", "korean"), [READMES, *zip(ENGLISH, KOREAN, strict=False)], ids=lambda path: path.name
)
def test_both_languages_have_the_same_sections_and_commands(english: Path, korean: Path) -> None:
    assert [level for level, _ in headings(read(english))] == [level for level, _ in headings(read(korean))]
    assert of_code(read(english)) == of_code(read(korean))


@each_language
def test_the_readme_and_the_index_name_every_page(language: str) -> None:
    readme, pages, folder = LANGUAGES[language]
    for page in pages:
        if page.name != "README.md":
            assert f"({folder.relative_to(ROOT).as_posix()}/{page.name})" in read(readme), page.name
            assert f"]({page.name})" in read(folder / "README.md"), page.name


@each_page
def test_links_and_their_anchors_exist(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", of_text(read(page))):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(read(target)), link


@each_language
def test_the_table_of_rooms_names_all_and_each_imports_only_what_is_above_it(language: str) -> None:
    page = read(LANGUAGES[language][2] / "development.md")
    rooms = re.findall(r"^\| `([a-z]+)(?:/|\.py)` \|", page.split("`installer/`")[-1], re.MULTILINE)
    there = {path.stem for path in (ROOT / "installer").iterdir() if re.match("[a-z]", path.name)}
    assert sorted(rooms) == sorted(there)
    for number, room in enumerate(rooms):
        for path in [*(ROOT / "installer" / room).rglob("*.py")] or [ROOT / "installer" / f"{room}.py"]:
            used = re.findall(r"^\s*from installer(?:\.| import )([a-z]+)", read(path), re.MULTILINE)
            assert not set(used) & set(rooms[number + 1 :]), path


@each_page
def test_the_files_that_a_page_names_exist(page: Path) -> None:
    for name in spans(read(page)):
        if re.fullmatch(r"(build|docs|installer|specs|tests)/[\w./-]*", name):
            assert (ROOT / name).exists(), name


# -- commands


@each_page
def test_the_commands_that_a_page_names_exist(page: Path) -> None:
    text = read(page)
    for line in [*of_code(text), *spans(text)]:
        for part in re.split(r"&&|[|;]", line):
            words = part.split()
            for unknown in unknown_in(words):
                pytest.fail(f"{unknown}, in {line!r}")


def unknown_in(words: list[str]) -> Iterator[str]:
    """Give what does not exist of a command line of ours; of any other, nothing."""
    names = [re.split(r"[/(]", word)[-1] for word in words]
    program = names.index("dify-installer") if "dify-installer" in names else None
    if program is not None:
        yield from unknown_to(cli, words[program + 1 :], default="install")
    elif words[:3] == ["python", "-m", "build"]:
        yield from unknown_to(build_cli, words[3:])
    elif words[:1] == ["make"]:
        yield from unknown_to_make(words[1:])
    elif words and words[0].startswith("--"):
        option = words[0].split("=")[0]
        if option not in {*FOREIGN_OPTIONS, *long_options(cli), *long_options(build_cli)}:
            yield option


def unknown_to(group: click.Group, words: list[str], default: str = "") -> Iterator[str]:
    """Give the command and the options of a command line that a group of commands does not know."""
    command = words[0] if words and re.match(r"[a-z]", words[0]) else default
    if command and command not in group.commands:
        yield f"the command {command}"
        return
    if isinstance(topic := group.commands.get(command), click.Group):
        yield from unknown_to(topic, words[1:])
        return
    known = {"--help", "--version"}
    known |= {name for each in (group.commands[command].params if command else ()) for name in each.opts}
    for word in words:
        if word.startswith("--") and word.split("=")[0] not in known:
            yield f"{command} {word}"


def unknown_to_make(words: list[str]) -> Iterator[str]:
    """Give the targets and the variables that neither the Makefile nor the build knows."""
    makefile = read(ROOT / "Makefile")
    known = makefile + "".join(read(path) for path in (ROOT / "build").rglob("*.*") if path.suffix in (".py", ".sh"))
    for word in words:
        name, is_variable, _ = word.partition("=")
        if is_variable and not re.search(rf"\b{re.escape(name)}\b", known):
            yield f"the variable {name}"
        if re.fullmatch("[a-z-]+", word) and not re.search(rf"^{re.escape(word)}:", makefile, re.MULTILINE):
            yield f"make {word}"


def long_options(group: click.Group) -> set[str]:
    return {name for command in every_command(group).values() for each in command.params for name in each.opts}


@pytest.mark.parametrize(
    "line",
    [
        "./dify-installer instal --ip 10.0.0.5",
        "./dify-installer --ipp 10.0.0.5",
        "/opt/dify/bin/dify-installer status --ip 10.0.0.5",
        "./dify-installer plugins ad FILE",
        "./dify-installer models list --ollama-url URL",
        "python -m build bundle --sourc PATH",
        "make bundel",
        "make bundle SAUCE=PATH",
        "--no-such-option",
    ],
)
def test_a_command_that_does_not_exist_is_found(line: str) -> None:
    assert list(unknown_in(line.split()))


# -- decisions


def test_the_decisions_are_numbered_and_named_in_the_index() -> None:
    assert [page.name[:4] for page in DECISIONS] == [f"{number:03}-" for number in range(1, len(DECISIONS) + 1)]
    index = read(docs.PAGES / "README.md")
    for page in DECISIONS:
        assert f"](decisions/{page.name})" in index, page.name


@pytest.mark.parametrize("page", DECISIONS, ids=lambda path: path.stem)
def test_a_decision_says_why_what_with_which_figures_and_from_where(page: Path) -> None:
    assert [text for level, text in headings(read(page)) if level == 2] == ["Context", "Decision", "Figures", "Source"]


def test_the_decisions_that_the_code_points_to_exist() -> None:
    numbers = {page.name[:3] for page in DECISIONS}
    for folder in ("installer", "build", "tests"):
        for path in (ROOT / folder).rglob("*.py"):
            for number in re.findall(r"docs/decisions/(\d{3})", read(path)):
                assert number in numbers, path
