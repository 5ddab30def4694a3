"""OpenAI's /v1/embeddings."""

from dify_plugin.interfaces.model.text_embedding_model import TextEmbeddingModel
from embedding import Embedding
from serving import ask


class OpenAICompatibleEmbeddingModel(Embedding, TextEmbeddingModel):
    def _ask(self, model, credentials, texts):
        body = {"model": credentials.get("endpoint_model_name") or model, "input": texts}
        url = f"{credentials['endpoint_url'].rstrip('/')}/embeddings"
        answer = ask(url, body, credentials.get("api_key")).json()
        return [each["embedding"] for each in answer["data"]], answer["usage"]["total_tokens"]
