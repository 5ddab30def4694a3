"""Ollama's /api/chat."""

import json

from chatting import Chatting
from dify_plugin.interfaces.model.large_language_model import LargeLanguageModel
from serving import Wrong, ask


class OllamaLanguageModel(Chatting, LargeLanguageModel):
    most_tokens, length = "max_tokens", "num_predict"

    def _ask(self, model, credentials, said, parameters, stop, stream):
        body = {"model": model, "messages": said, "stream": stream, "options": {**parameters, "stop": stop}}
        body["options"]["num_ctx"] = int(credentials.get("context_size") or 4096)
        url = f"{credentials['base_url'].rstrip('/')}/api/chat"
        return ask(url, body, credentials.get("api_key"), stream=stream)

    def _pieces(self, response, stream):
        """Give (text, whether it is the last, tokens of prompt and answer) of each line."""
        for line in response.iter_lines():
            part = json.loads(line)
            if "error" in part:
                raise Wrong(part["error"])
            counts = part.get("prompt_eval_count", 0), part.get("eval_count", 0)
            yield part["message"]["content"], part["done"], counts
