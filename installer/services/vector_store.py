"""Asks a Qdrant or an OpenSearch of others whether Dify can keep its vectors there; what is tried is removed again."""

from __future__ import annotations

import secrets
import ssl
from collections.abc import Callable

from installer.release.vector_store import NAMES, TLS_OFF, Kind, VectorStore
from installer.services import json_http, opensearch, qdrant, reach
from installer.services.json_http import Client, NotJsonError

SECONDS = 20.0
OPTION = "--vector-url"
# What is tried, by kind: client and server, and the name of what is made and removed; returns the server's version.
_ROUNDS: dict[Kind, Callable[[Client, VectorStore, str], str]] = {
    "qdrant": qdrant.go_round,
    "opensearch": opensearch.go_round,
}


def look(store: VectorStore, authorities: bytes | None) -> str:
    """Ask whether Dify can keep its vectors there, as it would; leaves nothing there. Returns the server's version.

    `authorities` are certificates, PEM. Raises PreflightFailed with the reason and what to do.
    """
    context: ssl.SSLContext | None = None
    if store.tls:
        context = reach.make_context(verifies=True, names=True, authorities=authorities, where=store.where)
    headers = {"api-key": store.secret} if store.kind == "qdrant" else json_http.basic(store.user, store.secret)
    client = Client(host=store.host, port=store.port, seconds=SECONDS, context=context, headers=headers)
    # A role may be for the names that Dify gives, and for no others.
    name = f"{store.prefix}_dify_installer_{secrets.token_hex(6)}"
    kind = NAMES[store.kind]
    with reach.speaking(store.where, url=OPTION, plain=f"tls={TLS_OFF}", tls=store.tls, kind=kind, wrong=NotJsonError):
        return _ROUNDS[store.kind](client, store, name)
