"""Asks plugins: /plugin/TENANT/dispatch of the daemon, a stream whatever is asked. service/base_sse.go"""

import json

import flask
from daemon import answers, installs, process

dispatch = flask.Blueprint("dispatch", __name__, url_prefix="/plugin/<tenant>/dispatch")
# By the path: what the plugin is asked to do (io_tunnel/access_types). All of it is about models.
ACTIONS = {
    "llm/invoke": "invoke_llm",
    "llm/num_tokens": "get_llm_num_tokens",
    "text_embedding/invoke": "invoke_text_embedding",
    "text_embedding/num_tokens": "get_text_embedding_num_tokens",
    "rerank/invoke": "invoke_rerank",
    "model/validate_provider_credentials": "validate_provider_credentials",
    "model/validate_model_credentials": "validate_model_credentials",
    "model/schema": "get_ai_model_schemas",
}


@dispatch.post("/<path:path>")
def ask(tenant, path):
    plugin = flask.request.headers.get("X-Plugin-ID")
    if not plugin:
        return answers.failed("PluginDaemonBadRequestError", "plugin_id is required"), 400
    if path not in ACTIONS:
        return answers.failed("PluginDaemonNotFoundError", f"no such action: {path}"), 404
    found = installs.of_tenant(tenant, plugin_id=plugin)
    if not found:
        return answers.failed("PluginNotFoundError", "plugin not found"), 404
    runtime = installs.running.get(found[0]["plugin_unique_identifier"])
    if runtime is None:
        return answers.failed("PluginDaemonInternalServerError", "no available node, plugin not found"), 404
    given = flask.request.get_json()
    return flask.Response(
        _stream(runtime, ACTIONS[path], given.get("user_id", ""), given["data"]), mimetype="text/event-stream"
    )


def _stream(runtime, action, user, data):
    try:
        for kind, what in runtime.invoke("model", action, user, data):
            yield _line(answers.good(what) if kind == "stream" else answers.failed("PluginInvokeError", what))
    except process.Failed as error:
        yield _line(answers.failed("PluginDaemonInternalServerError", str(error)))


def _line(answer):
    return f"data: {json.dumps(answer)}\n\n"
