"""Rules of the house that a reader relies on."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from installer import cli
from installer.core import errors
from tests.conftest import LONGEST

ROOT = Path(__file__).resolve().parent.parent.parent


def imports(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {
                f"{node.module}.{alias.name}" if node.module == "installer" else node.module for alias in node.names
            }
    return names


def test_the_installer_never_imports_the_build() -> None:
    for path in (ROOT / "installer").rglob("*.py"):
        assert not [name for name in imports(path) if name.split(".")[0] == "build"], path


# From the ground up: a room may use those below it.
LAYERS = (
    *(
        "core",
        "bundle",
        "release",
        "services",
        "engine",
        "host",
        "images",
        "stack",
        "system",
        "checks",
        "registry",
        "backup",
        "upgrade",
        "cluster",
        "workspace",
        "egress",
    ),
    *("plan", "commands", "answers", "options", "cli", "__main__"),
)


def room(module: str) -> str:
    """Return the room, of `installer.room.module` or `installer.module`."""
    return module.split(".")[1]


def test_no_room_uses_one_above_it() -> None:
    upward = []
    for path in (ROOT / "installer").rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[1] == "__init__":
            continue
        assert parts[1] in LAYERS, f"{parts[1]} has no place among the layers"
        for name in imports(path):
            known = name.startswith("installer.") and room(name) in LAYERS
            if known and LAYERS.index(room(name)) > LAYERS.index(parts[1]):
                upward.append(f"{'.'.join(parts)} uses {name}")
    assert not upward


def test_no_module_outside_of_the_engines_asks_for_an_engines_name() -> None:
    for path in (ROOT / "installer").rglob("*.py"):
        if "engine" not in path.relative_to(ROOT / "installer").parts:
            assert not re.search(r"engine(\.name)? [!=]= ", path.read_text()), path


def test_the_longest_files_are_there() -> None:
    assert not [name for name in LONGEST if not (ROOT / f"tests/e2e/test_{name}.py").is_file()]


def test_one_module_starts_programs() -> None:
    for folder in ("installer", "build"):
        for path in (ROOT / folder).rglob("*.py"):
            # The other one runs in an image.
            if path not in (ROOT / "installer/core/runner.py", ROOT / "build/compile_imports.py"):
                assert "subprocess" not in imports(path) and "os.system" not in path.read_text(), path


def test_no_image_is_named_in_our_code() -> None:
    for folder in ("installer", "build"):
        for path in (ROOT / folder).rglob("*.py"):
            for name in ("langgenius/", "semitechnologies/", "ubuntu/squid", "-alpine", "busybox:"):
                assert name not in path.read_text(), path


def test_exit_codes_are_unique() -> None:
    codes = [failure.exit_code for failure in errors.FAILURES]
    assert len(set(codes)) == len(codes)
    assert set(errors.EXIT_CODES) == {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 129, 130, 143}


def test_every_option_comes_from_the_environment_too() -> None:
    for parameter in cli.cli.commands["install"].params:
        assert parameter.envvar == "DIFY_INSTALLER_" + parameter.opts[0].lstrip("-").replace("-", "_").upper()


def test_public_functions_have_docstrings() -> None:
    for folder in ("installer", "build"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                    assert ast.get_docstring(node), f"{path.name}: {node.name}"
