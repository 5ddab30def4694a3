"""What one run is asked to do: the command line, the environment and the answer file end here."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from installer.checks import models
from installer.engine import engine
from installer.release import settings

DEFAULT_TIMEOUT = 900.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """`timeout` is how many seconds the stack may take to become healthy; `tls` a certificate and its key;
    `engine` what was asked for with --runtime;
    `ca_bundle` authorities that Dify is to trust, PEM; `rpms` a folder from which podman may be installed.
    """

    folder: Path
    archive: Path
    asked: settings.Asked = field(default_factory=settings.Asked)
    servers: tuple[models.Server, ...] = ()
    require_models: bool = False
    timeout: float = DEFAULT_TIMEOUT
    verify_full: bool = False
    tls: tuple[Path, Path] | Literal["self-signed"] | None = None
    ca_bundle: bytes | None = None
    engine: engine.Name | None = None
    install_podman: bool = False
    rpms: Path | None = None
    boot: bool = True
    firewall: bool = True
