"""A small knowledge base is made, indexed and asked, and is gone afterwards; what fails is told with its hop."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from installer.commands import models, report
from installer.core import errors
from installer.core.console import Console
from installer.workspace import ask, knowledge
from installer.workspace.client import Client
from tests.unit.console import State, refused, signed_in
from tests.unit.test_workspace_models import ANSWER, NO_CONNECTION, OLLAMA

QUIET = Console(silent=True)
EMBEDDER, TALKER = (OLLAMA, "bge-m3"), (OLLAMA, "qwen3:8b")
KOREAN = knowledge.WORDS["ko"]
HITS = [(KOREAN.others[1], 0.2), (KOREAN.meant, 0.6)]


def runs() -> bool:
    return True


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knowledge, "POLL_SECONDS", 0.0)


def prove(
    client: Client, worker_runs: Callable[[], bool] = runs, talker: tuple[str, str] | None = None
) -> knowledge.Found:
    return knowledge.prove(client, EMBEDDER, KOREAN, worker_runs, QUIET, talker, ask.WORDS["ko"])


def fault_of(state: State, **facts: Any) -> Any:
    """Return the fault with which it ends; whatever that is, nothing is left behind."""
    with signed_in(state) as client, pytest.raises(knowledge.KnowledgeFailed) as told:
        prove(client, **facts)
    assert not state.datasets and not state.apps
    assert told.value.fault.hop in told.value.message
    return told.value.fault


def sent(form: bytes) -> str:
    """Return the file in a form."""
    return form.decode().split("\r\n\r\n")[-1].partition("\r\n")[0]


@pytest.mark.parametrize("words", knowledge.WORDS.values())
def test_the_question_shares_no_word_with_what_is_meant(words: knowledge.Words) -> None:
    asked, meant = (set(re.findall(r"\w+", text.lower())) for text in (words.question, words.meant))
    assert not asked & meant
    assert words.passages.index(words.meant) == 1


def test_what_is_meant_is_found_and_the_knowledge_base_is_gone() -> None:
    state = State(hits=HITS)
    with signed_in(state) as client:
        found = prove(client)
    assert (found.passage, found.passages, found.answer) == (KOREAN.meant, 3, None)
    assert found.path[2] == "worker" and found.path[-1] == "vector store"
    assert found.index_seconds >= 0 and found.find_seconds >= 0
    (body,) = state.documents
    assert (body["embedding_model_provider"], body["embedding_model"]) == EMBEDDER
    assert body["indexing_technique"] == "high_quality"
    assert body["data_source"]["info_list"]["file_info_list"] == {"file_ids": ["file-1"]}
    (form,) = state.files
    assert b'name="source"\r\n\r\ndatasets' in form
    assert [" ".join(each.split()) for each in sent(form).split("\n\n")] == list(KOREAN.passages)
    assert not state.datasets and not state.apps


def test_dify_cannot_know_the_vectors_of_an_earlier_run() -> None:
    state = State(hits=HITS)
    with signed_in(state) as client:
        prove(client)
        prove(client)
    assert len({*state.questions}) == 2
    assert len({sent(form) for form in state.files}) == 2


def test_the_chat_model_answers_with_the_knowledge_at_hand() -> None:
    given = [{"position": 1, "content": f" {KOREAN.meant} "}, {"position": 2, "content": KOREAN.others[0]}]
    end = {"event": "message_end", "metadata": {"usage": {}, "retriever_resources": given}}
    state = State(hits=HITS, events=[*ANSWER[:-1], end])
    with signed_in(state) as client:
        found = prove(client, talker=TALKER)
    assert found.answer is not None
    assert (found.answer.question, found.answer.answer) == (KOREAN.question, "Seoul it is.")
    assert found.answer.sources == (KOREAN.meant, KOREAN.others[0])
    config = state.described[0]["model_config"]
    (attached,) = config["dataset_configs"]["datasets"]["datasets"]
    assert attached == {"dataset": {"enabled": True, "id": "dataset-1"}}
    assert config["retriever_resource"] == {"enabled": True}


def test_an_app_that_does_not_get_the_knowledge_is_told() -> None:
    fault = fault_of(State(hits=HITS, events=ANSWER), talker=TALKER)
    assert fault.hop == "api" and "nothing" in fault.words


def test_a_chat_model_that_fails_with_the_knowledge_is_told_with_its_hop() -> None:
    broken = [{"event": "error", "message": NO_CONNECTION}]
    assert fault_of(State(hits=HITS, events=broken), talker=TALKER).hop == "connection"


def test_what_a_killed_run_has_left_is_removed() -> None:
    state = State(hits=HITS, datasets={"left": f"{knowledge.PASSING} 0a0a0a0a", "mine": "dify-installer"})
    with signed_in(state) as client:
        prove(client)
    assert state.datasets == {"mine": "dify-installer"}


@pytest.mark.parametrize(
    ("words", "hop"),
    [
        ("Could not connect to Weaviate:Connection to Weaviate failed. Details: .", "vector store"),
        (NO_CONNECTION, "connection"),
        ("Request to Plugin Daemon Service failed", "plugin daemon"),
        ("something that nobody has seen", "worker"),
    ],
)
def test_a_document_in_error_is_told_with_its_hop(words: str, hop: str) -> None:
    fault = fault_of(State(index_states=["waiting", f"error: {words}"]))
    assert (fault.hop, fault.words) == (hop, words)


def test_a_worker_that_does_not_run_is_noticed_at_once() -> None:
    fault = fault_of(State(index_states=["waiting"]), worker_runs=lambda: False)
    assert fault.hop == "worker" and not fault.outside and "does not run" in fault.words


@pytest.mark.parametrize(("state", "limit"), [("waiting", "TAKEN_SECONDS"), ("indexing", "INDEXED_SECONDS")])
def test_a_worker_that_does_not_come_to_an_end_is_given_up(
    monkeypatch: pytest.MonkeyPatch, state: str, limit: str
) -> None:
    monkeypatch.setattr(knowledge, limit, -1.0)
    fault = fault_of(State(index_states=[state]))
    assert fault.hop == "worker" and repr(state) in fault.words


def test_a_model_that_does_not_understand_the_language_is_told() -> None:
    fault = fault_of(State(hits=[(KOREAN.others[0], 0.7), (KOREAN.meant, 0.6)]))
    assert fault.hop == "model" and fault.outside
    assert KOREAN.others[0] in fault.words and "bge-m3" in fault.remedy


def test_nothing_found_is_the_vector_stores_fault() -> None:
    assert fault_of(State()).hop == "vector store"


@pytest.mark.parametrize(
    ("answer", "hop"),
    [
        (refused(400, "invalid_param", "Vector database is not ready"), "vector store"),
        (refused(400, "provider_not_initialize", "Model bge-m3 credentials is not initialized."), "model"),
        (refused(500, "unknown", "Internal Server Error"), "api"),
    ],
)
def test_a_refused_search_is_told_with_its_hop(answer: tuple[int, Any], hop: str) -> None:
    state = State(hits=HITS, refuse={"POST /datasets/dataset-1/hit-testing": answer})
    assert fault_of(state).hop == hop


def known(*names: tuple[str, str]) -> dict[tuple[str, str, str], dict[str, Any]]:
    return {(OLLAMA, name, kind): {"name": "x", "credentials": {}} for name, kind in names}


def tried(state: State, *names: str) -> list[tuple[str, str]]:
    state.add_plugin("langgenius/ollama:0.1.3@0")
    with signed_in(state) as client:
        return [(each.check, each.level) for each in models.test(client, names, "ko", runs, QUIET)]


def test_each_kind_of_model_is_tried_in_its_own_way() -> None:
    found = known(("qwen3:8b", "llm"), ("bge-m3", "text-embedding"), ("ranks", "rerank"))
    assert tried(State(models=found, events=ANSWER, hits=HITS)) == [("qwen3:8b", "ok"), ("bge-m3", "ok")]
    assert tried(State(models=found), "bge-m3") == [("bge-m3", "error")]
    with pytest.raises(errors.UsageError, match="ranks"):
        tried(State(models=found), "ranks")


def test_the_report_tells_of_the_knowledge_base() -> None:
    with signed_in(State(hits=HITS)) as client:
        found = prove(client)
    lines = report.inside_as_text(report.Inside(account="ops@example.com", knowledge=found))
    assert KOREAN.meant in lines[-2]
    assert "3 passages indexed in" in lines[-1] and "vector store" in lines[-1]
