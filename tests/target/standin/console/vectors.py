"""The vectors of a knowledge base in weaviate, by its REST API: core/rag/datasource/vdb/weaviate/weaviate_vector.py."""

import json
import os

import requests


def _call(method, path, body=None, missing=False):
    headers = {"Authorization": f"Bearer {os.environ['WEAVIATE_API_KEY']}"}
    try:
        answer = requests.request(
            method, f"{os.environ['WEAVIATE_ENDPOINT']}/v1/{path}", json=body, headers=headers, timeout=30
        )
    except requests.RequestException:
        # As the real one's client 4.17.0 says it.
        raise ConnectionError("Could not connect to Weaviate:Connection to Weaviate failed. Details: .") from None
    if missing and answer.status_code == 404:
        return None
    if answer.status_code >= 300:
        raise ValueError(f"Weaviate: unexpected status code: {answer.status_code}, with response body: {answer.text}")
    return answer.json()


def _collection(dataset):
    return f"Vector_index_{dataset.replace('-', '_')}_Node"


def exists(dataset):
    return _call("GET", f"schema/{_collection(dataset)}", missing=True) is not None


def add(dataset, segments, vectors):
    """Keep the vectors of segments, in a collection of the knowledge base's own."""
    if not exists(dataset):
        _call("POST", "schema", {"class": _collection(dataset)})
    objects = [
        {
            "class": _collection(dataset),
            "id": segment["id"],
            "properties": {"text": segment["content"], "doc_id": segment["id"]},
            "vector": vector,
        }
        for segment, vector in zip(segments, vectors, strict=True)
    ]
    _call("POST", "batch/objects", {"objects": objects})


def search(dataset, vector, limit):
    """Return the nearest segments' IDs with their scores, the best first; none that is not near at all."""
    if not exists(dataset):
        return []
    name = _collection(dataset)
    query = (
        f"{{Get{{{name}(nearVector:{{vector:{json.dumps(vector)}}} limit:{limit}){{doc_id _additional{{distance}}}}}}}}"
    )
    found = _call("POST", "graphql", {"query": query})["data"]["Get"][name]
    scored = [(one["doc_id"], 1 - one["_additional"]["distance"]) for one in found]
    return [(number, score) for number, score in scored if score > 0]


def drop(dataset):
    if exists(dataset):
        _call("DELETE", f"schema/{_collection(dataset)}")
