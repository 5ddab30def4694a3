"""Asks an app: controllers/console/app/completion.py, controllers/service_api/app/completion.py, and what is behind."""

import decimal
import json
import queue
import threading
import time
import uuid

import backing
import flask
from console import client, knowledge, models
from console.apps import app_of, route
from console.payload import payload
from pages import Problem
from werkzeug.exceptions import Forbidden, Unauthorized

console = flask.Blueprint("chat", __name__, url_prefix="/apps")
service = flask.Blueprint("service", __name__)
# core/app/apps/base_app_queue_manager.py: a ping every ten seconds of silence.
PING_SECONDS = 10
TOO_LONG = (
    "Query or prefix prompt is too long, you can reduce the prefix prompt, or shrink the max token, or switch to a llm "
    "with a larger token limit size."
)


@route(console, "/<uuid:number>/chat-messages", "POST")
def debug(number):
    app = app_of(number)
    if app["mode"] not in ("chat", "agent-chat"):
        raise Problem(404, "app_not_found", f"App mode is not in the supported list: {['chat', 'agent-chat']}")
    given = payload("ChatMessagePayload", inputs=None, model_config=None, query=None)
    return _answer(app, {**app["model_config"], **given["model_config"]}, given)


@service.post("/chat-messages")
def ask():
    scheme, _, token = flask.request.headers.get("Authorization", "").partition(" ")
    if not token:
        raise Unauthorized("Authorization header must be provided and start with 'Bearer'")
    if scheme.lower() != "bearer":
        raise Unauthorized("Authorization scheme must be 'Bearer'")
    key = backing.one("key", token=token)
    if key is None:
        raise Unauthorized("Access token is invalid")
    app = backing.one("app", id=key["app"])
    if app is None:
        raise Forbidden("The app no longer exists.")
    given = payload("ChatRequestPayload", inputs=None, query=None)
    if not given.get("user"):
        raise ValueError("Arg user must be provided.")
    if app["mode"] not in ("chat", "agent-chat", "advanced-chat"):
        raise Problem(400, "not_chat_app", "Please check if your app mode matches the right API route.")
    flask.g.tenant = app["tenant"]
    return _answer(app, app["model_config"], given)


def _answer(app, config, given):
    """Answer with a stream, or with the whole; what goes wrong before the model is asked has a status of its own."""
    if not isinstance(given["query"], str) or not given["query"]:
        raise ValueError("query is required" if "query" not in given else "query must be a string")
    model = config.get("model") or {}
    provider, credentials = models.credentials_of(
        app["tenant"], model.get("provider", ""), "llm", model.get("name", "")
    )
    if credentials is None:
        raise Problem(400, "provider_not_initialize", f"Model {model.get('name')} credentials is not initialized.")
    if provider.schema("llm", model["name"], credentials) is None:
        raise ValueError(f"Model {model['name']} not exist.")
    task = _Task(app, provider, model, credentials, config, given)
    if given.get("response_mode") == "streaming":
        return flask.Response(task.stream(), mimetype="text/event-stream")
    return flask.Response(task.whole(), content_type="application/json; charset=utf-8")


def _known(app, config, query):
    """Return what is found for a question in the knowledge bases that an app has."""
    wanted = config.get("dataset_configs") or {}
    numbers = [each["dataset"]["id"] for each in (wanted.get("datasets") or {}).get("datasets") or ()]
    datasets = [found for number in numbers if (found := backing.one("dataset", id=number, tenant=app["tenant"]))]
    found = [hit for dataset in datasets for hit in knowledge.search(dataset, query, wanted.get("top_k", 4))]
    return sorted(found, key=lambda hit: -hit[1])


