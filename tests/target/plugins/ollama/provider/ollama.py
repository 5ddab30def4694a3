from dify_plugin import ModelProvider


class OllamaProvider(ModelProvider):
    def validate_provider_credentials(self, credentials):
        """There are none: each model has its own."""
