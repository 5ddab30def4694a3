"""A Dify that keeps its files in a company's own S3: with TLS of their own authority, on another host."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest

from tests.e2e.conftest import MachineMaker
from tests.e2e.server import Server
from tests.e2e.test_backup import inside, printed
from tests.e2e.test_external import check_of
from tests.target.bundle import Bundle
from tests.target.neighbour import NEIGHBOUR, Neighbour
from tests.target.servers import PASSWORD, Authority, Bucket

PORT = 9000
ENCODED = quote(PASSWORD, safe="")
URL = f"s3://{quote(Bucket.KEY)}:{ENCODED}@{NEIGHBOUR}:{PORT}/{Bucket.NAME}"
PLACE = f"S3 at {NEIGHBOUR}:{PORT}, bucket {Bucket.NAME}"
FILE = "upload_files/tenant/mine.txt"
# As boto3's client does it, which is not in the sample: the authorities are those that its environment names. Who does
# not sign is no client of S3 for Swift: 412.
REACHES = """
import http.client, os, ssl, urllib.parse
url = urllib.parse.urlsplit(os.environ["S3_ENDPOINT"])
context = ssl.create_default_context(cafile=os.environ["REQUESTS_CA_BUNDLE"])
connection = http.client.HTTPSConnection(url.hostname, url.port, context=context, timeout=10)
connection.request("GET", "/" + os.environ["S3_BUCKET_NAME"])
print(connection.getresponse().status, os.environ["STORAGE_TYPE"], os.environ["S3_ADDRESS_STYLE"])
"""


@dataclass(frozen=True, kw_only=True)
class Company:
    """A server, and the S3 that the company has beside it."""

    server: Server
    bucket: Bucket

    def run(self, *command: str, url: str = URL, ca: str = "ca.pem") -> Any:
        """Run the executable with the address in its environment; the status is the caller's to judge."""
        options = [*self.server.arguments(), "--ca-bundle", f"{self.server.home}/{ca}"]
        return self.server.installer(*command[:1], *options, *command[1:], env={"DIFY_INSTALLER_STORAGE_URL": url})


@pytest.fixture(scope="module")
def company(lasting_machine: MachineMaker, sample: Bundle) -> Iterator[Company]:
    server = Server(lasting_machine(), sample)
    Neighbour(server.machine)
    beside = ["nsenter", f"--net=/proc/{server.machine.init()}/root/run/netns/neighbour"]
    with Bucket(NEIGHBOUR, PORT, beside) as bucket:
        for name, content in (
            ("ca.pem", bucket.authority.certificate),
            ("stranger.pem", Authority("stranger").certificate),
        ):
            (bucket.folder / name).write_bytes(content)
            server.put(bucket.folder / name, name)
        yield Company(server=server, bucket=bucket)


@pytest.mark.parametrize(
    ("changed", "ca", "said"),
    [
        ({ENCODED: "wrong"}, "ca.pem", ["does not let company:dify in", "--storage-url"]),
        ({quote(Bucket.KEY): quote(Bucket.READER)}, "ca.pem", ["s3:PutObject is refused", "arn:aws:s3:::dify/*"]),
        ({"/dify": "/nothing-here"}, "ca.pem", ["has no bucket nothing-here", "makes it, empty"]),
        ({"/dify": "/dify?region=eu-1"}, "ca.pem", ["the region is not eu-1", "?region=us-east-1"]),
        ({"/dify": "/dify?tls=disable"}, "ca.pem", ["does not answer as S3 does", "leave tls=disable out"]),
        ({}, "stranger.pem", ["is not of an authority that is trusted", "--ca-bundle"]),
    ],
)
def test_what_cannot_be_is_refused_before_the_first_change(
    company: Company, changed: dict[str, str], ca: str, said: list[str]
) -> None:
    url = URL
    for before, after in changed.items():
        url = url.replace(before, after)
    result = company.run("install", url=url, ca=ca)
    assert result.returncode == 4, result.stderr
    for each in said:
        assert each in result.stderr
    assert PASSWORD not in result.stderr and ENCODED not in result.stderr
    assert not company.server.machine.exists(f"{company.server.folder}/docker")
    assert company.bucket.keys() == []


