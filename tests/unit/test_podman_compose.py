"""Installing podman-compose where that is ended from outside; the rest is shown end to end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from installer.core import errors, layout
from installer.core.runner import Runner
from installer.engine import podman_compose


def test_what_is_ended_from_outside_is_no_reason_to_try_the_next_python(tmp_path: Path) -> None:
    ended, other = tmp_path / "ended", tmp_path / "other"
    ended.write_text("#!/bin/sh\nkill -TERM $$\n")
    other.write_text('#!/bin/sh\ntouch "$0.called"\n')
    for each in (ended, other):
        each.chmod(0o755)
    (tmp_path / layout.PODMAN_COMPOSE_LOCK).write_text("podman-compose==1.6.0\n")
    place = layout.Installation(tmp_path / "dify")
    with pytest.raises(errors.CommandFailed):
        podman_compose.install(place, tmp_path, [ended, other], tmp_path / "bin", Runner())
    assert not (tmp_path / "other.called").exists()
    assert not place.podman_compose.is_symlink()


def test_a_python_that_is_too_slow_is_no_reason_not_to_try_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, other = tmp_path / "slow", tmp_path / "other"
    slow.write_text("#!/bin/sh\nsleep 60\n")
    other.write_text('#!/bin/sh\ntouch "$0.called"\nexit 1\n')
    for each in (slow, other):
        each.chmod(0o755)
    monkeypatch.setattr(podman_compose, "INSTALL_SECONDS", 3.0)
    (tmp_path / layout.PODMAN_COMPOSE_LOCK).write_text("podman-compose==1.6.0\n")
    place = layout.Installation(tmp_path / "dify")
    with pytest.raises(errors.CommandFailed, match="no Python"):
        podman_compose.install(place, tmp_path, [slow, other], tmp_path / "bin", Runner())
    assert (tmp_path / "other.called").exists()


def test_a_persons_variables_reach_neither_venv_nor_pip(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nenv > "{tmp_path}/seen"\nexit 1\n')
    python.chmod(0o755)
    (tmp_path / layout.PODMAN_COMPOSE_LOCK).write_text("podman-compose==1.6.0\n")
    place = layout.Installation(tmp_path / "dify")
    theirs = Runner({**os.environ, "PYTHONHOME": "/nowhere", "PIP_INDEX_URL": "http://nobody", "OTHER": "1"})
    with pytest.raises(errors.CommandFailed):
        podman_compose.install(place, tmp_path, [python], tmp_path / "bin", theirs)
    seen = (tmp_path / "seen").read_text()
    assert "OTHER=1" in seen
    assert "PYTHONHOME" not in seen and "PIP_INDEX_URL" not in seen
