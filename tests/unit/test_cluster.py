"""`manifests`: the sample's objects for Kubernetes, whole and one by one."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from installer import cli
from installer.bundle import manifest
from installer.cluster import names
from installer.commands import manifests
from installer.core import errors, layout
from installer.core.console import Console
from installer.registry import reference
from installer.release import compose, envfile, external, storage, tls
from installer.stack import prepare_api
from tests.target.images import SAMPLE
from tests.unit.test_manifest import EXAMPLE

QUIET = Console(silent=True)
REGISTRY = reference.Registry("registry.example.com:5000", "dify")
DIGEST = "sha256:" + "a" * 64


@dataclasses.dataclass
class Given:
    """A bundle of a compose file, without its archive, and the images.json of its push."""

    bundle: manifest.Manifest
    payload: Path
    pushed: Path
    out: Path

    def write(self, **asked: Any) -> dict[str, bytes]:
        """Run the command, and return what lies in the folder then."""
        wanted = {"registry": REGISTRY, "pushed": self.pushed, "out": self.out, "host": "dify.example.com", **asked}
        manifests.write(manifests.Asked(**wanted), QUIET, bundle=self.bundle, payload=self.payload)
        files = (path for path in sorted(self.out.rglob("*")) if path.is_file())
        return {str(path.relative_to(self.out)): path.read_bytes() for path in files}


both = pytest.mark.parametrize("given", ["sample", "upstream"], indirect=True)


@pytest.fixture
def given(request: pytest.FixtureRequest, tmp_path: Path) -> Given:
    upstream = request.config.getoption("--dify")
    source = SAMPLE if getattr(request, "param", "sample") == "sample" or not upstream else Path(upstream)
    payload = tmp_path / "payload"
    shutil.copytree(source / layout.PROJECT, payload / layout.PROJECT)
    for service in ("nginx", "ssrf_proxy"):
        script = payload / layout.PROJECT / service / "docker-entrypoint.sh"
        script.write_text("#!/bin/sh\r\nexec nginx\r\n")
    example = (payload / layout.PROJECT / layout.ENV_EXAMPLE).read_text()
    needed = compose.images(compose.load(payload / layout.PROJECT / layout.COMPOSE_FILE), envfile.resolve(example))
    shutil.copy(prepare_api.__file__, payload / layout.PREPARE_API)
    images = [dataclasses.replace(EXAMPLE.images[0], reference=name, id=f"{at:064x}") for at, name in enumerate(needed)]
    bundle = dataclasses.replace(EXAMPLE, images=tuple(images), variables={})
    places = reference.places(REGISTRY, bundle.images)
    rows = [
        {"reference": each.image.reference, "id": each.image.id, "repository": each.repository, "digest": DIGEST}
        for each in places
    ]
    pushed = tmp_path / "images.json"
    pushed.write_text(json.dumps({"kind": "push", "host": REGISTRY.host, "prefix": REGISTRY.prefix, "images": rows}))
    return Given(bundle, payload, pushed, tmp_path / "out")


def objects(files: dict[str, bytes], kind: str = "") -> list[dict[str, Any]]:
    found = [
        each
        for name, content in files.items()
        if name.endswith(".yaml") and not name.endswith("kustomization.yaml")
        for each in yaml.safe_load_all(content)
    ]
    return [each for each in found if kind in ("", each["kind"])]


def pods(files: dict[str, bytes]) -> dict[str, dict[str, Any]]:
    kinds = ("Deployment", "StatefulSet", "Job")
    return {
        each["metadata"]["name"]: each["spec"]["template"]["spec"] for each in objects(files) if each["kind"] in kinds
    }


def environment(files: dict[str, bytes], name: str) -> dict[str, str]:
    (plain,) = [each for each in objects(files, "ConfigMap") if each["metadata"]["name"] == f"{name}-settings"]
    (secret,) = [each for each in objects(files, "Secret") if each["metadata"]["name"] == f"{name}-secrets"]
    hidden = {key: base64.b64decode(value).decode() for key, value in secret.get("data", {}).items()}
    return {**plain.get("data", {}), **hidden}


def test_a_second_run_writes_the_same_bytes(given: Given) -> None:
    assert given.write() == given.write()


@both
def test_secrets_are_those_of_the_settings_and_in_no_other_file(given: Given) -> None:
    files = given.write()
    settings = envfile.resolve(files["settings.env"].decode())
    api = environment(files, "api")
    for key in ("SECRET_KEY", "DB_PASSWORD", "REDIS_PASSWORD", "CELERY_BROKER_URL", "PLUGIN_DAEMON_KEY"):
        assert api[key] == settings[key] != ""
        for name, content in files.items():
            hidden = name == "settings.env" or name.endswith("-secrets.yaml")
            assert hidden or settings[key].encode() not in content, (key, name)
            assert not hidden or (given.out / name).stat().st_mode & 0o777 == 0o600


def test_an_installation_that_moves_keeps_its_secrets(given: Given, tmp_path: Path) -> None:
    first = given.write()
    moved = dataclasses.replace(given, out=tmp_path / "moved").write(env=given.out / "settings.env")
    assert environment(moved, "api")["SECRET_KEY"] == environment(first, "api")["SECRET_KEY"]
    with pytest.raises(errors.UsageError, match="secrets of its own"):
        given.write(env=tmp_path / "moved/settings.env")


@both
def test_every_name_is_one_that_the_api_takes_and_every_host_has_its_service(given: Given) -> None:
    files = given.write()
    for each in objects(files):
        assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", each["metadata"]["name"]), each["metadata"]
    services = {each["metadata"]["name"] for each in objects(files, "Service")}
    assert environment(files, "api")["PLUGIN_DAEMON_URL"] == "http://plugin-daemon:5002"
    assert environment(files, "api")["DB_HOST"] == "db-postgres" in services
    assert environment(files, "api")["DB_HOST"] in services
    (nginx,) = [each for each in objects(files, "ConfigMap") if each["metadata"]["name"] == "nginx-files"]
    for host in re.findall(r"proxy_pass http://([\w.-]+)", "".join(nginx["data"].values())):
        assert host in services
    assert "\r" not in "".join(nginx["data"].values())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://plugin_daemon:5002", "http://plugin-daemon:5002"),
        ("redis://:x@plugin_daemon/1", "redis://:x@plugin-daemon/1"),
        ("plugin_daemon", "plugin-daemon"),
        ("./volumes/plugin_daemon", "./volumes/plugin_daemon"),
        ("my_plugin_daemon", "my_plugin_daemon"),
        ("plugin_daemon_key", "plugin_daemon_key"),
    ],
)
def test_only_hosts_are_renamed(text: str, expected: str) -> None:
    assert names.translate(text, ["plugin_daemon"]) == expected


def test_a_database_is_asked_in_its_own_container(given: Given) -> None:
    container = pods(given.write())["db-postgres"]["containers"][0]
    command = container["readinessProbe"]["exec"]["command"]
    assert command[:3] == ["pg_isready", "-h", "127.0.0.1"]


@both
def test_all_but_the_sandbox_fit_into_restricted(given: Given) -> None:
    for name, pod in pods(given.write()).items():
        assert pod["enableServiceLinks"] is False
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in (*pod.get("initContainers", ()), *pod["containers"]):
            assert container["image"].startswith(f"{REGISTRY.host}/dify/") and container["image"].endswith(DIGEST)
            assert container["resources"]["requests"] and container["resources"]["limits"]
            if name != "sandbox":
                assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
                assert pod["securityContext"]["runAsNonRoot"] is True


def test_one_job_migrates_and_the_others_wait_for_it(given: Given) -> None:
    files = given.write()
    (job,) = objects(files, "Job")
    *waits, migrate, prove = job["spec"]["template"]["spec"]["initContainers"]
    assert {each["name"]: each["value"] for each in migrate["env"]} == {
        "MODE": "migration",
        "MIGRATION_ENABLED": "true",
    }
    assert [each["name"] for each in waits] == ["wait-for-database", "wait-for-cache"]
    assert prove["env"] == [{"name": prepare_api.REQUIRE, "value": "true"}]
    (program,) = [each for each in objects(files, "ConfigMap") if each["metadata"]["name"] == "migration"]
    (mounted,) = prove["volumeMounts"]
    assert prove["command"][2] == f"{mounted['mountPath']}/{next(iter(program['data']))}"
    for name in ("api", "worker"):
        assert environment(files, name)["MIGRATION_ENABLED"] == "false"
        (wait,) = pods(files)[name]["initContainers"]
        assert job["metadata"]["name"] in wait["command"][2]
    changed = given.write(values={"LOG_LEVEL": "DEBUG"})
    assert objects(changed, "Job")[0]["metadata"]["name"] != job["metadata"]["name"]


def test_what_an_earlier_run_had_besides_can_be_deleted(given: Given) -> None:
    first = given.write()
    assert not [name for name in first if name.startswith("gone")]
    changed = given.write(values={"LOG_LEVEL": "DEBUG"})
    (gone,) = yaml.safe_load_all(changed["gone/objects.yaml"])
    (job,) = objects(first, "Job")
    place = {key: job["metadata"][key] for key in ("name", "namespace")}
    assert gone == {"apiVersion": "batch/v1", "kind": "Job", "metadata": place}
    # Whatever comes back is not deleted, and what is gone stays so.
    back = given.write(values={"LOG_LEVEL": "INFO"})
    (gone,) = yaml.safe_load_all(back["gone/objects.yaml"])
    assert gone["metadata"]["name"] == objects(changed, "Job")[0]["metadata"]["name"]
    assert given.write() == back


def test_one_only_are_recreated_and_keep_their_data(given: Given) -> None:
    files = given.write()
    strategies = {each["metadata"]["name"]: each["spec"].get("strategy") for each in objects(files, "Deployment")}
    assert strategies["plugin-daemon"] == {"type": "Recreate"}
    claims = {each["metadata"]["name"] for each in objects(files, "PersistentVolumeClaim")}
    assert claims == {"storage", "plugin-daemon"}
    stateful = {each["metadata"]["name"] for each in objects(files, "StatefulSet")}
    assert {"db-postgres", "redis", "weaviate"} == stateful


def test_the_sandbox_reaches_the_proxy_alone(given: Given) -> None:
    (policy,) = [each for each in objects(given.write(), "NetworkPolicy") if each["metadata"]["name"] == "sandbox"]
    reached = [each["to"] for each in policy["spec"]["egress"] if "to" in each]
    assert [one["podSelector"]["matchLabels"]["app.kubernetes.io/name"] for (one,) in reached] == ["ssrf-proxy"]


def test_only_what_is_named_is_let_out(given: Given) -> None:
    files = given.write(allow_intranet=("10.1.2.0/24:8443",))
    for policy in objects(files, "NetworkPolicy"):
        blocks = [to for each in policy["spec"]["egress"] for to in each.get("to", ()) if "ipBlock" in to]
        outward = policy["metadata"]["name"] in ("api", "worker", "plugin-daemon", "ssrf-proxy")
        assert blocks == ([{"ipBlock": {"cidr": "10.1.2.0/24"}}] if outward else [])


def test_nothing_empty_is_written_that_the_server_leaves_out(given: Given) -> None:
    """kubectl would take it for a change at every apply."""
    for each in objects(given.write()):
        assert each.get("data") != {}, each["metadata"]["name"]
        assert each["kind"] != "NetworkPolicy" or each["spec"].get("ingress") != [], each["metadata"]["name"]


def test_an_object_store_needs_no_shared_claim(given: Given) -> None:
    files = given.write(values={"STORAGE_TYPE": "s3"})
    assert "storage" not in {each["metadata"]["name"] for each in objects(files, "PersistentVolumeClaim")}


def test_every_file_that_a_kustomization_names_is_there(given: Given) -> None:
    files = given.write()
    for name in files:
        if name.endswith("kustomization.yaml"):
            for each in yaml.safe_load(files[name])["resources"]:
                path = (given.out / name).parent / each
                assert path.is_file() or (path / "kustomization.yaml").is_file(), path


def test_https_ends_at_the_ingress(given: Given) -> None:
    files = given.write(tls_secret="certificate")
    assert environment(files, "api")["CONSOLE_WEB_URL"] == "https://dify.example.com"
    assert environment(files, "nginx")["NGINX_HTTPS_ENABLED"] == "false"
    (ingress,) = objects(files, "Ingress")
    assert ingress["spec"]["tls"] == [{"hosts": ["dify.example.com"], "secretName": "certificate"}]


def test_a_route_of_the_companys_gateway_takes_the_place_of_the_ingress(given: Given) -> None:
    first = given.write()
    files = given.write(gateway="infra/public", https=True)
    assert b"kind: Ingress" not in files["base/entrance.yaml"]
    (route,) = objects(files, "HTTPRoute")
    assert route["spec"]["parentRefs"] == [{"name": "public", "namespace": "infra"}]
    assert route["spec"]["hostnames"] == ["dify.example.com"]
    assert route["spec"]["rules"][0]["backendRefs"] == [{"name": "nginx", "port": 80}]
    assert environment(files, "api")["CONSOLE_WEB_URL"] == "https://dify.example.com"
    # The Ingress of before is named, so that it can be removed; OpenShift's Route takes the place of either.
    assert b"kind: Ingress" in files["gone/objects.yaml"] and "gone/objects.yaml" not in first
    assert b"kind: HTTPRoute" in files["overlays/openshift/kustomization.yaml"]
    (route,) = objects(given.write(gateway="public"), "HTTPRoute")
    assert route["spec"]["parentRefs"] == [{"name": "public"}]


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"gateway": "a/b/c"}, "is no name of a Gateway"),
        ({"gateway": "Public"}, "is no name of a Gateway"),
        ({"gateway": "public", "tls_secret": "certificate"}, "takes the place of the Ingress"),
        ({"gateway": "public", "ingress_class": "nginx"}, "takes the place of the Ingress"),
    ],
)
def test_a_gateway_and_an_ingress_are_not_asked_for_together(given: Given, asked: dict[str, str], why: str) -> None:
    with pytest.raises(errors.UsageError, match=why):
        given.write(**asked)


def test_no_password_is_in_a_command(given: Given) -> None:
    redis = pods(given.write())["redis"]["containers"][0]
    assert redis["args"] == ["redis-server", "--requirepass", "$(REDISCLI_AUTH)"]


def test_what_is_refused_leaves_the_folder_alone(given: Given, tmp_path: Path) -> None:
    with pytest.raises(errors.UsageError, match="is of the registry"):
        given.write(registry=reference.Registry("other.example.com", ""))
    given.pushed.write_text(given.pushed.read_text().replace(DIGEST, "", 1))
    with pytest.raises(errors.UsageError, match="does not say where"):
        given.write()
    assert not given.out.exists()
    given.out.mkdir()
    (given.out / "of-somebody-else").touch()
    with pytest.raises(errors.UsageError, match="not a folder that"):
        given.write()


def test_lost_settings_are_not_made_anew(given: Given) -> None:
    given.write()
    (given.out / "settings.env").unlink()
    with pytest.raises(errors.UsageError, match="is gone"):
        given.write()


def test_the_command_line_is_checked(tmp_path: Path) -> None:
    told = CliRunner().invoke(cli.cli, ["manifests", "--registry", "https://x", "--out", str(tmp_path / "out")])
    assert told.exit_code != 0
    assert not (tmp_path / "out").exists()


AUTHORITY = tls.make_self_signed("company.example", datetime.datetime.now(datetime.UTC)).certificate


def test_the_companys_authorities_are_mounted_by_those_who_call_out(given: Given, tmp_path: Path) -> None:
    company = tmp_path / "company.pem"
    company.write_bytes(AUTHORITY)
    before = given.write()
    trusted = dataclasses.replace(given, out=tmp_path / "trusted")
    files = trusted.write(ca_bundle=company, env=given.out / "settings.env")
    (made,) = [each for each in objects(files, "ConfigMap") if each["metadata"]["name"] == "company-ca"]
    assert made["data"] == {"ca-bundle.pem": AUTHORITY.decode()}
    trusting = {
        name.partition("-")[0]: {
            mount["mountPath"]
            for each in (*pod["initContainers"], *pod["containers"])
            for mount in each.get("volumeMounts", ())
            if mount["name"] == "company-ca"
        }
        for name, pod in pods(files).items()
        if any(volume["name"] == "company-ca" for volume in pod["volumes"])
    }
    assert trusting == {each: {"/etc/company-ca"} for each in ("api", "worker", "plugin", "migration")}
    for name in ("api", "worker", "plugin-daemon"):
        assert environment(files, name)["SSL_CERT_FILE"] == "/etc/company-ca/ca-bundle.pem"
        # They begin anew.
        assert files[f"base/{name}.yaml"] != before[f"base/{name}.yaml"]
    assert files["base/web.yaml"] == before["base/web.yaml"]
    # The next run goes on with them.
    assert trusted.write() == files


DATABASE = external.database_settings(external.checked_database("postgresql://u:secret@10.1.2.3/dify"))
OTHERS = {
    **DATABASE,
    **external.redis_settings(external.checked_redis("rediss://r:hidden@redis.intranet:6380/2")),
    **storage.settings(storage.checked("s3://KEY:closed@s3.intranet:9000/dify")),
    **external.vector_settings(external.checked_vectors("postgresql://v:covered@10.1.2.3:5433/vectors")),
}
SENTINELS = external.redis_settings(external.checked_redis("sentinel://r:hidden@10.1.1.1:26379,10.1.1.2:26379/mine/0"))


@pytest.fixture
def company(tmp_path: Path) -> Path:
    path = tmp_path / "company.pem"
    path.write_bytes(AUTHORITY)
    return path


def let_out(files: dict[str, bytes], name: str) -> list[tuple[str, int]]:
    """Return address and port of the servers that a policy lets its pods call; no address is any."""
    (policy,) = [each for each in objects(files, "NetworkPolicy") if each["metadata"]["name"] == name]
    rules = [each for each in policy["spec"]["egress"] if "podSelector" not in each.get("to", [{}])[0]]
    private = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")
    addresses = [(each.get("to", [{"ipBlock": {"cidr": ""}}])[0]["ipBlock"]["cidr"], each) for each in rules]
    return [
        (cidr, port["port"])
        for cidr, each in addresses
        for port in each.get("ports", ())
        if cidr not in private and port["port"] not in (53, 5353)
    ]


@both
def test_services_of_others_have_no_objects_and_are_let_out_to(given: Given, company: Path) -> None:
    files = given.write(values=OTHERS, ca_bundle=company)
    assert not {"db-postgres", "redis", "weaviate", "pgvector"} & {each["metadata"]["name"] for each in objects(files)}
    assert [each["metadata"]["name"] for each in objects(files, "PersistentVolumeClaim")] == ["plugin-daemon"]
    api, daemon = environment(files, "api"), environment(files, "plugin-daemon")
    assert api["DB_EXTRAS"] == "sslmode=verify-full&sslrootcert=/etc/company-ca/ca-bundle.pem"
    assert daemon["PGSSLROOTCERT"] == api["REDIS_SSL_CA_CERTS"] == "/etc/company-ca/ca-bundle.pem"
    assert (api["DB_PASSWORD"], api["REDIS_PASSWORD"], api["S3_SECRET_KEY"]) == ("secret", "hidden", "closed")
    shared = [("10.1.2.3/32", 5432), ("", 6380), ("", 9000)]
    assert let_out(files, "api") == let_out(files, "migration") == [*shared, ("10.1.2.3/32", 5433)]
    assert let_out(files, "plugin-daemon") == shared
    assert let_out(files, "web") == let_out(files, "sandbox") == let_out(files, "nginx") == []
    for name, content in files.items():
        if name != "settings.env" and not name.endswith("-secrets.yaml"):
            assert not [each for each in ("secret", "hidden", "closed", "covered") if f":{each}@".encode() in content]
            assert b": hidden\n" not in content
            assert b": closed\n" not in content


@both
def test_pods_wait_for_services_of_others_as_dify_will_call_them(given: Given, company: Path) -> None:
    files = given.write(values=OTHERS, ca_bundle=company)
    asking = {
        each["name"]: (each, {volume["name"] for volume in pod["volumes"]})
        for pod in pods(files).values()
        for each in (*pod.get("initContainers", ()), *pod["containers"])
        if each["name"] in ("wait-for-database", "wait-for-migration", "wait-for-cache", "record")
    }
    assert len(asking) == 4
    for name, (each, volumes) in asking.items():
        assert each["volumeMounts"] == [{"name": "company-ca", "mountPath": "/etc/company-ca", "readOnly": True}], name
        assert "company-ca" in volumes
    database, _ = asking["wait-for-database"]
    plain = {each["name"]: each.get("value") for each in database["env"]}
    assert (plain["PGHOST"], plain["PGPORT"], plain["PGSSLMODE"]) == ("10.1.2.3", "5432", "verify-full")
    assert database["env"][-1]["valueFrom"]["secretKeyRef"] == {"name": "api-secrets", "key": "DB_PASSWORD"}
    cache, _ = asking["wait-for-cache"]
    asked = "redis-cli -h redis.intranet -p 6380 --tls --cacert /etc/company-ca/ca-bundle.pem --user r ping"
    assert asked in cache["command"][2]


def test_sentinels_are_asked_and_their_server_is_let_out_to(given: Given) -> None:
    files = given.write(values=SENTINELS)
    assert let_out(files, "api") == [("10.1.1.1/32", 26379), ("10.1.1.2/32", 26379), ("", 6379)]
    (wait,) = [each for each in pods(files)["plugin-daemon"]["initContainers"] if each["name"] == "wait-for-cache"]
    assert "redis-cli -h 10.1.1.2 -p 26379 sentinel get-master-addr-by-name mine" in wait["command"][2]


def test_whom_to_trust_is_asked_for_before_anything_is_written(given: Given) -> None:
    with pytest.raises(errors.UsageError, match=r"PostgreSQL at 10\.1\.2\.3:5432: the certificate") as caught:
        given.write(values=DATABASE)
    assert "secret" not in caught.value.message
    assert not given.out.exists()


@pytest.mark.parametrize(
    ("values", "what"),
    [
        (DATABASE, "rows"),
        (storage.settings(storage.checked("s3://KEY:closed@s3.intranet:9000/dify")), "files"),
        (external.vector_settings(external.checked_vectors("postgresql://v:covered@10.1.2.3:5433/vectors")), "vectors"),
    ],
)
def test_what_lies_elsewhere_is_not_left_behind(
    given: Given, company: Path, values: dict[str, str], what: str, tmp_path: Path
) -> None:
    given.write(ca_bundle=company)
    with pytest.raises(errors.UsageError, match=f"{what} would be looked for elsewhere"):
        given.write(values=values)
    moved = dataclasses.replace(given, out=tmp_path / "moved")
    files = moved.write(values=values, env=given.out / "settings.env", ca_bundle=company)
    # The next run goes on with them.
    assert moved.write() == files


def test_a_url_with_its_password_is_refused_on_the_command_line(given: Given) -> None:
    url = "postgresql://u:secret@10.1.2.3/dify"
    told = CliRunner().invoke(cli.cli, ["manifests", "--registry", "r.example.com", "--out", "x", "--db-url", url])
    assert isinstance(told.exception, errors.UsageError)
    assert "in the environment (DIFY_INSTALLER_DB_URL)" in told.exception.message
    assert not {"secret", "answer"} & set(re.findall(r"\w+", told.exception.message))


def test_authorities_that_kubectl_does_not_apply_are_refused(given: Given, tmp_path: Path) -> None:
    company = tmp_path / "company.pem"
    company.write_text("not one")
    with pytest.raises(errors.UsageError, match="no certificate in PEM form"):
        given.write(ca_bundle=company)
    company.write_bytes(AUTHORITY * 400)
    with pytest.raises(errors.UsageError, match="kubectl applies no more than 200"):
        given.write(ca_bundle=company)
    assert not given.out.exists()


def test_the_plugin_daemon_installs_from_the_wheels_in_its_claim(given: Given) -> None:
    daemon = environment(given.write(), "plugin-daemon")
    assert daemon["PIP_EXTRA_ARGS"] == "--no-index --find-links=/app/storage/dify-installer/wheels"
    key = manifest.File(path=layout.OWNER_KEY, size=1, sha256="a" * 64, executable=False)
    signed = manifest.Plugins(image="localhost/plugins:1", packages=(), others=(key,))
    daemon = environment(
        dataclasses.replace(given, bundle=dataclasses.replace(given.bundle, plugins=signed)).write(
            values={"PIP_EXTRA_ARGS": "--index-url=https://index.example.com/simple"}
        ),
        "plugin-daemon",
    )
    assert daemon["PIP_EXTRA_ARGS"] == "--index-url=https://index.example.com/simple"
    assert daemon["THIRD_PARTY_SIGNATURE_VERIFICATION_PUBLIC_KEYS"] == "/app/storage/dify-installer/keys/owner.pem"