class _Task:
    """One question to one model; a thread asks, and a queue holds what has come."""

    def __init__(self, app, provider, model, credentials, config, given):
        self.app, self.provider, self.model, self.credentials = app, provider, model, credentials
        self.config, self.query, self.resources = config, given["query"], []
        self.task, self.message, self.created = str(uuid.uuid4()), str(uuid.uuid4()), int(time.time())
        self.conversation = given.get("conversation_id") or str(uuid.uuid4())
        self.come = queue.Queue()
        threading.Thread(target=self._ask, daemon=True).start()

    def _ask(self):
        try:
            schema = self.provider.schema("llm", self.model["name"], self.credentials)
            parameters = dict(self.model.get("completion_params") or {})
            stop = parameters.pop("stop", [])
            context = schema["model_properties"].get("context_size")
            # core/app/apps/base_app_runner.py; tokens of the prompt are not counted by default.
            if context is not None and int(parameters.get("max_tokens") or 0) > context:
                raise client.InvokeError("InvokeBadRequestError", TOO_LONG)
            data = {"prompt_messages": self._messages(), "model_parameters": parameters, "tools": [], "stop": stop}
            for chunk in self.provider.ask(
                "llm/invoke", "llm", self.model["name"], self.credentials, stream=True, **data
            ):
                self.come.put(("chunk", chunk["delta"]))
            self.come.put(("end", None))
        except Exception as error:
            self.come.put(("error", error))

    def _messages(self):
        found = _known(self.app, self.config, self.query)
        self.resources = [
            {"position": place, "segment_id": one["id"], "score": score, "content": one["content"]}
            for place, (one, score) in enumerate(found, start=1)
        ]
        prompt = self.config.get("pre_prompt") or ""
        if found:
            context = "\n".join(one["content"] for one, _ in found)
            about = "Use the following context as your learned knowledge, inside <context></context> XML tags."
            prompt = f"{about}\n\n<context>\n{context}\n</context>\n\n{prompt}"
        asked = {"role": "user", "content": self.query, "name": None}
        return [{"role": "system", "content": prompt, "name": None}, asked] if prompt else [asked]

    def _events(self):
        usage, started, first = {}, time.monotonic(), None
        while True:
            try:
                kind, what = self.come.get(timeout=PING_SECONDS)
            except queue.Empty:
                yield "ping"
                continue
            if kind == "chunk":
                usage = what.get("usage") or usage
                text = what["message"]["content"]
                if text:
                    first = first or time.monotonic() - started
                    yield self._event("message", id=self.message, answer=text, from_variable_selector=None)
            elif kind == "end":
                about = {"annotation_reply": None, "retriever_resources": self.resources, "usage": _numbers(usage)}
                yield self._event("message_end", id=self.message, metadata=about, files=None)
                return
            else:
                yield self._event("error", **_explained(what))
                return

    def _event(self, name, **more):
        about = {"conversation_id": self.conversation, "message_id": self.message, "created_at": self.created}
        return {"event": name, **about, "task_id": self.task, **more}

    def stream(self):
        for event in self._events():
            yield f"event: {event}\n\n" if isinstance(event, str) else f"data: {json.dumps(event)}\n\n"

    def whole(self):
        answer = ""
        for event in self._events():
            if event == "ping":
                continue
            if event["event"] == "error":
                raise Problem(event["status"], event["code"], event["message"])
            if event["event"] == "message":
                answer += event["answer"]
            else:
                shown = {"event": "message", "id": self.message, "mode": self.app["mode"], "answer": answer}
                return json.dumps({**event, **shown})
        raise AssertionError("a task ends with an end or an error")


def _numbers(usage):
    """Prices are decimals, which JSON of the api has as text."""
    return {key: str(decimal.Decimal(str(value))) if "price" in key else value for key, value in usage.items()}


def _explained(error):
    """Return what the stream says of an error: core/app/apps/base_app_generate_response_converter.py."""
    if isinstance(error, client.InvokeError):
        hidden = error.kind == "InvokeAuthorizationError"
        text = "Incorrect API key provided" if hidden else error.description
        return {"code": "completion_request_error", "status": 400, "message": text}
    if isinstance(error, client.Unreachable):
        return {"code": "invalid_param", "status": 400, "message": f"{error}-500"}
    if isinstance(error, ValueError):
        return {"code": "invalid_param", "status": 400, "message": str(error)}
    text = "Internal Server Error, please contact support."
    return {"code": "internal_server_error", "status": 500, "message": text}
