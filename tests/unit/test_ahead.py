"""What is started while images are still being brought, and in which order they are wanted for it."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from installer.bundle import manifest
from installer.core import errors, layout
from installer.core.runner import Runner
from installer.engine.base import Container
from installer.engine.podman import Podman
from installer.images.order import Order
from installer.stack import ahead, run, state
from tests.unit.test_stack import container

ENDS = {"condition": "service_completed_successfully"}
DOCUMENT = {
    "services": {
        "web": {"image": "web"},
        "api": {
            "image": "api",
            "depends_on": {"db": {"condition": "service_healthy"}, "init": ENDS, "gone": {"required": False}},
        },
        "worker": {"image": "api", "depends_on": ["db", "redis"]},
        "db": {"image": "postgres"},
        "redis": {"image": "redis"},
        "init": {"image": "busybox", "depends_on": ["disk"]},
        "disk": {"image": "busybox"},
        "nginx": {"image": "nginx", "depends_on": ["api", "web"]},
    }
}


def image(name: str, size: int = 1) -> manifest.Image:
    """Return an image of Docker Hub."""
    reference = f"docker.io/library/{name}:latest"
    return manifest.Image(reference=reference, id=name, digest="", size=size, layers=(), archive=0, index=0)


SIZES = {"web": 50, "api": 90, "postgres": 30, "redis": 10, "busybox": 1, "nginx": 60}
IMAGES = [image(name, size) for name, size in SIZES.items()]


def test_the_api_comes_after_all_that_it_needs() -> None:
    first, second = ahead.plan_waves(DOCUMENT, {}, IMAGES)
    assert first.services == ("db", "redis", "init", "disk")
    assert {each.id for each in first.images} == {"postgres", "redis", "busybox"}
    assert second == ahead.Wave(("api", "worker"), (image("api", 90),))


def test_a_project_without_the_api_has_no_waves() -> None:
    assert ahead.plan_waves({"services": {"db": {"image": "postgres"}}}, {}, IMAGES) == ()


def test_an_api_that_needs_nothing_is_one_wave() -> None:
    (wave,) = ahead.plan_waves({"services": {"api": {"image": "api"}, "web": {"image": "web"}}}, {}, IMAGES)
    assert wave.services == ("api",)


@dataclass
class Begun:
    """Which services were started, and which run by now."""

    services: list[tuple[str, ...]] = field(default_factory=list)
    running: list[Container] = field(default_factory=list)
    named: list[str] = field(default_factory=list)

    def name(self, images: Iterable[manifest.Image]) -> None:
        self.named += [each.id for each in images]


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> Begun:
    seen = Begun()

    def start(_place: layout.Installation, services: Iterable[str], _engine: Podman) -> None:
        seen.services.append(tuple(services))
        seen.running += [container(name, "exited" if name == "init" else "running") for name in services]

    monkeypatch.setattr(run, "start_some", start)
    monkeypatch.setattr(state, "list_containers", lambda _engine: seen.running)
    return seen


def start_ahead(begun: Begun, composer: Future[str]) -> ahead.Ahead:
    """Return what starts the waves of DOCUMENT."""
    place, waves = layout.Installation(Path("/nowhere")), ahead.plan_waves(DOCUMENT, {}, IMAGES)
    return ahead.Ahead(place, DOCUMENT, waves, Podman(Runner({})), begun.name, composer)


def done(text: str = "1.6.0") -> Future[str]:
    """Return what has been waited for."""
    future: Future[str] = Future()
    future.set_result(text)
    return future


def test_each_wave_starts_once_its_images_are_there(begun: Begun) -> None:
    with start_ahead(begun, done()) as early:
        assert early.order.first[-1] == image("api").reference
        early.arrived(image("api"))
        early.arrived(image("redis"))
        early.arrived(image("busybox"))
        assert begun.named == []
        early.arrived(image("postgres"))
        assert begun.named == ["postgres", "redis", "busybox", "api"]
        early._pool.shutdown()
    assert begun.services == [("db", "redis", "init", "disk"), ("api", "worker")]


def test_nothing_begins_once_all_images_are_there(begun: Begun) -> None:
    composer: Future[str] = Future()
    with start_ahead(begun, composer) as early:
        for each in IMAGES:
            early.arrived(each)
        early._over.set()
        composer.set_result("1.6.0")
    assert begun.services == []


def test_what_fails_is_left_to_the_start_proper(begun: Begun, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        begun.services.append(("failed",))
        raise errors.CommandFailed("no space left on device")

    monkeypatch.setattr(run, "start_some", fail)
    with start_ahead(begun, done()) as early:
        for each in IMAGES:
            early.arrived(each)
        early._pool.shutdown()
    assert begun.services == [("failed",)]


def test_an_image_that_nobody_wants_first_comes_by_its_size() -> None:
    order = Order(first=tuple(image(name).reference for name in ("redis", "api")))
    assert [each.id for each in order.sort(IMAGES)] == ["redis", "api", "nginx", "web", "postgres", "busybox"]
