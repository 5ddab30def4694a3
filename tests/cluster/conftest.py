"""The bundles of the end-to-end tests, and a cluster of one node to run them on: `make test-cluster`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import disks, newer, once, owner_key, provided, registry, sample, upstream, work
from tests.target.cluster import programs, settings
from tests.target.cluster.node import Company, Node
from tests.target.private_registry import PrivateRegistry

__all__ = ["disks", "newer", "once", "owner_key", "provided", "registry", "sample", "upstream", "work"]


@pytest.fixture(scope="session")
def node(work: Path, disks: Path) -> Iterator[Node]:
    """The node, and a host of the company next to it."""
    with Company() as company, Node(disks / "node", programs.find(work), company) as node:
        yield node


@pytest.fixture(scope="session")
def private(node: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateRegistry]:
    """The company's registry, next to the node, which trusts its authority."""
    with PrivateRegistry(tmp_path_factory.mktemp("company"), beside=node.company) as registry:
        settings.trust(node.folder, registry.host, registry.authority)
        yield registry
