"""Asks web services from inside another host's network, with the libraries of this one."""

from __future__ import annotations

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import requests

CLONE_NEWNET = 0x40000000  # sched.h
TIMEOUT_SECONDS = 180.0


class Host(Protocol):
    """A host with a network of its own, and its address there."""

    @property
    def network(self) -> Path:
        """The namespace."""

    @property
    def address(self) -> str:
        """The address."""


class Inside:
    """A session whose connections begin in a host's network: setns(2) moves one thread alone."""

    def __init__(self, host: Host) -> None:
        self.session = requests.Session()
        # Proxies of this host are not the other's.
        self.session.trust_env = False
        self._thread = ThreadPoolExecutor(1, initializer=enter, initargs=(host.network,))

    def request(self, method: str, url: str, **options: Any) -> requests.Response:
        """Ask, with requests' own options; a response that is a stream is read by whoever asked."""
        options = {"timeout": TIMEOUT_SECONDS, "verify": False, **options}
        return self._thread.submit(self.session.request, method, url, **options).result()


def enter(network: Path) -> None:
    """Move this thread into a network namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(network, os.O_RDONLY)
    try:
        if libc.setns(descriptor, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")
    finally:
        os.close(descriptor)
