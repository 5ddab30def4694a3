"""What the tests of several services have in common: a project, and a bundle."""

from __future__ import annotations

from pathlib import Path

import pytest

from installer.bundle import verify

SAMPLE = Path(__file__).parents[1] / "sample/docker"


@pytest.fixture(params=["sample", "upstream"])
def project(request: pytest.FixtureRequest) -> Path:
    """The compose project of the sample, and upstream's."""
    if request.param == "sample":
        return SAMPLE
    path: Path = request.getfixturevalue("dify")
    return path / "docker"


@pytest.fixture
def bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundle that brings Dify 1.11.3."""

    class Bundle:
        dify = "1.11.3"

    monkeypatch.setattr(verify, "check_embedded", lambda _: Bundle)
