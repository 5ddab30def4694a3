"""Makes a small knowledge base, and asks it: the proof that worker, embedding model and vector store work together.

Source: Dify 1.11.3, controllers/console/files.py and datasets/{datasets,datasets_document,hit_testing}.py beside it,
services/dataset_service.py, core/indexing_runner.py and tasks/{document_indexing,clean_dataset}_task.py.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from installer.core import errors
from installer.core.console import Console
from installer.workspace import ask, hops
from installer.workspace.client import Client, ConsoleError

# A knowledge base that is there while we ask; one whose name begins so that is there before, a killed run has left.
# Names are unique among all accounts of a workspace, and at most 40 characters long.
PASSING = "dify-installer: knowledge"
FILE = "dify-installer.txt"
# Between passages: each becomes one of its own.
SEPARATOR = "\n\n"
# Blanks of some widths (Unicode, General Punctuation), which models read as one and the same.
BLANKS = "\u00a0\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
POLL_SECONDS = 0.5
# A worker that is just starting imports all of Dify first.
TAKEN_SECONDS = 120.0
INDEXED_SECONDS = 300.0

# As the console's form has it; 50 tokens is the least that Dify accepts.
RULES = {
    "pre_processing_rules": [
        {"id": "remove_extra_spaces", "enabled": True},
        {"id": "remove_urls_emails", "enabled": False},
    ],
    "segmentation": {"separator": SEPARATOR, "max_tokens": 500, "chunk_overlap": 0},
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Words:
    """What is known and asked in a language; the passage that is `meant` shares no word with the question."""

    question: str
    meant: str
    others: tuple[str, str]

    @property
    def passages(self) -> tuple[str, ...]:
        """All passages; the one that is meant is neither the first nor the last."""
        return (self.others[0], self.meant, self.others[1])


WORDS: dict[str, Words] = {
    "en": Words(
        question="Where can I park?",
        meant="Guests leave their cars in the yard behind the building.",
        others=(
            "The canteen serves lunch from noon until two o'clock.",
            "An employee who has forgotten their login credentials gets new ones from an administrator.",
        ),
    ),
    "ko": Words(
        question="주차는 어디에 하나요?",
        meant="손님은 건물 뒤 마당에 차를 세웁니다.",
        others=(
            "구내식당은 정오부터 두 시까지 점심을 제공합니다.",
            "로그인 정보를 잊은 직원은 관리자에게 새로 발급받습니다.",
        ),
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What a knowledge base has found; times in seconds, `path` the stations of the way.

    `answer` is what the chat model says with it; None where there is none to ask.
    """

    provider: str
    model: str
    question: str
    passage: str
    passages: int
    index_seconds: float
    find_seconds: float
    path: tuple[str, ...]
    answer: ask.Answer | None = None


class KnowledgeFailed(errors.WorkspaceFailed):
    """The knowledge base finds nothing, or what is not meant; `fault` says where on the way."""

    def __init__(self, fault: hops.Fault) -> None:
        super().__init__(f"the knowledge base fails at the hop {fault.hop}: {fault.words}", fault.remedy)
        self.fault = fault


def prove(
    client: Client,
    embedder: tuple[str, str],
    words: Words,
    worker_runs: Callable[[], bool],
    console: Console,
    talker: tuple[str, str] | None = None,
    app: ask.Words = ask.WORDS["en"],
) -> Found:
    """Make a knowledge base, let it be indexed, ask it, and remove it.

    `embedder` and `talker` are provider and name of a model; the latter is asked as well, with the knowledge at hand.
    `worker_runs` tells whether the worker's container does. Raises KnowledgeFailed.
    """
    provider, model = embedder
    try:
        with _dataset(client) as dataset:
            passages, indexed = _index(client, dataset, embedder, words, worker_runs, console)
            passage, found = _find(client, dataset, model, words)
            answer = None
            if talker is not None:
                console.waiting(f"{talker[1]} to answer with the knowledge")
                answer = _answer(client, dataset, talker, words, app)
    except ConsoleError as error:
        raise KnowledgeFailed(hops.read_fault(error)) from error
    except ask.AskFailed as error:
        raise KnowledgeFailed(error.fault) from error
    finally:
        console.waiting("")
    return Found(
        provider=provider,
        model=model,
        question=words.question,
        passage=passage,
        passages=passages,
        index_seconds=indexed,
        find_seconds=found,
        path=("front door", "api", "worker", "plugin daemon", f"plugin {provider}", f"model {model}", "vector store"),
        answer=answer,
    )


