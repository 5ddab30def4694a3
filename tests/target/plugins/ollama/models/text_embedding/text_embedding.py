"""Ollama's /api/embed."""

from dify_plugin.interfaces.model.text_embedding_model import TextEmbeddingModel
from embedding import Embedding
from serving import ask


class OllamaEmbeddingModel(Embedding, TextEmbeddingModel):
    def _ask(self, model, credentials, texts):
        url = f"{credentials['base_url'].rstrip('/')}/api/embed"
        answer = ask(url, {"model": model, "input": texts}, credentials.get("api_key")).json()
        return answer["embeddings"], answer.get("prompt_eval_count", 0)
