"""A bucket of an S3 server that a company runs already: where Dify is to keep its files, and the settings for that.

What each program reads (Dify 1.11.3, api/extensions/storage/aws_s3_storage.py, docker-compose.yaml; plugin daemon
0.5.2, internal/types/app/config.go, internal/server/server.go):

- The api takes S3_…, among them S3_ADDRESS_STYLE, which upstream's compose file does not hand on. It makes a bucket
  that is not there, and goes on where it may not ask for it: that shows when the first file is written.
- The plugin daemon takes PLUGIN_S3_… and PLUGIN_AWS_…. Without PLUGIN_S3_USE_AWS it asks the endpoint that is named.
- Both keep names apart in one bucket: upload_files/, tools/, privkeys/ and others of the api, plugin/,
  plugin_packages/, assets/ and persistence/ of the daemon.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

from installer.core import errors
from installer.release import urls

SHAPE = "s3://ACCESS_KEY:SECRET_KEY@HOST:PORT/BUCKET?region=us-east-1, with &tls=disable for http"
TYPE, S3 = "STORAGE_TYPE", "s3"
ENDPOINT, BUCKET = "S3_ENDPOINT", "S3_BUCKET_NAME"
# Upstream's compose file does not hand it on; what it says holds where an endpoint is named, too (botocore 1.35.99).
STYLE = "S3_ADDRESS_STYLE"
MANAGED = "S3_USE_AWS_MANAGED_IAM"
# What servers that are not Amazon's take, unless they are told otherwise (upstream's default).
DEFAULT_REGION = "us-east-1"
PORTS = {True: 443, False: 80}
# Amazon's rules for names; a dot would need a certificate for each level, were it ever a part of a host's name.
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_REGION = re.compile(r"[A-Za-z0-9-]{1,63}")
TLS_OFF = "disable"


@dataclass(frozen=True, kw_only=True, slots=True)
class Storage:
    """A bucket, and who writes into it; `key` is the access key, which says who."""

    host: str
    port: int
    tls: bool
    key: str
    secret: str = field(repr=False)
    bucket: str
    region: str

    @property
    def endpoint(self) -> str:
        """Return the server's URL as the programs take it."""
        port = "" if self.port == PORTS[self.tls] else f":{self.port}"
        return f"{'https' if self.tls else 'http'}://{self.host}{port}"

    @property
    def where(self) -> str:
        """Return where it is, for people."""
        return f"S3 at {self.host}:{self.port}"

    @property
    def addresses(self) -> dict[str, tuple[str, int]]:
        """Return host and port of what the containers have to reach, by its name for people."""
        return {self.where: (self.host, self.port)}

    @property
    def place(self) -> str:
        """Return where the files are, for people; two that are equal are one place."""
        return f"{self.where}, bucket {self.bucket}"


def checked(text: str) -> Storage:
    """Return the bucket that a URL names. Raises UsageError, never with the URL: a key is in it."""
    url = urls.split(text, ("s3",), SHAPE)
    query = dict(parse_qsl(url.query, keep_blank_values=True))
    tls = query.get("tls", "") != TLS_OFF
    host, port = urls.host_of(url, "storage"), urls.port_of(url, "storage", PORTS[tls])
    key = urls.word_of(url.username, "access key", "storage")
    secret = urls.word_of(url.password, "secret key", "storage")
    if unknown := sorted(set(query) - {"region", "tls"}):
        raise errors.UsageError(
            f"the URL of the storage has {', '.join(unknown)}, which nobody would read",
            "leave it out: region and tls may stand behind the bucket; the authorities are given with --ca-bundle",
        )
    if query.get("tls", TLS_OFF) != TLS_OFF:
        raise errors.UsageError(
            f"tls={query['tls']} is not known", f"leave it out for https, or write tls={TLS_OFF} for http"
        )
    region = query.get("region", DEFAULT_REGION)
    if not _REGION.fullmatch(region):
        raise errors.UsageError(
            f"{region!r} is not the name of a region", f"give one of letters, digits and -, as {DEFAULT_REGION}"
        )
    bucket = unquote(url.path.removeprefix("/"))
    if not _BUCKET.fullmatch(bucket):
        raise errors.UsageError(
            "the URL of the storage does not end with the name of a bucket: 3 to 63 small letters, digits, . and -",
            f"write it as {SHAPE}; what stands in front in the bucket is Dify's own choice",
        )
    return Storage(host=host, port=port, tls=tls, key=key, secret=secret, bucket=bucket, region=region)


def settings(storage: Storage) -> dict[str, str]:
    """Return the settings by which the api and the plugin daemon keep their files in a bucket."""
    return {
        TYPE: S3,
        ENDPOINT: storage.endpoint,
        BUCKET: storage.bucket,
        STYLE: "path",
        MANAGED: "false",
        "S3_REGION": storage.region,
        "S3_ACCESS_KEY": storage.key,
        "S3_SECRET_KEY": storage.secret,
        "PLUGIN_STORAGE_TYPE": "aws_s3",
        "PLUGIN_STORAGE_OSS_BUCKET": storage.bucket,
        "PLUGIN_S3_USE_AWS": "false",
        "PLUGIN_S3_USE_AWS_MANAGED_IAM": "false",
        "PLUGIN_S3_ENDPOINT": storage.endpoint,
        "PLUGIN_S3_USE_PATH_STYLE": "true",
        "PLUGIN_AWS_ACCESS_KEY": storage.key,
        "PLUGIN_AWS_SECRET_KEY": storage.secret,
        "PLUGIN_AWS_REGION": storage.region,
    }


_NOBODY = Storage(host="", port=443, tls=True, key="", secret="", bucket="", region="")
KEYS = tuple(settings(_NOBODY))


def find(variables: Mapping[str, str]) -> Storage | None:
    """Return the bucket that the settings name; None for a folder of ours, and for a cloud's own ways of login."""
    if variables.get(TYPE, "") != S3 or variables.get(MANAGED, "").lower() == "true":
        return None
    try:
        url = urlsplit(variables.get(ENDPOINT, ""))
        host, tls = url.hostname or "", url.scheme == "https"
        port = url.port or PORTS[tls]
    except ValueError:
        return None
    if not host or url.scheme not in ("http", "https"):
        return None
    return Storage(
        host=host,
        port=port,
        tls=tls,
        key=variables.get("S3_ACCESS_KEY", ""),
        secret=variables.get("S3_SECRET_KEY", ""),
        bucket=variables.get(BUCKET, ""),
        region=variables.get("S3_REGION") or DEFAULT_REGION,
    )


def in_words(storage: Storage) -> str:
    """Say where the files are and who writes them, without the secret."""
    security = "TLS" if storage.tls else "without TLS"
    return f"{storage.place}, as {storage.key}, {security}"
