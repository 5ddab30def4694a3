"""`status --kubernetes` and `doctor --kubernetes`: what kubectl tells of what runs, and how it is judged."""

from __future__ import annotations

import copy
import dataclasses
import datetime
import http.server
import json
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from click.testing import CliRunner

from installer import cli
from installer.bundle import manifest
from installer.checks import front_door, inside, models, probe
from installer.cluster import health, kubectl, look, plugins, running
from installer.cluster import inside as from_pods
from installer.commands import doctor_cluster, status_cluster
from installer.core import digest, errors, layout
from installer.core.console import Console
from installer.core.finding import Finding
from installer.core.runner import Result, Runner
from installer.release import settings
from tests.unit.test_boot import called, program
from tests.unit.test_cluster import Given, given
from tests.unit.test_cluster_preflight import VERSION, Kubectl

__all__ = ["given"]

NOW = datetime.datetime(2026, 3, 1, 12, 0, tzinfo=datetime.UTC)
EARLY = "2026-03-01T11:00:00Z"
LATE = "2026-03-01T11:59:00Z"
Change = Callable[[running.Running], None]


@pytest.fixture
def wanted(given: Given) -> look.Wanted:
    given.write(tls_secret="certificate")
    return look.read(given.out)


def pod_of(name: str, template: dict[str, Any]) -> dict[str, Any]:
    """Return a pod that is ready, as a server tells of it."""
    container = template["spec"]["containers"][0]
    state = {"running": {"startedAt": EARLY}}
    return {
        "kind": "Pod",
        "metadata": {"name": f"{name}-x", "creationTimestamp": EARLY, "labels": template["metadata"]["labels"]},
        "spec": {"containers": [container]},
        "status": {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{"name": name, "ready": True, "restartCount": 0, "state": state}],
        },
    }


def good(wanted: look.Wanted) -> running.Running:
    """Return what a cluster tells on which all of a folder runs as it should."""
    workloads = {}
    for name, each in health.workloads(wanted).items():
        live = copy.deepcopy(each)
        live["metadata"]["generation"] = 1
        live["status"] = {"observedGeneration": 1, "replicas": 1, "readyReplicas": 1, "updatedReplicas": 1}
        workloads[name] = live
    (job,) = wanted.of_kind("Job")
    (ingress,) = copy.deepcopy(wanted.of_kind("Ingress"))
    ingress["status"] = {"loadBalancer": {"ingress": [{"ip": "10.0.0.80"}]}}
    return running.Running(
        version=VERSION,
        workloads=workloads,
        pods=tuple(pod_of(name, each["spec"]["template"]) for name, each in workloads.items()),
        jobs={job["metadata"]["name"]: {"status": {"succeeded": 1}}},
        claims={name: {"status": {"phase": "Bound"}} for name in health.claims(wanted)},
        entrances={"dify": ingress},
    )


def judged(wanted: look.Wanted, seen: running.Running) -> dict[str, Finding]:
    return {each.check: each for each in health.judge(wanted, seen, {**health.CHECKS, **health.MORE})}


def pod(seen: running.Running, name: str) -> dict[str, Any]:
    (found,) = seen.pods_of(name)
    return found


def unready(seen: running.Running, name: str, state: dict[str, Any], last: dict[str, Any] | None = None) -> None:
    """Let the pod of a workload, which is the only one, not be ready."""
    found = pod(seen, name)
    found["metadata"]["creationTimestamp"] = LATE
    found["status"]["conditions"] = [{"type": "Ready", "status": "False"}]
    found["status"]["containerStatuses"] = [{"name": name, "restartCount": 0, "state": state, "lastState": last or {}}]
    assert seen.workloads is not None
    seen.workloads[name]["status"]["readyReplicas"] = 0


def not_pulled(seen: running.Running) -> None:
    unready(seen, "web", {"waiting": {"reason": "ImagePullBackOff", "message": "401 Unauthorized"}})


def crashed(seen: running.Running) -> None:
    unready(
        seen, "api", {"waiting": {"reason": "CrashLoopBackOff"}}, {"terminated": {"exitCode": 3, "reason": "Error"}}
    )


def out_of_memory(seen: running.Running) -> None:
    unready(seen, "worker", {"terminated": {"exitCode": 137, "reason": "OOMKilled"}})


