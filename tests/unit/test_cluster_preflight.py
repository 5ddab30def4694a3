"""`preflight --kubernetes`: what kubectl tells of a cluster, judged for a written folder."""

from __future__ import annotations

import dataclasses
import json
import socket
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from installer import cli, plan
from installer.cluster import judge, look
from installer.commands import preflight_cluster
from installer.core import errors
from installer.core.finding import Finding
from installer.core.runner import Result, Runner
from installer.release import external
from tests.unit.test_cluster import Given, given

__all__ = ["given"]

VERSION = {"serverVersion": {"major": "1", "minor": "33", "gitVersion": "v1.33.0"}}


def storage_class(name: str, provisioner: str, *, default: bool = False) -> dict[str, Any]:
    annotations = {judge.DEFAULT_CLASS: "true"} if default else {}
    return {"metadata": {"name": name, "annotations": annotations}, "provisioner": provisioner}


GOOD = look.Seen(
    program=True,
    version=VERSION,
    namespace={"metadata": {"name": "dify", "labels": {judge.ENFORCED: "baseline"}}},
    classes=[storage_class("nfs", "nfs.csi.k8s.io", default=True)],
    ingress_classes=[{"metadata": {"name": "nginx", "annotations": {judge.DEFAULT_INGRESS: "true"}}}],
    secrets={"login": "kubernetes.io/dockerconfigjson", "certificate": "kubernetes.io/tls"},
)


@pytest.fixture
def wanted(given: Given) -> look.Wanted:
    given.write(pull_secret="login", tls_secret="certificate")
    return look.read(given.out)


def judged(wanted: look.Wanted, **changed: Any) -> dict[str, Finding]:
    return {each.check: each for each in judge.judge(wanted, dataclasses.replace(GOOD, **changed))}


def quota(hard: dict[str, str], used: dict[str, str] | None = None) -> dict[str, Any]:
    return {"metadata": {"name": "team"}, "status": {"hard": hard, "used": used or {}}}


def test_a_cluster_as_it_should_be_passes(wanted: look.Wanted) -> None:
    found = judged(wanted)
    assert list(found) == [each for each in judge.CHECKS if each != "gateway"]
    assert {each.level for each in found.values()} == {"ok"}


@pytest.mark.parametrize(
    ("changed", "check", "level", "told"),
    [
        ({"program": False, "version": None}, "kubernetes", "error", "kubectl is not there"),
        ({"version": None, "refused": "connection refused"}, "kubernetes", "error", "connection refused"),
        ({"version": {"serverVersion": {"major": "1", "minor": "24+"}}}, "kubernetes", "error", "Kubernetes"),
        ({"namespace": None}, "namespace", "ok", "`prepare` makes it"),
        (
            {"namespace": {"metadata": {"labels": {judge.ENFORCED: "restricted"}}}},
            "namespace",
            "warning",
            "the sandbox's pod is refused",
        ),
        ({"forbidden": ("secrets",)}, "rights", "error", "may not create secrets"),
        ({"classes": [storage_class("nfs", "nfs.csi.k8s.io")]}, "storage", "error", "is the default; there are nfs"),
        (
            {"classes": [storage_class("disk", "ebs.csi.aws.com", default=True)]},
            "storage",
            "warning",
            "are not written by several nodes",
        ),
        ({"ingress_classes": []}, "ingress", "warning", "no Ingress class is the default; there are none"),
        ({"secrets": {"login": "Opaque"}}, "secrets", "error", "login (kubernetes.io/dockerconfigjson), certificate"),
        ({"quotas": [quota({"requests.cpu": "500m"})]}, "quota", "error", "team leaves 0.500 of requests.cpu"),
        ({"quotas": [quota({"memory": "64Gi"}, {"memory": "63Gi"})]}, "quota", "error", "requests.memory"),
        ({"quotas": [quota({"limits.cpu": "64"})]}, "quota", "error", "so that they are refused"),
        ({"quotas": [quota({"pods": "50", "requests.memory": "64Gi"})]}, "quota", "ok", "1 quotas"),
    ],
)
def test_one_thing_that_is_wrong_is_told(
    wanted: look.Wanted, changed: dict[str, Any], check: str, level: str, told: str
) -> None:
    found = judged(wanted, **changed)
    assert found[check].level == level and told in found[check].seen, found[check]
    assert found[check].remedy or level == "ok"
    if "version" in changed and changed["version"] is None:
        assert list(found) == ["kubernetes"]
    elif changed != {"namespace": None}:
        assert {each.level for name, each in found.items() if name != check} == {"ok"}


