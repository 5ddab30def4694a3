"""What the build compiles of the api's image."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from build import compile_imports, compiled
from installer.core.console import Console
from installer.core.runner import Runner

IMAGE = "a" * 64
# An engine that has Python and the program, and no image: what it would run, it runs here.
ENGINE = """\
#!/bin/sh
echo "$*" >> {folder}/called
test -e {folder}/broken && {{ echo "no containers here" >&2; exit 125; }}
for each; do case $each in *:/dify-installer) host=${{each%:*}};; esac; done
echo compiled > "$host/compiled/app.pyc"
"""


def engine(folder: Path) -> str:
    folder.mkdir()
    program = folder / "podman"
    program.write_text(ENGINE.format(folder=folder))
    program.chmod(0o755)
    return str(program)


def make(program: str, work: Path, image: str = IMAGE) -> compiled.Compiled | None:
    return compiled.make("docker.io/dify/api:1", image, "amd64", program, work, Runner(), Console(silent=True))


def test_it_is_made_once_for_an_image_without_network_and_rights(tmp_path: Path) -> None:
    program, work = engine(tmp_path / "engine"), tmp_path / "work"
    work.mkdir()
    first, second = make(program, work), make(program, work)
    assert first is not None
    assert first == second
    assert (first.folder / "app.pyc").read_text() == "compiled\n"
    (called,) = (tmp_path / "engine/called").read_text().splitlines()
    for words in ("--network none", "--cap-drop all", "no-new-privileges", "--rm", "--pull=never"):
        assert words in called
    other = make(program, work, "b" * 64)
    assert other is not None
    assert other.folder != first.folder
    make(program, work, "c" * 64)
    assert len(list(work.glob("compiled-*"))) == compiled.KEPT


def test_where_no_container_runs_it_says_so_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program, work = engine(tmp_path / "engine"), tmp_path / "work"
    work.mkdir()
    (tmp_path / "engine/broken").touch()
    made = compiled.make("docker.io/dify/api:1", IMAGE, "amd64", program, work, Runner(), Console())
    assert made is None
    assert list(work.iterdir()) == []
    told = capsys.readouterr()
    assert "not here: no containers here" in told.out + told.err
    (tmp_path / "engine/broken").unlink()
    assert make(program, work) is not None


def test_python_takes_what_was_compiled_of_what_is_imported_and_of_nothing_else(tmp_path: Path) -> None:
    source, kept = tmp_path / "app", tmp_path / "kept"
    (source / "library").mkdir(parents=True)
    (source / "app.py").write_text("import library.used\nraise SystemExit('no database here')\n")
    for name in ("__init__", "used", "unused"):
        (source / f"library/{name}.py").write_text("NAMES = {'a', 'b', 'c'}\n")
    program = [sys.executable, compile_imports.__file__]
    env = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
    for folder in (kept, tmp_path / "again"):
        subprocess.run([*program, str(folder)], cwd=source, env=env, check=True)
    made = read(kept)
    assert read(tmp_path / "again") == made
    assert {path.name.split(".")[0] for path in made if Path("/", path).is_relative_to(source)} == {
        *("app", "__init__", "used")
    }

    # Python would write what it does not find, or what does not fit.
    result = subprocess.run(
        [sys.executable, "-v", "-c", "import library.used"],
        cwd=source,
        env={compile_imports.PREFIX: str(kept)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"matches {source}/library/used.py" in result.stderr
    assert "# wrote" not in result.stderr
    assert read(kept) == made


def read(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.pyc")}
