"""The page of the report, of real installations, in a real browser that has no network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from installer.core import layout
from installer.release import envfile, masks
from tests.e2e.conftest import MachineMaker
from tests.e2e.server import Server
from tests.target import machine as machines
from tests.target.browser import Browser
from tests.target.bundle import Bundle

LLM = Path(machines.__file__).with_name("llm.py")
OLLAMA = ("--ollama-url", f"http://{machines.ADDRESS}:11434")
# The pages, by their names here, and what one reads at their top.
RUNS = {
    "done-en": ([*OLLAMA], "Installed. "),
    "done-ko": ([*OLLAMA, "--language", "ko"], "설치가 끝났습니다. "),
    "failed-en": ([*OLLAMA, "--model", "no-such", "--require-llm"], "The installation failed."),
    "failed-ko": ([*OLLAMA, "--model", "no-such", "--require-llm", "--language", "ko"], "설치하지 못했습니다."),
}
# A4 without its margins, at 96 pixels to the inch.
PAPER = 672
RIGHTMOST = "Math.max(...[...document.querySelectorAll('body *')].map(each => each.getBoundingClientRect().right))"
WRONG = """<!DOCTYPE html><img src="http://10.0.0.1/x.png"><div style="width: 600px">wide</div>
<script>console.log("hello")</script>"""


@pytest.fixture(scope="module")
def server(sample: Bundle, lasting_machine: MachineMaker) -> Iterator[Server]:
    """A server with an Ollama beside the installation."""
    made = Server(lasting_machine(), sample)
    made.put(LLM, "llm.py")
    ollama = made.machine.start(["python3", "llm.py", "ollama", "11434"])
    yield made
    made.machine.run("pkill --full llm.py", check=False)
    ollama.wait(30)


@pytest.fixture(scope="module")
def pages(server: Server, work: Path) -> Path:
    """A folder with the page of each run, which the pictures go to as well."""
    folder = work / "pages"
    folder.mkdir(exist_ok=True)
    for name, (options, _) in RUNS.items():
        result = server.installer(*server.arguments(), *options)
        assert result.returncode == (8 if name.startswith("failed") else 0), result.stderr
        (folder / f"{name}.html").write_text(server.machine.read(f"{server.folder}/{layout.REPORT_PAGE}"))
    (folder / "wrong.html").write_text(WRONG)
    return folder


@pytest.fixture(scope="module")
def browser(browser_root: Path, pages: Path) -> Iterator[Browser]:
    with Browser(browser_root, pages) as running:
        yield running


def test_what_is_wrong_with_a_page_is_seen(browser: Browser) -> None:
    browser.open("wrong.html", 400)
    assert any("10.0.0.1" in url for url in browser.requests)
    assert any("hello" in each for each in browser.complaints)
    assert browser.evaluate(RIGHTMOST) > 400


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_browser_shows_it_asks_for_nothing_and_complains_of_nothing(
    browser: Browser, pages: Path, name: str, width: int, dark: bool
) -> None:
    browser.open(f"{name}.html", width, dark=dark)
    assert [url.rpartition("/")[2] for url in browser.requests] == [f"{name}.html"]
    assert browser.complaints == []
    assert browser.evaluate("document.querySelector('.verdict').innerText").startswith(RUNS[name][1])
    assert browser.evaluate(RIGHTMOST) <= width
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    browser.screenshot(pages / f"{name}-{width}-{'dark' if dark else 'light'}.png")


@pytest.mark.parametrize("name", RUNS)
def test_it_prints_dark_on_white_and_nothing_is_cut_off(browser: Browser, pages: Path, name: str) -> None:
    browser.open(f"{name}.html", PAPER, dark=True, on="print")
    assert browser.evaluate("getComputedStyle(document.documentElement).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.evaluate("getComputedStyle(document.body).color") == "rgb(21, 21, 21)"
    assert browser.evaluate(RIGHTMOST) <= PAPER
    browser.pdf(pages / f"{name}.pdf")
    assert (pages / f"{name}.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize("name", RUNS)
def test_it_tells_what_was_installed_and_no_secret(server: Server, pages: Path, name: str) -> None:
    page = (pages / f"{name}.html").read_text()
    example = envfile.parse(server.machine.read(f"{server.folder}/docker/.env.example"))
    for line in server.bundle.checksums.read_text().splitlines():
        assert line.split()[0] in page
    for value in masks.secret_values(server.env(), example):
        assert value not in page
    assert "Ollama from this host" in page
    shown = server.run("stat", "-c", "%a", f"{server.folder}/{layout.REPORT_PAGE}")
    assert shown.stdout.strip() == "600"


def test_a_failed_run_tells_why_and_what_helps(server: Server, pages: Path) -> None:
    report, page = server.report(), (pages / "failed-ko.html").read_text()
    assert "no-such" in report["error"]
    assert "no-such" in page.partition("실패 원인")[2].partition("</section>")[0]
    assert report["remedy"].split("(")[0] in page
