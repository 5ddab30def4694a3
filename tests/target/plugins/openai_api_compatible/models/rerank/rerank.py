"""vLLM's /v1/rerank, which is Jina's and Cohere's."""

from dify_plugin.entities.model import ModelPropertyKey
from dify_plugin.entities.model.rerank import RerankDocument, RerankResult
from dify_plugin.interfaces.model.rerank_model import RerankModel
from serving import Serving, ask


class OpenAICompatibleRerankModel(Serving, RerankModel):
    def _try(self, model, credentials):
        self._invoke(model, credentials, "ping", ["pong"])

    def _invoke(self, model, credentials, query, docs, score_threshold=None, top_n=None, user=None):
        body = {"model": credentials.get("endpoint_model_name") or model, "query": query, "documents": docs}
        body |= {"top_n": top_n} if top_n else {}
        url = f"{credentials['endpoint_url'].rstrip('/')}/rerank"
        found = ask(url, body, credentials.get("api_key")).json()["results"]
        ranked = [
            RerankDocument(index=each["index"], text=docs[each["index"]], score=each["relevance_score"])
            for each in found
            if each["relevance_score"] >= (score_threshold or 0)
        ]
        return RerankResult(model=model, docs=ranked)

    def get_customizable_model_schema(self, model, credentials):
        return self._entity(model, {ModelPropertyKey.CONTEXT_SIZE: int(credentials.get("context_size") or 4096)})
