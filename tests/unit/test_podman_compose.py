"""Installing podman-compose where that is ended from outside; the rest is shown end to end."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import podman_compose as upstream
import pytest
import yaml

from installer.core import errors, layout
from installer.core.runner import Runner
from installer.engine import compose_program, podman_compose
from installer.release import envfile


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


# -- what is interpolated once


def texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, each in value.items():
            yield key
            yield from texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from texts(each)
    elif isinstance(value, str):
        yield value


def test_a_text_is_interpolated_as_podman_compose_does(project: Path) -> None:
    variables = envfile.parse((project / ".env.example").read_text())
    found = set(texts(yaml.safe_load((project / "docker-compose.yaml").read_text())))
    asked: list[str] = []

    def counted(text: str, known: Mapping[str, Any]) -> str:
        asked.append(text)
        return str(upstream.var_interpolate(text, dict(known)))

    once = compose_program.once(counted)
    for _ in range(2):
        assert {text: once(text, variables) for text in found} == {
            text: upstream.var_interpolate(text, variables) for text in found
        }
    assert sorted(asked) == sorted(text for text in found if "$" in text)


def test_what_the_variables_are_decides() -> None:
    once = compose_program.once(lambda text, known: f"{text} {known.get('A')!r} {known.get('B')!r}")
    seen = {once("${A:-$B}", each) for each in ({}, {"A": "1"}, {"A": 1}, {"A": True}, {"B": ["x"]}, {"A": "1"})}
    assert len(seen) == 5
    strict = compose_program.once(upstream.var_interpolate)
    for _ in range(2):
        with pytest.raises(ValueError, match="required variable A"):
            strict("${A:?it is needed}", {})
    assert strict("${A:?it is needed}", {"A": "there"}) == "there"


def test_a_file_is_loaded_as_podman_compose_does(project: Path) -> None:
    asked: list[str] = []

    def counted(text: str) -> Any:
        asked.append(text)
        return yaml.safe_load(text)

    load = compose_program.by_libyaml(counted)
    with (project / "docker-compose.yaml").open() as file:
        assert load(file) == yaml.safe_load((project / "docker-compose.yaml").read_text())
    assert asked == []
    # Its own tags, and what is wrong, are its own matter.
    (ports,) = load(tagged := "{web: !override {ports: [1]}}").values()
    assert isinstance(ports, upstream.OverrideTag)
    with pytest.raises(yaml.scanner.ScannerError):
        load(wrong := "a: 'b")
    assert asked == [tagged, wrong]


def test_a_text_needs_no_data_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {"A": "1", "EMPTY": ""}
    found = [
        "$A and ${A}",
        "${B:-$A}",
        "${EMPTY-x}${EMPTY:-y}",
        "${A:+z}",
        "$$A",
        "${B:-${C:-${A}}}",
        "in Korean: 안녕",
    ]
    before = [upstream.var_interpolate(text, variables) for text in found]
    monkeypatch.setattr(upstream, "dataclass", compose_program.plain)
    assert [upstream.var_interpolate(text, variables) for text in found] == before
    with pytest.raises(ValueError, match="required variable B"):
        upstream.var_interpolate("${B:?it is needed}", variables)


def test_pips_program_begins_with_ours(tmp_path: Path) -> None:
    place = layout.Installation(tmp_path / "dify")
    packages, program = place.venv / "lib/python3.9/site-packages", place.venv / "bin/podman-compose"
    for folder in (packages, program.parent):
        folder.mkdir(parents=True)
    (tmp_path / layout.COMPOSE_PROGRAM).write_text("ours\n")
    program.write_text("#!/bin/python\nimport sys\nfrom podman_compose import main\nsys.exit(main())\n")
    for _ in range(2):
        podman_compose._quicken(place, tmp_path)
        assert program.read_text() == "#!/bin/python\nimport sys\nfrom compose_program import main\nsys.exit(main())\n"
        assert program.stat().st_mode & 0o777 == 0o755
        assert (packages / layout.COMPOSE_PROGRAM).read_text() == "ours\n"
