"""Knowledge bases: controllers/console/files.py and controllers/console/datasets/."""

import secrets
import time

import backing
import flask
from console import knowledge
from console.apps import route
from console.payload import payload
from pages import Problem

console = flask.Blueprint("datasets", __name__)
# entities.knowledge_entities.RetrievalModel
DEFAULT_RETRIEVAL = {"search_method": "semantic_search", "top_k": 4}


def _dataset_of(number):
    found = backing.one("dataset", id=str(number), tenant=flask.g.tenant)
    if found is None:
        raise Problem(404, "not_found", "Dataset not found.")
    return found


def _shown(dataset):
    keys = ("id", "name", "created_at", "indexing_technique", "embedding_model", "embedding_model_provider")
    return {key: dataset.get(key) for key in keys}


@route(console, "/files/upload", "POST")
def upload():
    file = flask.request.files.get("file")
    if file is None:
        raise Problem(400, "no_file_uploaded", "Please upload your file.")
    kept = backing.add("upload_file", tenant=flask.g.tenant, name=file.filename)
    knowledge.STORAGE.mkdir(exist_ok=True)
    file.save(knowledge.STORAGE / kept["id"])
    return {"id": kept["id"], "name": file.filename, "created_at": kept["created_at"]}, 201


@route(console, "/datasets", "GET")
def listed():
    word = flask.request.args.get("keyword", "").lower()
    found = [each for each in backing.find("dataset", tenant=flask.g.tenant) if word in each["name"].lower()][::-1]
    limit = int(flask.request.args.get("limit", 20))
    start = (int(flask.request.args.get("page", 1)) - 1) * limit
    return {"data": [_shown(each) for each in found[start : start + limit]], "total": len(found), "limit": limit}


@route(console, "/datasets", "POST")
def create():
    given = payload("DatasetCreatePayload", name=40)
    if backing.one("dataset", tenant=flask.g.tenant, name=given["name"]):
        raise Problem(
            409, "dataset_name_duplicate", "The dataset name already exists. Please modify your dataset name."
        )
    made = backing.add("dataset", tenant=flask.g.tenant, name=given["name"], created_by=flask.g.account["id"])
    return _shown(made), 201


@route(console, "/datasets/<uuid:number>", "DELETE")
def delete(number):
    dataset = _dataset_of(number)
    if backing.one("document", dataset=dataset["id"]):
        knowledge.later("clean", dataset=dataset["id"])
    backing.remove("dataset", id=dataset["id"])
    return "", 204


@route(console, "/datasets/<uuid:number>/documents", "POST")
def add_documents(number):
    dataset = _dataset_of(number)
    given = payload("KnowledgeConfig", indexing_technique=None, data_source=None, process_rule=None)
    # The stand-in knows but this way.
    assert given["indexing_technique"] == "high_quality"
    if "indexing_technique" not in dataset:
        keys = ("indexing_technique", "embedding_model", "embedding_model_provider")
        retrieval = given.get("retrieval_model") or DEFAULT_RETRIEVAL
        backing.change(dataset, **{key: given[key] for key in keys}, retrieval_model=retrieval)
    batch = time.strftime("%Y%m%d%H%M%S") + str(100000 + secrets.randbelow(900000))
    files = given["data_source"]["info_list"]["file_info_list"]["file_ids"]
    if any(backing.one("upload_file", id=each, tenant=flask.g.tenant) is None for each in files):
        raise ValueError("One or more files not found.")
    about = {"dataset": dataset["id"], "batch": batch, "rules": given["process_rule"]["rules"]}
    documents = [backing.add("document", **about, file=each, indexing_status="waiting", error=None) for each in files]
    for each in documents:
        knowledge.later("index", document=each["id"])
    return {"dataset": _shown(dataset), "documents": [{"id": each["id"]} for each in documents], "batch": batch}


@route(console, "/datasets/<uuid:number>/batch/<string:batch>/indexing-status", "GET")
def indexing_status(number, batch):
    found = backing.find("document", dataset=_dataset_of(number)["id"], batch=batch)
    if not found:
        raise Problem(404, "not_found", "Documents not found.")
    return {"data": [_status(each) for each in found]}


def _status(document):
    segments = backing.find("segment", document=document["id"])
    return {
        **{key: document[key] for key in ("id", "indexing_status", "error")},
        "completed_segments": sum(each["completed"] for each in segments),
        "total_segments": len(segments),
    }


@route(console, "/datasets/<uuid:number>/hit-testing", "POST")
def hit_testing(number):
    dataset = _dataset_of(number)
    given = payload("HitTestingPayload", query=250)
    retrieval = given.get("retrieval_model") or dataset["retrieval_model"]
    try:
        found = knowledge.search(dataset, given["query"], retrieval["top_k"])
    except Exception as error:
        # RetrievalService gathers whatever its threads raise into one ValueError.
        raise ValueError(str(error)) from error
    records = [{"segment": {"id": one["id"], "content": one["content"]}, "score": score} for one, score in found]
    return {"query": {"content": given["query"]}, "records": records}
