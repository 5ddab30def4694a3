"""Pulling, against a made-up engine: a script that answers as docker does."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from build import images
from build.failure import BuildError
from installer.core.console import Console
from installer.core.runner import Runner

ENGINE = """\
#!/bin/sh
echo "$@" >> "{folder}/calls"
case "$1 $2" in
"image inspect")
    [ -f "{folder}/store" ] || exit 1
    cat "{folder}/store" ;;
"pull "*)
    [ -f "{folder}/registry" ] || {{ echo "unauthorized: authentication required" >&2; exit 1; }}
    cp "{folder}/registry" "{folder}/store" ;;
esac
"""
IMAGE = '[{"Id": "sha256:%s", "Architecture": "%s", "Size": 5, "Created": "2026", "RepoDigests": ["x@sha256:d"]}]'


def pull(folder: Path, architecture: str = "amd64") -> images.Pulled:
    engine = folder / "engine"
    engine.write_text(ENGINE.format(folder=folder))
    engine.chmod(0o755)
    runner = Runner(dict(os.environ))
    wanted = "arm64" if architecture == "arm64" else "amd64"
    with images.pulling(["docker.io/x:1"], wanted, str(engine), runner, Console(silent=True)) as jobs:  # type: ignore[arg-type]
        return jobs[0].result()


def test_what_is_there_is_not_pulled(tmp_path: Path) -> None:
    (tmp_path / "store").write_text(IMAGE % ("a" * 64, "amd64"))
    image = pull(tmp_path)
    assert (image.id, image.digest, image.size) == ("a" * 64, "sha256:d", 5)
    assert "pull" not in (tmp_path / "calls").read_text()


def test_what_is_there_for_another_architecture_is_pulled(tmp_path: Path) -> None:
    (tmp_path / "store").write_text(IMAGE % ("a" * 64, "amd64"))
    (tmp_path / "registry").write_text(IMAGE % ("b" * 64, "arm64"))
    assert pull(tmp_path, "arm64").id == "b" * 64
    assert "pull --quiet --platform linux/arm64 docker.io/x:1" in (tmp_path / "calls").read_text()


def test_a_registry_without_the_architecture_is_told(tmp_path: Path) -> None:
    (tmp_path / "registry").write_text(IMAGE % ("a" * 64, "amd64"))
    with pytest.raises(BuildError, match="gave amd64 for arm64"):
        pull(tmp_path, "arm64")


def test_a_registry_that_refuses_is_quoted(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="authentication required"):
        pull(tmp_path)


def test_no_engine_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(BuildError, match="podman or docker is not installed"):
        images.engine(None)


def test_what_is_being_pulled_ends_when_saving_fails(tmp_path: Path) -> None:
    engine = tmp_path / "engine"
    engine.write_text('#!/bin/sh\n[ "$1" = pull ] || exit 1\ntouch "$0.pulls"\nsleep 60\n')
    engine.chmod(0o755)
    begun = time.monotonic()
    with (
        pytest.raises(BuildError, match="the disk is full"),
        images.pulling(["one", "two"], "amd64", str(engine), Runner(), Console(silent=True)) as jobs,
    ):
        while not (tmp_path / "engine.pulls").exists():
            time.sleep(0.01)
        raise BuildError("the disk is full")
    assert jobs[1].cancelled()
    assert time.monotonic() - begun < 30
