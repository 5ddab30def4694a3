"""Checks the model servers from the host and from the container that will call them.

A host's `curl` that works says little: the container has another network, another resolver and,
for `localhost`, is another machine (dify#14070, dify#11189).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from installer.checks import inside
from installer.checks.probe import probe as ask
from installer.core import errors, layout
from installer.core.finding import Finding
from installer.engine.base import Container
from installer.release import dify

# Where RHEL and Debian keep the authorities that the host trusts: the Python on board knows no such place.
HOST_AUTHORITIES = (Path("/etc/pki/tls/certs/ca-bundle.crt"), Path("/etc/ssl/certs/ca-certificates.crt"))
# RFC 9110, 15.5.2 and 15.5.4; some servers answer the one, some the other.
WANTS_KEY = (401, 403)
LOOPBACK = ("localhost", "127.0.0.1", "::1")


ServerKind = Literal["Ollama", "vLLM"]
Kind = Literal["chat", "embedding", "rerank"]
KINDS: tuple[Kind, ...] = ("chat", "embedding", "rerank")


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """A model that was asked for by its name; None is for what the server is to tell."""

    name: str
    context: int | None = None  # tokens
    tools: bool | None = None
    vision: bool | None = None
    kind: Kind | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ApiKey:
    """A key: of the server with this address, or without one of all servers that have no key of their own."""

    key: str = field(repr=False)
    url: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """A model server: Ollama (`/api/tags`) or vLLM, or another with OpenAI's interface (`/v1/models`).

    `wanted` are the models that it must have, `key` is empty when none was given.
    """

    kind: ServerKind
    url: str
    wanted: tuple[Wanted, ...] = ()
    key: str = field(default="", repr=False)

    @property
    def base(self) -> str:
        """The address as plugins of Dify want it: of Ollama without a path, of the others with /v1."""
        base = self.url.rstrip("/")
        return base if self.kind == "Ollama" else f"{base.removesuffix('/v1')}/v1"

    @property
    def question(self) -> dict[str, object]:
        """What the probe is asked."""
        names = [each.name for each in self.wanted]
        if self.kind == "Ollama":
            return {"url": f"{self.base}/api/tags", "models": "ollama", "wanted": names, "key": self.key}
        return {"url": f"{self.base}/models", "models": "openai", "wanted": names, "key": self.key}


def checked_model(text: str) -> Wanted:
    """Return a model as `--model NAME[:key=value,…]` names it. Raises UsageError.

    A name may hold colons itself (`qwen3:8b`): only a last part with an equals sign says what the model can do.
    """
    name, _, last = text.rpartition(":")
    if "=" not in last:
        name, last = text, ""
    if not name or any(character.isspace() for character in name):
        raise errors.UsageError(f"{text!r} names no model", "write, for example, qwen3:8b or qwen3:8b:context=32768")
    values: dict[str, Any] = {}
    for pair in filter(None, last.split(",")):
        key, _, value = pair.partition("=")
        values |= _property(key.strip(), value.strip())
    return Wanted(name=name, **values)


def _property(key: str, value: str) -> dict[str, Any]:
    if key == "context" and value.isdecimal() and int(value) > 0:
        return {key: int(value)}
    if key in ("tools", "vision") and value in ("yes", "no", "true", "false"):
        return {key: value in ("yes", "true")}
    if key == "kind" and value in KINDS:
        return {key: value}
    raise errors.UsageError(
        f"{key}={value} says nothing of a model",
        f"known are context=TOKENS, tools=yes|no, vision=yes|no and kind={'|'.join(KINDS)}",
    )


def checked_key(text: str) -> ApiKey:
    """Return a key as `--api-key [URL=]KEY` gives it. Raises UsageError, which never repeats it.

    A key may end in equals signs itself, and an address holds none: only what begins with http is one.
    """
    url, _, key = text.partition("=") if text.startswith(("http://", "https://")) else ("", "", text)
    if not key or any(character.isspace() or not character.isprintable() for character in key):
        raise errors.UsageError("this is not a valid key", "write KEY, or URL=KEY with the address of one server")
    return ApiKey(url=checked_url(url).rstrip("/") if url else "", key=key)


def find_key(keys: Sequence[ApiKey], url: str) -> str:
    """Return the key of the server with this address, else the one of all servers, else an empty text."""
    found = {each.url: each.key for each in keys}
    return found.get(url.rstrip("/"), found.get("", ""))


def checked_url(text: str) -> str:
    """Return the address of a model server. Raises UsageError when it is no http(s) URL, or holds a password."""
    try:
        parts = urlsplit(text)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or any(character.isspace() or not character.isprintable() for character in text):
        # The text may hold a password, and is not repeated.
        raise errors.UsageError("this is not a valid http or https URL", "write, for example, http://10.0.0.9:11434")
    if parts.password is not None:
        raise errors.UsageError("a model server's URL holds a password", "give the key with DIFY_INSTALLER_API_KEY")
    return text


def host_authorities(place: layout.Installation) -> str:
    """Return the file of authorities with which this host asks model servers: Dify's, else its own, else none."""
    return next((str(path) for path in (place.ca_bundle, *HOST_AUTHORITIES) if path.is_file()), "")


