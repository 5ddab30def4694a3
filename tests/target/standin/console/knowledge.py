"""What worker and api do with knowledge: core/indexing_runner.py, tasks/, core/rag/datasource/retrieval_service.py."""

import json
import pathlib
import traceback

import backing
from console import models, vectors

STORAGE = pathlib.Path("/app/api/storage/upload_files")


def later(task, **facts):
    """Let the worker do something; its queue is a list, as celery has it."""
    backing.broker().lpush("dataset", json.dumps({"task": task, **facts}))


def work(message):
    """Do what a message of the queue asks for."""
    given = json.loads(message)
    {"index": _index, "clean": _clean}[given.pop("task")](**given)


def _index(document):
    found = backing.one("document", id=document)
    dataset = backing.one("dataset", id=found["dataset"]) if found else None
    if dataset is None:
        return
    backing.change(found, indexing_status="parsing")
    try:
        _load(dataset, found)
    except Exception as error:
        traceback.print_exc()
        backing.change(found, indexing_status="error", error=getattr(error, "description", str(error)))


def _load(dataset, document):
    text = (STORAGE / document["file"]).read_text()
    parts = [part.strip() for part in text.split(document["rules"]["segmentation"]["separator"]) if part.strip()]
    about = {"dataset": dataset["id"], "document": document["id"], "completed": False}
    segments = [
        backing.add("segment", **about, content=part, position=place) for place, part in enumerate(parts, start=1)
    ]
    backing.change(document, indexing_status="indexing")
    vectors.add(dataset["id"], segments, _embed(dataset, parts, "document"))
    for segment in segments:
        backing.change(segment, completed=True)
    backing.change(document, indexing_status="completed")


def _embed(dataset, texts, kind):
    """Return the vectors of texts; of those that were asked for once, the model is not asked again."""
    about = {key: dataset[key] for key in ("embedding_model_provider", "embedding_model")}
    kept = {text: backing.one("vector", **about, text=text) for text in texts}
    new = [text for text, found in kept.items() if found is None]
    for text, vector in zip(new, _ask(dataset, new, kind) if new else (), strict=True):
        kept[text] = backing.add("vector", **about, text=text, vector=vector)
    return [kept[text]["vector"] for text in texts]


def _ask(dataset, texts, kind):
    """Return what the model makes of texts, asked for as many at once as its form says."""
    model, about = dataset["embedding_model"], "text-embedding"
    provider, credentials = models.credentials_of(dataset["tenant"], dataset["embedding_model_provider"], about, model)
    if credentials is None:
        raise ValueError(f"Model {model} credentials is not initialized.")
    most = provider.schema(about, model, credentials)["model_properties"].get("max_chunks") or 1
    made = []
    for start in range(0, len(texts), most):
        data = {"texts": texts[start : start + most], "input_type": kind}
        for answer in provider.ask("text_embedding/invoke", about, model, credentials, **data):
            made += answer["embeddings"]
    return made


def search(dataset, query, limit):
    """Return the segments that are nearest to a question, with their scores."""
    (vector,) = _embed(dataset, [query], "query")
    found = vectors.search(dataset["id"], vector, limit)
    return [(backing.one("segment", id=number), score) for number, score in found]


def _clean(dataset):
    """Remove what a removed knowledge base has left."""
    try:
        vectors.drop(dataset)
    except Exception:
        # As the real one does: the rest goes all the same.
        traceback.print_exc()
    for document in backing.find("document", dataset=dataset):
        (STORAGE / document["file"]).unlink(missing_ok=True)
        backing.remove("upload_file", id=document["file"])
    backing.remove("segment", dataset=dataset)
    backing.remove("document", dataset=dataset)
