"""The sample on a real Kubernetes with a company's own PostgreSQL, Redis and S3 beside it, each with TLS."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.cluster.test_cluster import SETUP, sign_up
from tests.e2e.console import Console
from tests.e2e.test_external import ADDRESSES, CACHE_PORT, CACHE_SECRET, PORT, RIGHTS, SECRET
from tests.e2e.test_storage import PORT as BUCKET_PORT
from tests.e2e.test_storage import URL as BUCKET_URL
from tests.target.bundle import Bundle
from tests.target.cluster.node import Node
from tests.target.cluster.site import Site
from tests.target.private_registry import PrivateRegistry
from tests.target.servers import Bucket, Postgres, Redis

URLS = {**ADDRESSES, "DIFY_INSTALLER_STORAGE_URL": BUCKET_URL}
OURS = ("db-postgres", "redis")


@dataclass(frozen=True, kw_only=True)
class Company:
    """A Dify on the cluster, and what the company has beside the node."""

    site: Site
    database: Postgres
    cache: Redis
    bucket: Bucket


@pytest.fixture(scope="module")
def company(
    node: Node, private: PrivateRegistry, sample: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Company]:
    site = Site(node, private, tmp_path_factory.mktemp("others"), namespace="others")
    there, beside = node.company.address, ["nsenter", f"--net={node.company.network}"]
    users = f"user dify on >{CACHE_SECRET} {RIGHTS}"
    with (
        Postgres(there, PORT, beside) as database,
        Redis(there, CACHE_PORT, beside, users=users) as cache,
        Bucket(there, BUCKET_PORT, beside) as bucket,
    ):
        database.let_in("hostssl all all all scram-sha-256")
        database.restart()
        database.give("dify", SECRET, "dify", "dify_plugin")
        trusted = site.folder / "authorities.pem"
        trusted.write_bytes(b"".join(each.authority.certificate for each in (database, cache, bucket)))
        site.write(sample, "--ca-bundle", str(trusted), **URLS)
        yield Company(site=site, database=database, cache=cache, bucket=bucket)
        site.remove("small")


def test_preflight_asks_them_as_on_a_host(company: Company, sample: Bundle) -> None:
    found = company.site.preflight(sample)
    told = {name: found[name].partition(":")[0] for name in ("postgresql", "redis", "storage")}
    assert set(told.values()) <= {"ok", "warning"}, found
    company.database.sql("ALTER ROLE dify NOLOGIN")
    refused = company.site.preflight(sample)["postgresql"]
    assert refused.startswith("error: ") and SECRET not in refused, refused


def test_pods_wait_until_they_are_let_in_and_say_why(company: Company) -> None:
    """The database lets nobody in yet: the migration waits, and its log has the server's own words."""
    site = company.site
    site.prepare()
    site.begin("small")

    def log() -> str:
        pods = [each for each in site.get("pods") if each["metadata"]["name"].startswith("migration-")]
        return "".join(
            site.kubectl("logs", each["metadata"]["name"], "--container=wait-for-database", check=False).stdout
            for each in pods
        )

    site.until(lambda: "is not permitted to log in" in log(), "the migration's pod does not say what it waits for")
    company.database.sql("ALTER ROLE dify LOGIN")
    site.await_ready()


def test_dify_works_with_them_and_has_none_of_its_own(company: Company) -> None:
    site = company.site
    assert not {each["metadata"]["name"] for each in site.get("statefulsets")} & set(OURS)
    assert site.ask(SETUP).json()["step"] == "not_started"
    sign_up(site)
    Console(site.node, site.url).login()
    (job,) = site.get("jobs")
    assert company.database.sql("SELECT job FROM dify_installer_migrations", "dify") == job["metadata"]["name"]
    assert "db" in company.cache.ask("INFO", "keyspace") or "dify" in company.cache.ask("CLIENT", "LIST")


def test_status_and_a_removal_name_them_and_leave_them_alone(company: Company, sample: Bundle) -> None:
    site = company.site
    told = site.with_kubectl(sample, "status").stdout
    assert f"PostgreSQL at {site.node.company.address}:{PORT}" in told
    assert SECRET not in told and CACHE_SECRET not in told
    site.remove("small")
    assert site.left() == {"persistentvolumeclaim/plugin-daemon", "persistentvolumeclaim/data-0-weaviate-0"}
    assert company.database.sql("SELECT count(*) FROM dify_installer_migrations", "dify") == "1"
