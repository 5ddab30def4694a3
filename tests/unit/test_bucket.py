"""A company's S3 server, a real one: what lets Dify keep its files there, and each refusal with what to do about it."""

from __future__ import annotations

import dataclasses
import http.server
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import ClassVar

import pytest

from installer.core import errors
from installer.release import storage
from installer.services import bucket, s3
from tests.target.servers import PASSWORD, Authority, Bucket

SWIFT = Path("/usr/lib/python3/dist-packages/swift")


@pytest.fixture(scope="module")
def server() -> Iterator[Bucket]:
    if not SWIFT.is_dir():
        pytest.skip("OpenStack Swift is not installed: tests/target/packages.sh installs it")
    with Bucket() as running:
        yield running


def look(server: Bucket, *, key_is_new: bool = True, authority: bytes | None = None, **fields: object) -> bucket.Seen:
    trusted = server.authority.certificate if authority is None else authority
    return bucket.look(server.wanted(**fields), trusted, key_is_new=key_is_new)


def refusal(server: Bucket, **options: object) -> errors.PreflightFailed:
    with pytest.raises(errors.PreflightFailed) as caught:
        look(server, **options)  # type: ignore[arg-type]
    assert caught.value.remedy
    assert PASSWORD not in caught.value.message + caught.value.remedy
    return caught.value


def test_the_signature_is_that_of_amazons_example() -> None:
    # "Signature Calculations for the Authorization Header", "Example: GET Bucket (List Objects)".
    example = storage.Storage(
        host="examplebucket.s3.amazonaws.com",
        port=443,
        tls=True,
        key="AKIAIOSFODNN7EXAMPLE",
        secret="wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        bucket="examplebucket",
        region="us-east-1",
    )
    headers = s3.sign(example, datetime(2013, 5, 24, tzinfo=UTC), "GET", "/", {"max-keys": "2", "prefix": "J"}, b"")
    assert headers["authorization"] == (
        "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,"
        "SignedHeaders=host;x-amz-content-sha256;x-amz-date,"
        "Signature=34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"
    )


def test_a_bucket_that_dify_can_use_is_left_as_it_was(server: Bucket) -> None:
    seen = look(server)
    assert (seen.holds_a_dify, seen.warnings) == (False, ())
    assert server.keys() == []


@pytest.mark.parametrize(
    ("fields", "seen", "remedy"),
    [
        ({"secret": "wrong"}, "does not let company:dify in", "--storage-url"),
        ({"key": "company:nobody"}, "does not let company:nobody in", "--storage-url"),
        ({"bucket": "nothing-here"}, "has no bucket nothing-here", "makes it, empty"),
        ({"region": "eu-west-1"}, "the region is not eu-west-1: it is us-east-1", "?region=us-east-1"),
        ({"key": Bucket.STRANGER}, "s3:ListBucket is refused", "allows s3:ListBucket on arn:aws:s3:::dify;"),
        ({"tls": False}, "does not answer as S3 does", "leave tls=disable out"),
    ],
)
def test_each_refusal_says_what_the_administrator_does(
    server: Bucket, fields: dict[str, object], seen: str, remedy: str
) -> None:
    found = refusal(server, **fields)
    assert seen in found.message
    assert remedy in found.remedy
    assert server.keys() == []


def test_one_who_may_only_read_is_told_so(server: Bucket) -> None:
    found = refusal(server, key=Bucket.READER)
    assert "s3:PutObject is refused" in found.message
    assert "arn:aws:s3:::dify/*" in found.remedy


