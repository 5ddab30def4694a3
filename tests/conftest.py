"""Options that every test may use, and the guard that no unit test starts a program."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pytest

# How long an example takes depends on what else the machine does.
hypothesis.settings.register_profile("ours", deadline=None)
hypothesis.settings.load_profile("ours")


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