def gateway(takes: str = "All", works: str = "True") -> dict[str, Any]:
    listener = {"name": "web", "allowedRoutes": {"namespaces": {"from": takes}}}
    condition = {"type": "Programmed", "status": works, "message": "no address is left"}
    return {"spec": {"listeners": [listener]}, "status": {"conditions": [condition]}}


@pytest.mark.parametrize(
    ("named", "there", "level", "told"),
    [
        ("infra/public", gateway(), "ok", "the Gateway public in infra works"),
        ("infra/public", gateway("Selector"), "ok", "works"),
        ("public", gateway("Same"), "ok", "the Gateway public in dify works"),
        ("infra/public", gateway("Same"), "error", "takes routes of its own namespace alone"),
        ("infra/public", gateway(works="False"), "warning", "does not work: no address is left"),
        ("infra/public", {"spec": {}}, "warning", "no controller says"),
        ("infra/public", None, "error", "there is no Gateway public in infra"),
    ],
)
def test_the_gateway_is_judged(given: Given, named: str, there: dict[str, Any] | None, level: str, told: str) -> None:
    given.write(gateway=named)
    wanted = look.read(given.out)
    found = judged(wanted, gateway=there)
    assert "ingress" not in found
    assert (found["gateway"].level, told in found["gateway"].seen) == (level, True), found["gateway"]
    place = {"infra/public": "infra", "public": "dify"}[named]
    asked = Kubectl({**ANSWERS, "get gateways.gateway.networking.k8s.io public --namespace " + place: there or {}})
    assert (look.look(wanted, asked).gateway or None) == there
    assert "httproutes.gateway.networking.k8s.io" in wanted.resources


def test_secrets_cannot_be_there_before_their_namespace(wanted: look.Wanted) -> None:
    assert judged(wanted, namespace=None, secrets={})["secrets"].level == "warning"


@pytest.mark.parametrize(
    ("text", "value"), [("500m", "0.5"), ("2", "2"), ("64Mi", "67108864"), ("1G", "1000000000"), ("0", "0")]
)
def test_quantities_are_read(text: str, value: str) -> None:
    assert judge.quantity(text) == Decimal(value)


def test_what_is_asked_of_a_cluster_is_in_the_folder(wanted: look.Wanted) -> None:
    assert wanted.namespace == "dify"
    assert {"storage", "plugin-daemon", "db-postgres", "redis", "weaviate"} == set(wanted.claims)
    assert {"deployments.apps", "jobs.batch", "secrets", "ingresses.networking.k8s.io"} <= set(wanted.resources)
    assert "namespaces" not in wanted.resources


def test_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.UsageError, match="is no folder that `manifests` has written"):
        look.read(tmp_path)


class Kubectl(Runner):
    """A kubectl with these answers, by the words of the command; all else it does not find."""

    def __init__(self, answers: dict[str, Any]) -> None:
        super().__init__({})
        self.answers, self.asked = answers, list[str]()

    def run(self, argv: Any, **_options: Any) -> Result:
        words = " ".join(argv)
        self.asked.append(words)
        answer = next((answer for key, answer in self.answers.items() if key in words), None)
        text = answer if isinstance(answer, str) else json.dumps(answer)
        return Result(
            argv=tuple(argv), status=0 if answer is not None else 1, stdout=text, stderr="not found", seconds=0.0
        )

    def for_tidying(self) -> Kubectl:
        return self


