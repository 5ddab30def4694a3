"""`--from-registry`: what is asked of a registry before anything changes, and what the engines are told."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from installer import cli, options
from installer.core import errors, layout
from installer.core.runner import Runner
from installer.engine import docker, podman
from installer.engine.base import Engine
from installer.registry import client, pull, reference
from tests.unit import test_push as pushing
from tests.unit.fake_registry import PASSWORD, USER, FakeRegistry, running

QUIET = pushing.QUIET


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRegistry]:
    monkeypatch.setattr(client, "WAITS", (0.0, 0.0))
    with running() as registry:
        yield registry


def source(fake: FakeRegistry, prefix: str = "own") -> pull.Source:
    registry = reference.checked_registry(f"{fake.host}/{prefix}")
    return pull.Source(registry=registry, login=pushing.LOGIN, authorities=None, plain_http=True)


@pytest.mark.parametrize("auth", ["basic", "bearer"])
def test_what_was_pushed_is_offered_by_its_digest(tmp_path: Path, fake: FakeRegistry, auth: str) -> None:
    fake.auth = auth
    bundle = pushing.archive_of(tmp_path, pushing.IMAGES, (pushing.BIG, pushing.SMALL, pushing.OTHER))
    done = pushing.run(bundle, fake)
    images = bundle.manifest.images
    offers = pull.find(source(fake), images, QUIET)
    assert [offer.name for offer in offers] == [f"{fake.host}/{row.repository}@{row.digest}" for row in done.rows]
    assert [offer.image for offer in offers] == list(images)
    assert "2 images that are missing" in pull.in_words(source(fake), offers, bundle.manifest)


def test_all_that_is_missing_or_another_image_is_told_at_once(tmp_path: Path, fake: FakeRegistry) -> None:
    bundle = pushing.archive_of(tmp_path, pushing.IMAGES, (pushing.BIG, pushing.SMALL, pushing.OTHER))
    pushing.run(bundle, fake)
    api, web = bundle.manifest.images
    later = dataclasses.replace(api, id="0" * 64)
    gone = dataclasses.replace(web, reference="docker.io/library/other:1")
    with pytest.raises(errors.RegistryFailed) as failure:
        pull.find(source(fake), [later, gone], QUIET)
    assert "api:1.0 is another image than this bundle's" in failure.value.message
    assert "library/other:1 is not there" in failure.value.message
    assert f"push --registry {fake.host}/own" in failure.value.remedy


def test_for_no_image_the_registry_is_not_asked(fake: FakeRegistry) -> None:
    assert pull.find(source(fake), [], QUIET) == []
    assert fake.asked == []


def recording(folder: Path) -> Runner:
    """Return a runner whose podman and docker note what they are called with, and the login that they are shown."""
    for name in ("podman", "docker"):
        program = folder / name
        program.write_text(
            f'#!/bin/sh\necho "$@" >>"{folder}/asked"\n'
            'for each; do [ -f "$each" ] && cat "$each"; [ -f "$each/config.json" ] && cat "$each/config.json"; done '
            f'>>"{folder}/shown"\n[ "$1" = context ] && echo unix:///run/docker.sock; exit 0\n'
        )
        program.chmod(0o755)
    return Runner({**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"})


@pytest.mark.parametrize("kind", [podman.Podman, docker.Docker])
def test_an_engine_is_shown_the_login_in_a_file_of_ours(tmp_path: Path, kind: type[Engine]) -> None:
    authority = tmp_path / "company.crt"
    authority.write_text("PEM")
    asked = pull.Source(
        registry=reference.checked_registry("r.example:5000/a"),
        login=pushing.LOGIN,
        authorities=authority,
        plain_http=False,
    )
    with pull.access(asked) as right:
        assert right.login is not None and right.certificates is not None
        assert stat.S_IMODE(right.login.stat().st_mode) == 0o600
        assert stat.S_IMODE(right.login.parent.stat().st_mode) == 0o700
        assert (right.certificates / "ca.crt").read_text() == "PEM"
        kind(recording(tmp_path)).pull("r.example:5000/a/b@sha256:1", right)
    assert not right.login.parent.exists()
    told = (tmp_path / "asked").read_text()
    assert told.endswith("pull --quiet r.example:5000/a/b@sha256:1\n") or "--cert-dir" in told
    assert PASSWORD not in told
    auth = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    assert json.loads((tmp_path / "shown").read_text()) == {"auths": {"r.example:5000": {"auth": auth}}}


def test_an_engine_that_gives_another_image_is_not_believed(tmp_path: Path) -> None:
    (made, _), *_ = pushing.IMAGES
    place = layout.Installation(tmp_path / "dify")
    place.folder.mkdir()
    asked = pull.Source(
        registry=reference.checked_registry("r.example"), login=None, authorities=None, plain_http=False
    )
    engine = podman.Podman(recording(tmp_path))
    with pytest.raises(errors.CommandFailed, match="does not have docker.io/dify/api:1.0"):
        pull.pull(asked, [pull.Offer(made, "r.example/a@sha256:1")], place, engine, QUIET)


def test_the_archive_and_the_registry_are_not_both_named() -> None:
    shown = CliRunner().invoke(cli.cli, ["--ip", "10.0.0.5", "--from-registry", "r.example", "--images", "x.tar"])
    assert isinstance(shown.exception, errors.UsageError)
    assert "--from-registry needs no archive" in shown.exception.message
    shown = CliRunner().invoke(cli.cli, ["--ip", "10.0.0.5", "--registry-user", "me"])
    assert isinstance(shown.exception, errors.UsageError)
    assert "add --from-registry" in shown.exception.message


def test_a_request_has_the_registry_with_its_login() -> None:
    request = options.make_request(
        ip="10.0.0.5",
        from_registry=reference.checked_registry("r.example/dify"),
        registry_user=USER,
        registry_password=PASSWORD,
    )
    assert request.registry is not None and request.registry.login == pushing.LOGIN
    assert PASSWORD not in repr(request)
