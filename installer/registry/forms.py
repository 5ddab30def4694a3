"""How layers are sent. The digests of `tar` are the diff IDs, and known before."""

from __future__ import annotations

from typing import Literal

Form = Literal["gzip", "tar", "zstd"]
FORMS: tuple[Form, ...] = ("gzip", "tar", "zstd")