def test_a_clock_that_is_wrong_is_told_with_its_seconds(server: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    class Fast(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Fast:
            return super().now(tz) + timedelta(hours=1)

    monkeypatch.setattr(s3, "datetime", Fast)
    found = refusal(server)
    assert "signed at another time than its own" in found.message
    assert "set this host's clock" in found.remedy
    moment = (datetime.now(UTC) - timedelta(seconds=3600)).strftime("%a, %d %b %Y %H:%M:%S GMT")
    assert "clock is 360" in bucket._lag(s3.Answer(status=403, headers={"date": moment}, body=b""))
    assert bucket._lag(s3.Answer(status=403, headers={}, body=b"")) == ""


def test_a_certificate_of_a_stranger_or_for_another_name_is_refused(server: Bucket) -> None:
    assert "not of an authority that is trusted" in refusal(server, authority=Authority("stranger").certificate).message
    with pytest.raises(errors.PreflightFailed, match="nothing says with which authority"):
        bucket.look(server.wanted(), None, key_is_new=True)
    server.stop()
    certificate = server.authority.sign("s3.elsewhere")
    own = [(server.folder / name).read_bytes() for name in ("server.crt", "server.key")]
    server.present(*certificate)
    server.start()
    try:
        assert "its certificate is for another name" in refusal(server).message
    finally:
        server.stop()
        server.present(*own)
        server.start()


def test_the_bucket_of_a_dify_is_taken_with_its_key_alone(server: Bucket) -> None:
    server.put("privkeys/tenant/private.pem")
    try:
        found = refusal(server)
        assert "it holds the files of a Dify" in found.message
        assert "--set SECRET_KEY" in found.remedy
        assert look(server, key_is_new=False).holds_a_dify
        assert server.keys() == ["privkeys/tenant/private.pem"]
    finally:
        server.remove("privkeys/tenant/private.pem")


def test_files_of_others_in_the_bucket_are_let_alone(server: Bucket) -> None:
    server.put("reports/2026.pdf")
    try:
        assert not look(server).holds_a_dify
        assert server.keys() == ["reports/2026.pdf"]
    finally:
        server.remove("reports/2026.pdf")


def test_where_nothing_listens_is_told(server: Bucket) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert "nothing listens there" in refusal(server, port=port).message


class Scripted(http.server.BaseHTTPRequestHandler):
    """Answers as it is told: what a real server here does not do by itself."""

    answers: ClassVar[dict[str, tuple[int, dict[str, str], bytes]]]
    asked: ClassVar[list[str]]

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        kind = "LIST" if "list-type" in self.path else self.command + ("?" if "versionId" in self.path else "")
        self.asked.append(kind)
        status, headers, body = self.answers.get(kind, (200, {}, b""))
        self.send_response(status)
        for name, value in {**headers, "content-length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = do_DELETE = _answer

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def scripted() -> Iterator[tuple[storage.Storage, type[Scripted]]]:
    class Mine(Scripted):
        answers: ClassVar[dict[str, tuple[int, dict[str, str], bytes]]] = {}
        asked: ClassVar[list[str]] = []

    with http.server.HTTPServer(("127.0.0.1", 0), Mine) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield (
            storage.Storage(
                host="127.0.0.1",
                port=running.server_port,
                tls=False,
                key="key",
                secret="s3cret",
                bucket="dify",
                region="us-east-1",
            ),
            Mine,
        )
        running.shutdown()


def denied(code: str, more: str = "") -> tuple[int, dict[str, str], bytes]:
    return 403, {}, f"<Error><Code>{code}</Code><Message>no</Message>{more}</Error>".encode()


KEY: tuple[int, dict[str, str], bytes] = (200, {}, b"<Contents><Key>dify-installer-x</Key></Contents>")


def test_a_version_of_what_was_tried_is_removed_too(scripted: tuple[storage.Storage, type[Scripted]]) -> None:
    wanted, server = scripted
    version = {"x-amz-version-id": "v1"}
    server.answers |= {"PUT": (200, version, b""), "GET": (200, {}, bucket.CONTENT), "LIST": KEY}
    # It is there still, says this one.
    with pytest.raises(errors.PreflightFailed, match="was removed, and is still there"):
        bucket.look(wanted, None, key_is_new=False)
    assert "DELETE?" in server.asked
    server.answers["DELETE?"] = denied("AccessDenied")
    server.asked.clear()
    with pytest.raises(errors.PreflightFailed, match="was removed, and is still there"):
        bucket.look(wanted, None, key_is_new=False)
    assert [each for each in server.asked if each.startswith("DELETE")] == ["DELETE?", "DELETE"]


def test_what_stays_of_a_bucket_with_versions_is_a_warning(scripted: tuple[storage.Storage, type[Scripted]]) -> None:
    wanted, server = scripted
    server.answers["DELETE?"] = denied("AccessDenied")
    server.answers["GET"] = denied("NoSuchKey")
    with s3.Connection(wanted, 5, None) as connection:
        ((seen, remedy),) = bucket._remove(connection, wanted, "dify-installer-x", "v1")
    assert "keeps versions" in seen
    assert "s3:DeleteObjectVersion" in remedy


def test_what_may_not_be_removed_is_named(scripted: tuple[storage.Storage, type[Scripted]]) -> None:
    wanted, server = scripted
    server.answers |= {"GET": (200, {}, bucket.CONTENT), "LIST": KEY, "DELETE": denied("AccessDenied")}
    with pytest.raises(errors.PreflightFailed, match="s3:DeleteObject is refused") as caught:
        bucket.look(wanted, None, key_is_new=False)
    assert "is to be removed there" in caught.value.remedy
    # The first reason is told, and what was written is removed all the same.
    server.answers |= {"GET": denied("AccessDenied"), "DELETE": (204, {}, b"")}
    server.asked.clear()
    with pytest.raises(errors.PreflightFailed, match="s3:GetObject is refused"):
        bucket.look(wanted, None, key_is_new=False)
    assert "DELETE" in server.asked


def test_what_is_changed_on_the_way_is_refused(
    scripted: tuple[storage.Storage, type[Scripted]], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, server = scripted
    monkeypatch.setattr(bucket, "LIST_PAUSE", 0)
    monkeypatch.setattr(bucket, "_remove", lambda *_: iter(()))
    server.answers |= {"GET": (200, {}, b"<html>"), "LIST": KEY}
    with pytest.raises(errors.PreflightFailed, match="is not what was read"):
        bucket.look(wanted, None, key_is_new=False)
    server.answers |= {"GET": (200, {}, bucket.CONTENT), "LIST": (200, {}, b"<ListBucketResult/>")}
    with pytest.raises(errors.PreflightFailed, match="does not list what it holds"):
        bucket.look(wanted, None, key_is_new=False)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (denied("InvalidAccessKeyId"), "knows no access key key"),
        (denied("AuthorizationHeaderMalformed", "<Region>eu-1</Region>"), "the region is not us-east-1: it is eu-1"),
        ((301, {"x-amz-bucket-region": "eu-2"}, b"<Error><Code>PermanentRedirect</Code></Error>"), "it is eu-2"),
        (denied("SlowDown"), r"it refuses: no \(SlowDown, 403\)"),
        ((302, {"location": "https://login"}, b""), "does not answer as S3 does: status 302"),
        ((400, {}, b"Client sent an HTTP request to an HTTPS server."), "does not answer as S3 does"),
    ],
)
def test_the_words_of_other_servers_are_known(
    scripted: tuple[storage.Storage, type[Scripted]], answer: tuple[int, dict[str, str], bytes], said: str
) -> None:
    wanted, server = scripted
    server.answers["LIST"] = answer
    with pytest.raises(errors.PreflightFailed, match=said) as caught:
        bucket.look(wanted, None, key_is_new=True)
    assert caught.value.remedy


def test_what_does_not_speak_http_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def greet() -> None:
            with listening.accept()[0] as connection:
                connection.sendall(b"220 mail.intranet ESMTP\r\n")

        threading.Thread(target=greet, daemon=True).start()
        wanted = storage.checked("s3://k:s@10.0.0.9/dify?tls=disable")
        wanted = dataclasses.replace(wanted, host="127.0.0.1", port=listening.getsockname()[1])
        with pytest.raises(errors.PreflightFailed, match="does not answer as S3 does"):
            bucket.look(wanted, None, key_is_new=True)
