"""A Qdrant or an OpenSearch that a company runs already: where Dify is to keep its vectors, and the settings for that.

A PostgreSQL with pgvector is in `release.external`. What the api reads (Dify 1.11.3, api/configs/middleware/vdb,
api/core/rag/datasource/vdb):

- Of Qdrant a URL and a key. Its client, qdrant-client 1.9.0, compares the certificate of an https URL, with the
  authorities that SSL_CERT_FILE names (httpx, "SSL certificates"). gRPC is off, which is upstream's default.
- Of OpenSearch host, port, user and password. Its client, opensearch-py 2.4.0, takes the authorities from SSL_CERT_FILE
  (opensearchpy/connection/base.py, default_ca_certs).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args
from urllib.parse import parse_qsl, urlsplit

from installer.core import errors
from installer.release import dify, urls

Kind = Literal["qdrant", "opensearch"]
KINDS: tuple[Kind, ...] = get_args(Kind)
NAMES: dict[Kind, str] = {"qdrant": "Qdrant", "opensearch": "OpenSearch"}
SHAPES: dict[Kind, str] = {
    "qdrant": "qdrant://API_KEY@HOST:6333, with ?tls=disable for http",
    "opensearch": "opensearch://USER:PASSWORD@HOST:9200, with ?tls=disable for http",
}
PORTS: dict[Kind, int] = {"qdrant": 6333, "opensearch": 9200}
KEYS = (
    *("QDRANT_URL", "QDRANT_API_KEY", "QDRANT_GRPC_ENABLED"),
    *("OPENSEARCH_HOST", "OPENSEARCH_PORT", "OPENSEARCH_USER", "OPENSEARCH_PASSWORD"),
    *("OPENSEARCH_SECURE", "OPENSEARCH_VERIFY_CERTS", "OPENSEARCH_AUTH_METHOD"),
)
# What stands in front of the name of each collection or index (api/models/dataset.py, gen_collection_name_by_id).
PREFIX, DEFAULT_PREFIX = "VECTOR_INDEX_NAME_PREFIX", "Vector_index"
TLS_OFF, TRUE = "disable", "true"


@dataclass(frozen=True, kw_only=True, slots=True)
class VectorStore:
    """A server, and who uses it: Qdrant has a key and no user. `prefix` begins the names of what Dify makes there."""

    kind: Kind
    host: str
    port: int
    tls: bool
    user: str = ""
    secret: str = field(repr=False)
    prefix: str = DEFAULT_PREFIX

    @property
    def where(self) -> str:
        """Return where it is, for people."""
        return f"{NAMES[self.kind]} at {self.host}:{self.port}"

    @property
    def place(self) -> str:
        """Return where the vectors are, for people; two that are equal are one place."""
        return self.where

    @property
    def addresses(self) -> dict[str, tuple[str, int]]:
        """Return host and port of what the containers have to reach, by its name for people."""
        return {self.where: (self.host, self.port)}

    @property
    def verifies(self) -> bool:
        """Whether the server's certificate is compared with the authorities."""
        return self.tls

    @property
    def in_words(self) -> str:
        """Say how it is reached, without secrets."""
        who = f", as {self.user}" if self.user else ""
        return f"{self.where} with the vectors{who}, {'TLS' if self.tls else 'without TLS'}"


def find_kind(text: str) -> Kind | None:
    """Return which of these kinds a URL is of, by its scheme; None for any other."""
    return next((each for each in KINDS if each == text.partition(":")[0].lower()), None)


def checked(text: str, kind: Kind) -> VectorStore:
    """Return the server that a URL names. Raises UsageError, never with the URL: a key or a password is in it."""
    what = NAMES[kind]
    url = urls.split(text, (kind,), SHAPES[kind])
    host, port = urls.host_of(url, what), urls.port_of(url, what, PORTS[kind])
    if kind == "qdrant":
        if url.password:
            raise errors.UsageError("the URL of Qdrant has a user and a password", f"it has a key: {SHAPES[kind]}")
        user, secret = "", urls.word_of(url.username, "key", what)
    else:
        user, secret = urls.word_of(url.username, "user", what), urls.word_of(url.password, "password", what)
    query = dict(parse_qsl(url.query, keep_blank_values=True))
    if set(query) - {"tls"} or query.get("tls", TLS_OFF) != TLS_OFF or url.path.strip("/"):
        raise errors.UsageError(
            f"the URL of {what} has more than a server, and Dify's program would not read it",
            f"write it as {SHAPES[kind]}; the authorities are given with --ca-bundle",
        )
    return VectorStore(kind=kind, host=host, port=port, tls="tls" not in query, user=user, secret=secret)


def settings(store: VectorStore) -> dict[str, str]:
    """Return the settings by which the api keeps its vectors there."""
    if store.kind == "qdrant":
        return {
            dify.VECTOR_STORE: store.kind,
            "QDRANT_URL": f"{'https' if store.tls else 'http'}://{store.host}:{store.port}",
            "QDRANT_API_KEY": store.secret,
            "QDRANT_GRPC_ENABLED": "false",
        }
    return {
        dify.VECTOR_STORE: store.kind,
        "OPENSEARCH_HOST": store.host,
        "OPENSEARCH_PORT": str(store.port),
        "OPENSEARCH_USER": store.user,
        "OPENSEARCH_PASSWORD": store.secret,
        "OPENSEARCH_SECURE": str(store.tls).lower(),
        "OPENSEARCH_VERIFY_CERTS": str(store.tls).lower(),
        "OPENSEARCH_AUTH_METHOD": "basic",
    }


def find(variables: Mapping[str, str]) -> VectorStore | None:
    """Return the server that the settings name, if it is neither our container nor a cloud's own way of login."""
    prefix = variables.get(PREFIX) or DEFAULT_PREFIX
    match variables.get(dify.VECTOR_STORE):
        case "qdrant":
            try:
                url = urlsplit(variables.get("QDRANT_URL", ""))
                host, port = url.hostname or "", url.port or PORTS["qdrant"]
            except ValueError:
                return None
            if host in ("", *KINDS):
                return None
            tls, secret = url.scheme == "https", variables.get("QDRANT_API_KEY", "")
            return VectorStore(kind="qdrant", host=host, port=port, tls=tls, secret=secret, prefix=prefix)
        case "opensearch":
            host, number = variables.get("OPENSEARCH_HOST", ""), variables.get("OPENSEARCH_PORT") or "9200"
            if host in ("", *KINDS) or variables.get("OPENSEARCH_AUTH_METHOD", "basic") != "basic":
                return None
            return VectorStore(
                kind="opensearch",
                host=host,
                port=int(number) if number.isdecimal() else 0,
                tls=variables.get("OPENSEARCH_SECURE", "").lower() == TRUE,
                user=variables.get("OPENSEARCH_USER", ""),
                secret=variables.get("OPENSEARCH_PASSWORD", ""),
                prefix=prefix,
            )
    return None
