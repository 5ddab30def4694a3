"""Browsers reach Dify through a real Ingress controller, and through a Gateway: traefik, which is both.

TRAEFIK names its program, GATEWAY_CRDS the folder with Gateway API's definitions (config/crd/standard of its module);
both can be compiled or fetched as Go modules. The tests go on with what the ones before have left.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator

import pytest

from tests.cluster.test_cluster import SETUP, sign_up
from tests.e2e.console import Console
from tests.target import machine
from tests.target.bundle import Bundle
from tests.target.cluster.node import Node
from tests.target.cluster.site import HOST, Site
from tests.target.private_registry import PrivateRegistry
from tests.target.servers import Authority

PROGRAM, DEFINITIONS = "TRAEFIK", "GATEWAY_CRDS"
HTTP, HTTPS = 8000, 8443
NAMESPACE, CERTIFICATE, GATEWAY = "entrance", "dify-certificate", "infra/public"
# More than the megabyte that a proxy takes unless it is told otherwise.
LARGE = 8 * 1024**2

pytestmark = pytest.mark.skipif(
    not {PROGRAM, DEFINITIONS} <= set(os.environ), reason=f"{PROGRAM} and {DEFINITIONS} name no controller"
)


@pytest.fixture(scope="module")
def controller(node: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Traefik on the node, which serves Ingresses of the class traefik and Gateways of the same."""
    node.kubectl("apply", "--server-side", "--filename", os.environ[DEFINITIONS])
    named = {"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": {"name": "traefik"}}
    named["spec"] = {"controller": "traefik.io/ingress-controller"}
    served = {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass", "metadata": {"name": "traefik"}}
    served["spec"] = {"controllerName": "traefik.io/gateway-controller"}
    node.kubectl(
        "apply", "--filename=-", input=json.dumps({"kind": "List", "apiVersion": "v1", "items": [named, served]})
    )
    options = [
        f"--entrypoints.web.address=:{HTTP}",
        f"--entrypoints.websecure.address=:{HTTPS}",
        "--entrypoints.websecure.http.tls=true",
        "--providers.kubernetesingress=true",
        f"--providers.kubernetesingress.ingressendpoint.ip={node.address}",
        "--providers.kubernetesgateway=true",
        f"--providers.kubernetesgateway.statusaddress.ip={node.address}",
        "--global.checknewversion=false",
        "--global.sendanonymoususage=false",
    ]
    enter = [*machine.DIES_WITH_US, "nsenter", f"--net={node.network}", "env", f"KUBECONFIG={node.kubeconfig}"]
    log = tmp_path_factory.mktemp("traefik") / "log"
    with (
        log.open("wb") as file,
        subprocess.Popen([*enter, os.environ[PROGRAM], *options], stdout=file, stderr=file, cwd=log.parent) as program,
    ):
        yield
        program.kill()


@pytest.fixture(scope="module")
def site(
    node: Node, private: PrivateRegistry, controller: None, sample: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """The sample behind an Ingress with a certificate."""
    made = Site(node, private, tmp_path_factory.mktemp("entrance"), namespace=NAMESPACE)
    made.write(sample, "--ingress-class", "traefik", "--tls-secret", CERTIFICATE)
    made.prepare()
    _give_certificate(made, NAMESPACE)
    made.judged = made.preflight(sample)
    made.apply("replicated")
    yield made
    made.remove("replicated")


def _give_certificate(site: Site, namespace: str) -> None:
    """Put a certificate for the name that browsers open into a Secret."""
    authority = Authority()
    for name, content in zip(("tls.crt", "tls.key"), authority.sign(HOST), strict=True):
        (site.folder / name).write_bytes(content)
    (site.folder / "authority.pem").write_bytes(authority.certificate)
    place = (f"--cert={site.folder}/tls.crt", f"--key={site.folder}/tls.key")
    site.node.kubectl("--namespace", namespace, "create", "secret", "tls", CERTIFICATE, *place)


def browser(site: Site, scheme: str, port: int) -> Console:
    """A browser on the host next to the node, which knows the name."""
    console = Console(site.node.company, f"{scheme}://{site.node.address}:{port}")
    console.inside.session.headers["Host"] = HOST
    return console


def test_the_ingress_is_judged_served_and_told(site: Site, sample: Bundle) -> None:
    assert site.judged["ingress"] == "ok: the class traefik"
    assert site.judged["secrets"].startswith("ok: ") and CERTIFICATE in site.judged["secrets"]
    told = json.loads(site.with_kubectl(sample, "doctor").stdout)
    found = {each["check"]: each for each in told["checks"]}
    assert (found["address"]["level"], found["address"]["seen"]) == (
        "ok",
        f"Ingress {HOST} is served at {site.node.address}",
    )
    assert found["certificate"]["level"] in ("ok", "warning")


def test_browsers_use_dify_through_it_with_https(site: Site) -> None:
    sign_up(site)
    console = browser(site, "https", HTTPS)
    assert "Dify" in console.inside.request("GET", f"{console.url}/install").text
    console.login()
    curl = ["nsenter", f"--net={site.node.company.network}", "curl", "--silent", "--fail", "--output", "/dev/null"]
    curl += ["--cacert", f"{site.folder}/authority.pem", "--resolve", f"{HOST}:{HTTPS}:{site.node.address}"]
    subprocess.run([*curl, f"https://{HOST}:{HTTPS}{SETUP}"], check=True)


def test_no_request_through_it_is_lost_while_all_roll(site: Site) -> None:
    with site.asked_all_the_time(SETUP, "/install", url=f"http://{site.node.address}:{HTTP}") as asked:
        site.kubectl("rollout", "restart", *(f"deployment/{name}" for name in ("nginx", "api", "web")))
        site.await_ready()
    assert asked.failed == []
    assert asked.count > 100


def test_a_route_of_the_companys_gateway_takes_its_place(site: Site, sample: Bundle) -> None:
    node, (namespace, _, name) = site.node, GATEWAY.partition("/")
    site.write(sample, "--gateway", GATEWAY, "--https")
    assert site.preflight(sample)["gateway"].startswith(f"error: there is no Gateway {name} in {namespace}")
    node.kubectl("create", "namespace", namespace)
    _give_certificate(site, namespace)
    own = {"name": "web", "protocol": "HTTP", "port": HTTP}
    certificate = {"mode": "Terminate", "certificateRefs": [{"name": CERTIFICATE}]}
    secure = {"name": "websecure", "protocol": "HTTPS", "port": HTTPS, "tls": certificate}
    place = {"name": name, "namespace": namespace}
    gateway = {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": place}
    for takes in ("Same", "All"):
        allowed = {"allowedRoutes": {"namespaces": {"from": takes}}}
        spec = {"gatewayClassName": "traefik", "listeners": [own | allowed, secure | allowed]}
        node.kubectl("apply", "--filename=-", input=json.dumps({**gateway, "spec": spec}))
        site.until(
            lambda: "works" in (seen := site.preflight(sample)["gateway"]) or "alone" in seen, "it is not served"
        )
        told = site.preflight(sample)["gateway"]
        assert told.startswith("error: " if takes == "Same" else "ok: "), told
    site.apply("replicated")
    node.kubectl("delete", "--ignore-not-found", "-k", str(site.out / "gone"))
    assert site.get("ingresses") == []

    def served() -> bool:
        checks = json.loads(site.with_kubectl(sample, "status").stdout)["checks"]
        return f"HTTPRoute {HOST} is served at the Gateway {name}" in {each["seen"] for each in checks}

    site.until(served, "the Gateway does not take the route")
    for scheme, port in (("http", HTTP), ("https", HTTPS)):
        browser(site, scheme, port).get("/setup")
    browser(site, "https", HTTPS).login()


def test_a_large_file_passes_the_gateway(site: Site) -> None:
    """What is uploaded is refused by Dify itself, since nobody is logged in, and not by a proxy for its size."""
    console = browser(site, "https", HTTPS)
    assert console.ask("POST", "/files/upload", files={"file": ("a.txt", b"a" * LARGE)}).status_code in (401, 403)
