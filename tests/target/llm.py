"""Stands in for Ollama and vLLM on a target machine: their protocols, streams and errors, without a model.

Run there: python3 llm.py ollama|vllm PORT [KEY] [--local] [--tls PEM] [--models NAME[:KIND],…] [--context TOKENS]
[--slow SECONDS] [--break-after PIECES] [--embedder FOLDER]

It answers with the question, so that who asks sees that it went all the way; a token is a word. KIND of a model is llm,
embedding or rerank. `--slow` waits before each piece of an answer; `--break-after` hangs up in the middle of one.
`--embedder` names a folder with a real embedding model (tests/target/embedder.py); without it texts that share words
are near. Otherwise only the standard library is used: the machine has no other.

Ollama: https://github.com/ollama/ollama/blob/main/docs/api.md; vLLM: its OpenAI-compatible server.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import pathlib
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

DEFAULTS = {"ollama": "llama3:latest,bge-m3:567m:embedding", "vllm": "qwen3-32b"}
DIMENSIONS = 256


class Failure(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=sorted(DEFAULTS))
    parser.add_argument("port", type=int)
    parser.add_argument("key", nargs="?", default="")
    parser.add_argument("--local", action="store_true")
    parser.add_argument("--tls", metavar="PEM")
    parser.add_argument("--models")
    parser.add_argument("--context", type=int, default=8192)
    parser.add_argument("--slow", type=float, default=0.0)
    parser.add_argument("--break-after", type=int, default=-1)
    parser.add_argument("--embedder")
    return parser.parse_args()


OPTIONS = parsed()


def named_models() -> dict[str, str]:
    """Return the models by name, each with its kind."""
    found = {}
    for text in (OPTIONS.models or DEFAULTS[OPTIONS.kind]).split(","):
        name, _, kind = text.rpartition(":")
        known = kind in ("llm", "embedding", "rerank")
        found[name if known else text] = kind if known else "llm"
    return found


MODELS = named_models()


# -- what a model would do


def words(value: Any) -> list[str]:
    """Return the tokens of a text, of a message's content or of a list of them."""
    if isinstance(value, list):
        return [word for each in value for word in words(each)]
    if isinstance(value, dict):
        return words(value.get("content", value.get("text", "")))
    return str(value).split()


def answer(messages: list[dict[str, Any]]) -> list[str]:
    """Return the pieces of the answer to the last message."""
    pieces = ["You", " asked:"] + [f" {word}" for word in words(messages[-1])]
    if OPTIONS.break_after >= 0:
        return pieces[: OPTIONS.break_after]
    return pieces


def embed(texts: list[str]) -> list[list[float]]:
    """Return a vector for each text: of the real model, or one in which each word has its place."""
    make = hashed if MINILM is None else MINILM.embed
    return [make(text) for text in texts]


def hashed(text: str) -> list[float]:
    vector = [0.0] * DIMENSIONS
    for word in words(text.lower()):
        digest = hashlib.sha256(word.strip(".,;:!?").encode()).digest()
        vector[int.from_bytes(digest[:2], "big") % DIMENSIONS] += 1.0
    length = math.sqrt(sum(value * value for value in vector)) or 1.0
    return [value / length for value in vector]


def real_model() -> Any:
    """Return the model in the folder of `--embedder`; None without it."""
    if not OPTIONS.embedder:
        return None
    sys.path.insert(0, OPTIONS.embedder)
    import minilm

    return minilm.MiniLM(pathlib.Path(OPTIONS.embedder))


MINILM = real_model()


