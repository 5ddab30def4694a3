"""Makes HTML in which nothing from outside can be more than text."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

VOID = ("meta", "link", "wbr")


class Html(str):
    """Markup that we have made; any other text is escaped where it is put in."""

    __slots__ = ()


def join(parts: Iterable[str]) -> Html:
    """Return the parts one after the other; what is no markup of ours is escaped."""
    return Html("".join(part if isinstance(part, Html) else escape(part) for part in parts))


def element(name: str, /, *children: str, **attributes: str) -> Html:
    """Return an element; `_` at the end of an attribute's name is left out (`class_`), any other stands for `-`."""
    told = "".join(f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"' for key, value in attributes.items())
    return Html(f"<{name}{told}>" if name in VOID else f"<{name}{told}>{join(children)}</{name}>")


def filled(text: str, **values: str) -> Html:
    """Return a text of ours, escaped, in which {NAME} is replaced by markup or by what is then escaped, too."""
    return Html(escape(text).format(**{key: join([value]) for key, value in values.items()}))
