"""Starts what takes longest to answer while the other images are still being brought (docs/decisions/029).

Dify's api answers last: it waits for its database, migrates it, and reads its program in twice. So the images of what
it needs are wanted first, then its own. What fails here has not failed yet: the start that follows does what is
lacking, waits, and tells.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from installer.bundle import manifest
from installer.core import errors, layout
from installer.core.logfile import log
from installer.engine.base import Engine
from installer.images.order import Order
from installer.release import compose, dify
from installer.stack import run, state


@dataclass(frozen=True, slots=True)
class Wave:
    """Services that are started together, and the images without which they cannot be."""

    services: tuple[str, ...]
    images: tuple[manifest.Image, ...]


def plan_waves(
    document: compose.Document, variables: Mapping[str, str], images: Sequence[manifest.Image]
) -> tuple[Wave, ...]:
    """Return what the api needs, and then the services of the api's image; nothing where there is no api."""
    by_image = compose.images(document, variables)
    of_api = next((services for services in by_image.values() if dify.API in services), [])
    needed = _needed(of_api, document)
    return tuple(
        Wave(tuple(services), tuple(each for each in images if set(by_image.get(each.reference, ())) & set(services)))
        for services in (needed, of_api)
        if services
    )


def _needed(services: Collection[str], document: compose.Document) -> list[str]:
    """Return what these services depend on, and what that does, in the order of the file."""
    found, left = set(services), list(services)
    while left:
        new = compose.dependencies(document["services"][left.pop()]).keys() & document["services"].keys() - found
        found |= new
        left += new
    return [name for name in document["services"] if name in found and name not in services]


class Ahead:
    """Starts each wave in a thread of its own, once its images are there and the wave before it is ready.

    A context manager: at its end nothing more is begun, and what has been begun is waited for.
    """

    def __init__(
        self,
        place: layout.Installation,
        document: compose.Document,
        waves: Sequence[Wave],
        engine: Engine,
        name: Callable[[Iterable[manifest.Image]], None],
        composer: Future[str],
    ) -> None:
        """`name` gives images their names, `composer` is done once compose can be called."""
        self._place, self._document, self._engine = place, document, engine
        self._name, self._composer = name, composer
        self._left, self._there = list(waves), set[str]()
        self._over, self._pool = threading.Event(), ThreadPoolExecutor(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._pool.shutdown(cancel_futures=True)

    @property
    def order(self) -> Order:
        """The order in which images are wanted for it."""
        return Order(tuple(image.reference for wave in self._left for image in wave.images), self.arrived)

    def arrived(self, image: manifest.Image) -> None:
        """Note that an image is there, and start what waited for it. Raises CommandFailed when it cannot be named."""
        self._there.add(image.reference)
        while self._left and {each.reference for each in self._left[0].images} <= self._there:
            wave = self._left.pop(0)
            self._name(wave.images)
            self._pool.submit(self._start, wave)

    def _start(self, wave: Wave) -> None:
        try:
            self._composer.result()
            if self._over.is_set():
                return
            run.start_some(self._place, wave.services, self._engine)
            self._await(wave)
        except errors.InstallerError as error:
            self._over.set()
            log.debug("what was started ahead does not run yet: %s", error)

    def _await(self, wave: Wave) -> None:
        """Wait until a wave is ready, or nobody waits for the next one any more."""
        while not self._over.is_set():
            found = state.list_containers(self._engine)
            if not state.find_unready(self._document, found, time.time()).keys() & set(wave.services):
                return
            run.hasten(found, self._engine)
            self._over.wait(run.POLL_SECONDS)
