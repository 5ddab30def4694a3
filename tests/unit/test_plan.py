"""One plan: what refuses, and with which error."""

from __future__ import annotations

from pathlib import Path

import pytest

from installer import plan as plans
from installer.core import errors, layout
from installer.core.finding import Finding
from installer.core.runner import Runner
from installer.engine.podman import Podman
from installer.images.supply import Supply
from tests.unit.hosts import GOOD, WANTED
from tests.unit.test_manifest import EXAMPLE

USAGE = plans.Refusal("settings", errors.UsageError("two values differ", "make them one"))
DAMAGED = plans.Refusal("images", errors.BundleDamaged("it is truncated", "copy it again"))
OLD = Finding("podman", "error", "it is too old", "update it")


def planned(*refusals: plans.Refusal, findings: tuple[Finding, ...] = ()) -> plans.Plan:
    engine = Podman(Runner())
    sources = plans.Sources(
        bundle=EXAMPLE,
        engine=engine,
        supply=Supply(EXAMPLE, Path("x.tar"), EXAMPLE.images, None),
        verified="",
        refusals=refusals,
    )
    return plans.Plan(
        request=plans.Request(folder=Path("/opt/dify"), archive=Path("x.tar")),
        place=layout.Installation(Path("/opt/dify")),
        sources=sources,
        wanted=WANTED,
        host=GOOD,
        findings=(*findings, *(refusal.finding for refusal in refusals)),
        refusals=refusals,
        existing=None,
        settings=None,
        certificate=None,
        authorities=None,
    )


def test_one_refusal_is_told_in_its_own_words() -> None:
    with pytest.raises(errors.UsageError, match="^two values differ$"):
        planned(USAGE).require_passed()


@pytest.mark.parametrize(
    ("refusals", "findings", "kind"),
    [
        ((USAGE, DAMAGED), (), errors.BundleDamaged),
        ((USAGE,), (OLD,), errors.PreflightFailed),
        ((USAGE, USAGE), (), errors.UsageError),
        ((), (OLD,), errors.PreflightFailed),
    ],
)
def test_all_that_refuses_is_told_at_once(
    refusals: tuple[plans.Refusal, ...], findings: tuple[Finding, ...], kind: type[errors.InstallerError]
) -> None:
    with pytest.raises(kind) as caught:
        planned(*refusals, findings=findings).require_passed()
    for each in (*findings, *(refusal.finding for refusal in refusals)):
        assert each.seen in caught.value.message
        assert each.remedy in caught.value.message


def test_what_does_not_refuse_passes() -> None:
    plan = planned(findings=(Finding("address", "warning", "behind NAT", "nothing"),))
    assert plan.passed
    plan.require_passed()


def test_an_archive_that_is_not_there_yet_is_a_warning() -> None:
    found = plans.check_images(planned().sources)
    assert found is not None
    assert (found.level, "x.tar" in found.seen) == ("warning", True)
