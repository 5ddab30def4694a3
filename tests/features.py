"""What hosts are shown to work, read from the tests: the table in docs/hosts.md, which `make docs` writes.

A test says with `@pytest.mark.feature(FEATURE, VERDICT)` what it shows; a module that is no test with
`FEATURES = {FEATURE: VERDICT}`.
"""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHOWN_BY = [*sorted((ROOT / "tests/e2e").glob("test_*.py")), ROOT / "tests/target/selinux.py"]


def features() -> list[tuple[str, str, str]]:
    """Return feature, verdict and a link from docs/ to the test that shows it, in the order of the features."""
    found = [row for path in SHOWN_BY for row in _of_module(path)]
    return sorted(found, key=lambda row: row[0].lower())


def _of_module(path: Path) -> list[tuple[str, str, str]]:
    rows = []
    where = path.relative_to(ROOT).as_posix()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.feature":
                    feature, verdict = (ast.literal_eval(argument) for argument in mark.args)
                    rows.append((feature, verdict, f"[{node.name}](../{where})"))
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "FEATURES":
            rows += [
                (feature, verdict, f"[{path.stem}](../{where})")
                for feature, verdict in ast.literal_eval(node.value).items()
            ]
    return rows
