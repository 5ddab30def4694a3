"""podman-compose as it comes, but quicker: it does the same with the compose file, and not as often.

Its 1.6.0 makes an enumeration and three data classes anew for each text, variables in it or not (podman_compose.py,
var_interpolate), and looks at each of a service's environment twice. Dify's file has thousands of them: seconds of a
processor for each call (docs/decisions/034). It reads the file with PyYAML's own parser, although libyaml comes along.

Runs in podman-compose's own environment on the server, by any Python from 3.9 on, and in the executable. So it needs
nothing of ours.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import yaml

_NAMES = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

Interpolate = Callable[[str, Mapping[str, Any]], str]


def once(interpolate: Interpolate) -> Interpolate:
    """Return a function that gives what `interpolate` gives for a text and variables, and asks it once for each.

    That depends on the text and on the variables that it names, and on nothing else. An error is not kept.
    """
    known: dict[tuple[str, str], str] = {}

    def interpolated(text: str, variables: Mapping[str, Any]) -> str:
        if "$" not in text:
            return text
        # A number and its text are not alike, and what YAML gives need not be hashable.
        key = text, repr([variables.get(name) for name in _NAMES.findall(text)])
        if key not in known:
            known[key] = interpolate(text, variables)
        return known[key]

    return interpolated


def by_libyaml(load: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a function that loads YAML with libyaml, and with `load` what libyaml does not know.

    That is podman-compose's tags, `!reset` and `!override`; and an error has podman-compose's words.
    """

    def loaded(stream: Any) -> Any:
        text = stream.read() if hasattr(stream, "read") else stream
        try:
            return yaml.load(text, Loader=yaml.CSafeLoader)
        except yaml.YAMLError:
            return load(text)

    return loaded


def plain(kind: type) -> type:
    """Return a class whose instances take their fields by name: all that var_interpolate needs of a data class."""

    def take(self: Any, **fields: Any) -> None:
        self.__dict__.update(fields)

    kind.__init__ = take  # type: ignore[misc]
    return kind


def main() -> None:
    """Run podman-compose."""
    import podman_compose

    # Those of the module itself are made already.
    podman_compose.dataclass = plain
    podman_compose.var_interpolate = once(podman_compose.var_interpolate)
    if yaml.__with_libyaml__:
        podman_compose.yaml.safe_load = by_libyaml(yaml.safe_load)
    podman_compose.main()


if __name__ == "__main__":
    main()
