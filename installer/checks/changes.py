"""Judges what was changed by hand since the stack was started, and what of it the next installation puts back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from installer.core import errors, layout
from installer.core.finding import Finding
from installer.release import settings

CHECK = "changed by hand"
APPLY = "run the install command again: it puts into effect what .env says"
NAMES_SHOWN = 5


def edited_in_words(name: str) -> str:
    """Say of a file that it is not what the stack was started with."""
    return f"{name} was edited and is not in effect"


def judge_settings(place: layout.Installation) -> list[Finding]:
    """Judge whether `.env` still has all its keys; the remedy names the copy that has them."""
    try:
        settings.require_kept(place)
    except (errors.PreflightFailed, errors.UsageError) as error:
        return [Finding("settings", "error", error.message, error.remedy)]
    return []


def judge_files(edited: Iterable[str], others: Iterable[str], different: Sequence[str], env: str) -> list[Finding]:
    """Judge edited files, other things that differ, in words, and files of Dify's that are not the release's.

    `env` is the name of the one file that is a person's to edit.
    """
    findings = []
    for name in edited:
        remedy = APPLY if name == env else "the next install puts it back; what is to stay belongs into .env: --set"
        findings.append(Finding(CHECK, "warning", edited_in_words(name), remedy))
    findings += [Finding(CHECK, "warning", each, APPLY) for each in others]
    left = [name for name in different if name not in edited]
    if left:
        more = f" and {len(left) - NAMES_SHOWN} more" if len(left) > NAMES_SHOWN else ""
        seen = f"not as this dify-installer has it: {', '.join(left[:NAMES_SHOWN])}{more}"
        remedy = "the next install puts it back; yours stays beside it as NAME.before"
        findings.append(Finding(CHECK, "warning", seen, remedy))
    return findings
