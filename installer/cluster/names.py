"""Names of services as the API takes them: RFC 1123 labels, without underscores, wherever they are hosts."""

from __future__ import annotations

import re
from collections.abc import Iterable


def of(service: str) -> str:
    """Return the name of a service's objects: `plugin_daemon` is `plugin-daemon`."""
    return service.replace("_", "-")


def translate(text: str, services: Iterable[str]) -> str:
    """Return a text in which each service that stands as a host has its new name; paths and longer words stay."""
    for service in services:
        if "_" in service:
            host = rf"(?<![\w.-])(?<![^/]/)(?<!\A/){service}(?![\w-]|\.\w)"
            text = re.sub(host, of(service), text)
    return text
