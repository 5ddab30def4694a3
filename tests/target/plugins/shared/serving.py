"""What both providers have in common: they ask a server, and name its errors as Dify knows them."""

import requests
from dify_plugin.entities.model import AIModelEntity, FetchFrom, I18nObject
from dify_plugin.errors.model import (
    CredentialsValidateFailedError,
    InvokeAuthorizationError,
    InvokeBadRequestError,
    InvokeConnectionError,
    InvokeError,
    InvokeRateLimitError,
    InvokeServerUnavailableError,
)

TIMEOUT = (10, 300)


class Refused(Exception):
    """The server wants another key."""


class Wrong(Exception):
    """The server has no use for the question."""


class Broken(Exception):
    """The server has failed."""


def ask(url, body, key, *, stream=False):
    """Return the response of a server. Raises one of the errors above, or one of requests."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    response = requests.post(url, json=body, headers=headers, timeout=TIMEOUT, stream=stream)
    if response.status_code < 400:
        # Without a charset in the answer requests takes text for Latin-1.
        response.encoding = "utf-8"
        return response
    said = f"API request failed with status code {response.status_code}: {response.text}"
    if response.status_code in (401, 403):
        raise Refused(said)
    raise Broken(said) if response.status_code >= 500 else Wrong(said)


def texts(message):
    """Return the text of a message, whether it is one or a list of parts."""
    if isinstance(message.content, list):
        return "".join(part.data for part in message.content if part.type.value == "text")
    return message.content or ""


class Serving:
    """The part of a model's class that is the same for every kind of model."""

    @property
    def _invoke_error_mapping(self):
        return {
            InvokeConnectionError: [requests.ConnectionError, requests.Timeout],
            InvokeAuthorizationError: [Refused],
            InvokeRateLimitError: [],
            InvokeServerUnavailableError: [Broken],
            InvokeBadRequestError: [Wrong, ValueError, KeyError],
        }

    def validate_credentials(self, model, credentials):
        """Ask the server something small, as Dify's own providers do."""
        try:
            self._try(model, credentials)
        except InvokeError as error:
            raise CredentialsValidateFailedError(
                f"An error occurred during credentials validation: {error.description}"
            ) from error
        except Exception as error:
            raise CredentialsValidateFailedError(f"An error occurred during credentials validation: {error}") from error

    def _entity(self, model, properties, rules=(), features=()):
        return AIModelEntity(
            model=model,
            label=I18nObject(en_us=model),
            model_type=self.model_type,
            fetch_from=FetchFrom.CUSTOMIZABLE_MODEL,
            features=list(features),
            model_properties=properties,
            parameter_rules=list(rules),
        )
