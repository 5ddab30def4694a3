"""Whatever the executable carries comes with the text of its licence, and `licenses` prints it."""

from __future__ import annotations

import json
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from build import licenses
from build.failure import BuildError
from installer.commands.licenses import show_licenses
from installer.core import errors, layout

LOCK = licenses.LOCK.read_text()


def distribution(folder: Path, *files: str) -> metadata.Distribution:
    """An installed distribution with these files in its .dist-info folder."""
    info = folder / "thing-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.4\nName: thing\nVersion: 1.0\nLicense-Expression: MIT\n")
    for name in files:
        (info / name).parent.mkdir(exist_ok=True)
        (info / name).write_text(f"the text of {name}\n")
    (info / "RECORD").write_text("".join(f"{info.name}/{name},,\n" for name in ("METADATA", *files)))
    return metadata.PathDistribution(info)


def component(name: str, text: str = "text") -> licenses.Component:
    return licenses.Component(name=name, version="1", license="MIT", texts={"LICENSE": text})


def test_what_only_freezes_is_in_the_lock_and_not_frozen() -> None:
    names = licenses.frozen_names(LOCK)
    assert {"podman-compose", "click", "cryptography", "pyinstaller"} <= set(names)
    assert not licenses.BUILD_ONLY & set(names)
    for name in licenses.BUILD_ONLY:
        assert f"\n{name}==" in f"\n{LOCK}", name


@pytest.mark.parametrize("name", licenses.frozen_names(LOCK))
def test_every_distribution_that_is_frozen_has_a_text(name: str) -> None:
    found = licenses.of_distribution(metadata.distribution(name))
    assert found.license
    assert any(len(text) > 100 for text in found.texts.values()), found


def test_podman_compose_is_under_the_gpl_and_its_text_is_there() -> None:
    found = licenses.of_distribution(metadata.distribution("podman-compose"))
    assert found.license == "GPL-2.0-only"
    assert "GNU GENERAL PUBLIC LICENSE" in found.texts["LICENSE"]


def test_the_frozen_python_has_its_licence() -> None:
    python, *_ = licenses.of_python()
    assert any("PYTHON SOFTWARE FOUNDATION LICENSE" in text for text in python.texts.values())


@pytest.mark.parametrize("name", ["LICENSE", "COPYING.txt", "licenses/LICENCE.md", "licenses/terms"])
def test_a_text_is_found_where_distributions_put_it(tmp_path: Path, name: str) -> None:
    found = licenses.of_distribution(distribution(tmp_path, name, "top_level.txt"))
    assert found.texts == {name.removeprefix("licenses/"): f"the text of {name}\n"}


def test_a_distribution_without_a_licence_file_fails_the_build(tmp_path: Path) -> None:
    bare = licenses.of_distribution(distribution(tmp_path, "top_level.txt"))
    with pytest.raises(BuildError, match=r"no licence text is found for thing 1\.0") as caught:
        licenses.dumps([component("other"), bare])
    assert "License-File" in caught.value.remedy


def test_an_empty_licence_file_is_none() -> None:
    with pytest.raises(BuildError, match="thing"):
        licenses.dumps([component("thing", " \n")])


def test_a_wheel_tells_the_same_as_what_is_installed_from_it(tmp_path: Path) -> None:
    installed = distribution(tmp_path, "licenses/LICENSE")
    path = tmp_path / "thing-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for each in sorted((tmp_path / "thing-1.0.dist-info").rglob("*")):
            wheel.write(each, each.relative_to(tmp_path))
    assert licenses.of_wheel(path) == licenses.of_distribution(installed)


def test_the_order_does_not_matter_and_nothing_is_listed_twice() -> None:
    both = [component("B_b"), component("a")]
    written = licenses.dumps(both)
    assert written == licenses.dumps([*reversed(both), component("a")])
    assert [each["name"] for each in json.loads(written)["components"]] == ["a", "B_b"]


def test_they_are_shown_as_a_list_and_then_in_full(tmp_path: Path) -> None:
    (tmp_path / layout.LICENSES).write_bytes(licenses.dumps([component("thing", "you may"), component("other")]))
    shown = show_licenses(tmp_path)
    assert shown.splitlines()[:2] == ["other 1: MIT", "thing 1: MIT"]
    assert shown.endswith("you may")
    assert "thing 1: LICENSE" in shown


@pytest.mark.parametrize("content", [None, "{", "[]", '{"components": [{"name": "x"}]}', '{"components": 1}'])
def test_licences_that_cannot_be_read_are_told(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / layout.LICENSES).write_text(content)
    with pytest.raises(errors.BundleDamaged, match="the licences cannot be read"):
        show_licenses(tmp_path)