def near(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


# -- the protocols: each function gets the body of a request and gives an answer, or the lines of a stream


def ollama_tags(_body: dict[str, Any]) -> dict[str, Any]:
    return {"models": [{"name": name, "model": name, "details": details(kind)} for name, kind in MODELS.items()]}


def details(kind: str) -> dict[str, Any]:
    family = "bert" if kind == "embedding" else "llama"
    return {"format": "gguf", "family": family, "parameter_size": "8.0B", "quantization_level": "Q4_0"}


def ollama_model(body: dict[str, Any], kind: str = "") -> str:
    """Return the name of the model that is meant: Ollama adds `latest`."""
    asked = str(body.get("model") or body.get("name") or "")
    name = asked if asked in MODELS or ":" in asked else f"{asked}:latest"
    if name not in MODELS:
        raise Failure(404, f"model '{asked}' not found")
    if kind and MODELS[name] != kind:
        raise Failure(400, f'"{asked}" does not support {"chat" if kind == "llm" else "embeddings"}')
    return name


def ollama_show(body: dict[str, Any]) -> dict[str, Any]:
    kind = MODELS[ollama_model(body)]
    family = details(kind)["family"]
    return {
        "details": details(kind),
        "model_info": {
            "general.architecture": family,
            f"{family}.context_length": OPTIONS.context,
            f"{family}.embedding_length": DIMENSIONS,
        },
        "capabilities": ["embedding"] if kind == "embedding" else ["completion", "tools"],
    }


def ollama_chat(body: dict[str, Any]) -> Any:
    name = ollama_model(body, "llm")
    pieces = answer(body["messages"])
    # Ollama cuts a prompt that is longer than the model's context, and says nothing.
    read = min(len(words(body["messages"])), int(body.get("options", {}).get("num_ctx", OPTIONS.context)))
    last = {"done": True, "done_reason": "stop", "total_duration": 1, "load_duration": 1}
    last |= {"prompt_eval_count": read, "eval_count": len(pieces)}

    def part(text: str, more: dict[str, Any]) -> dict[str, Any]:
        made = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        return {"model": name, "created_at": made, "message": {"role": "assistant", "content": text}, **more}

    if body.get("stream") is False:
        time.sleep(OPTIONS.slow)
        return part("".join(pieces), last)
    return ollama_lines([*(part(piece, {"done": False}) for piece in pieces), part("", last)])


def ollama_lines(parts: list[dict[str, Any]]) -> Iterator[bytes]:
    if OPTIONS.break_after >= 0:
        parts.pop()
    for each in parts:
        time.sleep(OPTIONS.slow)
        yield json.dumps(each).encode() + b"\n"


def ollama_embed(body: dict[str, Any]) -> dict[str, Any]:
    name = ollama_model(body, "embedding")
    texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
    return {"model": name, "embeddings": embed(texts), "total_duration": 1, "prompt_eval_count": len(words(texts))}


def vllm_models(_body: dict[str, Any]) -> dict[str, Any]:
    about = {"object": "model", "created": 1, "owned_by": "vllm", "parent": None, "max_model_len": OPTIONS.context}
    return {"object": "list", "data": [{"id": name, "root": name, **about} for name in MODELS]}


def vllm_model(body: dict[str, Any], kind: str, what: str) -> str:
    name = str(body.get("model", ""))
    if name not in MODELS:
        raise Failure(404, f"The model `{name}` does not exist.")
    if MODELS[name] != kind:
        raise Failure(400, f"The model does not support {what} API")
    return name


def vllm_chat(body: dict[str, Any]) -> Any:
    name = vllm_model(body, "llm", "Chat Completions")
    read, pieces = len(words(body["messages"])), answer(body["messages"])
    wanted = int(body.get("max_tokens") or 0)
    if read + wanted > OPTIONS.context:
        raise Failure(
            400,
            f"This model's maximum context length is {OPTIONS.context} tokens. However, you requested {read + wanted} "
            f"tokens ({read} in the messages, {wanted} in the completion). Please reduce the length of the messages or "
            "completion.",
        )
    usage = {"prompt_tokens": read, "completion_tokens": len(pieces), "total_tokens": read + len(pieces)}
    about = {"id": "chatcmpl-1", "created": int(time.time()), "model": name}
    if not body.get("stream"):
        time.sleep(OPTIONS.slow)
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": "".join(pieces)},
            "finish_reason": "stop",
        }
        return {**about, "object": "chat.completion", "choices": [choice], "usage": usage}
    about["object"] = "chat.completion.chunk"
    counted = bool((body.get("stream_options") or {}).get("include_usage"))
    return vllm_events(about, pieces, usage if counted else None)


