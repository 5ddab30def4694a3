"""The sample on a real Kubernetes: a company's Redis behind a sentinel, and the vectors in a PostgreSQL of others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.test_cluster import SETUP, sign_up
from tests.e2e.conftest import alone
from tests.e2e.console import Console
from tests.e2e.test_external import CACHE_SECRET, ENCODED, RIGHTS, SECRET
from tests.e2e.test_pgvector import REACHES
from tests.target import servers
from tests.target.bundle import Bundle
from tests.target.cluster.node import Node
from tests.target.cluster.site import Site
from tests.target.private_registry import PrivateRegistry
from tests.target.servers import Postgres, Redis, Sentinel

# Behind sentinels, policies let out to this port alone.
CACHE_PORT, SENTINEL_PORT, PORT = 6379, 26379, 5433


@pytest.fixture(scope="module")
def vectors(node: Node, work: Path) -> Iterator[Postgres]:
    with alone(work / "root-pgvector.lock"):
        root = servers.root_with_pgvector(work)
    beside = ["nsenter", f"--net={node.company.network}"]
    with Postgres(node.company.address, PORT, beside, root=root) as database:
        database.let_in("hostssl all all all scram-sha-256")
        database.restart()
        database.give("dify", SECRET, "vectors")
        database.sql("CREATE EXTENSION vector", "vectors")
        yield database


@pytest.fixture(scope="module")
def site(
    node: Node, private: PrivateRegistry, sample: Bundle, vectors: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    made = Site(node, private, tmp_path_factory.mktemp("sentinels"), namespace="sentinels")
    there, beside = node.company.address, ["nsenter", f"--net={node.company.network}"]
    with (
        Redis(there, CACHE_PORT, beside, tls=False, users=f"user dify on >{CACHE_SECRET} {RIGHTS}") as cache,
        Sentinel("mymaster", cache, SENTINEL_PORT, beside),
    ):
        trusted = made.folder / "authorities.pem"
        trusted.write_bytes(vectors.authority.certificate)
        made.write(
            sample,
            *("--ca-bundle", str(trusted)),
            DIFY_INSTALLER_REDIS_URL=f"sentinel://dify:{CACHE_SECRET}@{there}:{SENTINEL_PORT}/mymaster/0",
            DIFY_INSTALLER_VECTOR_URL=f"postgresql://dify:{ENCODED}@{there}:{PORT}/vectors",
        )
        made.judged = made.preflight(sample)
        made.prepare()
        made.apply("small")
        yield made
        made.remove("small")


def test_preflight_asks_the_sentinel_and_the_vectors(site: Site) -> None:
    assert site.judged["redis"].startswith("ok: "), site.judged
    assert "pgvector 0." in site.judged["vectors"] and site.judged["vectors"].startswith("ok: ")


def test_dify_works_with_both_and_has_none_of_its_own(site: Site) -> None:
    assert {each["metadata"]["name"] for each in site.get("statefulsets")} == {"db-postgres"}
    assert site.ask(SETUP).json()["step"] == "not_started"
    sign_up(site)
    Console(site.node, site.url).login()


def test_the_api_reaches_the_vectors_with_tls_that_is_compared(site: Site, vectors: Postgres) -> None:
    (pod,) = site.get("pods", "--selector=app.kubernetes.io/name=api")
    asked = ("exec", pod["metadata"]["name"], "--container=api", "--", "python3", "-c", REACHES)
    assert site.kubectl(*asked).stdout.split() == ["True", "verify-full", "pgvector"]
    assert vectors.sql("SELECT to_regclass('embedding_one')", "vectors") == "embedding_one"
