"""Reads in what the benchmark's image has for it: as much as Dify's api, from packages of its own (tests/bench)."""

import pathlib
import sys

FOLDER = "/app/api/.venv/site-packages"

if pathlib.Path(FOLDER).is_dir():
    sys.path.insert(0, FOLDER)
    import imports  # noqa: F401 - that is all of it
