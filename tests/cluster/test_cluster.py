"""The sample on a real Kubernetes: pushed, written down, applied, rolled, switched off, upgraded, removed.

The tests go on with what the ones before have left, as the life of one installation does.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from installer.release import envfile
from tests.e2e.console import EMAIL, PASSWORD, Console
from tests.target.bundle import Bundle
from tests.target.cluster import programs
from tests.target.cluster.node import Node
from tests.target.cluster.provider import UNMANAGED
from tests.target.cluster.site import Site, restarts
from tests.target.neighbour import NEIGHBOUR
from tests.target.newer import NEW
from tests.target.private_registry import PrivateRegistry

SETUP = "/console/api/setup"
# The port of the company's registry, which is another one each time.
THE_REGISTRY = 0
CLAIMS = ("storage", "plugin-daemon", "data-0-db-postgres-0", "data-0-redis-0", "data-0-weaviate-0")


@pytest.fixture(scope="module")
def site(node: Node, private: PrivateRegistry, sample: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The sample on the cluster."""
    made = Site(node, private, tmp_path_factory.mktemp("site"))
    made.write(sample)
    made.judged = made.preflight(sample, "--try-pull")
    made.prepare()
    made.apply("small")
    return made


def sign_up(site: Site) -> None:
    """Make the first account, as the first page does."""
    console = Console(site.node, site.url)
    written = envfile.resolve((site.out / "settings.env").read_text())
    console.post("/init", {"password": written["INIT_PASSWORD"]}, 201)
    console.post("/setup", {"email": EMAIL, "name": "ops", "password": PASSWORD}, 201)


def test_all_pods_are_ready_and_the_console_answers(site: Site) -> None:
    assert site.ask(SETUP).json()["step"] == "not_started"
    assert "Dify" in site.ask("/install").text
    (migration,) = site.get("jobs")
    assert migration["status"]["succeeded"] == 1
    assert site.sql("select job from dify_installer_migrations") == migration["metadata"]["name"]
    sign_up(site)
    Console(site.node, site.url).login()


def test_preflight_judges_the_cluster(site: Site, sample: Bundle) -> None:
    """Before the namespace is there, and with all of it there."""
    first = site.judged
    assert {name: found.partition(":")[0] for name, found in first.items()} == {
        **dict.fromkeys(("kubernetes", "namespace", "rights", "storage", "quota"), "ok"),
        # The node has no Ingress controller, and the login is made after the namespace.
        **dict.fromkeys(("ingress", "secrets"), "warning"),
        "pull": "info",
    }, first
    now = site.preflight(sample, "--try-pull")
    assert now["secrets"] == "ok: company"
    assert now["pull"].startswith("ok: a node has pulled ")
    site.kubectl("create", "quota", "team", "--hard=requests.memory=1Gi")
    assert site.preflight(sample)["quota"].startswith("error: team leaves ")
    site.kubectl("delete", "quota", "team")
    site.let_pull("incorrect horse")
    refused = site.preflight(sample, "--try-pull")["pull"]
    site.let_pull()
    assert refused.startswith("error: ") and "401 Unauthorized" in refused, refused
    assert "pod/dify-installer-pull" not in site.left()


def test_no_pod_has_needed_a_second_start(site: Site) -> None:
    assert {name: count for name, count in restarts(site.get("pods")).items() if count} == {}, site.told()


def test_a_second_apply_changes_nothing(site: Site) -> None:
    for place in ("prepare", "overlays/small"):
        folder = str(site.out / place)
        assert site.node.kubectl("diff", "-k", folder).stdout == ""
        told = site.node.kubectl("apply", "-k", folder).stdout.splitlines()
        # kubectl sends templates of claims whole, as the server fills them in: it always says so, and changes nothing.
        changed = [
            line for line in told if not line.endswith(" unchanged") and not line.startswith("statefulset.apps/")
        ]
        assert told and changed == []


def test_the_server_warns_of_the_sandbox_alone(site: Site) -> None:
    warned = [line for line in site.warned.splitlines() if "PodSecurity" in line]
    assert len(warned) == 1 and 'container "sandbox"' in warned[0], site.warned


def test_api_and_workers_share_their_files(site: Site) -> None:
    (volume,) = (site.node.folder / "volumes").glob("dify-storage-*")
    written = {path.name: (path.stat().st_uid, path.stat().st_gid) for path in volume.iterdir()}
    assert written == {"api": (1001, 1001), "worker": (1001, 1001)}


