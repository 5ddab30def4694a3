"""The README's table of host features, made from the tests: `make features` writes it, `test_house.py` compares.

A test says with `@pytest.mark.feature(FEATURE, VERDICT)` what it shows; a module that is no test with
`FEATURES = {FEATURE: VERDICT}`.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHOWN_BY = [*sorted((ROOT / "tests/e2e").glob("test_*.py")), ROOT / "tests/target/selinux.py"]
BEGIN, END = "<!-- made by `make features` from the tests -->\n", "<!-- end of what `make features` makes -->\n"


def features() -> list[tuple[str, str, str]]:
    """Return feature, verdict and the test that shows it, in the order of the features."""
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
                    rows.append((feature, verdict, f"[{node.name}]({where})"))
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "FEATURES":
            rows += [
                (feature, verdict, f"[{path.stem}]({where})")
                for feature, verdict in ast.literal_eval(node.value).items()
            ]
    return rows


def table() -> str:
    """Return the table in Markdown."""
    lines = ["| host feature | verdict | shown by |", "| --- | --- | --- |"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in features())]) + "\n"


def written(readme: str) -> str:
    """Return a README's text with the table of today."""
    pattern = re.compile(f"(?<={re.escape(BEGIN)}).*(?={re.escape(END)})", re.DOTALL)
    return pattern.sub(lambda _: table(), readme)


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(written(path.read_text()))
