"""Shows the plan, and changes nothing: its findings, and with `--plan` what would be done."""

from __future__ import annotations

from installer import plan as plans
from installer.core.console import Console
from installer.core.runner import Runner
from installer.plan import Plan, Request


def make_plan(request: Request, runner: Runner, console: Console, *, archive_needed: bool) -> Plan:
    """Return the plan that `install` would act on. Raises as `plan.find_sources` does."""
    runner.hide([server.key for server in request.servers])
    sources = plans.find_sources(request, runner, console, archive_needed=archive_needed)
    return plans.make_plan(request, sources)
