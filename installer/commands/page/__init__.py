"""The report as a page for people: one file without a script and without anything from outside, to hand over and print.

`facts` gathers what it tells, `words` are the texts of each language, `sections` and `html` make the page of them.
"""

from __future__ import annotations

from installer.commands.page import facts, sections
from installer.commands.page.words import WORDS
from installer.commands.report import Report
from installer.plan import Plan


def make(report: Report, plan: Plan) -> str:
    """Return the page of a run, done or failed, in the language that was asked for; it holds no secret."""
    return sections.page(facts.gather(report, plan), WORDS[plan.request.language])