def vllm_events(about: dict[str, Any], pieces: list[str], usage: dict[str, int] | None) -> Iterator[bytes]:
    def event(delta: dict[str, str], reason: str | None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return b"data: " + json.dumps({**about, "choices": [choice]}).encode() + b"\n\n"

    yield event({"role": "assistant", "content": ""}, None)
    for piece in pieces:
        time.sleep(OPTIONS.slow)
        yield event({"content": piece}, None)
    if OPTIONS.break_after >= 0:
        return
    yield event({"content": ""}, "stop")
    if usage:
        yield b"data: " + json.dumps({**about, "choices": [], "usage": usage}).encode() + b"\n\n"
    yield b"data: [DONE]\n\n"


def vllm_embeddings(body: dict[str, Any]) -> dict[str, Any]:
    name = vllm_model(body, "embedding", "Embeddings")
    texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
    data = [{"object": "embedding", "index": place, "embedding": each} for place, each in enumerate(embed(texts))]
    read = len(words(texts))
    return {"object": "list", "model": name, "data": data, "usage": {"prompt_tokens": read, "total_tokens": read}}


def vllm_rerank(body: dict[str, Any]) -> dict[str, Any]:
    name = vllm_model(body, "rerank", "Rerank")
    query, *documents = embed([body["query"], *body["documents"]])
    scored: list[dict[str, Any]] = [
        {"index": place, "document": {"text": body["documents"][place]}, "relevance_score": near(query, document)}
        for place, document in enumerate(documents)
    ]
    scored.sort(key=lambda each: -each["relevance_score"])
    count = len(words([body["query"], *body["documents"]]))
    return {"id": "rerank-1", "model": name, "usage": {"total_tokens": count}, "results": scored[: body.get("top_n")]}


ROUTES: dict[str, dict[str, Callable[[dict[str, Any]], Any]]] = {
    "ollama": {
        "GET /api/tags": ollama_tags,
        "GET /api/version": lambda _body: {"version": "0.12.0"},
        "POST /api/show": ollama_show,
        "POST /api/chat": ollama_chat,
        "POST /api/embed": ollama_embed,
    },
    "vllm": {
        "GET /v1/models": vllm_models,
        "GET /health": lambda _body: {},
        "GET /version": lambda _body: {"version": "0.11.0"},
        "POST /v1/chat/completions": vllm_chat,
        "POST /v1/embeddings": vllm_embeddings,
        "POST /v1/rerank": vllm_rerank,
    },
}


# -- HTTP


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            if OPTIONS.key and self.headers.get("Authorization") != f"Bearer {OPTIONS.key}":
                raise Failure(401, "Unauthorized")
            route = ROUTES[OPTIONS.kind].get(f"{self.command} {self.path.partition('?')[0]}")
            if route is None:
                raise Failure(404, "404 page not found")
            given = route(json.loads(body) if body else {})
        except Failure as error:
            self.give(error.status, failure(error))
        except (ValueError, KeyError) as error:
            self.give(400, failure(Failure(400, f"invalid request: {error}")))
        else:
            self.give(200, given) if isinstance(given, dict) else self.stream(given)

    do_GET = do_POST = answer

    def give(self, status: int, given: dict[str, Any]) -> None:
        data = json.dumps(given).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def stream(self, lines: Iterator[bytes]) -> None:
        self.send_response(200)
        events = OPTIONS.kind == "vllm"
        self.send_header("Content-Type", "text/event-stream" if events else "application/x-ndjson")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for line in lines:
            self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
            self.wfile.flush()
        if OPTIONS.break_after >= 0:
            # Without the last chunk: the connection breaks in the middle of the answer.
            self.close_connection = True
            return
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, form: str, *arguments: Any) -> None:
        sys.stderr.write(f"{form % arguments}\n")


def failure(error: Failure) -> dict[str, Any]:
    if OPTIONS.kind == "ollama":
        return {"error": error.message}
    if error.status == 401:
        return {"error": "Unauthorized"}
    kind = "NotFoundError" if error.status == 404 else "BadRequestError"
    return {"error": {"message": error.message, "type": kind, "param": None, "code": error.status}}


server = ThreadingHTTPServer(("127.0.0.1" if OPTIONS.local else "0.0.0.0", OPTIONS.port), Handler)
if OPTIONS.tls:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(OPTIONS.tls)
    server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
