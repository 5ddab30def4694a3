from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from installer.core import errors, layout
from installer.core.runner import Runner
from installer.engine.base import Container
from installer.engine.podman import Podman
from installer.release import compose, env_history
from installer.stack import applied, project, run
from tests.unit import hosts

UPSTREAM = """\
services:
  api:
    image: example.org/api:1
    environment:
      SECRET_KEY: ${SECRET_KEY}
"""
ENV = "CONSOLE_WEB_URL=http://10.0.0.5\nSECRET_KEY=to-be-hidden\n"


@pytest.fixture
def place(tmp_path: Path) -> layout.Installation:
    """An install folder with upstream's file and an `.env`."""
    installation = layout.Installation(tmp_path)
    installation.project.mkdir()
    installation.upstream_compose.write_text(UPSTREAM)
    env_history.write(installation, ENV)
    return installation


def write_compose(place: layout.Installation, variables: dict[str, str], engine: Podman) -> compose.Document:
    """Write what podman-compose reads, as a host without SELinux has it."""
    return project.write_compose(place, project.choose(place, variables, engine, hosts.GOOD, ()), engine)


def container(created: int) -> Container:
    """Return the api's container, running."""
    return Container(
        project="dify", service="api", folder="/opt/dify/docker", image="api", name="dify_api_1", state="running",
        health="", exit_code=0, restarts=0, created=created, started=1,
    )  # fmt: skip


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", bytes(range(256)), b"services: ["])
def test_a_rendered_file_that_was_damaged_is_rendered_anew(place: layout.Installation, content: bytes) -> None:
    write_compose(place, {"SECRET_KEY": "x"}, Podman(Runner({})))
    right = place.compose.read_bytes()
    place.compose.write_bytes(content)
    document = write_compose(place, {"SECRET_KEY": "x"}, Podman(Runner({})))
    assert place.compose.read_bytes() == right
    assert document == compose.load(place.compose)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", bytes(range(256))])
def test_a_note_of_what_was_started_that_was_damaged_counts_as_another(
    place: layout.Installation, content: bytes
) -> None:
    engine = Podman(Runner({}))
    document = write_compose(place, {"SECRET_KEY": "x"}, engine)
    found = [container(created=1)]
    applied.write(place, document, {"SECRET_KEY": "x"}, found, engine)
    assert run._as_configured(place, document, found, engine)
    place.applied.write_bytes(content)
    assert not run._as_configured(place, document, found, engine)
    assert applied.find_changed(place, document, {"SECRET_KEY": "y"}, found) == []


def test_what_has_changed_is_known_by_the_container_and_its_settings(place: layout.Installation) -> None:
    engine = Podman(Runner({}))
    document = write_compose(place, {"SECRET_KEY": "x"}, engine)
    (api,) = found = [container(created=1)]
    applied.write(place, document, {"SECRET_KEY": "x"}, found, engine)
    assert applied.find_changed(place, document, {"SECRET_KEY": "x"}, found) == []
    assert applied.find_changed(place, document, {"SECRET_KEY": "y"}, found) == ["api"]
    # One that a run made that was cut off afterwards may have the new settings already: compose compares.
    made_since = dataclasses.replace(api, created=2)
    assert applied.find_changed(place, document, {"SECRET_KEY": "y"}, [made_since]) == []
    assert b"SECRET_KEY" not in place.applied.read_bytes()


def test_who_reads_an_installation_hides_its_secrets(place: layout.Installation) -> None:
    runner = Runner({})
    write_compose(place, {}, Podman(runner))
    project.read_installed(place, Podman(runner))
    assert runner.mask("SECRET_KEY=to-be-hidden") == "SECRET_KEY=********"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"A=\xff\n", "is not UTF-8 text"),
        (b"", "no setting is in it"),
        (b"A=${x\n", "line 1, A: a `"),
        (None, "is not there"),
    ],
)
def test_an_env_that_cannot_be_read_is_told_by_whoever_reads_an_installation(
    place: layout.Installation, content: bytes | None, told: str
) -> None:
    write_compose(place, {}, Podman(Runner({})))
    place.env.unlink() if content is None else place.env.write_bytes(content)
    with pytest.raises((errors.UsageError, errors.CommandFailed), match=told) as caught:
        project.read_installed(place, Podman(Runner({})))
    assert caught.value.remedy
