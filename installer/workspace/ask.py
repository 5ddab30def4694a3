"""Asks a question through an app of Dify's own: the proof that the whole way to the model works.

Source: Dify 1.11.3, controllers/console/app/{app_import,apikey}.py, controllers/service_api/app/completion.py and
services/app_dsl_service.py.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from installer.core import errors
from installer.workspace import hops
from installer.workspace.client import Client, ConsoleError

# The version of Dify 1.11.3's own exports (services/app_dsl_service.py, CURRENT_DSL_VERSION).
DSL_VERSION = "0.5.0"
# An app that is there while we ask; one of this name that is there before, a killed run has left.
PASSING = "dify-installer: first answer"
# Without a sign of life: the api sends one every ten seconds.
SILENCE_SECONDS = 60.0
# A model that has to be loaded from a slow disk first.
LONGEST_SECONDS = 300.0
LONGEST_ANSWER = 2000
# How knowledge is searched: by meaning alone.
RETRIEVAL = {
    "search_method": "semantic_search",
    "reranking_enable": False,
    "reranking_model": {"reranking_provider_name": "", "reranking_model_name": ""},
    "top_k": 3,
    "score_threshold_enabled": False,
}
_THOUGHT = re.compile(r"<think>.*?(</think>|$)", re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class Words:
    """What is said in a language."""

    question: str
    app: str
    about: str
    greeting: str


WORDS: dict[str, Words] = {
    "en": Words(
        question="What is the capital of South Korea? Answer in one short sentence.",
        app="Ask a question",
        about="The example that the installer has left: a chat with the default model.",
        greeting="Ask me anything: I run on your own servers.",
    ),
    "ko": Words(
        question="대한민국의 수도는 어디인가요? 짧은 한 문장으로 답해 주세요.",
        app="질문하기",
        about="설치 프로그램이 남긴 예제입니다. 기본 모델과 대화합니다.",
        greeting="무엇이든 물어보세요. 저는 여러분의 서버에서 실행됩니다.",
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """An answer of a model; times in seconds since the question, `path` the stations of the way.

    `sources` are the passages of knowledge that the model was given, the best one first.
    """

    provider: str
    model: str
    question: str
    answer: str
    first_seconds: float
    seconds: float
    prompt_tokens: int
    answer_tokens: int
    path: tuple[str, ...]
    sources: tuple[str, ...] = ()


class AskFailed(errors.WorkspaceFailed):
    """The question got no answer; `fault` says where on the way."""

    def __init__(self, fault: hops.Fault) -> None:
        super().__init__(f"no answer comes, it fails at the hop {fault.hop}: {fault.words}", fault.remedy)
        self.fault = fault


def ask(
    client: Client,
    provider: str,
    model: str,
    words: Words,
    question: str = "",
    *,
    keep: bool = False,
    dataset: str = "",
) -> Answer:
    """Import a small app for a model, ask it, and remove it; with `keep` it stays, as an example.

    `dataset` is the ID of a knowledge base that the app is to have. Raises AskFailed.
    """
    question = question or words.question
    try:
        with _app(client, provider, model, words, dataset, keep=keep) as app, _key(client, app) as key:
            return _listen(client, key, provider, model, question)
    except ConsoleError as error:
        raise AskFailed(hops.read_fault(error)) from error


@contextlib.contextmanager
def _app(client: Client, provider: str, model: str, words: Words, dataset: str, *, keep: bool) -> Iterator[str]:
    """Have an app for the model, and give its ID."""
    for left in _find_apps(client, PASSING):
        client.delete(f"/apps/{left}")
    # An example that is there is left alone: it may have another model, or be a user's by now.
    keep = keep and not _find_apps(client, words.app)
    app = _import(client, _describe(provider, model, words, words.app if keep else PASSING, dataset))
    try:
        yield app
    finally:
        if not keep:
            # What failed before is told, not this; the next run looks for what is left.
            with contextlib.suppress(ConsoleError):
                client.delete(f"/apps/{app}")


def _find_apps(client: Client, name: str) -> list[str]:
    return [each["id"] for each in client.get("/apps", page=1, limit=100, name=name)["data"] if each["name"] == name]


def _describe(provider: str, model: str, words: Words, name: str, dataset: str) -> str:
    """Return an app as Dify exports it; JSON is YAML, but for the pairs of escapes that it has for an emoji."""
    app = {"name": name, "mode": "chat", "icon": "🤖", "icon_background": "#FFEAD5", "description": words.about}
    config: dict[str, Any] = {
        "model": {"provider": provider, "name": model, "mode": "chat", "completion_params": {}},
        "pre_prompt": "",
        "prompt_type": "simple",
        "opening_statement": words.greeting,
    }
    if dataset:
        known = {"datasets": [{"dataset": {"enabled": True, "id": dataset}}]}
        config["dataset_configs"] = {"retrieval_model": "multiple", **RETRIEVAL, "datasets": known}
        config["retriever_resource"] = {"enabled": True}
    return json.dumps({"kind": "app", "version": DSL_VERSION, "app": app, "model_config": config}, ensure_ascii=False)


def _import(client: Client, text: str) -> str:
    answer = client.post("/apps/imports", {"mode": "yaml-content", "yaml_content": text})
    if answer["status"] == "pending":
        # Another release's format: Dify asks whether it is to be taken all the same.
        answer = client.post(f"/apps/imports/{answer['id']}/confirm")
    return str(answer["app_id"])


@contextlib.contextmanager
def _key(client: Client, app: str) -> Iterator[str]:
    """Have a key for an app's API while the block runs."""
    key = client.post(f"/apps/{app}/api-keys")
    try:
        yield key["token"]
    finally:
        with contextlib.suppress(ConsoleError):
            client.delete(f"/apps/{app}/api-keys/{key['id']}")


def _listen(client: Client, key: str, provider: str, model: str, question: str) -> Answer:
    """Ask through the service API, as programs do, and measure the answer's stream."""
    body = {
        "inputs": {},
        "query": question,
        "response_mode": "streaming",
        "user": "dify-installer",
        "auto_generate_name": False,
    }
    began = time.monotonic()
    text, first = "", 0.0
    usage: dict[str, Any] = {}
    sources: list[dict[str, Any]] = []
    for event in client.events("/v1/chat-messages", body, key, SILENCE_SECONDS):
        now = round(time.monotonic() - began, 2)
        if event["event"] == "error":
            raise AskFailed(hops.find_fault(str(event.get("message")), "api"))
        if event["event"] in ("message", "agent_message") and event["answer"]:
            first = first or now
            text += event["answer"]
        elif event["event"] == "message_end":
            usage = event["metadata"].get("usage") or {}
            sources = event["metadata"].get("retriever_resources") or []
            break
        if now > LONGEST_SECONDS:
            raise AskFailed(hops.find_fault(f"the model {model} has no whole answer after {now:.0f} s", "model"))
    said = " ".join(_THOUGHT.sub("", text).split())
    if not said:
        raise AskFailed(hops.find_fault(f"the model {model} gives an empty answer", "model"))
    return Answer(
        provider=provider,
        model=model,
        question=question,
        answer=said[:LONGEST_ANSWER],
        first_seconds=first,
        seconds=round(time.monotonic() - began, 2),
        prompt_tokens=int(usage.get("prompt_tokens", 0)),
        answer_tokens=int(usage.get("completion_tokens", 0)),
        path=("front door", "api", "plugin daemon", f"plugin {provider}", f"model {model}"),
        sources=tuple(" ".join(each["content"].split()) for each in sources),
    )
