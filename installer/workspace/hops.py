"""The way of a question, and where on it a failure lies: from Dify's own words to the hop and what helps.

The words are those of Dify 1.11.3, of plugin daemon 0.5.2 and of the Python in the plugins, as they were seen.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from installer.workspace.client import ConsoleError

Hop = Literal[
    "console", "api", "worker", "vector store", "plugin daemon", "plugin", "name", "connection", "TLS", "key", "model"
]
# Those that lie in the model server or on the way to it: not in this Dify.
OUTSIDE: tuple[Hop, ...] = ("name", "connection", "TLS", "key", "model")

# In this order: a sentence of the plugin daemon may hold one of the model server.
_SIGNS: tuple[tuple[Hop, re.Pattern[str]], ...] = (
    ("plugin daemon", re.compile("Failed to request plugin daemon|Request to Plugin Daemon Service failed")),
    # The words of Dify and of each store's client; where a client has none of its own, Python's come without a preface.
    (
        "vector store",
        re.compile(
            r"\A\[Errno|vector (database|store)|weaviate|protocol GRPC|qdrant|milvus|chroma|pgvect|opensearch|elastic",
            re.IGNORECASE,
        ),
    ),
    (
        "name",
        re.compile("Name or service not known|NameResolutionError|Temporary failure in name resolution"),
    ),
    ("TLS", re.compile("SSLError|CERTIFICATE_VERIFY_FAILED|certificate verify failed|SSLCertVerification")),
    ("key", re.compile(r"\b40[13]\b|[Uu]nauthorized|[Ii]nvalid API key|Incorrect API key|InvokeAuthorizationError")),
    (
        "connection",
        re.compile(
            "Connection refused|ConnectionError|NewConnectionError|ConnectTimeout|No route to host|Max retries exceeded"
            "|Network is unreachable|Connection aborted|RemoteDisconnected|Read timed out|ReadTimeout|ConnectError"
        ),
    ),
    (
        "model",
        re.compile(
            r"model.{0,80}(not found|not exist|credentials is not initialized)|context length|maximum context"
            r"|status code (4|5)\d\d|InvokeBadRequest|InvokeServerUnavailable|out of memory",
            re.DOTALL | re.IGNORECASE,
        ),
    ),
    (
        "plugin",
        re.compile(
            "no available node|plugin runtime|failed to launch plugin|PluginDaemon|PluginNotFound|PluginInvokeError"
            "|plugin exited|Plugin .* not found|Provider .* (does not exist|not found|is not)|killed by timeout"
        ),
    ),
)
_REMEDIES: dict[Hop, str] = {
    "console": "look at `dify-installer status`",
    "api": "look at what api and plugin_daemon have written: `dify-installer logs api plugin_daemon`",
    "worker": "look at `dify-installer status` and at `dify-installer logs worker`",
    "vector store": "look at `dify-installer status` and at the log of the vector store: `dify-installer logs`",
    "plugin daemon": "look at `dify-installer status` and at the log of the container plugin_daemon",
    "plugin": "look at the log of the container plugin_daemon; `dify-installer plugins list` tells what is installed",
    "name": "let DNS know the model server's name, or give its IP address instead",
    "connection": "start the model server, let it listen on that address, and let the firewalls pass its port",
    "TLS": "see that its certificate is for this name, and name the company's authorities with --ca-bundle FILE",
    "key": "give the model server's key: DIFY_INSTALLER_API_KEY",
    "model": "see on the model server that the model is loaded and fits: `ollama ps`, or the log of vLLM",
}


@dataclass(frozen=True, slots=True)
class Fault:
    """Where a question failed, what was said there, and what to do."""

    hop: Hop
    words: str
    remedy: str

    @property
    def outside(self) -> bool:
        """Whether it lies in the model server, or on the way to it."""
        return self.hop in OUTSIDE


def find_fault(words: str, otherwise: Hop) -> Fault:
    """Return the fault that Dify's words tell of; `otherwise` is the hop of words that are not known."""
    hop = next((hop for hop, sign in _SIGNS if sign.search(words)), otherwise)
    return Fault(hop, " ".join(words.split()), _REMEDIES[hop])


def read_fault(error: ConsoleError) -> Fault:
    """Return the fault that an answer of the console tells of."""
    if error.status == 0:
        return Fault("console", error.message, error.remedy)
    return find_fault(error.words or error.message, "api")
