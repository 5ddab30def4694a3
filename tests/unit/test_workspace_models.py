"""Models of a workspace: asked from their server, registered as the console does it, and asked a question."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from installer.checks.models import Server, Wanted, checked_model
from installer.checks.probe import probe
from installer.core import errors
from installer.core.console import Console
from installer.engine.base import Engine
from installer.workspace import ask, hops, models, servers
from installer.workspace.client import Client
from tests.unit.console import State, refused, signed_in

QUIET = Console(silent=True)
OLLAMA, VLLM = "langgenius/ollama/ollama", "langgenius/openai_api_compatible/openai_api_compatible"
# As Ollama answers /api/show, trimmed.
SHOWN: dict[str, Any] = {
    "qwen3:8b": {
        "model_info": {"general.architecture": "qwen3", "qwen3.context_length": 40960},
        "capabilities": ["completion", "tools", "thinking"],
        "parameters": 'stop                           "<|im_end|>"\nnum_ctx                        16384',
    },
    "llava:7b": {"model_info": {"llama.context_length": 32768}, "capabilities": ["completion", "vision"]},
    "bge-m3:latest": {"model_info": {"bert.context_length": 8192}, "capabilities": ["embedding"]},
    # Before 0.6.4 there were no capabilities.
    "old-bert": {"details": {"families": ["nomic-bert"]}, "model_info": {"nomic-bert.context_length": 2048}},
    "old-chat": {"details": {"families": ["llama", "clip"]}, "template": "{{ if .Tools }}", "model_info": {}},
}
# What a vLLM server of a model does with a question, by its path.
DOES: dict[str, set[str]] = {
    "talks": {"chat/completions"},
    "talks-with-tools": {"chat/completions", "tools"},
    "vectors": {"embeddings", "rerank"},
    "ranks": {"rerank"},
    "both": {"chat/completions", "embeddings"},
}


class ModelServer(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        if self.path == "/api/tags":
            self._say(200, {"models": [{"name": name} for name in SHOWN]})
        else:
            self._say(200, {"data": [{"id": name, "max_model_len": 40960} for name in DOES]})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/api/show":
            self._say(200, SHOWN[asked["model"]])
            return
        does = DOES[asked["model"]]
        good = self.path.removeprefix("/v1/") in does and ("tools" not in asked or "tools" in does)
        self._say(200 if good else 400, {})

    def _say(self, status: int, content: Any) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), ModelServer) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def described(server: Server) -> dict[str, tuple[str, int, bool, bool]]:
    answer = probe(**server.question, describe=True)  # type: ignore[arg-type]
    assert answer["kind"] == "ok"
    return {
        name: (each["kind"], each["context"], each["tools"], each["vision"])
        for name, each in answer["described"].items()
    }


def test_ollama_tells_what_its_models_can_do(url: str) -> None:
    assert described(Server(kind="Ollama", url=url)) == {
        "qwen3:8b": ("chat", 16384, True, False),
        "llava:7b": ("chat", 32768, False, True),
        "bge-m3:latest": ("embedding", 8192, False, False),
        "old-bert": ("embedding", 2048, False, False),
        "old-chat": ("chat", 0, True, True),
    }


def test_what_a_vllm_server_can_do_is_tried(url: str) -> None:
    assert described(Server(kind="vLLM", url=url)) == {
        "talks": ("chat", 40960, False, False),
        "talks-with-tools": ("chat", 40960, True, False),
        "vectors": ("embedding", 40960, False, False),
        "ranks": ("rerank", 40960, False, False),
        "both": ("chat", 40960, False, False),
    }


def test_only_the_wanted_ones_are_described_with_or_without_their_tag(url: str) -> None:
    server = Server(kind="Ollama", url=url, wanted=(Wanted(name="bge-m3"), Wanted(name="qwen3:8b")))
    assert set(described(server)) == {"bge-m3:latest", "qwen3:8b"}


def find(*asked: Server) -> list[servers.Model]:
    engine: Engine = None  # type: ignore[assignment] # no container is there, so that this host asks
    return servers.find_models(asked, [], "", Path(), engine)


def test_the_command_line_knows_better_than_the_server(url: str) -> None:
    wanted = tuple(map(checked_model, ("bge-m3:kind=rerank", "qwen3:8b:context=8000,tools=no,vision=yes", "old-chat")))
    found = find(Server(kind="Ollama", url=url, wanted=wanted))
    assert [(each.name, each.words) for each in found] == [
        ("bge-m3:latest", "rerank, context 8192"),
        ("qwen3:8b", "chat, context 8000, vision"),
        ("old-chat", "chat, context 4096, tools, vision"),
    ]


def test_a_server_that_does_not_answer_has_no_models() -> None:
    assert find(Server(kind="Ollama", url="http://127.0.0.1:1")) == []


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("qwen3:8b", Wanted(name="qwen3:8b")),
        ("qwen3:8b:context=32768,tools=yes", Wanted(name="qwen3:8b", context=32768, tools=True)),
        ("Qwen/Qwen3-32B:vision=no,kind=chat", Wanted(name="Qwen/Qwen3-32B", vision=False, kind="chat")),
    ],
)
def test_a_model_is_named_with_what_it_can_do(text: str, wanted: Wanted) -> None:
    assert checked_model(text) == wanted


@pytest.mark.parametrize("text", ["", ":context=1", "m:context=0", "m:context=x", "m:tools=maybe", "m:x=y", "a b"])
def test_what_says_nothing_of_a_model_is_refused(text: str) -> None:
    with pytest.raises(errors.UsageError):
        checked_model(text)


def model(name: str = "qwen3:8b", kind: Any = "chat", server: Server | None = None, **facts: Any) -> servers.Model:
    server = server or Server(kind="Ollama", url="http://o:11434/")
    return servers.Model(
        server=server, name=name, kind=kind, **{"context": 8192, "tools": True, "vision": False, **facts}
    )


def with_plugins(**facts: Any) -> State:
    state = State(**facts)
    for name in ("ollama:0.1.3", "openai_api_compatible:0.0.45"):
        state.add_plugin(f"langgenius/{name}@{'a' * 64}")
    return state


def register(state: State, *wanted: servers.Model) -> list[models.Registered]:
    with signed_in(state) as client:
        return models.register(client, wanted, QUIET)


def test_models_of_ollama_are_registered_as_its_form_has_it() -> None:
    state = with_plugins()
    done = register(state, model(), model("bge-m3:latest", "embedding"))
    assert [(each.what, each.default, each.provider) for each in done] == [("added", True, OLLAMA)] * 2
    assert state.models[OLLAMA, "qwen3:8b", "llm"]["credentials"] == {
        "base_url": "http://o:11434",
        "context_size": "8192",
        "mode": "chat",
        "max_tokens": "4096",
        "vision_support": "false",
        "function_call_support": "true",
    }
    assert state.models[OLLAMA, "bge-m3:latest", "text-embedding"]["credentials"] == {
        "base_url": "http://o:11434",
        "context_size": "8192",
    }


def test_models_of_vllm_are_registered_as_its_form_has_it() -> None:
    state = with_plugins()
    server = Server(kind="vLLM", url="http://v:8000/", key="secret-key")
    register(
        state,
        model("Qwen", server=server, context=2048),
        model("bge", "embedding", server),
        model("rr", "rerank", server),
    )
    saved = {name: body["credentials"] for (_, name, _), body in state.models.items()}
    assert saved["Qwen"] == {
        "endpoint_url": "http://v:8000/v1",
        "endpoint_model_name": "Qwen",
        "context_size": "2048",
        "vision_support": "no_support",
        "api_key": "secret-key",
        "mode": "chat",
        "max_tokens_to_sample": "2048",
        "function_calling_type": "tool_call",
        "stream_function_calling": "supported",
    }
    assert saved["bge"]["max_chunks"] == "16"
    assert set(state.defaults) == {"llm", "text-embedding", "rerank"}


def test_the_first_that_was_registered_becomes_the_default_and_not_the_first_that_dify_finds() -> None:
    state = with_plugins(model_faults={"broken": "connection error"})
    done = register(state, model("broken"), model("first"), model("second"))
    assert [(each.model.name, each.default) for each in done] == [("broken", False), ("first", True), ("second", False)]


def test_a_default_that_was_chosen_stays() -> None:
    state = with_plugins(defaults={"llm": (OLLAMA, "chosen")})
    (done,) = register(state, model())
    assert not done.default
    assert state.defaults["llm"] == (OLLAMA, "chosen")


def test_again_nothing_is_registered_twice() -> None:
    state = with_plugins()
    register(state, model())
    (done,) = register(state, model(context=1024))
    assert (done.what, done.default) == ("kept", True)
    assert state.models[OLLAMA, "qwen3:8b", "llm"]["credentials"]["context_size"] == "8192"


def test_what_a_person_registered_is_never_changed() -> None:
    state = with_plugins()
    mine = {"name": "API KEY 1", "credentials": {"base_url": "http://other:11434"}}
    state.models[OLLAMA, "qwen3:8b", "llm"] = mine
    assert register(state, model())[0].what == "kept"
    assert state.models[OLLAMA, "qwen3:8b", "llm"] is mine


def test_what_we_registered_follows_its_server() -> None:
    state = with_plugins()
    register(state, model())
    moved = Server(kind="Ollama", url="http://new:11434")
    assert register(state, model(server=moved))[0].what == "updated"
    assert state.models[OLLAMA, "qwen3:8b", "llm"]["credentials"]["base_url"] == "http://new:11434"


def test_a_new_key_is_saved_and_the_same_one_is_not() -> None:
    state = with_plugins()

    def again(key: str) -> str:
        return register(state, model(server=Server(kind="vLLM", url="http://v:8000", key=key)))[0].what

    saved = state.models
    assert [again(key) for key in ("the-first-key", "the-first-key", "the-other-key", "")] == [
        "added",
        "kept",
        "updated",
        "kept",
    ]
    assert saved[VLLM, "qwen3:8b", "llm"]["credentials"]["api_key"] == "the-other-key"
    # Dify shows nothing of a short one.
    assert [again("short"), again("short")] == ["updated", "updated"]


def test_without_its_plugin_a_model_is_not_registered_and_that_is_told() -> None:
    (done,) = register(State(), model())
    assert done.what == "failed" and done.fault is not None
    assert done.fault.hop == "plugin" and "plugins add" in done.fault.remedy


def test_a_model_that_fails_does_not_keep_the_others_from_being_registered() -> None:
    state = with_plugins(model_faults={"gone": "API request failed with status code 404: model 'gone' not found"})
    gone, other = register(state, model("gone"), model("other"))
    assert gone.fault is not None and gone.fault.hop == "model"
    assert other.what == "added"


def test_a_model_is_removed_with_its_credentials() -> None:
    state = with_plugins()
    register(state, model(), model("other"))
    with signed_in(state) as client:
        for each in models.list_models(client):
            if each.name == "other":
                models.remove(client, each)
        (left,) = models.list_models(client)
    assert (left.name, left.default, left.active) == ("qwen3:8b", True, True)


# Sentences of Dify 1.11.3 as they were seen, trimmed.
NO_CONNECTION = (
    "[models] Server Unavailable Error, HTTPConnectionPool(host='o', port=11434): Max retries exceeded with url: "
    '/api/chat (Caused by NewConnectionError("Failed to establish a new connection: [Errno 111] Connection refused"))'
)


@pytest.mark.parametrize(
    ("words", "hop"),
    [
        ("Failed to request plugin daemon, url: plugin/t/management/models", "plugin daemon"),
        (NO_CONNECTION, "connection"),
        ("Max retries exceeded (Caused by NameResolutionError([Errno -2] Name or service not known))", "name"),
        ("Max retries exceeded with url: /v1 (Caused by SSLError(SSLCertVerificationError(1, 'x')))", "TLS"),
        ('Credentials validation failed with status code 401 and response body {"error": "Unauthorized"}', "key"),
        ('API request failed with status code 404: {"error": "model \'nope\' not found"}', "model"),
        ("Model nope credentials is not initialized.", "model"),
        ("Provider a/b/c does not exist.", "plugin"),
        ("req_id: 1 PluginInvokeError: killed by timeout", "plugin"),
        # As its client 4.17.0 says it, to a port where nobody listens.
        ("Could not connect to Weaviate:Connection to Weaviate failed. Details: .", "vector store"),
        ("Could not connect to Weaviate:[Errno -2] Name or service not known", "vector store"),
        ("Vector database is not ready", "vector store"),
        ("[Errno 111] Connection refused", "vector store"),
        ("something that nobody has seen", "api"),
    ],
)
def test_difys_words_are_brought_to_the_hop(words: str, hop: str) -> None:
    fault = hops.find_fault(words, "api")
    assert fault.hop == hop and fault.remedy
    assert fault.outside == (hop in ("name", "connection", "TLS", "key", "model"))


def message(text: str) -> dict[str, Any]:
    return {"event": "message", "answer": text}


END = {"event": "message_end", "metadata": {"usage": {"prompt_tokens": 20, "completion_tokens": 6}}}
ANSWER = [{"event": "ping"}, message(""), message("<think>hm</think>Seoul "), message("it is."), END]


def put(client: Client, **facts: Any) -> ask.Answer:
    return ask.ask(client, OLLAMA, "qwen3:8b", ask.WORDS["ko"], **facts)


def test_a_question_goes_through_an_app_that_is_gone_afterwards() -> None:
    state = State(events=ANSWER)
    with signed_in(state) as client:
        answer = put(client)
    assert (answer.answer, answer.prompt_tokens, answer.answer_tokens) == ("Seoul it is.", 20, 6)
    assert 0 <= answer.first_seconds <= answer.seconds
    assert answer.path[-1] == "model qwen3:8b"
    assert state.asked[0]["query"] == ask.WORDS["ko"].question
    assert state.described[0]["model_config"]["model"]["provider"] == OLLAMA
    assert not state.apps and state.called("api-keys/key-id") == 1


def test_the_example_is_kept_once_and_left_alone_then() -> None:
    state = State(events=ANSWER)
    with signed_in(state) as client:
        put(client, keep=True)
        assert list(state.apps.values()) == [ask.WORDS["ko"].app]
        put(client, keep=True)
        put(client)
    assert list(state.apps) == ["app-1"]


def test_an_app_that_a_killed_run_has_left_is_removed() -> None:
    state = State(events=ANSWER, apps={"left": ask.PASSING, "mine": "my app"})
    with signed_in(state) as client:
        put(client)
    assert state.apps == {"mine": "my app"}


def test_an_error_in_the_stream_is_told_with_its_hop_and_the_app_is_gone() -> None:
    state = State(events=[{"event": "error", "code": "completion_request_error", "message": NO_CONNECTION}])
    with signed_in(state) as client, pytest.raises(ask.AskFailed, match="hop connection") as told:
        put(client)
    assert told.value.fault.outside
    assert not state.apps


def test_an_empty_answer_is_the_models_fault() -> None:
    with signed_in(State(events=[message("<think>hm"), END])) as client, pytest.raises(ask.AskFailed) as told:
        put(client)
    assert told.value.fault.hop == "model"


def test_an_answer_without_an_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ask, "LONGEST_SECONDS", -1.0)
    with signed_in(State(events=[{"event": "ping"}])) as client, pytest.raises(ask.AskFailed, match="no whole answer"):
        put(client)


@pytest.mark.parametrize(
    ("answer", "hop"),
    [
        (refused(400, "invalid_param", "Failed to request plugin daemon, url: plugin/t"), "plugin daemon"),
        (refused(500, "unknown", "Internal Server Error"), "api"),
        (refused(400, "provider_not_initialize", "Model nope credentials is not initialized."), "model"),
    ],
)
def test_a_refused_question_is_told_with_its_hop(answer: tuple[int, Any], hop: str) -> None:
    state = State(refuse={"POST /v1/chat-messages": answer})
    with signed_in(state) as client, pytest.raises(ask.AskFailed) as told:
        put(client)
    assert told.value.fault.hop == hop
