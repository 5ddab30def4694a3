"""The options of an installation: on the command line, in the environment, in an answer file.

Each option `--some-name` is also DIFY_INSTALLER_SOME_NAME and, in the file given with
`--config`, `some-name`. The command line wins over the environment, that over the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import click
import yaml

from installer.checks import models
from installer.core import errors, layout
from installer.engine import engine
from installer.release import dify, settings
from installer.request import DEFAULT_TIMEOUT, Request

PREFIX = "DIFY_INSTALLER_"

Function = TypeVar("Function", bound=Callable[..., Any])


def option(*names: str, **attributes: Any) -> Callable[[Function], Function]:
    """Declare a click option that the environment can give as well."""
    variable = PREFIX + names[0].removeprefix("--").replace("-", "_").upper()
    return click.option(*names, envvar=variable, **attributes)


def _read_config(context: click.Context, _parameter: click.Parameter, path: Path | None) -> Path | None:
    """Make the answer file the options' defaults. Raises UsageError for a key that is no option."""
    if path is None:
        return None
    try:
        answers = yaml.safe_load(path.read_text("utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise errors.UsageError(f"the answer file {path} cannot be read: {error}") from error
    known = {name[2:]: each for each in context.command.params for name in each.opts if name.startswith("--")}
    del known["config"]
    if not isinstance(answers, dict) or (unknown := sorted(str(key) for key in set(answers) - set(known))):
        what = f"does not know {', '.join(unknown)}" if isinstance(answers, dict) else "is no mapping"
        raise errors.UsageError(f"the answer file {path} {what}", f"known are: {', '.join(sorted(known))}")
    context.default_map = {str(known[key].name): _answer(value) for key, value in answers.items()}
    return path


def _answer(value: Any) -> Any:
    """Return what click expects of a value: KEY=VALUE pairs for a mapping, text for a number."""
    if isinstance(value, Mapping):
        return [f"{key}={'' if each is None else each}" for key, each in value.items()]
    return value if isinstance(value, bool | list) else str(value)


PORT = click.IntRange(1, 65535)

FOLDER = option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="The install folder. [default: /opt/dify as root, ~/dify otherwise]",
)
RUNTIME = option(
    "--runtime",
    type=click.Choice(engine.NAMES),
    help="The container engine. [default: the installation's, else podman, else docker]",
)
SILENT = option("--silent", is_flag=True, help="Print nothing but errors.")
TIMEOUT = option(
    "--timeout",
    type=click.FloatRange(min=1),
    default=DEFAULT_TIMEOUT,
    show_default=True,
    metavar="SECONDS",
    help="How long the stack may take to become healthy.",
)
CONFIG = option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    is_eager=True,
    expose_value=False,
    callback=_read_config,
    metavar="FILE",
    help="A YAML file with answers: option names without the dashes, and their values.",
)

# What decides what an installation will be; preflight looks at the same.
SITE = (
    option("--ip", metavar="ADDRESS", help="This server's address, as browsers will open it."),
    option("--host", metavar="NAME", help="A host name to open instead of the address."),
    option("--port", type=PORT, metavar="PORT", help="The port of http. [default: 80]"),
    option("--https-port", type=PORT, metavar="PORT", help="The port of https. [default: 443]"),
    option("--plugin-port", type=PORT, metavar="PORT", help="The port for debugging plugins. [default: 5003]"),
    option("--tls-cert", type=click.Path(path_type=Path), metavar="FILE", help="A certificate for https, PEM."),
    option("--tls-key", type=click.Path(path_type=Path), metavar="FILE", help="The certificate's key, PEM."),
    option("--tls", type=click.Choice(["self-signed"]), help="Make a certificate for this address, once."),
    FOLDER,
    RUNTIME,
    option("--install-podman", is_flag=True, help="Install podman with dnf if it is missing (root)."),
    option(
        "--rpms",
        type=click.Path(path_type=Path),
        metavar="FOLDER",
        help="Install podman if it is missing from the RPMs in this folder, and from nowhere else (root).",
    ),
    option(
        "--images",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="The image archive, or the folder of its parts. [default: beside the executable]",
    ),
    option(
        "--ca-bundle",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="The authorities, PEM, that Dify trusts when it calls model servers.",
    ),
    option("--no-firewall", is_flag=True, help="Leave firewalld alone; otherwise root opens the ports in it."),
    option("--set", "values", multiple=True, metavar="KEY=VALUE", help="A setting of Dify's .env; may be repeated."),
)
RUN = (
    option("--ollama-url", metavar="URL", help="An Ollama server to check, as http://10.0.0.9:11434."),
    option("--vllm-url", metavar="URL", help="A vLLM server to check, as http://10.0.0.9:8000."),
    option("--model", default="", metavar="NAME", help="A model that these servers must have."),
    option(
        "--api-key",
        default="",
        metavar="KEY",
        help="The model servers' key; better in the environment or the answer file, "
        "since command lines are visible to other users.",
    ),
    option("--require-llm", is_flag=True, help="A model server that fails the check is an error (exit code 8)."),
    TIMEOUT,
    option(
        "--verify",
        type=click.Choice(["auto", "full"]),
        default="auto",
        show_default=True,
        help="auto reads the image archive only when an image is missing; full always.",
    ),
    option("--no-boot", is_flag=True, help="Write no systemd unit: the stack will not come back after a reboot."),
    SILENT,
    CONFIG,
)


