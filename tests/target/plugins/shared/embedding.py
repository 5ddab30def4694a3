"""What the embedding models of both providers have in common."""

from decimal import Decimal

from dify_plugin.entities.model import ModelPropertyKey
from dify_plugin.entities.model.text_embedding import EmbeddingUsage, TextEmbeddingResult
from serving import Serving


class Embedding(Serving):
    def _try(self, model, credentials):
        self._invoke(model, credentials, ["ping"])

    def _invoke(self, model, credentials, texts, user=None, input_type=None):
        vectors, tokens = self._ask(model, credentials, texts)
        free = Decimal(0)
        usage = EmbeddingUsage(
            tokens=tokens,
            total_tokens=tokens,
            unit_price=free,
            price_unit=free,
            total_price=free,
            currency="USD",
            latency=0.0,
        )
        return TextEmbeddingResult(model=model, embeddings=vectors, usage=usage)

    def get_num_tokens(self, model, credentials, texts):
        return [len(text.split()) for text in texts]

    def get_customizable_model_schema(self, model, credentials):
        properties = {
            ModelPropertyKey.CONTEXT_SIZE: int(credentials.get("context_size") or 512),
            ModelPropertyKey.MAX_CHUNKS: int(credentials.get("max_chunks") or 1),
        }
        return self._entity(model, properties)
