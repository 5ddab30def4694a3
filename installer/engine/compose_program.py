"""podman-compose as it comes, but for one thing: a text of the compose file is interpolated once.

Its 1.6.0 makes an enumeration and three classes anew for each text, variables in it or not (podman_compose.py,
var_interpolate), and looks at each of a service's environment twice. Dify's file has thousands of them: seconds of a
processor for each call (docs/decisions/034).

Runs in podman-compose's own environment on the server, by any Python from 3.9 on, and in the executable. So it needs
nothing of ours.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

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


def main() -> None:
    """Run podman-compose."""
    import podman_compose

    podman_compose.var_interpolate = once(podman_compose.var_interpolate)
    podman_compose.main()


if __name__ == "__main__":
    main()