def apply(options: tuple[Callable[[Any], Any], ...]) -> Callable[[Function], Function]:
    """Return a decorator that declares several options in their order."""

    def decorate(function: Function) -> Function:
        for each in reversed(options):
            function = each(function)
        return function

    return decorate


def request(given: Mapping[str, Any]) -> Request:
    """Make a request of the options' values. Raises UsageError."""
    if given.get("ip") and given.get("host"):
        host: str | None = settings.checked_host(given["host"])
        settings.checked_ip(given["ip"])
    elif given.get("host"):
        host = settings.checked_host(given["host"])
    else:
        host = settings.checked_ip(given["ip"]) if given.get("ip") else None
    names = {"http": "port", "https": "https_port", "plugin debugging": "plugin_port"}
    ports = {name: given[key] for name, key in names.items() if given.get(key)}
    if len(set(ports.values())) < len(ports):
        raise errors.UsageError(
            "two of the ports are the same", "give --port, --https-port, --plugin-port different ones"
        )
    tls = _tls(given)
    installs_podman = bool(given.get("install_podman") or given.get("rpms"))
    if installs_podman and given.get("runtime") == "docker":
        raise errors.UsageError("podman is to be installed, but docker to be used", "leave out one of the two options")
    values = settings.checked_values(given.get("values") or ())
    if tls:
        values |= dify.HTTPS
    return Request(
        folder=folder(given.get("folder")),
        archive=archive(given.get("images")),
        asked=settings.Asked(host=host, ports=ports, values=values),
        tls=tls,
        servers=_servers(given),
        require_models=bool(given.get("require_llm")),
        timeout=float(given.get("timeout") or DEFAULT_TIMEOUT),
        verify_full=given.get("verify") == "full",
        ca_bundle=_ca_bundle(given),
        engine="podman" if installs_podman else given.get("runtime"),
        install_podman=installs_podman,
        rpms=_rpms(given),
        boot=not given.get("no_boot"),
        firewall=not given.get("no_firewall"),
    )


def _rpms(given: Mapping[str, Any]) -> Path | None:
    """Return the folder of RPMs. Raises UsageError when it holds none of podman."""
    folder: Path | None = given.get("rpms")
    if folder is None:
        return None
    if not any(folder.glob("podman-[0-9]*.rpm")):
        raise errors.UsageError(
            f"{folder} holds no RPM of podman",
            "fill it on a connected host of the same release: `dnf download --resolve --alldeps podman`",
        )
    return folder.absolute()


def _tls(given: Mapping[str, Any]) -> tuple[Path, Path] | Literal["self-signed"] | None:
    certificate, key = given.get("tls_cert"), given.get("tls_key")
    if bool(certificate) != bool(key) or (certificate and given.get("tls")):
        raise errors.UsageError(
            "--tls-cert and --tls-key go together, and not with --tls", "give both, or --tls self-signed"
        )
    if certificate and key:
        return certificate.absolute(), key.absolute()
    return "self-signed" if given.get("tls") else None


def _ca_bundle(given: Mapping[str, Any]) -> bytes | None:
    path: Path | None = given.get("ca_bundle")
    if path is None:
        return None
    from installer.release import tls

    return tls.read_authorities(path)


def _servers(given: Mapping[str, Any]) -> tuple[models.Server, ...]:
    model, key = given.get("model") or "", given.get("api_key") or ""
    servers = []
    if url := given.get("ollama_url"):
        servers.append(models.Server(kind="Ollama", url=models.checked_url(url), model=model, key=key))
    if url := given.get("vllm_url"):
        servers.append(models.Server(kind="vLLM", url=models.checked_url(url), model=model, key=key))
    if (model or given.get("require_llm")) and not servers:
        raise errors.UsageError("a model is to be checked, but no server is named", "add --ollama-url or --vllm-url")
    return tuple(servers)


def folder(given: Path | None) -> Path:
    """Return the install folder as an absolute path."""
    return (given or layout.default_folder()).expanduser().absolute()


def archive(given: Path | None) -> Path:
    """Return where the image archive is: the file or folder given, else the executable's folder."""
    if given is not None:
        return given.absolute()
    running = layout.executable()
    return running.parent if running else Path.cwd()
