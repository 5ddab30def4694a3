"""Options that every test may use, and the guard that no unit test starts a program."""

from __future__ import annotations

import os
import time
from pathlib import Path

import hypothesis
import pytest

# How long an example takes depends on what else the machine does.
hypothesis.settings.register_profile("ours", deadline=None)
hypothesis.settings.load_profile("ours")
# End-to-end files of more than two minutes, the longest first (`--durations` of whole runs).
LONGEST = (
    *("upgrade", "install", "export", "store", "external", "hosts", "backup", "faults", "egress", "uninstall"),
    *("failures", "build", "releases", "plugins", "shapes", "workspace", "intranet", "stopping", "mysql", "ansible"),
    *("podman", "refusals", "pgvector", "push", "doctor"),
)
# As many characters of what a test failed of are told at the end.
CAUSE = 150
# What a file took is told from here on.
TOLD_SECONDS = 30


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--dify",
        default=os.environ.get("DIFY_CHECKOUT", ""),
        metavar="PATH",
        help="a checkout of Dify 1.11.3, or a folder with its docker/ folder: also test with upstream's real files",
    )
    parser.addoption("--work", default="", metavar="PATH", help="where the end-to-end tests keep what is slow to make")
    parser.addoption(
        "--no-skips", action="store_true", default=bool(os.environ.get("CI")), help="a skipped test is a failure"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest and end with the unit tests, so that no worker has a long file left at the end."""
    places = {f"test_{name}.py": number for number, name in enumerate(LONGEST)}

    def place(item: pytest.Item) -> tuple[bool, int]:
        return "unit" in item.path.parts, places.get(item.path.name, len(places))

    items.sort(key=place)


class Pace:
    """Tells what a file has taken once its worker goes on to another: a run that is cut short shows where it was."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._begun: dict[str, tuple[str, int, float]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        worker, path = getattr(report, "worker_id", "alone"), report.nodeid.partition("::")[0]
        before, tests, seconds = self._begun.get(worker, (path, 0, 0.0))
        if before != path:
            self._tell(worker, before, tests, seconds)
            tests, seconds = 0, 0.0
        self._begun[worker] = (path, tests + (report.when == "call"), seconds + report.duration)

    def pytest_sessionfinish(self) -> None:
        for worker, begun in self._begun.items():
            self._tell(worker, *begun)

    def _tell(self, worker: str, path: str, tests: int, seconds: float) -> None:
        terminal = self._config.pluginmanager.get_plugin("terminalreporter")
        if terminal is not None and seconds >= TOLD_SECONDS:
            terminal.ensure_newline()
            terminal.write_line(f"{time.strftime('%H:%M:%S')}  {worker}: {path}, {tests} tests in {seconds:.0f} s")


def pytest_configure(config: pytest.Config) -> None:
    # A worker's reports come to the first process.
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Pace(config))


@pytest.fixture(scope="session")
def dify(request: pytest.FixtureRequest) -> Path:
    """The folder that holds Dify's `docker/`."""
    value = request.config.getoption("--dify")
    if not value:
        pytest.skip("no Dify files: give them with --dify PATH or DIFY_CHECKOUT=PATH")
    path = Path(value).resolve()
    assert (path / "docker/docker-compose.yaml").is_file(), f"{path} is no checkout of Dify"
    return path


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):  # type: ignore[no-untyped-def]
    report = yield
    if report.skipped and item.config.getoption("--no-skips") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped where no skip is allowed: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter):  # type: ignore[no-untyped-def]
    """Name what failed once more at the very end, a line each: where only a log's end is kept, it tells the cause."""
    result = yield
    for report in (*terminalreporter.stats.get("failed", ()), *terminalreporter.stats.get("error", ())):
        crash = getattr(report.longrepr, "reprcrash", None)
        cause = " ".join(str(crash.message if crash else report.longrepr).split())
        terminalreporter.write_line(f"failed: {report.nodeid} ({report.when}): {cause[:CAUSE]}")
    return result
