"""In which order images are brought, and who is told of each that is there."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from installer.bundle import manifest


def _nobody(_image: manifest.Image) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Order:
    """`first` are the references that are wanted first, in their order; `arrived` is called in the caller's thread."""

    first: tuple[str, ...] = ()
    arrived: Callable[[manifest.Image], None] = _nobody

    def sort(self, images: Iterable[manifest.Image]) -> list[manifest.Image]:
        """Return those that are wanted first, then the others, the largest first.

        So two that are loaded at a time are busy to the end.
        """
        places = {reference: number for number, reference in enumerate(self.first)}
        return sorted(images, key=lambda image: (places.get(image.reference, len(places)), -image.size))


AS_THEY_COME = Order()
