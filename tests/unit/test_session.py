from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from installer.core import login

UID = os.getuid() or 12345


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    """A /run/user in which the user has a folder with a bus."""
    folder = tmp_path / str(UID)
    folder.mkdir()
    with socket.socket(socket.AF_UNIX) as bus:
        bus.bind(str(folder / "bus"))
    os.chown(folder, UID, -1)
    return tmp_path


@pytest.mark.parametrize("before", [{}, {"XDG_RUNTIME_DIR": "/run/user/0"}, {"XDG_RUNTIME_DIR": "/no/such"}])
def test_a_session_that_the_login_did_not_name_is_joined(runtime: Path, before: dict[str, str]) -> None:
    environ = dict(before)
    login.join(environ, UID, runtime)
    assert environ == {
        "XDG_RUNTIME_DIR": f"{runtime}/{UID}",
        "DBUS_SESSION_BUS_ADDRESS": f"unix:path={runtime}/{UID}/bus",
    }


def test_a_session_of_ones_own_stays(runtime: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    os.chown(own, UID, -1)
    environ = {"XDG_RUNTIME_DIR": str(own)}
    login.join(environ, UID, runtime)
    assert environ == {"XDG_RUNTIME_DIR": str(own)}


def test_nothing_is_named_that_is_not_there_and_nothing_for_root(runtime: Path, tmp_path: Path) -> None:
    for uid, folder in ((UID, tmp_path / "none"), (0, runtime)):
        environ: dict[str, str] = {}
        login.join(environ, uid, folder)
        assert environ == {}
