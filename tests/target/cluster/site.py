"""A Dify on the test cluster, as its owner handles it: push, manifests, apply, look, remove."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from tests.target.bundle import Bundle
from tests.target.cluster.node import Node
from tests.target.network import Inside
from tests.target.private_registry import PASSWORD, USER, PrivateRegistry

HOST = "dify.example.com"
PULL_SECRET = "company"
ROLLOUT_SECONDS = 300.0
WORKLOADS = "deployments,statefulsets"
# No program is in it: the executable needs none.
EMPTY_PATH = "/nonexistent"


@dataclass
class Asked:
    """What a client has asked for while something went on: how often, and which answers were no good ones."""

    count: int = 0
    failed: list[str] = field(default_factory=list)


class Site:
    """A Dify in a namespace of the node, whose files are in `folder` and whose images are in the registry."""

    def __init__(self, node: Node, registry: PrivateRegistry, folder: Path, namespace: str = "dify") -> None:
        self.node, self.registry, self.folder, self.namespace = node, registry, folder, namespace
        self.out = folder / "cluster"
        # What the server has said of objects that it took.
        self.warned = ""
        # What `preflight` had to say of the cluster before anything was there.
        self.judged: dict[str, str] = {}

    def kubectl(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run kubectl in the namespace."""
        return self.node.kubectl("--namespace", self.namespace, *arguments, **options)

    def get(self, kinds: str, *arguments: str) -> list[dict[str, Any]]:
        """Return all objects of these kinds in the namespace."""
        found: list[dict[str, Any]] = self.node.get(kinds, "--namespace", self.namespace, *arguments)
        return found

    def write(self, bundle: Bundle, *options: str, **environment: str) -> None:
        """Push a bundle's images, and write its folder for kubectl."""
        pushed = self.folder / "images.json"
        there = ("--registry", f"{self.registry.host}/dify")
        login = ("--registry-user", USER, "--registry-ca", str(self.registry.authority))
        self._installer(bundle, "push", *there, *login, "--out", str(pushed))
        given = ("--images-json", str(pushed), "--out", str(self.out), "--pull-secret", PULL_SECRET)
        named = ("--namespace", self.namespace, "--host", HOST)
        self._installer(bundle, "manifests", *there, *given, *named, *options, **environment)

    def preflight(self, bundle: Bundle, *options: str) -> dict[str, str]:
        """Let a bundle's executable judge the cluster; return the level and what was seen of each check."""
        done = self.with_kubectl(bundle, "preflight", *options)
        assert done.stdout, done.stderr
        return {each["check"]: f"{each['level']}: {each['seen']}" for each in json.loads(done.stdout)["findings"]}

    def with_kubectl(self, bundle: Bundle, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command of a bundle's executable on this folder, where kubectl reaches the cluster; JSON is asked."""
        kubectl = {"PATH": str(self.node.programs), "HOME": str(self.folder), "KUBECONFIG": str(self.node.kubeconfig)}
        settled = ["env", "-i", *(f"{key}={value}" for key, value in {**kubectl, **environment}.items())]
        enter = ["nsenter", f"--net={self.node.network}", *settled, str(bundle.executable)]
        return subprocess.run(
            [*enter, *command, "--kubernetes", str(self.out), "--json"], capture_output=True, text=True
        )

    def _installer(self, bundle: Bundle, *arguments: str, **environment: str) -> None:
        """Run a bundle's executable where the registry can be reached."""
        path = {"PATH": EMPTY_PATH, "HOME": str(self.folder), "DIFY_INSTALLER_REGISTRY_PASSWORD": PASSWORD}
        path |= environment
        command = [*self.registry.enter, "env", "-i", *(f"{key}={value}" for key, value in path.items())]
        done = subprocess.run(
            [*command, str(bundle.executable), *arguments], env=dict(os.environ), capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr

    def prepare(self) -> None:
        """Make namespace and claims, and let the pods pull."""
        self.node.kubectl("apply", "-k", str(self.out / "prepare"))
        self.let_pull()

    def let_pull(self, password: str = PASSWORD) -> None:
        """Write the registry's login down, in the place of the one that is there."""
        login = (f"--docker-server={self.registry.host}", f"--docker-username={USER}", f"--docker-password={password}")
        self.kubectl("delete", "secret", PULL_SECRET, "--ignore-not-found")
        self.kubectl("create", "secret", "docker-registry", PULL_SECRET, *login)

    def apply(self, overlay: str) -> None:
        """Apply an overlay, and wait until all of it is ready."""
        self.begin(overlay)
        self.await_ready()

    def begin(self, overlay: str) -> None:
        """Apply an overlay, and do not wait for it."""
        self.warned += self.node.kubectl("apply", "-k", str(self.out / "overlays" / overlay)).stderr

    def remove(self, overlay: str) -> None:
        """Delete an overlay, and what earlier releases had besides."""
        for place in (self.out / "overlays" / overlay, self.out / "gone"):
            if place.is_dir():
                self.node.kubectl("delete", "--ignore-not-found", "-k", str(place))

    def left(self) -> set[str]:
        """Return the objects of the namespace, as KIND/NAME, without those that every namespace has, and the login."""
        kinds = self.kubectl("api-resources", "--namespaced", "--verbs=list", "--output=name").stdout.split()
        found = self.kubectl("get", ",".join(kinds), "--output=name", "--ignore-not-found").stdout.split()
        others = {"serviceaccount/default", "configmap/kube-root-ca.crt", f"secret/{PULL_SECRET}"}
        return {each for each in found if not each.startswith("event")} - others

    def await_ready(self, seconds: float = ROLLOUT_SECONDS) -> None:
        """Wait until all pods are those of today's objects, and ready. Raises AssertionError with what they say."""
        self.until(lambda: all(map(is_ready, self.get(WORKLOADS))), "not all is ready", seconds)

    def await_answer(self, path: str, seconds: float = ROLLOUT_SECONDS) -> None:
        """Wait until the gateway has a good answer for a path."""

        def answers() -> bool:
            try:
                return self.ask(path).ok
            except requests.RequestException:
                return False

        self.until(answers, f"{path} is not answered", seconds)

    def await_failed_migration(self, seconds: float = ROLLOUT_SECONDS) -> str:
        """Wait until a try of the migration has failed, and return the logs of that try."""
        failed: list[str] = []

        def has_failed() -> bool:
            for job in self.get("jobs"):
                if not job["status"].get("succeeded"):
                    pods = self.get("pods", f"--selector=job-name={job['metadata']['name']}")
                    failed[:] = [each["metadata"]["name"] for each in pods if each["status"]["phase"] == "Failed"]
            return bool(failed)

        self.until(has_failed, "no migration fails", seconds)
        return self.kubectl("logs", failed[0], "--all-containers", check=False).stdout

    def until(self, holds: Callable[[], bool], otherwise: str, seconds: float = ROLLOUT_SECONDS) -> None:
        """Wait until something holds. Raises AssertionError with `otherwise` and what the pods say."""
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, f"{otherwise}\n{self.told()}"
            time.sleep(0.5)

    def told(self) -> str:
        """Return what the pods, their logs and the namespace's events say."""
        found = [self.kubectl("get", "pods", "--output=wide").stdout]
        found.append(self.kubectl("get", "events", "--sort-by=.lastTimestamp").stdout)
        for pod in self.get("pods"):
            if not all(each["ready"] for each in pod["status"].get("containerStatuses", [{"ready": False}])):
                name = pod["metadata"]["name"]
                log = ("logs", name, "--all-containers", "--prefix", "--tail=20")
                found.append(self.kubectl(*log, check=False).stdout)
        return "\n".join(found)

    def images(self) -> dict[str, str]:
        """Return the image of each workload's first container."""
        return {
            each["metadata"]["name"]: each["spec"]["template"]["spec"]["containers"][0]["image"]
            for each in self.get(WORKLOADS)
        }

    def sql(self, query: str) -> str:
        """Return what the database answers."""
        command = ("exec", "db-postgres-0", "--", "psql", "-U", "postgres", "-d", "dify", "-qtAc", query)
        return self.kubectl(*command).stdout.strip()

    # -- through the gateway

    @property
    def url(self) -> str:
        """The address of nginx's Service."""
        (service,) = [each for each in self.get("services") if each["metadata"]["name"] == "nginx"]
        return f"http://{service['spec']['clusterIP']}"

    def ask(self, path: str) -> requests.Response:
        """Ask the gateway, as the Ingress would."""
        return Inside(self.node).request("GET", self.url + path, headers={"Host": HOST}, timeout=30)

    @contextmanager
    def asked_all_the_time(self, *paths: str, url: str = "") -> Iterator[Asked]:
        """Ask nginx's Service, or at `url`, all the time, on ever new connections; what is yielded is complete then."""
        asked, ended, url = Asked(), threading.Event(), url or self.url
        inside = Inside(self.node)

        def ask() -> None:
            while not ended.is_set():
                for path in paths:
                    asked.count += 1
                    headers = {"Host": HOST, "Connection": "close"}
                    try:
                        answer = inside.request("GET", url + path, headers=headers, timeout=30)
                        if answer.status_code != requests.codes.ok:
                            asked.failed.append(f"{path}: {answer.status_code} {answer.text[:100]}")
                    except requests.RequestException as error:
                        asked.failed.append(f"{path}: {error}")

        client = threading.Thread(target=ask, daemon=True)
        client.start()
        try:
            yield asked
        finally:
            ended.set()
            client.join(60)


def is_ready(workload: dict[str, Any]) -> bool:
    """Tell whether a Deployment or StatefulSet has all of its pods, of today's template, and none of others."""
    wanted, status = workload["spec"]["replicas"], workload["status"]
    is_todays = status.get("observedGeneration", 0) >= workload["metadata"]["generation"]
    counts = [status.get(key, 0) for key in ("replicas", "updatedReplicas", "readyReplicas")]
    return is_todays and counts == [wanted] * 3


def restarts(pods: list[dict[str, Any]]) -> dict[str, int]:
    """Return how often the containers of each pod have ended and were started again."""
    return {
        pod["metadata"]["name"]: sum(each["restartCount"] for each in pod["status"].get("containerStatuses", ()))
        for pod in pods
    }