def out_of_memory_before(seen: running.Running) -> None:
    (status,) = pod(seen, "worker")["status"]["containerStatuses"]
    status["lastState"] = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}


def unschedulable(seen: running.Running) -> None:
    unready(seen, "weaviate", {"waiting": {"reason": "ContainerCreating"}})
    pod(seen, "weaviate")["status"]["conditions"].append(
        {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": "0/1 nodes: no memory",
        }
    )


def scaled(seen: running.Running) -> None:
    assert seen.workloads is not None
    seen.workloads["sandbox"]["spec"]["replicas"] = 0


def rolling(seen: running.Running) -> None:
    assert seen.workloads is not None
    seen.workloads["web"]["status"] |= {"replicas": 2}


def of_yesterday(seen: running.Running) -> None:
    assert seen.workloads is not None
    seen.workloads["web"]["metadata"]["generation"] = 2


def restarted(seen: running.Running) -> None:
    pod(seen, "api")["status"]["containerStatuses"][0]["restartCount"] = 4


def evicted(seen: running.Running) -> None:
    status = pod(seen, "worker")["status"]
    status |= {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory"}


def other_image(seen: running.Running) -> None:
    assert seen.workloads is not None
    seen.workloads["web"]["spec"]["template"]["spec"]["containers"][0]["image"] = "another"


def other_settings(seen: running.Running) -> None:
    assert seen.workloads is not None
    seen.workloads["api"]["spec"]["template"]["metadata"]["annotations"] = None


@pytest.mark.parametrize(
    ("change", "check", "level", "told"),
    [
        (not_pulled, "images", "error", "web: ImagePullBackOff: 401 Unauthorized"),
        (not_pulled, "pods ready", "error", "web: 0 of 1 ready (ImagePullBackOff: 401 Unauthorized)"),
        (crashed, "pods ready", "error", "CrashLoopBackOff: api ended with status 3"),
        (out_of_memory, "memory", "error", "worker-x (limit 2Gi)"),
        (out_of_memory_before, "memory", "warning", "worker-x (limit 2Gi)"),
        (unschedulable, "pods ready", "error", "no node takes it: 0/1 nodes: no memory"),
        (scaled, "pods ready", "error", "sandbox: it is scaled to none"),
        (rolling, "pods ready", "error", "web: 0 of 1 ready, 1 of those before go on"),
        (of_yesterday, "pods ready", "error", "web: its change was not taken up yet"),
        (restarted, "restarts", "warning", "api-x 4 times"),
        (evicted, "restarts", "warning", "put out by their nodes: worker-x (The node was low"),
        (other_image, "settings", "warning", "web runs another image than the folder's"),
        (other_settings, "settings", "warning", "api runs with other settings than the folder's"),
    ],
)
def test_what_is_wrong_with_pods_is_told(
    wanted: look.Wanted, change: Change, check: str, level: str, told: str
) -> None:
    seen = good(wanted)
    assert {each.level for each in judged(wanted, seen).values()} == {"ok"}
    change(seen)
    found = judged(wanted, seen)
    assert found[check].level == level and told in found[check].seen, found[check]
    assert all(each.remedy for each in found.values() if each.level != "ok")


@pytest.mark.parametrize(
    ("changed", "check", "level", "told"),
    [
        ({"workloads": {}}, "pods ready", "error", "api: it is not there"),
        ({"workloads": None, "pods": ()}, "pods ready", "error", "api: no pod of it is ready"),
        ({"workloads": None}, "settings", "info", "may not see"),
        ({"jobs": {}}, "migration", "warning", "is not there"),
        ({"jobs": None}, "migration", "info", "may not see"),
        ({"claims": None}, "claims", "info", "may not see"),
        ({"claims": {}}, "claims", "error", "data-0-db-postgres-0: not there"),
        ({"entrances": {}}, "address", "error", "no Ingress, HTTPRoute or Route"),
        ({"entrances": None}, "address", "info", "may not see"),
    ],
)
def test_what_is_not_there_or_not_shown_is_told(
    wanted: look.Wanted, changed: dict[str, Any], check: str, level: str, told: str
) -> None:
    found = judged(wanted, dataclasses.replace(good(wanted), **changed))
    assert found[check].level == level and told in found[check].seen, found[check]


@pytest.mark.parametrize(
    ("status", "level", "told"),
    [
        ({"succeeded": 1, "failed": 2}, "ok", "is done, after 2 tries that failed"),
        ({"active": 1}, "warning", "is on its way"),
        ({"active": 1, "failed": 2}, "error", "has failed 2 times, and is tried again"),
        ({"failed": 7, "conditions": [{"type": "Failed", "status": "True"}]}, "error", "is not tried again"),
    ],
)
def test_the_migration_is_judged(wanted: look.Wanted, status: dict[str, Any], level: str, told: str) -> None:
    (job,) = wanted.of_kind("Job")
    seen = dataclasses.replace(good(wanted), jobs={job["metadata"]["name"]: {"status": status}})
    found = judged(wanted, seen)["migration"]
    assert found.level == level and told in found.seen
    assert ("logs --selector=job-name=migration-" in found.remedy) == (level != "ok")


def test_a_claim_that_waits_is_told_with_what_the_cluster_says(wanted: look.Wanted) -> None:
    seen = good(wanted)
    assert seen.claims is not None
    seen.claims["storage"]["status"]["phase"] = "Pending"
    event = {"involvedObject": {"kind": "PersistentVolumeClaim", "name": "storage"}, "message": "no class nfs"}
    found = judged(wanted, dataclasses.replace(seen, events=(event,)))["claims"]
    assert (found.level, found.seen) == ("error", "storage: Pending (no class nfs)")


def test_an_ingress_without_an_address_and_an_admitted_route(wanted: look.Wanted) -> None:
    seen = good(wanted)
    assert judged(wanted, seen)["address"].seen == "Ingress dify.example.com is served at 10.0.0.80"
    assert seen.entrances is not None
    seen.entrances["dify"]["status"] = {"loadBalancer": {}}
    found = judged(wanted, seen)["address"]
    assert found.level == "warning" and "no controller says that it serves it" in found.seen
    admitted = {"conditions": [{"type": "Admitted", "status": "True"}], "routerCanonicalHostname": "router.example.com"}
    route = {"kind": "Route", "spec": {"host": "dify.example.com"}, "status": {"ingress": [admitted]}}
    found = judged(wanted, dataclasses.replace(seen, entrances={"dify": route}))["address"]
    assert found.seen == "Route dify.example.com is served at router.example.com"


def test_a_route_of_a_gateway_is_served_or_refused(wanted: look.Wanted) -> None:
    def judged_route(**conditions: str) -> Finding:
        told = [{"type": kind, "status": it, "reason": "Not", "message": "no"} for kind, it in conditions.items()]
        parent = {"parentRef": {"name": "public"}, "conditions": told}
        route = {"kind": "HTTPRoute", "spec": {"hostnames": ["dify.example.com"]}, "status": {"parents": [parent]}}
        return judged(wanted, dataclasses.replace(good(wanted), entrances={"dify": route}))["address"]

    served = judged_route(Accepted="True", ResolvedRefs="True")
    assert (served.level, served.seen) == ("ok", "HTTPRoute dify.example.com is served at the Gateway public")
    refused = judged_route(Accepted="False", ResolvedRefs="True")
    assert (refused.level, "is not served: Not: no" in refused.seen) == ("warning", True)
    assert "no controller says" in judged_route().seen


def test_a_start_is_no_failure_while_nothing_fails(wanted: look.Wanted) -> None:
    late, now = NOW.timestamp() - 60, NOW.timestamp()
    seen = good(wanted)
    assert health.starting_since(wanted, seen, now) is None
    unready(seen, "web", {"waiting": {"reason": "ContainerCreating"}})
    assert health.starting_since(wanted, seen, now) == late
    assert health.starting_since(wanted, seen, now + health.STARTING_SECONDS) is None
    not_pulled(seen)
    assert health.starting_since(wanted, seen, now) is None


def test_what_a_pod_waits_for_is_told_in_words(wanted: look.Wanted) -> None:
    seen = good(wanted)
    unready(seen, "api", {"waiting": {"reason": "PodInitializing"}})
    waits = {"name": "wait-for-migration", "state": {"running": {"startedAt": LATE}}}
    pod(seen, "api")["status"]["initContainerStatuses"] = [waits]
    assert "api: 0 of 1 ready (waits for migration)" in judged(wanted, seen)["pods ready"].seen
    pod(seen, "api")["metadata"]["deletionTimestamp"] = LATE
    assert "(it ends)" in judged(wanted, seen)["pods ready"].seen


def test_pods_are_containers_that_can_be_asked(wanted: look.Wanted) -> None:
    seen = good(wanted)
    found = running.containers(seen)
    assert inside.find_container("plugin_daemon", found) == "plugin-daemon-x"
    unready(seen, "plugin-daemon", {"waiting": {"reason": "CrashLoopBackOff"}})
    assert inside.find_container("plugin_daemon", running.containers(seen)) is None
    assert {each.service for each in found} >= {"api", "worker", "db_postgres", "ssrf_proxy"}


def answers(wanted: look.Wanted) -> dict[str, Any]:
    seen = good(wanted)
    assert seen.workloads is not None and seen.jobs is not None and seen.claims is not None
    return {
        "kubectl version": VERSION,
        "get pods": {"items": list(seen.pods)},
        "get deployments,statefulsets": {"items": list(seen.workloads.values())},
        "get jobs": {"items": [{"metadata": {"name": name}, **each} for name, each in seen.jobs.items()]},
        "get persistentvolumeclaims": {
            "items": [{"metadata": {"name": name}, **each} for name, each in seen.claims.items()]
        },
        "get ingresses": {"items": list((seen.entrances or {}).values())},
    }


def test_kubectl_is_asked_and_nothing_is_changed(wanted: look.Wanted) -> None:
    runner = Kubectl(answers(wanted))
    seen = running.look(wanted, runner)
    assert {each.level for each in judged(wanted, seen).values()} == {"ok"}
    assert {each.split()[1] for each in runner.asked} == {"version", "get"}
    assert not any("secret" in each for each in runner.asked)


@pytest.mark.parametrize(
    ("left", "told"), [([], "the cluster does not answer: not found"), (["kubectl version"], "may not")]
)
def test_a_cluster_that_does_not_answer_is_an_error_of_its_own(wanted: look.Wanted, left: list[str], told: str) -> None:
    known = answers(wanted)
    with pytest.raises(errors.CommandFailed, match=told):
        running.look(wanted, Kubectl({key: known[key] for key in left}))
    with pytest.raises(errors.CommandFailed, match="kubectl is not there"):
        running.look(wanted, Runner({"PATH": "/nonexistent"}))


# -- through kubectl


def test_a_program_runs_in_a_pod_with_its_input(tmp_path: Path) -> None:
    pods = kubectl.Pods(program(tmp_path, "kubectl", "exec python3 -I -S -"), "dify")
    question = {"names": ["localhost"]}
    (told,) = inside.ask_inside("api-x", [question], Path(probe.__file__), pods, function="resolve")
    assert told["names"]["localhost"]["fault"] == ""
    assert called(tmp_path) == ["--namespace dify exec --stdin api-x -- python3 -"]
    assert pods.log_commands(["api-x"]) == "`kubectl --namespace dify logs api-x --all-containers`"


def test_a_port_is_forwarded_for_the_length_of_a_block(tmp_path: Path) -> None:
    told = 'echo "Forwarding from 127.0.0.1:41000 -> 8080"; exec sleep 60'
    with kubectl.Pods(program(tmp_path, "kubectl", told), "dify").forwarded("nginx", 80) as port:
        assert port == 41000
    assert "port-forward --address=127.0.0.1 --pod-running-timeout=5s service/nginx :80" in called(tmp_path)[0]
    refused = program(tmp_path, "kubectl", 'echo "error: services \\"nginx\\" not found" >&2; exit 1')
    with (
        pytest.raises(errors.CommandFailed, match='services "nginx" not found'),
        kubectl.Pods(refused, "dify").forwarded("nginx", 80),
    ):
        pass


class Cookies(http.server.BaseHTTPRequestHandler):
    """Sets a cookie of https, and tells who was asked with which cookies."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Set-Cookie", "__Host-csrf_token=abc; Path=/; Secure")
        self.end_headers()
        self.wfile.write(json.dumps([self.headers["Host"], self.headers["Cookie"]]).encode())

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def port() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Cookies) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def test_a_forwarded_port_is_asked_as_browsers_ask(port: int) -> None:
    front = front_door.FrontDoor(
        url=f"http://127.0.0.1:{port}", version="", certificate=None, logs="", public="https://dify.example.com"
    )
    with front_door.open_session(front) as (session, url):
        session.get(url)
        assert session.get(url).json() == ["dify.example.com", "__Host-csrf_token=abc"]


class Answering(kubectl.Pods):
    """Pods in which each question of the probe has this answer."""

    def execute(self, container: str, command: Sequence[str], *, timeout: float, input: str) -> Result:
        assert command == ["python3", "-"]
        answer = {"kind": "connection", "detail": "refused", "models": [], "described": {}, "code": 0, "names": {}}
        count = input.rpartition("json.loads(")[2].count('"url"') or 1
        return Result(argv=(container,), status=0, stdout=json.dumps([answer] * count), stderr="", seconds=timeout)


def test_inner_services_and_model_servers_are_asked_out_of_pods(wanted: look.Wanted) -> None:
    pods, seen, text = Answering(Runner({}), "dify"), good(wanted), Path(probe.__file__)
    found = {each.check: each for each in from_pods.check_services(wanted, seen, text, pods)}
    assert set(found) == {"api reaches plugin_daemon", "api reaches sandbox", "api reaches weaviate"}
    assert found["api reaches plugin_daemon"].seen == "http://plugin-daemon:5002/health/check: refused"
    assert "network policy" in found["api reaches sandbox"].remedy
    server = models.Server(kind="Ollama", url="http://10.0.0.9:11434")
    (asked,) = from_pods.ask_servers([server], seen, text, pods)
    assert asked.check == "Ollama from plugin-daemon-x" and "--allow-intranet" in asked.remedy
    (names,) = from_pods.check_names(wanted, seen, [server], text, pods)
    assert names.level == "warning"
    empty = dataclasses.replace(seen, pods=())
    assert from_pods.check_services(wanted, empty, text, pods) == []
    assert from_pods.check_names(wanted, empty, [], text, pods) == []
    assert from_pods.ask_servers([server], empty, text, pods) == []


# -- the commands


def cluster_of(given: Given, runner: Runner) -> status_cluster.Cluster:
    wanted = look.read(given.out)
    example = (given.payload / "docker/.env.example").read_text()
    env = settings.read(given.out / "settings.env", example)
    pods = kubectl.Pods(runner, wanted.namespace)
    return status_cluster.Cluster(folder=given.out, wanted=wanted, env=env, pods=pods, bundle=given.bundle)


class Unforwarded(Kubectl):
    """A kubectl that forwards no port."""

    def started(self, *_: Any, **__: Any) -> Any:
        raise errors.CommandFailed("no port", "ask for the right")


def test_a_status_is_shown_as_on_a_host(wanted: look.Wanted, given: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "bundled", lambda _: Path(probe.__file__))
    known = answers(wanted) | {"exec --stdin": "no Python"}
    cluster = cluster_of(given, Unforwarded(known))
    glance, found = status_cluster.diagnose(cluster)
    levels = {each.check: each.level for each in found}
    assert levels["kubernetes"] == levels["pods ready"] == "ok"
    # Neither of them could be asked; the certificate may not be seen.
    assert levels["console reachable"] == levels["api reaches sandbox"] == "error"
    assert levels["certificate"] == "info"
    assert glance.engine == "Kubernetes v1.33.0"
    assert {each.state for each in glance.services} == {"ready"}
    text = status_cluster.as_text(glance, "dify", NOW.timestamp())
    assert text.startswith("Dify 1.11.3 at https://dify.example.com, in the namespace dify, on Kubernetes v1.33.0\n")
    assert "@sha256:aaaaaaaaaaaa\n" in text and "a" * 13 not in text
    assert not any(secret in text for secret in cluster.env.secrets)


@pytest.mark.parametrize(("days", "level"), [(None, "info"), (-1, "error"), (10, "warning"), (100, "ok")])
def test_the_certificate_is_judged(days: int | None, level: str) -> None:
    (found,) = status_cluster.judge_certificate(days, "certificate", "dify")
    assert found.level == level
    assert bool(found.remedy) == (level in ("error", "warning"))
    assert status_cluster.judge_certificate(days, "", "dify") == []


@pytest.mark.parametrize("command", [["status"], ["doctor"], ["plugins", "list"], ["models", "list"]])
def test_another_folder_is_refused(command: list[str], tmp_path: Path) -> None:
    told = CliRunner().invoke(cli.cli, [*command, "--kubernetes", str(tmp_path)])
    assert isinstance(told.exception, errors.UsageError)
    assert "is no folder that `manifests` has written" in told.exception.message


def test_a_support_bundle_has_logs_and_no_secret(
    wanted: look.Wanted, given: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "bundled", lambda name: given.payload / name)
    path = tmp_path / "doctor.tar.gz"
    secret = settings.read(given.out / "settings.env", "").resolved["SECRET_KEY"]
    cluster = cluster_of(given, Kubectl({"logs api-x": f"begun with {secret}", **answers(wanted)}))
    cluster.pods.runner.hide(cluster.env.secrets)
    seen = running.look(wanted, cluster.pods.runner)
    glance = status_cluster.glance_of(cluster, seen)
    packed = doctor_cluster.pack(cluster, glance, [Finding("memory", "ok", "enough")], path)
    assert {"doctor.json", "doctor.txt", "settings.txt", "cluster/events.txt", "pods/api-x.log"} < set(packed)
    assert path.stat().st_mode & 0o777 == 0o600
    with tarfile.open(path) as archive:
        texts = [archive.extractfile(each) for each in archive]
        content = b"".join(each.read() for each in texts if each is not None)
    assert b"begun with ********" in content and secret.encode() not in content
    with pytest.raises(errors.UsageError, match="exists already"):
        doctor_cluster.pack(cluster, glance, [], path)


def test_a_host_has_to_be_told_which_plugins_to_add() -> None:
    told = CliRunner().invoke(cli.cli, ["plugins", "add"])
    assert isinstance(told.exception, errors.UsageError) and told.exception.message == "no file is named"


# -- plugins


class Local(kubectl.Pods):
    """A pod whose programs run here; `calls` are the sizes of what they were given."""

    calls: ClassVar[list[int]] = []

    def execute(self, container: str, command: Sequence[str], *, timeout: float, input: str) -> Result:
        assert container == "daemon-x"
        self.calls.append(len(input))
        return self.runner.run([sys.executable, *command[1:]], timeout=timeout, input=input, check=False)


def described(folder: Path, name: str, content: bytes) -> manifest.File:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return manifest.File(path=name, size=len(content), sha256=digest.hash_bytes(content), executable=False)


def test_wheels_are_brought_into_the_claim_in_batches_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = tmp_path / "here", tmp_path / "claim/dify-installer"
    monkeypatch.setattr(plugins, "PLUGINS", str(there))
    monkeypatch.setattr(plugins, "BATCH_BYTES", 1000)
    wanted = [described(here, f"wheels/{name}.whl", name.encode() * 400) for name in "abcd"]
    pods = Local(Runner(), "dify")
    pods.calls.clear()
    assert plugins.send(here, wanted, "daemon-x", pods, Console(silent=True)) == 4
    assert {path.name for path in (there / "wheels").iterdir()} == {"a.whl", "b.whl", "c.whl", "d.whl"}
    assert (there / "wheels/c.whl").read_bytes() == b"c" * 400
    # One question, and two wheels at a time.
    assert len(pods.calls) == 3
    (there / "wheels/b.whl").write_bytes(b"damaged")
    assert plugins.send(here, wanted, "daemon-x", pods, Console(silent=True)) == 1
    assert (there / "wheels/b.whl").read_bytes() == b"b" * 400


def test_a_claim_that_takes_nothing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "full").write_text("a file")
    monkeypatch.setattr(plugins, "PLUGINS", str(tmp_path / "full"))
    wanted = [described(tmp_path / "here", "wheels/a.whl", b"a")]
    with pytest.raises(errors.CommandFailed, match="NotADirectoryError") as caught:
        plugins.send(tmp_path / "here", wanted, "daemon-x", Local(Runner(), "dify"), Console(silent=True))
    assert "has room" in caught.value.remedy


def test_a_bundle_without_plugins_has_none_to_bring(given: Given, tmp_path: Path) -> None:
    bundle = dataclasses.replace(given.bundle, plugins=None)
    with pytest.raises(errors.UsageError, match="brings no plugins"):
        plugins.lay_down(bundle, tmp_path, layout.Installation(tmp_path))
