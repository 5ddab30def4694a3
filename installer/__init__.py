"""Installs Dify on an air-gapped host from a verified bundle."""

from __future__ import annotations

VERSION = "0.1.0"
