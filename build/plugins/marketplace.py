"""Fetches plugin packages from Dify's marketplace, or from a mirror of it, and keeps them for the next build.

The addresses are those that Dify 1.11.3 itself asks (web/service/use-plugins.ts, `usePluginVersionList`; the plugin
daemon's documents name the one of a package).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests

from build.failure import BuildError
from build.plugins.package import SUFFIX, as_numbers
from installer.checks.front_door import innermost
from installer.core import digest, files
from installer.core.console import size

URL = "https://marketplace.dify.ai"
TIMEOUT_SECONDS = 60.0
# The daemon takes 50 MB unpacked; a package is packed.
LARGEST_PACKAGE = 100 * 1024 * 1024


def list_versions(plugin: str, url: str) -> list[str]:
    """Return the versions of `AUTHOR/NAME` that the marketplace offers, newest first. Raises BuildError."""
    asked = f"{url.rstrip('/')}/api/v1/plugins/{plugin}/versions?page=1&page_size=100"

    def read(answer: requests.Response) -> list[str]:
        return [str(each["version"]) for each in answer.json()["data"]["versions"]]

    return sorted(_ask(asked, plugin, url, read), key=as_numbers, reverse=True)


def fetch(plugin: str, version: str, url: str, kept: Path) -> Path:
    """Return the package of a version, from the folder `kept` if an earlier build has put it there.

    Raises BuildError when it cannot be had, or is no longer the file that it was.
    """
    target = kept / f"{plugin.replace('/', '-')}_{version}{SUFFIX}"
    noted = target.with_name(f"{target.name}.sha256")
    if target.is_file() and noted.is_file():
        if digest.hash_file(target) != noted.read_text("utf-8").strip():
            raise BuildError(
                f"{target} is not the file that an earlier build has fetched",
                f"remove it and {noted.name}, and build again: it is fetched and proved anew",
            )
        return target
    data = _ask(f"{url.rstrip('/')}/api/v1/plugins/{plugin}/{version}/download", plugin, url, _content)
    files.folder(kept)
    files.write(target, data)
    files.write(noted, digest.hash_bytes(data) + "\n")
    return target


def _content(answer: requests.Response) -> bytes:
    data = b""
    for block in answer.iter_content(digest.BLOCK_BYTES):
        data += block
        if len(data) > LARGEST_PACKAGE:
            raise ValueError(f"it is larger than {size(LARGEST_PACKAGE)}")
    return data


def _ask(asked: str, plugin: str, url: str, read: Callable[[requests.Response], Any]) -> Any:
    try:
        with requests.get(asked, timeout=TIMEOUT_SECONDS, stream=True) as answer:
            answer.raise_for_status()
            return read(answer)
    except (requests.RequestException, ValueError, KeyError, TypeError) as error:
        raise BuildError(
            f"the plugin {plugin} cannot be had from {url}: {innermost(error)}",
            "check its name and the network; name a mirror with --marketplace URL, give the package's file instead of "
            "its name, or leave plugins out with --plugin none (make bundle PLUGINS=none)",
        ) from error