enforced = pytest.mark.skipif(
    programs.POLICIES not in os.environ, reason=f"nobody enforces policies here: {programs.POLICIES} names no program"
)


@enforced
@pytest.mark.parametrize(
    ("caller", "host", "port"),
    [
        ("nginx", "web", 3000),
        ("api", "db-postgres", 5432),
        ("worker", "redis", 6379),
        ("plugin-daemon", "api", 5001),
        ("sandbox", "ssrf-proxy", 3128),
        # In a private range, as model servers are.
        ("api", NEIGHBOUR, THE_REGISTRY),
    ],
)
def test_policies_let_through_what_is_named(site: Site, caller: str, host: str, port: int) -> None:
    assert connects(site, caller, host, port)


@enforced
@pytest.mark.parametrize(
    ("caller", "host", "port"),
    [
        ("sandbox", "db-postgres", 5432),
        ("sandbox", "api", 5001),
        ("sandbox", NEIGHBOUR, THE_REGISTRY),
        ("ssrf-proxy", "db-postgres", 5432),
        ("ssrf-proxy", "redis", 6379),
        ("nginx", "db-postgres", 5432),
        ("web", "redis", 6379),
        ("web", NEIGHBOUR, THE_REGISTRY),
        ("db-postgres", "api", 5001),
    ],
)
def test_policies_let_nothing_else_through(site: Site, caller: str, host: str, port: int) -> None:
    assert not connects(site, caller, host, port)


def connects(site: Site, caller: str, host: str, port: int) -> bool:
    """Tell whether a pod of a service gets a connection."""
    (pod, *_) = site.get("pods", f"--selector=app.kubernetes.io/name={caller}")
    command = ("timeout", "5", "bash", "-c", f"exec 3<>/dev/tcp/{host}/{port or site.registry.port}")
    container = ("exec", pod["metadata"]["name"], f"--container={caller}")
    return site.kubectl(*container, "--", *command, check=False).returncode == 0


def test_no_request_is_lost_while_all_that_are_two_roll(site: Site) -> None:
    site.apply("replicated")
    with site.asked_all_the_time(SETUP, "/install") as asked:
        site.kubectl("rollout", "restart", *(f"deployment/{name}" for name in ("api", "web", "nginx", "worker")))
        site.await_ready()
    assert asked.failed == []
    assert asked.count > 100


def test_the_data_outlive_a_power_cut(site: Site) -> None:
    site.apply("small")
    site.node.reboot()
    site.await_answer(SETUP)
    site.await_ready()
    Console(site.node, site.url).login()


def test_a_migration_that_fails_stops_what_is_newer_and_nothing_else(site: Site, newer: Bundle) -> None:
    site.sql("create table trap ()")
    site.write(newer)
    site.begin("small")
    log = site.await_failed_migration()
    assert "half way" in log and "1 migrations are not done" in log
    assert site.ask(SETUP).json()["step"] == "finished"


def test_a_newer_bundle_migrates_once_and_loses_no_request(site: Site, newer: Bundle) -> None:
    # The next try finds that out by itself.
    site.sql("drop table trap")
    with site.asked_all_the_time(SETUP) as asked:
        site.await_ready()
    assert asked.failed == []
    assert site.ask(SETUP).headers["X-Version"] == NEW
    Console(site.node, site.url).login()


def test_a_removal_leaves_the_claims_alone(site: Site) -> None:
    # It has all that `small` has, and the budgets, which somebody who goes back to that leaves behind.
    site.remove("replicated")
    assert site.left() == {f"persistentvolumeclaim/{name}" for name in CLAIMS}


def test_the_compose_file_of_dify_1_11_3_runs_where_volumes_take_no_group(
    node: Node, private: PrivateRegistry, upstream: Bundle, tmp_path: Path
) -> None:
    """In a namespace of its own, on volumes as provisioners of NFS make them: root's, and open to everybody."""
    site = Site(node, private, tmp_path, namespace="upstream")
    site.write(upstream, "--storage-class", UNMANAGED)
    site.prepare()
    site.apply("small")
    assert {name: count for name, count in restarts(site.get("pods")).items() if count} == {}, site.told()
    assert site.ask(SETUP).json()["step"] == "not_started"
    assert site.ask("/install").ok
    assert "worker-beat" in {each["metadata"]["name"] for each in site.get("deployments")}
