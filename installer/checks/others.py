"""Asks from inside whether servers of others can be reached: that this host reaches them says little."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from installer.checks import inside
from installer.core import errors
from installer.core.finding import Finding
from installer.engine.base import Container, Engine
from installer.release import dify, external

REMEDY = (
    "let the containers through: a firewall of this host or of the network stands between, or the name is known to "
    "this host alone (give the address, or --resolver IP)"
)


def check(variables: Mapping[str, str], found: list[Container], probe: Path, engine: Engine) -> list[Finding]:
    """Have the api's container connect to each of them; nothing where all are our own, or the api does not run."""
    servers = external.find_all(variables)
    api = inside.find_container(dify.API, found)
    if api is None or not servers:
        return []
    named = {name: address for server in servers for name, address in server.addresses.items()}
    questions = [{"host": host, "port": port} for host, port in named.values()]
    answers = inside.ask_inside(api, questions, probe, engine, function="connect")
    return [
        Finding(
            check=f"api reaches {name}",
            level="ok" if answer["kind"] == "ok" else "error",
            seen=str(answer["detail"]),
            remedy="" if answer["kind"] == "ok" else REMEDY,
        )
        for name, answer in zip(named, answers, strict=True)
    ]


@contextlib.contextmanager
def telling(look: Callable[[], list[Finding]]) -> Iterator[None]:
    """Say first, where Dify does not become healthy in the block, whom of others it does not reach."""
    try:
        yield
    except errors.NotHealthy as error:
        bad = []
        with contextlib.suppress(errors.InstallerError):
            bad = [each for each in look() if each.level == "error"]
        if bad:
            told = "; ".join(f"{each.check.removeprefix('api reaches ')}: {each.seen}" for each in bad)
            error.message = f"this host reaches what Dify's containers do not ({told}); {error.message}"
            error.remedy = f"{bad[0].remedy}; then run the same command again"
        raise
