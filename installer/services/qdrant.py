"""Does once on a Qdrant what Dify does for a knowledge base, and removes it.

What the api does there (Dify 1.11.3, api/core/rag/datasource/vdb/qdrant/qdrant_vector.py): it lists the collections,
makes one with an index of each field, writes points, finds the nearest of a group, and finds words.
"""

from __future__ import annotations

import contextlib
from typing import Any

from installer.core import errors
from installer.release.vector_store import VectorStore
from installer.services.json_http import Answer, Client, NotJsonError

TITLE = "qdrant"
GROUP, CONTENT = "group_id", "page_content"
TEXTS = ("가나다 first", "라마바 second")
VECTORS = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
OF_THE_GROUP = {"key": GROUP, "match": {"value": "tried"}}
FIELDS: dict[str, Any] = {
    **dict.fromkeys((GROUP, "metadata.doc_id", "metadata.document_id"), "keyword"),
    CONTENT: {"type": "text", "tokenizer": "multilingual", "min_token_len": 2, "max_token_len": 20, "lowercase": True},
}


def go_round(client: Client, store: VectorStore, name: str) -> str:
    """Make a collection, find in it, remove it; return the server's version.

    Raises PreflightFailed, NotJsonError, OSError.
    """
    version = _version(client)
    _require(client.ask("GET", "/collections"), store, "list the collections")
    path = f"/collections/{name}"
    made = client.ask("PUT", path, _collection())
    _require(made, store, "make a collection")
    try:
        found = _try(client, store, path)
    except (errors.PreflightFailed, NotJsonError, OSError):
        # The first reason is the one to tell.
        with contextlib.suppress(NotJsonError, OSError):
            client.ask("DELETE", path)
        raise
    removed = client.ask("DELETE", path)
    if not removed.ok or client.ask("GET", path).status != 404:
        raise errors.PreflightFailed(
            f"{store.where}: the collection {name}, which was made to try it, is not removed: {_said(removed)}",
            "remove it there; Dify has to be able to do so, too",
        )
    if found != [TEXTS[1]] * 2:
        raise errors.PreflightFailed(
            f"{store.where}: what was written is not what was found",
            "name the Qdrant itself: something between changes what is sent, or answers from what it has kept",
        )
    return version


def _version(client: Client) -> str:
    """Return what the server says of itself, which needs no key."""
    answer = client.ask("GET", "/")
    body = answer.body if isinstance(answer.body, dict) else {}
    if not answer.ok or not str(body.get("title", "")).startswith(TITLE):
        raise NotJsonError(f"status {answer.status}, and nothing that says it is Qdrant")
    return str(body.get("version", "unknown"))


def _collection() -> dict[str, Any]:
    index = {"m": 0, "payload_m": 16, "ef_construct": 100, "full_scan_threshold": 10000, "max_indexing_threads": 0}
    return {
        "vectors": {"size": len(VECTORS[0]), "distance": "Cosine"},
        "hnsw_config": {**index, "on_disk": False},
        "replication_factor": 1,
        "write_consistency_factor": 1,
    }


def _try(client: Client, store: VectorStore, path: str) -> list[str]:
    """Return what is found by nearness, and by a word."""
    for field, schema in FIELDS.items():
        wanted = {"field_name": field, "field_schema": schema}
        _require(client.ask("PUT", f"{path}/index?wait=true", wanted), store, f"make an index of {field}")
    points = [
        {"id": number, "vector": vector, "payload": {CONTENT: text, GROUP: "tried"}}
        for number, (text, vector) in enumerate(zip(TEXTS, VECTORS, strict=True), start=1)
    ]
    _require(client.ask("PUT", f"{path}/points?wait=true", {"points": points}), store, "write points")
    near = {"vector": [0.0, 1.0, 0.1], "filter": {"must": [OF_THE_GROUP]}, "limit": 1, "with_payload": True}
    nearest = client.ask("POST", f"{path}/points/search", near)
    _require(nearest, store, "search")
    word = {"must": [OF_THE_GROUP, {"key": CONTENT, "match": {"text": "second"}}]}
    scrolled = client.ask("POST", f"{path}/points/scroll", {"filter": word, "limit": 2, "with_payload": True})
    _require(scrolled, store, "search for words")
    return [_content(each) for each in (*_points(nearest), *_points(scrolled))]


def _points(answer: Answer) -> list[Any]:
    result = answer.body.get("result") if isinstance(answer.body, dict) else None
    points = result.get("points") if isinstance(result, dict) else result
    return points if isinstance(points, list) else []


def _content(point: Any) -> str:
    payload = point.get("payload") if isinstance(point, dict) else None
    return str(payload.get(CONTENT)) if isinstance(payload, dict) else ""


def _require(answer: Answer, store: VectorStore, what: str) -> None:
    """Raise PreflightFailed for a refusal, with what the administrator of that server has to do."""
    if answer.ok:
        return
    if answer.status == 401:
        raise errors.PreflightFailed(
            f"{store.where} refuses the key: {_said(answer)}",
            "correct it in --vector-url (write / + : @ as %2F %2B %3A %40): it is service.api_key of its configuration",
        )
    if answer.status == 403:
        raise errors.PreflightFailed(
            f"{store.where}: the key may not {what}: {_said(answer)}",
            "give one that may do all: Dify makes a collection for each model, and removes what it has made",
        )
    raise errors.PreflightFailed(
        f"{store.where}: it refuses to {what}: {_said(answer)} ({answer.status})",
        "its administrator finds the reason in its log; Dify does the same for each knowledge base",
    )


def _said(answer: Answer) -> str:
    """Return the server's own words."""
    status = answer.body.get("status") if isinstance(answer.body, dict) else answer.body
    words = status.get("error") if isinstance(status, dict) else status
    return " ".join(str(words or "no reason is given").split())[:300]
