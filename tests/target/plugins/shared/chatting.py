"""What the large language models of both providers have in common: the roles, the rules, the chunks of a stream."""

from dify_plugin.entities.model import I18nObject, ModelFeature, ModelPropertyKey, ParameterRule, ParameterType
from dify_plugin.entities.model.llm import LLMResultChunk, LLMResultChunkDelta
from dify_plugin.entities.model.message import AssistantPromptMessage, UserPromptMessage
from serving import Serving, texts


class Chatting(Serving):
    def _try(self, model, credentials):
        for _ in self._invoke(model, credentials, [UserPromptMessage(content="ping")], {}, stream=False):
            pass

    def _invoke(
        self, model, credentials, prompt_messages, model_parameters, tools=None, stop=None, stream=True, user=None
    ):
        said = [{"role": message.role.value, "content": texts(message)} for message in prompt_messages]
        response = self._ask(model, credentials, said, model_parameters, stop or [], stream)
        return self._chunks(model, credentials, response, stream)

    def _chunks(self, model, credentials, response, stream):
        """Give each piece of the answer, and with the last one what it has taken."""
        for index, (text, done, counts) in enumerate(self._pieces(response, stream)):
            usage = self._calc_response_usage(model, credentials, *counts) if done else None
            delta = LLMResultChunkDelta(
                index=index,
                message=AssistantPromptMessage(content=text),
                finish_reason="stop" if done else None,
                usage=usage,
            )
            yield LLMResultChunk(model=model, delta=delta)

    def get_num_tokens(self, model, credentials, prompt_messages, tools=None):
        return sum(len(texts(message).split()) for message in prompt_messages)

    def get_customizable_model_schema(self, model, credentials):
        most = int(credentials.get(self.most_tokens) or 4096)
        rules = [
            ParameterRule(
                name="temperature",
                use_template="temperature",
                label=I18nObject(en_us="Temperature"),
                type=ParameterType.FLOAT,
                min=0,
                max=2,
                default=0.1,
            ),
            ParameterRule(
                name=self.length,
                use_template="max_tokens",
                label=I18nObject(en_us="Max Tokens"),
                type=ParameterType.INT,
                min=1,
                max=most,
                default=min(most, 512),
            ),
        ]
        properties = {
            ModelPropertyKey.MODE: credentials.get("mode", "chat"),
            ModelPropertyKey.CONTEXT_SIZE: int(credentials.get("context_size") or 4096),
        }
        return self._entity(model, properties, rules, self._features(credentials))

    def _features(self, credentials):
        if credentials.get("vision_support") in ("true", "support"):
            yield ModelFeature.VISION
        if (
            credentials.get("function_call_support") == "true"
            or credentials.get("function_calling_type") == "tool_call"
        ):
            yield ModelFeature.TOOL_CALL