ANSWERS: dict[str, Any] = {
    "kubectl version": VERSION,
    "can-i create": "yes\n",
    "get namespace dify": GOOD.namespace,
    "get storageclasses": {"items": GOOD.classes},
    "get ingressclasses": {"items": GOOD.ingress_classes},
    "get secret login": "kubernetes.io/dockerconfigjson",
    "get secret certificate": "kubernetes.io/tls",
    "create --filename=-": "",
    "delete pod": "",
}


def test_kubectl_is_asked_and_nothing_is_changed(wanted: look.Wanted, given: Given) -> None:
    runner = Kubectl(ANSWERS)
    found = preflight_cluster.look_at(given.out, runner, try_pull=False, payload=given.payload)
    assert {each.level for each in found} == {"ok"}
    assert {each.split()[1] for each in runner.asked} == {"version", "get", "auth"}


def test_services_of_others_are_judged_where_this_machine_reaches_them(
    given: Given, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "postgresql://u:secret@10.1.2.3/dify?sslmode=disable"
    given.write(values=external.database_settings(external.checked_database(url)))
    runner = Kubectl(ANSWERS)
    refused: list[Any] = []

    def connect(address: Any, timeout: float) -> socket.socket:
        if refused:
            raise ConnectionRefusedError(111, "Connection refused")
        return socket.socket()

    monkeypatch.setattr(socket, "create_connection", connect)
    judged = Finding("postgresql", "error", "it refuses the password", "ALTER ROLE")
    monkeypatch.setattr(plan, "judge_others", lambda _env, _authorities: [judged])
    assert preflight_cluster.look_at(given.out, runner, try_pull=False, payload=given.payload)[-1] == judged
    refused.append(True)
    told = preflight_cluster.look_at(given.out, runner, try_pull=False, payload=given.payload)[-1]
    assert (told.check, told.level) == ("reach", "info")
    assert told.seen.startswith("PostgreSQL at 10.1.2.3:5432 is not reached from this machine (Connection refused)")


@pytest.mark.parametrize(
    ("status", "level"),
    [
        ({"phase": "Succeeded"}, "ok"),
        (
            {"containerStatuses": [{"state": {"waiting": {"reason": "ErrImagePull", "message": "x509: unknown"}}}]},
            "error",
        ),
    ],
    ids=["pulled", "refused"],
)
def test_a_pod_that_tries_a_pull_is_removed(
    wanted: look.Wanted, given: Given, status: dict[str, Any], level: str
) -> None:
    runner = Kubectl({"get pod dify-installer-pull": {"status": status}, **ANSWERS})
    found = preflight_cluster.look_at(given.out, runner, try_pull=True, payload=given.payload)[-1]
    assert (found.check, found.level) == ("pull", level), found
    assert "delete pod dify-installer-pull" in runner.asked[-1]


def test_the_command_tells_all_in_both_forms(wanted: look.Wanted, given: Given) -> None:
    """Where there is no kubectl: that is told with its remedy, and the exit code is that of a failed preflight."""
    nowhere = {"PATH": "/nonexistent"}
    told = CliRunner().invoke(cli.cli, ["preflight", "--kubernetes", str(given.out)], env=nowhere)
    assert isinstance(told.exception, errors.PreflightFailed)
    assert told.stdout.startswith("FAIL kubernetes: kubectl is not there\n       do: install it")
    as_json = CliRunner().invoke(cli.cli, ["preflight", "--kubernetes", str(given.out), "--json"], env=nowhere)
    document = json.loads(as_json.stdout)
    assert (document["kind"], document["passed"]) == ("preflight", False)
    assert [each["check"] for each in document["findings"]] == ["kubernetes"]
