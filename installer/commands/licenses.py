"""Shows the licences of all that the executable carries, collected when it was built."""

from __future__ import annotations

import json
from pathlib import Path

from installer.core import errors, layout

WIDTH = 78


def show_licenses(payload: Path) -> str:
    """Return a list of all components, and then the texts of each; `payload` is the folder that is embedded.

    build/licenses.py writes what is read here. Raises BundleDamaged when it cannot be read.
    """
    path = payload / layout.LICENSES
    try:
        components = json.loads(path.read_bytes())["components"]
        lines = [f"{each['name']} {each['version']}: {each['license'] or 'see its text'}" for each in components]
        for each in components:
            for name, text in sorted(each["texts"].items()):
                lines += ["", "=" * WIDTH, f"{each['name']} {each['version']}: {name}", "=" * WIDTH, "", text.rstrip()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise errors.BundleDamaged(
            f"the licences cannot be read: {path}: {error}",
            "copy the executable again from the machine that built it; a checkout has them after `make bundle`",
        ) from error
    return "\n".join(lines)
