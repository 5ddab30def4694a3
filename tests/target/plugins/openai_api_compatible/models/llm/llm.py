"""OpenAI's /v1/chat/completions."""

import json

from chatting import Chatting
from dify_plugin.interfaces.model.large_language_model import LargeLanguageModel
from serving import Broken, ask


class OpenAICompatibleLanguageModel(Chatting, LargeLanguageModel):
    most_tokens, length = "max_tokens_to_sample", "max_tokens"

    def _ask(self, model, credentials, said, parameters, stop, stream):
        body = {
            "model": credentials.get("endpoint_model_name") or model,
            "messages": said,
            "stream": stream,
            **parameters,
        }
        body |= {"stop": stop} if stop else {}
        body |= {"stream_options": {"include_usage": True}} if stream else {}
        url = f"{credentials['endpoint_url'].rstrip('/')}/chat/completions"
        return ask(url, body, credentials.get("api_key"), stream=stream)

    def _pieces(self, response, stream):
        """Give (text, whether it is the last, tokens of prompt and answer) of each event."""
        if not stream:
            answer = response.json()
            yield answer["choices"][0]["message"]["content"], True, _counts(answer)
            return
        counts = (0, 0)
        for line in response.iter_lines():
            text = line.decode().removeprefix("data:").strip()
            if not text:
                continue
            if text == "[DONE]":
                yield "", True, counts
                return
            event = json.loads(text)
            if "error" in event:
                raise Broken(str(event["error"]))
            counts = _counts(event) if event.get("usage") else counts
            for choice in event["choices"]:
                yield choice["delta"].get("content") or "", False, counts
        raise Broken("the server has ended the stream in the middle of its answer")


def _counts(answer):
    usage = answer.get("usage") or {}
    return usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0)
