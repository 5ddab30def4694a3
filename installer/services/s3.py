"""Asks an S3 server over HTTP, with requests signed as AWS Signature Version 4 has it; the bucket stands in the path.

Source: Amazon's documents, "Signature Calculations for the Authorization Header: Transferring Payload in a Single
Chunk"; the example of that page is a unit test. Why no library: docs/decisions/030.
"""

from __future__ import annotations

import email.utils
import hashlib
import hmac
import http.client
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self
from urllib.parse import quote

from installer.release.storage import Storage

SCHEME = "AWS4-HMAC-SHA256"
SERVICE, END = "s3", "aws4_request"
# An answer of ours is small; what is larger is none of S3.
LARGEST_ANSWER = 1024 * 1024
_CODE = re.compile(rb"<Code>\s*([A-Za-z0-9.]+)\s*</Code>")
_MESSAGE = re.compile(rb"<Message>\s*([^<]*?)\s*</Message>")
_REGION = re.compile(rb"<Region>\s*([A-Za-z0-9-]+)\s*</Region>")
_EXPECTED = re.compile(r"expecting '([A-Za-z0-9-]+)'")


class NotS3Error(Exception):
    """What answers does not speak S3."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a server has answered; `code` is the word by which it refuses, as in NoSuchBucket."""

    status: int
    headers: Mapping[str, str]  # by names in small letters
    body: bytes

    @property
    def ok(self) -> bool:
        """Whether it was done."""
        return 200 <= self.status < 300

    @property
    def code(self) -> str:
        """Return the word by which it refuses; empty where there is none."""
        found = _CODE.search(self.body)
        return found[1].decode() if found else ""

    @property
    def message(self) -> str:
        """Return what it says besides."""
        found = _MESSAGE.search(self.body)
        return found[1].decode("utf-8", "replace") if found else ""

    @property
    def region(self) -> str:
        """Return the region that it names instead of ours; empty where it names none."""
        found = _REGION.search(self.body)
        told = _EXPECTED.search(self.message)
        named = found[1].decode() if found else (told[1] if told else "")
        return named or self.headers.get("x-amz-bucket-region", "")

    @property
    def moment(self) -> datetime | None:
        """Return the server's clock when it answered."""
        try:
            return email.utils.parsedate_to_datetime(self.headers.get("date", ""))
        except ValueError:
            return None


class Connection:
    """Connections to a server, one for each question; closes at the end of a `with` block."""

    def __init__(self, storage: Storage, seconds: float, context: ssl.SSLContext | None) -> None:
        """Connect with the first question, with TLS if there is a context."""
        self._storage = storage
        if context is None:
            self._http = http.client.HTTPConnection(storage.host, storage.port, timeout=seconds)
        else:
            self._http = http.client.HTTPSConnection(storage.host, storage.port, timeout=seconds, context=context)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def ask(self, method: str, key: str = "", query: Mapping[str, str] | None = None, content: bytes = b"") -> Answer:
        """Ask about an object of the bucket, or, without a key, the bucket. Raises NotS3Error, OSError."""
        path = quote(f"/{self._storage.bucket}/{key}".removesuffix("/"), safe="/-_.~")
        now = datetime.now(UTC)
        signed = sign(self._storage, now, method, path, query or {}, content)
        # An access key that is not of ASCII is for the server to refuse.
        headers = {name: value.encode() for name, value in signed.items()}
        line = path + (f"?{_query(query)}" if query else "")
        try:
            self._http.request(method, line, body=content if method == "PUT" else None, headers=headers)
            got = self._http.getresponse()
            answer = Answer(
                status=got.status,
                headers={name.lower(): value for name, value in got.getheaders()},
                body=got.read(LARGEST_ANSWER),
            )
        except http.client.HTTPException as error:
            raise NotS3Error(str(error)) from error
        finally:
            self._http.close()
        if not answer.ok and not answer.code:
            raise NotS3Error(f"status {answer.status}")
        return answer


def sign(
    storage: Storage, now: datetime, method: str, path: str, query: Mapping[str, str], content: bytes
) -> dict[str, str]:
    """Return the headers of a request, with its signature; `path` is encoded, `now` in UTC."""
    moment = now.strftime("%Y%m%dT%H%M%SZ")
    hashed = hashlib.sha256(content).hexdigest()
    host = storage.endpoint.partition("://")[2]
    headers = {"host": host, "x-amz-content-sha256": hashed, "x-amz-date": moment}
    names = ";".join(sorted(headers))
    listed = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
    canonical = "\n".join((method, path, _query(query), listed, names, hashed))
    scope = (moment[:8], storage.region, SERVICE, END)
    to_sign = "\n".join((SCHEME, moment, "/".join(scope), hashlib.sha256(canonical.encode()).hexdigest()))
    secret = f"AWS4{storage.secret}".encode()
    for word in scope:
        secret = hmac.digest(secret, word.encode(), "sha256")
    signature = hmac.digest(secret, to_sign.encode(), "sha256").hex()
    login = f"{SCHEME} Credential={storage.key}/{'/'.join(scope)},SignedHeaders={names},Signature={signature}"
    return {**headers, "authorization": login}


def _query(query: Mapping[str, str] | None) -> str:
    pairs = sorted((query or {}).items())
    return "&".join(f"{quote(key, safe='-_.~')}={quote(value, safe='-_.~')}" for key, value in pairs)
