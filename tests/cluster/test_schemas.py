"""Each overlay, as kubectl builds it, against the schemas of several minor versions of Kubernetes."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml

from installer.cluster import folder, judge
from tests.target.cluster import programs
from tests.unit.test_cluster import Given, both, given

__all__ = ["given"]

# The oldest that preflight takes, the one that pods were seen to run on, and the newest that has schemas here.
MINORS = ("1.25", "1.33", "1.37")
# OpenShift's own kinds have no schema here.
FOREIGN = {"Route"}


def built(work: Path, place: Path) -> list[dict[str, Any]]:
    """Return the objects of a kustomization."""
    kubectl = programs.find(work) / "kubectl"
    text = subprocess.run([str(kubectl), "kustomize", str(place)], check=True, capture_output=True, text=True).stdout
    return list(yaml.safe_load_all(text))


def test_the_oldest_and_the_one_that_ran_are_among_them() -> None:
    assert {f"{major}.{minor}" for major, minor in (judge.OLDEST, judge.TRIED)} < set(MINORS)


@both
def test_every_overlay_fits_into_the_schemas(given: Given, work: Path) -> None:
    given.write(pull_secret="login", tls_secret="certificate", ingress_class="nginx", storage_class="nfs")
    for overlay in ("prepare", *(f"overlays/{name}" for name in folder.OVERLAYS)):
        objects = built(work, given.out / overlay)
        assert objects
        for each in objects:
            if each["kind"] not in FOREIGN:
                for minor in MINORS:
                    kubernetes_validate.validate(each, minor, strict=True)
        kinds = {each["kind"] for each in objects}
        assert (kinds & FOREIGN == FOREIGN) == (overlay == "overlays/openshift")
        # A patch or an object of another name would be one too many, or be left out.
        names = [(each["kind"], each["metadata"]["name"]) for each in objects]
        assert len(names) == len(set(names))
