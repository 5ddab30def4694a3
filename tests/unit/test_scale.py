"""`make scale`: what is counted as pulled, what a registry's cost is, and that the pages have the figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench import scale, scale_report
from tests.bench.scale_nodes import Pulls, Store
from tests.bench.scale_pulls import Image, Served

ROOT = Path(__file__).resolve().parent.parent.parent
API = Image(repository="api", digest="sha256:a", blobs={"base": 10, "code": 5})
WEB = Image(repository="web", digest="sha256:b", blobs={"base": 10, "page": 1})


def test_a_node_pulls_what_it_lacks_and_a_shared_layer_once() -> None:
    store = Store()
    assert store.pull({"api": API}) == (1, 15)
    assert store.pull({"api": API, "web": WEB}) == (1, 1)
    assert store.pull({"web": WEB}) == (0, 0)
    assert store.images == ["api", "web"]


def test_layers_that_two_images_bring_together_are_pulled_once() -> None:
    assert Store().pull({"api": API, "web": WEB}) == (2, 16)


def test_the_newer_images_share_nothing_with_those_before() -> None:
    store = Store()
    store.pull({"api": API})
    assert store.pull({"newer": scale.newer(API)}) == (1, API.size)
    document = {"images": [{"repository": "api", "digest": API.digest}]}
    assert scale.renewed(document)["images"][0]["digest"] == scale.newer(API).digest


def test_what_all_nodes_pull_is_added_up() -> None:
    pulls = Pulls(pairs=3)
    pulls.nodes.update({"one": 15, "two": 1})
    assert pulls.bytes == 16


def test_the_cost_is_that_of_all_rounds_of_a_scheme() -> None:
    rounds = [
        Served(scheme=scheme, clients=clients, bytes=clients * 10**9, seconds=1, processor=processor, load=0)
        for scheme, clients, processor in (("http", 1, 1.0), ("http", 3, 1.0), ("https", 1, 4.0))
    ]
    assert scale_report.cost(rounds, "http") == pytest.approx(0.5)
    assert scale_report.cost(rounds, "https") == pytest.approx(4)


@pytest.mark.parametrize("page", ["docs/scale.md", "docs/ko/scale.md"])
def test_the_figures_of_the_pages_are_those_that_were_measured(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    for rows in scale_report.rows(json.loads((scale_report.HERE / "scale.json").read_text())).values():
        assert rows
        assert [row for row in rows if row not in text] == []
