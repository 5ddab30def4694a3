"""podman's storage.conf with our store in it, and without it again."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from installer.core import errors
from installer.images import storage_conf

STORE = Path("/opt/dify/stores/0123456789ab")
# Of the shape that RHEL's has: comments, an array over several lines, tables below tables.
HOSTS = """\
# An administrator's comment.
[storage]
driver = "overlay"
runroot = "/run/containers/storage"
graphroot = "/data/containers"

[storage.options]
# Other stores.
additionalimagestores = [
    "/usr/lib/containers/storage",
]
pull_options = {enable_partial_images = "true", use_hard_links = "false"}

[storage.options.overlay]
mountopt = "nodev,metacopy=on"
"""
PLAIN = storage_conf.default("overlay", "/var/lib/containers/storage", "/run/containers/storage")


def stores(text: str) -> list[str]:
    found: list[str] = tomllib.loads(text)["storage"]["options"]["additionalimagestores"]
    return found


@pytest.mark.parametrize("text", [HOSTS, PLAIN, HOSTS.replace("[storage.options]\n", "[storage.options]\n\n"), ""])
def test_the_store_is_added_once_and_nothing_else_changes(text: str) -> None:
    added = storage_conf.add(text, STORE)
    assert stores(added)[0] == str(STORE)
    assert storage_conf.add(added, STORE) == added
    before, after = tomllib.loads(text), tomllib.loads(added)
    for document in (before, after):
        document.setdefault("storage", {}).setdefault("options", {}).pop("additionalimagestores", None)
    assert before == after


def test_comments_and_other_stores_stay() -> None:
    added = storage_conf.add(HOSTS, STORE)
    assert stores(added) == [str(STORE), "/usr/lib/containers/storage"]
    for line in HOSTS.splitlines():
        if line.startswith("#") or ("=" in line and "stores" not in line):
            assert line in added
    removed = storage_conf.remove(added, STORE)
    assert removed is not None
    assert tomllib.loads(removed) == tomllib.loads(HOSTS)


def test_a_file_of_ours_goes_with_the_last_store() -> None:
    text = storage_conf.add(storage_conf.add(storage_conf.marked(PLAIN), STORE), Path("/another"))
    without = storage_conf.remove(text, STORE)
    assert without is not None
    assert stores(without) == ["/another"]
    assert storage_conf.remove(without, Path("/another")) is None


def test_a_file_of_ours_that_somebody_has_changed_stays() -> None:
    text = storage_conf.add(storage_conf.marked(PLAIN), STORE).replace("/var/lib", "/data")
    removed = storage_conf.remove(text, STORE)
    assert removed is not None
    assert stores(removed) == []


def test_a_store_that_is_not_there_changes_nothing() -> None:
    assert storage_conf.remove(HOSTS, STORE) == HOSTS


def test_what_is_no_toml_is_refused() -> None:
    with pytest.raises(errors.CommandFailed):
        storage_conf.add("[storage", STORE)
