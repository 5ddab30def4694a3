"""What the Makefile and its neighbours name is there: files, modules, targets, tools, the version."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from build import release
from installer import VERSION
from installer.core import errors
from installer.core.console import Console
from installer.core.runner import Runner

ROOT = Path(__file__).resolve().parent.parent.parent
MAKEFILE = (ROOT / "Makefile").read_text()
# The text of recipes and prerequisites, without comments and without what is told to people.
COMMANDS = "\n".join(re.sub(r"(^|\s)#.*", "", line) for line in MAKEFILE.splitlines())
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", MAKEFILE, re.MULTILINE))


def test_every_target_is_phony_and_told_by_make_help() -> None:
    listed = re.search(r"^\.PHONY:((?:\\\n|[^\n])*)", MAKEFILE, re.MULTILINE)
    assert listed is not None
    assert set(listed.group(1).replace("\\\n", " ").split()) == TARGETS
    told = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    lines = dict(re.findall(r"^make (\S+) +(\S.*)$", told.stdout, re.MULTILINE))
    assert set(lines) == TARGETS
    assert len(told.stdout.splitlines()) == len(TARGETS)


def test_every_file_and_folder_that_the_makefile_names_is_there() -> None:
    named = set(re.findall(r"(?<![\w./)-])((?:specs|tests|build|installer|docs)/[\w./-]+)", COMMANDS))
    assert {"specs/dev.lock", "tests/target/packages.sh", "specs/freeze.in"} <= named
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_every_module_that_the_makefile_runs_is_there() -> None:
    modules = set(re.findall(r"-m ((?:tests|build)[\w.]*)", COMMANDS))
    assert {"build", "build.release", "tests.target.demo", "tests.target.steps"} <= modules
    for module in modules:
        path = ROOT.joinpath(*module.split("."))
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module


def test_every_variable_that_the_makefile_reads_has_a_value_or_may_be_given() -> None:
    used = set(re.findall(r"\$\(([A-Z_]+)\)", COMMANDS)) - {"MAKEFILE_LIST"}
    set_here = set(re.findall(r"^([A-Z_]+) *[:?]?=", MAKEFILE, re.MULTILINE))
    # These come from the command line alone.
    assert used - set_here == {"BENCH", "DIFY_CHECKOUT", "DIST", "GROWTH", "LIFE", "PYTEST", "QDRANT", "RIG", "SCALE"}


def test_every_lock_is_refreshed_from_its_list() -> None:
    pairs = dict(re.findall(r"--output-file (specs/\S+\.lock) (specs/\S+\.in)", COMMANDS))
    assert set(pairs) == {f"specs/{path.name}" for path in (ROOT / "specs").glob("*.lock")}
    for lock, given in pairs.items():
        assert given == lock.replace(".lock", ".in")


def test_no_lock_holds_a_path_of_the_machine_that_wrote_it() -> None:
    for path in (ROOT / "specs").glob("*.lock"):
        assert [line for line in path.read_text().splitlines() if line.startswith(("--find-links", "--index"))] == []


def test_the_hooks_run_pinned_tools() -> None:
    lock = (ROOT / "specs/dev.lock").read_text()
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert local["repo"] == "local"
    for hook in local["hooks"]:
        folder, _, name = hook["entry"].split()[0].rpartition("/")
        assert folder == ".venv/bin"
        assert re.search(rf"^{name}==", lock, re.MULTILINE), name


def test_the_changelogs_newest_version_is_ours() -> None:
    changelog = release.CHANGELOG.read_text()
    assert release.released(changelog)[0] == VERSION
    assert release.entry(changelog, VERSION)
    assert "## [Unreleased]" in changelog


def test_whoever_names_our_version_means_this_one() -> None:
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "pyproject.toml"]:
        named = re.findall(
            r"dify-installer[ -]v?(\d+\.\d+\.\d+)|^version *= *[\"'](.*)[\"']", path.read_text(), re.MULTILINE
        )
        assert {version for pair in named for version in pair if version} <= {VERSION}, path


ONE = """\
# Changelog

## [Unreleased]

## [1.1.0] - 2026-02-01

### Added

- A thing.

## [1.0.0] - 2026-01-01

- The first one.

[1.0.0]: https://example.org
"""


def test_a_changelog_is_read() -> None:
    assert release.released(ONE) == ["1.1.0", "1.0.0"]
    assert release.entry(ONE, "1.1.0") == "### Added\n\n- A thing."
    assert release.entry(ONE, "1.0.0") == "- The first one."
    assert release.entry(ONE, "2.0.0") == ""
    assert release.unreleased(ONE) == ""


def test_a_release_in_order_has_no_faults() -> None:
    assert release.find_faults("1.1.0", ONE, "", "v1.0.0\n") == []


@pytest.mark.parametrize(
    ("version", "changelog", "changed", "tags", "fault"),
    [
        ("1.1.0", ONE, " M README.md\n", "", "not committed"),
        ("1.2.0", ONE, "", "", "newest entry of CHANGELOG.md is of 1.1.0, and installer/__init__.py says 1.2.0"),
        ("1.1.0", ONE.replace("- A thing.", "").replace("### Added", ""), "", "", "for 1.1.0 is empty"),
        ("1.1.0", ONE.replace("## [Unreleased]", "## [Unreleased]\n\n- More."), "", "", "below Unreleased"),
        ("1.1.0", ONE, "", "v1.0.0\nv1.1.0\n", "v1.1.0 is there already"),
        ("1.1.0", "# Changelog\n", "", "", "is of none"),
    ],
)
def test_what_speaks_against_a_release_is_told(
    version: str, changelog: str, changed: str, tags: str, fault: str
) -> None:
    (found,) = release.find_faults(version, changelog, changed, tags)
    assert fault in found


def test_the_tag_is_annotated_with_the_changelogs_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changelog = tmp_path / "CHANGELOG.md"
    changelog.write_text(ONE)
    git = ["git", "-C", str(tmp_path)]
    for key, value in (("user.name", "test"), ("user.email", "test@example.org")):
        monkeypatch.setenv(f"GIT_COMMITTER_{key.rpartition('.')[2].upper()}", value)
        monkeypatch.setenv(f"GIT_AUTHOR_{key.rpartition('.')[2].upper()}", value)
    subprocess.run([*git, "init", "--quiet"], check=True)
    monkeypatch.setattr(release, "ROOT", tmp_path)
    monkeypatch.setattr(release, "CHANGELOG", changelog)
    monkeypatch.setattr(release, "VERSION", "1.1.0")
    with pytest.raises(errors.UsageError, match="not committed"):
        release.tag(Runner(), Console(silent=True))
    subprocess.run([*git, "add", "--all"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--message=release"], check=True)
    release.tag(Runner(), Console(silent=True))
    shown = subprocess.run([*git, "cat-file", "-p", "v1.1.0"], capture_output=True, text=True, check=True)
    assert shown.stdout.endswith("dify-installer 1.1.0\n\n### Added\n\n- A thing.\n")
    with pytest.raises(errors.UsageError, match="there already"):
        release.tag(Runner(), Console(silent=True))
