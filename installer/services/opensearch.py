"""Does once on an OpenSearch what Dify does for a knowledge base, and removes it.

What the api does there (Dify 1.11.3, api/core/rag/datasource/vdb/opensearch/opensearch_vector.py): it makes an index
with a field of the kind knn_vector, by the engine faiss, writes with the bulk API, finds the nearest, and finds words.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any

from installer.core import errors
from installer.release.vector_store import VectorStore
from installer.services.json_http import Answer, Client, NotJsonError

# What is written is found with the next refresh, each second unless its administrator has another one.
TRIES, PAUSE = 20, 0.5
TEXTS = ("가나다 first", "라마바 second")
VECTORS = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
KNN = "the k-NN plugin is not installed on that server"
# The rights of Dify's user in the words of OpenSearch's own Security plugin.
ROLE = (
    "its administrator gives this user a role with cluster_permissions indices:data/write/bulk, and indices_all on "
    "{pattern}"
)


def go_round(client: Client, store: VectorStore, name: str) -> str:
    """Make an index, find in it, remove it; return the server's version, or "unknown" where this user may not see it.

    Raises PreflightFailed, NotJsonError, OSError.
    """
    version = _version(client, store)
    name = name.lower()
    _require(client.ask("PUT", f"/{name}", _index()), store, "make an index")
    try:
        found = _try(client, store, name)
    except (errors.PreflightFailed, NotJsonError, OSError):
        # The first reason is the one to tell.
        with contextlib.suppress(NotJsonError, OSError):
            client.ask("DELETE", f"/{name}")
        raise
    removed = client.ask("DELETE", f"/{name}")
    if not removed.ok:
        raise errors.PreflightFailed(
            f"{store.where}: the index {name}, which was made to try it, is not removed: {_said(removed)}",
            f"remove it there; {ROLE.format(pattern=_pattern(store))}",
        )
    if found != [TEXTS[1]] * 2:
        raise errors.PreflightFailed(
            f"{store.where}: what was written is not what was found within {TRIES * PAUSE:.0f} s",
            "name the OpenSearch itself: something between changes it; or have refresh_interval shortened there",
        )
    return version


def _version(client: Client, store: VectorStore) -> str:
    answer = client.ask("GET", "/")
    if answer.status == 401:
        raise errors.PreflightFailed(
            f"{store.where} does not let {store.user} in: user or password is wrong",
            "correct them in --vector-url (write / + : @ as %2F %2B %3A %40)",
        )
    if answer.status == 403:
        # Dify's program does not ask, so nobody needs the right.
        return "unknown"
    version = answer.body.get("version") if isinstance(answer.body, dict) else None
    if not answer.ok or not isinstance(version, dict):
        raise NotJsonError(f"status {answer.status}, and nothing that says it is OpenSearch")
    if version.get("distribution") != "opensearch":
        raise errors.PreflightFailed(
            f"{store.where} is not OpenSearch: it says {version.get('distribution') or 'Elasticsearch'} "
            f"{version.get('number', '')}",
            "name an OpenSearch; Dify's program for it does not speak to others",
        )
    return str(version.get("number", "unknown"))


def _index() -> dict[str, Any]:
    method = {"name": "hnsw", "space_type": "l2", "engine": "faiss", "parameters": {"ef_construction": 64, "m": 8}}
    words = {"doc_id": {"type": "keyword"}, "document_id": {"type": "keyword"}}
    fields = {
        "page_content": {"type": "text"},
        "vector": {"type": "knn_vector", "dimension": len(VECTORS[0]), "method": method},
        "metadata": {"type": "object", "properties": words},
    }
    return {"settings": {"index": {"knn": True}}, "mappings": {"properties": fields}}


def _try(client: Client, store: VectorStore, name: str) -> list[str]:
    """Return what is found by nearness, and by a word, as soon as something is."""
    lines: list[dict[str, Any]] = []
    for number, (text, vector) in enumerate(zip(TEXTS, VECTORS, strict=True)):
        lines += [{"index": {"_index": name, "_id": str(number)}}]
        lines += [{"page_content": text, "vector": vector, "metadata": {"doc_id": str(number)}}]
    written = client.ask("POST", "/_bulk", lines=lines)
    _require(written, store, "write documents")
    _require_written(written, store)
    near = {"size": 1, "query": {"knn": {"vector": {"vector": [0.0, 1.0, 0.1], "k": 1}}}}
    word = {"query": {"bool": {"must": [{"match": {"page_content": "second"}}]}}}
    found: list[str] = []
    for tried in range(TRIES):
        time.sleep(PAUSE if tried else 0)
        answers = [client.ask("POST", f"/{name}/_search", each) for each in (near, word)]
        for answer in answers:
            _require(answer, store, "search")
        found = [text for answer in answers for text in _texts(answer)]
        if len(found) == len(answers):
            break
    return found


def _texts(answer: Answer) -> list[str]:
    hits = answer.body.get("hits", {}).get("hits", []) if isinstance(answer.body, dict) else []
    return [str(hit.get("_source", {}).get("page_content")) for hit in hits]


def _require_written(answer: Answer, store: VectorStore) -> None:
    """Raise PreflightFailed for documents that were refused: the answer as a whole says that all is well."""
    items = answer.body.get("items", []) if isinstance(answer.body, dict) else []
    done = [next(iter(item.values())) for item in items]
    for each in done:
        if "error" in each:
            _require(Answer(status=each.get("status", 0), body=each), store, "write documents")
    if len(done) != len(TEXTS):
        raise NotJsonError("an answer to documents that were written which does not name them")


def _require(answer: Answer, store: VectorStore, what: str) -> None:
    """Raise PreflightFailed for a refusal, with what the administrator of that server has to do."""
    if answer.ok:
        return
    said = _said(answer)
    if answer.status in (401, 403):
        raise errors.PreflightFailed(
            f"{store.where}: {store.user} may not {what}: {said}", ROLE.format(pattern=_pattern(store))
        )
    if "knn" in said.lower() and answer.status == 400:
        raise errors.PreflightFailed(
            f"{store.where}: {KNN}: {said}", "its administrator installs opensearch-knn, of the server's own version"
        )
    raise errors.PreflightFailed(
        f"{store.where}: it refuses to {what}: {said} ({answer.status})",
        "its administrator finds the reason in its log; Dify does the same for each knowledge base",
    )


def _pattern(store: VectorStore) -> str:
    return f"{store.prefix.lower()}_*"


def _said(answer: Answer) -> str:
    """Return the server's own words."""
    error = answer.body.get("error") if isinstance(answer.body, dict) else answer.body
    words = error.get("reason") if isinstance(error, dict) else error
    return " ".join(str(words or "no reason is given").split())[:300]