@pytest.mark.feature("an S3 server of the company's own for files, with TLS", "works; its certificate is compared")
def test_install_on_it_ends_healthy_and_nothing_tells_the_key(company: Company) -> None:
    server = company.server
    answers = company.bucket.folder / "answers.yaml"
    answers.write_text(f"storage-url: {URL}\n")
    server.put(answers, "answers.yaml", mode=0o600)
    result = server.install("--ca-bundle", "ca.pem", "--config", "answers.yaml")
    written = server.run("sh", "-c", f"cat {server.folder}/logs/*.log {server.folder}/install-report.*").stdout
    for secret in (PASSWORD, ENCODED):
        for text in (written, result.stdout, result.stderr):
            assert secret not in text
    checks = {check["check"]: check["level"] for check in server.report()["checks"]}
    assert set(checks.values()) <= {"ok", "info"}
    assert f"api reaches S3 at {NEIGHBOUR}:{PORT}" in checks
    assert inside(server, "api", f"python3 -c '{REACHES}'") == "412 s3 path\n"
    told = inside(server, "plugin_daemon", "echo $PLUGIN_STORAGE_TYPE $PLUGIN_STORAGE_OSS_BUCKET $S3_ENDPOINT")
    assert told == f"aws_s3 dify https://{NEIGHBOUR}:{PORT}\n"
    assert inside(server, "plugin_daemon", 'printf %s "$AWS_SECRET_KEY"') == PASSWORD
    assert company.bucket.keys() == []


def test_the_same_command_again_asks_it_again_and_changes_nothing(company: Company) -> None:
    server = company.server
    containers, env = server.containers(), server.env()
    result = server.install()
    assert "run already" in result.stderr
    assert (server.containers(), server.env()) == (containers, env)
    found = check_of(server, "preflight", *server.arguments(), check="storage")
    assert found["level"] == "ok"
    assert f"{PLACE}, as company:dify, TLS: files can be kept there" in found["seen"]


def test_files_are_not_left_behind(company: Company) -> None:
    server = company.server
    refused = server.installer("preflight", *server.arguments(), "--set", "STORAGE_TYPE=opendal")
    assert refused.returncode == 4, refused.stdout
    assert f"the files of this installation are in {PLACE}" in refused.stdout
    assert "--storage-filled" in refused.stdout


def test_status_and_doctor_say_where_it_is(company: Company) -> None:
    server = company.server
    assert f"not ours: {PLACE}" in server.installer("status").stdout
    assert check_of(server, "doctor", check="storage")["level"] == "ok"
    company.bucket.stop()
    broken = check_of(server, "doctor", check="storage")
    assert (broken["level"], "nothing listens" in broken["seen"]) == ("error", True)
    company.bucket.start()


def test_a_backup_says_that_the_files_are_not_in_it(company: Company) -> None:
    server, bucket = company.server, company.bucket
    bucket.put(FILE)
    made = printed(server, "backup", "rest.tar.zst")
    assert f"the files, which are not ours: {PLACE}" in made["backup"]["left_out"][0]
    assert bucket.keys() == [FILE]


def test_what_is_in_it_survives_the_end_of_the_installation_and_is_another_ones_then(company: Company) -> None:
    server, bucket = company.server, company.bucket
    bucket.put("privkeys/tenant/private.pem")
    key = server.env()["SECRET_KEY"]
    removed = server.installer("uninstall", "--purge-data", "dify")
    assert removed.returncode == 0, removed.stderr
    assert f"Not ours, and left as it is, with what Dify has written there: {PLACE}" in removed.stderr
    assert bucket.keys() == ["privkeys/tenant/private.pem", FILE]
    refused = company.run("preflight")
    assert refused.returncode == 4, refused.stdout
    assert "it holds the files of a Dify" in refused.stdout
    taken = company.run("preflight", "--set", f"SECRET_KEY={key}")
    assert "goes on with the files" in taken.stdout
    assert taken.returncode == 0, taken.stdout