@contextlib.contextmanager
def _dataset(client: Client) -> Iterator[str]:
    """Have an empty knowledge base, and give its ID; what a killed run has left goes first."""
    for left in _find_left(client):
        client.delete(f"/datasets/{left}")
    dataset = client.post("/datasets", {"name": f"{PASSING} {secrets.token_hex(4)}"})["id"]
    try:
        yield dataset
    finally:
        # The worker removes vectors and file. What failed before is told, not this; the next run looks for what is
        # left.
        with contextlib.suppress(ConsoleError):
            client.delete(f"/datasets/{dataset}")


def _find_left(client: Client) -> list[str]:
    found = client.get("/datasets", page=1, limit=100, keyword=PASSING, include_all="true")["data"]
    return [each["id"] for each in found if each["name"].startswith(PASSING)]


def _index(
    client: Client,
    dataset: str,
    embedder: tuple[str, str],
    words: Words,
    worker_runs: Callable[[], bool],
    console: Console,
) -> tuple[int, float]:
    """Put the passages into the knowledge base; return how many there are, and the seconds."""
    text = SEPARATOR.join(map(_vary, words.passages)).encode()
    file = client.upload("/files/upload", "file", FILE, text, source="datasets")["id"]
    source = {"data_source_type": "upload_file", "file_info_list": {"file_ids": [file]}}
    body = {
        "indexing_technique": "high_quality",
        "doc_form": "text_model",
        "data_source": {"info_list": source},
        "process_rule": {"mode": "custom", "rules": RULES},
        "retrieval_model": ask.RETRIEVAL,
        "embedding_model_provider": embedder[0],
        "embedding_model": embedder[1],
    }
    began = time.monotonic()
    batch = client.post(f"/datasets/{dataset}/documents", body)["batch"]
    status = _await_index(client, f"/datasets/{dataset}/batch/{batch}/indexing-status", worker_runs, console)
    return int(status["total_segments"]), round(time.monotonic() - began, 2)


def _await_index(client: Client, path: str, worker_runs: Callable[[], bool], console: Console) -> dict[str, Any]:
    """Wait until the worker has indexed; return the document's last state. Raises KnowledgeFailed."""
    began = time.monotonic()
    while True:
        status: dict[str, Any] = client.get(path)["data"][0]
        kind, took = status["indexing_status"], time.monotonic() - began
        if kind == "completed":
            return status
        if kind == "error":
            raise KnowledgeFailed(hops.find_fault(str(status["error"] or "the document is in error"), "worker"))
        if not worker_runs():
            raise KnowledgeFailed(hops.find_fault("the container of the worker does not run", "worker"))
        if took > (TAKEN_SECONDS if kind == "waiting" else INDEXED_SECONDS):
            raise KnowledgeFailed(hops.find_fault(f"after {took:.0f} s the document is still at {kind!r}", "worker"))
        console.waiting(f"the worker to index ({kind})")
        time.sleep(POLL_SECONDS)


def _find(client: Client, dataset: str, model: str, words: Words) -> tuple[str, float]:
    """Search as the console's retrieval test does; return the passage that comes first, and the seconds."""
    began = time.monotonic()
    asked = {"query": _vary(words.question), "retrieval_model": ask.RETRIEVAL}
    records = client.post(f"/datasets/{dataset}/hit-testing", asked)["records"]
    if not records:
        raise KnowledgeFailed(hops.find_fault("nothing is found of what was indexed", "vector store"))
    first = _plain(max(records, key=lambda record: float(record["score"] or 0.0))["segment"]["content"])
    if first != words.meant:
        raise KnowledgeFailed(
            hops.Fault(
                "model",
                f"{model} is asked {words.question!r}, and this comes first: {first}",
                "take an embedding model that knows this language, such as bge-m3",
            )
        )
    return first, round(time.monotonic() - began, 2)


def _answer(client: Client, dataset: str, talker: tuple[str, str], words: Words, app: ask.Words) -> ask.Answer:
    """Ask the chat model through an app that has the knowledge. Raises AskFailed, KnowledgeFailed."""
    answer = ask.ask(client, *talker, app, words.question, dataset=dataset)
    told = answer.sources[0] if answer.sources else "nothing"
    if told != words.meant:
        raise KnowledgeFailed(hops.find_fault(f"the app gives its model {told} instead of what is meant", "api"))
    return answer


def _vary(text: str) -> str:
    """Write a text with other blanks each time.

    Dify keeps the vectors of passages for ever, and those of questions for ten minutes (core/rag/embedding/
    cached_embedding.py): of a text that it knows it would not ask the model again.
    """
    first, *others = text.split()
    return first + "".join(secrets.choice(BLANKS) + word for word in others)


def _plain(text: str) -> str:
    return " ".join(text.split())
