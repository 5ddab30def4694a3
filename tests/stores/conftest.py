"""The machines and bundles of the end-to-end tests, for a Qdrant beside them: `make test-stores QDRANT=FILE`."""

from tests.e2e.conftest import disks, lasting_machine, once, registry, sample, work

__all__ = ["disks", "lasting_machine", "once", "registry", "sample", "work"]
