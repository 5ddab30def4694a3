"""Tags a release: `make release`. The version stands once, in installer/__init__.py; the changelog has its entry.

python -m build.release
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from installer import VERSION
from installer.core import errors
from installer.core.console import Console
from installer.core.runner import Runner

ROOT = Path(__file__).resolve().parent.parent
CHANGELOG = ROOT / "CHANGELOG.md"
GIT_SECONDS = 60.0
# Keep a Changelog: `## [1.2.3] - 2026-01-31`, the newest first.
_HEADING = re.compile(r"^## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d{2}-\d{2})$", re.MULTILINE)
_UNRELEASED = "## [Unreleased]"


def released(changelog: str) -> list[str]:
    """Return the versions that a changelog has an entry for, in its order: the newest first."""
    return [version for version, _ in _HEADING.findall(changelog)]


def entry(changelog: str, version: str) -> str:
    """Return the text of a version's entry, without its heading; nothing if there is none."""
    for found in _HEADING.finditer(changelog):
        if found.group(1) == version:
            return re.split(r"^(?:## |\[[^\]]+\]: )", changelog[found.end() :], maxsplit=1, flags=re.MULTILINE)[
                0
            ].strip()
    return ""


def unreleased(changelog: str) -> str:
    """Return what a changelog lists as not released yet."""
    return changelog.partition(_UNRELEASED)[2].partition("\n## ")[0].strip()


def find_faults(version: str, changelog: str, changed: str, tags: str) -> list[str]:
    """Return everything that speaks against a release of `version`.

    `changed` is what `git status --porcelain` prints, `tags` what `git tag --list` does.
    """
    faults = []
    if changed.strip():
        faults.append("the checkout has changes that are not committed")
    newest = next(iter(released(changelog)), "none")
    if newest != version:
        faults.append(f"the newest entry of CHANGELOG.md is of {newest}, and installer/__init__.py says {version}")
    elif not entry(changelog, version):
        faults.append(f"the entry of CHANGELOG.md for {version} is empty")
    if unreleased(changelog):
        faults.append("CHANGELOG.md lists changes below Unreleased, which this release would have too")
    if tag_name(version) in tags.split():
        faults.append(f"the tag {tag_name(version)} is there already")
    return faults


def tag_name(version: str) -> str:
    """Return the tag of a version: `v1.2.3`."""
    return f"v{version}"


def tag(runner: Runner, console: Console) -> None:
    """Make the annotated tag of this commit, with the changelog's entry as its message.

    Raises UsageError, with all faults at once, and CommandFailed when git fails.
    """
    changelog = CHANGELOG.read_text("utf-8")
    git = ["git", "-C", str(ROOT)]
    changed = runner.run([*git, "status", "--porcelain"], timeout=GIT_SECONDS).stdout
    tags = runner.run([*git, "tag", "--list"], timeout=GIT_SECONDS).stdout
    faults = find_faults(VERSION, changelog, changed, tags)
    if faults:
        raise errors.UsageError(
            f"{VERSION} cannot be released: {'; '.join(faults)}", "see Releases in CONTRIBUTING.md, then try again"
        )
    name = tag_name(VERSION)
    message = f"dify-installer {VERSION}\n\n{entry(changelog, VERSION)}\n"
    # Headings of the entry begin with #, which git takes for comments unless told.
    command = [*git, "tag", "--annotate", "--cleanup=whitespace", "--file=-", name]
    runner.run(command, timeout=GIT_SECONDS, input=message)
    console.line(f"{name} is made; publish it with `git push origin {name}`")


def main() -> int:
    """Tag, or say what speaks against it; return the exit code."""
    console = Console()
    try:
        tag(Runner(), console)
    except errors.InstallerError as error:
        console.line(f"error: {error.message}\n   do: {error.remedy}")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