def check_servers(
    servers: list[Server],
    found: list[Container],
    authorities: str,
    probe: Path,
    engine: inside.Runtime,
    *,
    from_here: bool = True,
) -> list[Finding]:
    """Ask each server twice; a fault is a warning here, the caller decides whether it is more.

    This host trusts `authorities`, a PEM file; a container trusts what its environment says. Without `from_here` this
    host is not asked: beside a cluster it may reach what no pod does, and the other way round.
    """
    results: list[Finding] = []
    caller = inside.find_container(dify.MODEL_CALLER, found) or inside.find_container(dify.API, found)
    for server in servers:
        from_host: Mapping[str, Any] | None = None
        if from_here:
            from_host = ask(**server.question, authorities=authorities)  # type: ignore[arg-type]
            results.append(_judged(server, "this host", from_host, from_host))
        if caller is None:
            continue
        (answer,) = inside.ask_inside(caller, [server.question], probe, engine)
        results.append(_judged(server, caller, answer, from_host or answer))
    return results


def ask_again(
    servers: Sequence[Server], found: list[Container], authorities: str, probe: Path, engine: inside.Runtime
) -> list[Finding]:
    """Ask each server once more from inside, without a key; this host is asked where that fails, for the remedy.

    Returns nothing where no container runs that could ask.
    """
    caller = inside.find_container(dify.MODEL_CALLER, found) or inside.find_container(dify.API, found)
    if caller is None:
        return []
    results = []
    for server in servers:
        (answer,) = inside.ask_inside(caller, [server.question], probe, engine)
        fails = judge_again(server, caller, answer, answer).level != "ok"
        from_host = ask(**server.question, authorities=authorities) if fails else answer  # type: ignore[arg-type]
        results.append(judge_again(server, caller, answer, from_host))
    return results


def judge_again(server: Server, where: str, answer: Mapping[str, Any], from_host: Mapping[str, Any]) -> Finding:
    """Judge a server that was asked without a key: one that wants a key can be reached."""
    if answer["kind"] == "status" and answer["code"] in WANTS_KEY:
        seen = f"{server.url}: it answers, and wants a key (status {answer['code']})"
        return Finding(check=f"{server.kind} from {where}", level="ok", seen=seen)
    return _judged(server, where, answer, from_host)


def _judged(server: Server, where: str, answer: Mapping[str, Any], from_host: Mapping[str, Any]) -> Finding:
    good = answer["kind"] == "ok"
    models = ", ".join(answer["models"][:8]) + (", …" if len(answer["models"]) > 8 else "")
    seen = f"{server.url}: {answer['detail']}" + (f" ({models})" if models else "")
    return Finding(
        check=f"{server.kind} from {where}",
        level="ok" if good else "warning",
        seen=seen,
        remedy="" if good else _remedy(server, answer["kind"], from_host["kind"]),
    )


def _remedy(server: Server, kind: str, on_host: str) -> str:
    """Return what to do, from what failed and whether the host itself fares better."""
    host = urlsplit(server.url).hostname or ""
    if kind == "connection" and on_host not in ("name", "connection") and host in LOOPBACK:
        return "inside a container, localhost is the container: give this server's own address instead"
    if kind == "connection" and on_host not in ("name", "connection"):
        return (
            "the host reaches it and the container does not: let it listen on all addresses (Ollama: "
            "OLLAMA_HOST=0.0.0.0), and let the firewall pass the containers' network"
        )
    return {
        "name": f"let DNS know {host}, or give the server's IP address instead of its name",
        "connection": "start the model server, let it listen on that address, and let the firewalls pass its port",
        "tls": "see that its certificate is for this name, and name the company's authorities with --ca-bundle FILE",
        "status": "check the address and the key (DIFY_INSTALLER_API_KEY)",
        "model": "load the model on that server (`ollama pull`, `vllm serve`), or give one of the names it has",
        "unknown": "ask it by hand from inside: `podman exec CONTAINER curl URL` (or `docker exec …`)",
    }[kind]
