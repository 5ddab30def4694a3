"""Installing podman-compose where that is ended from outside; the rest is shown end to end."""

from __future__ import annotations

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
