"""The options of an installation: on the command line, in the environment, in an answer file.

Each option `--some-name` is also DIFY_INSTALLER_SOME_NAME and, in the file given with
`--config`, `some-name`. The command line wins over the environment, that over the file.
What is wrong is collected, and told at once.
"""

from __future__ import annotations

import contextlib
import datetime
import difflib
import itertools
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

import click

from installer import answers
from installer.checks import models
from installer.core import errors, files, layout
from installer.core.console import read_size
from installer.engine.base import NAMES, Name
from installer.plan import DEFAULT_TIMEOUT, LANGUAGES, Language, Request
from installer.registry import credentials, forms, pull, reference
from installer.release import dify, external, intranet, resolvers, settings, storage
from installer.workspace import account

PREFIX = "DIFY_INSTALLER_"
FAULTS = "installer.faults"
LONGEST_SECONDS = 7 * 24 * 3600.0

Function = TypeVar("Function", bound=Callable[..., Any])
Value = TypeVar("Value")


class Checked(click.ParamType[Value]):
    """A type of ours: a function that returns the value, or raises UsageError."""

    def __init__(self, name: str, check: Callable[[str], Value]) -> None:
        self.name = name
        self._check = check

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Value:
        """Return the value of a text; what is not a text has been converted before."""
        if not isinstance(value, str):
            converted: Value = value
            return converted
        try:
            return self._check(value)
        except errors.UsageError as error:
            self.fail("; ".join(filter(None, (error.message, error.remedy))), param, ctx)


class Option(click.Option):
    """An option with a `group`, the subject under which `--help` lists it; a wrong value is kept for later."""

    def __init__(self, *names: Any, group: str = "", **attributes: Any) -> None:
        super().__init__(*names, **attributes)
        self.group = group

    def handle_parse_result(
        self, ctx: click.Context, opts: Mapping[str, Any], args: list[str]
    ) -> tuple[Any, list[str]]:
        """Parse, as click does; but go on after a wrong value, so that the next one is told as well."""
        try:
            return super().handle_parse_result(ctx, opts, args)
        except click.BadParameter as error:
            if ctx.resilient_parsing:
                raise
            told = "is missing" if isinstance(error, click.MissingParameter) else error.message
            ctx.meta.setdefault(FAULTS, []).append(f"{self.opts[0]}: {told}")
            if self.expose_value and self.name:
                ctx.params[self.name] = None
            return None, args


def option(*names: str, group: str = "The run", **attributes: Any) -> Callable[[Function], Function]:
    """Declare a click option that the environment can give as well."""
    variable = PREFIX + names[0].removeprefix("--").replace("-", "_").upper()
    return click.option(*names, cls=Option, group=group, envvar=variable, **attributes)


def _checked_port(text: str) -> int:
    return settings.checked_port(text, "it")


def _checked_pair(text: str) -> str:
    settings.checked_values((text,))
    return text


def _checked_seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 1 <= seconds <= LONGEST_SECONDS:
        raise errors.UsageError(
            f"{text!r} is not a valid number of seconds", f"give one from 1 to {LONGEST_SECONDS:.0f}"
        )
    return seconds


def _checked_since(text: str) -> str:
    """Return a time or a duration as podman and docker take it: they know no days."""
    if found := re.fullmatch(r"(\d{1,6})([smhd])", text):
        return f"{int(found[1]) * 24}h" if found[2] == "d" else text
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise errors.UsageError(
            f"{text!r} is neither a duration nor a time", "write, for example, 30m, 2h, 7d or 2026-01-31T18:00"
        ) from None
    return moment.astimezone().isoformat(timespec="seconds")


def _checked_rpms(text: str) -> Path:
    folder = Path(text)
    if not any(folder.glob("podman-[0-9]*.rpm")):
        raise errors.UsageError(
            f"{folder} holds no RPM of podman",
            "fill it on a connected host of the same release: `dnf download --resolve --alldeps podman`",
        )
    return folder.absolute()


def _read_recipients(text: str) -> tuple[str, ...]:
    from installer.backup import encryption

    return encryption.read_recipients(text)


def _joined(_context: click.Context, _parameter: click.Parameter, found: Iterable[Iterable[str]]) -> tuple[str, ...]:
    return tuple(itertools.chain.from_iterable(found))


def _read_config(context: click.Context, _parameter: click.Parameter, path: Path | None) -> Path | None:
    """Make the answer file the options' defaults. Raises UsageError."""
    if path is None:
        return None
    known = {each.opts[0][2:]: each for each in _parameters(SITE + RUN) if each.name != "config"}
    flags = {name for name, each in known.items() if each.is_flag}
    lists = {name for name, each in known.items() if each.multiple}
    found = answers.read_answers(path, flags, lists, set(known))
    # A file may be meant for `install`, and be given to `preflight`: what that does not ask is left out.
    names = {each.name for each in context.command.params}
    context.default_map = {str(known[key].name): value for key, value in found.items() if known[key].name in names}
    return path


PORT = Checked("port", _checked_port)
PATH = click.Path(path_type=Path)

FOLDER = option(
    "--dir",
    "folder",
    type=Checked("path", layout.checked_folder),
    metavar="PATH",
    group="Where and with what",
    help="The install folder. [default: /opt/dify as root, ~/dify otherwise]",
)
_WRITTEN = click.Path(path_type=Path, file_okay=False, exists=True)
KUBERNETES = click.option(
    "--kubernetes",
    type=_WRITTEN,
    metavar="FOLDER",
    help="Judge the cluster that kubectl reaches instead, for a folder that `manifests` has written.",
)
RUNS_THERE = click.option(
    "--kubernetes",
    type=_WRITTEN,
    metavar="FOLDER",
    help="What runs on the cluster that kubectl reaches instead, of a folder that `manifests` has written.",
)
RUNTIME = option(
    "--runtime",
    type=click.Choice(NAMES),
    group="Where and with what",
    help="The container engine. [default: the installation's, else podman, else docker]",
)
DRY_RUN = option("--dry-run", is_flag=True, help="Show what would be done, and change nothing.")
SILENT = option("--silent", is_flag=True, help="Print nothing but errors.")
TIMEOUT = option(
    "--timeout",
    type=Checked("seconds", _checked_seconds),
    default=str(int(DEFAULT_TIMEOUT)),
    show_default=True,
    metavar="SECONDS",
    help="How long the stack may take to become healthy.",
)
SERVICES = click.argument("services", nargs=-1, metavar="[SERVICE]…")
LOGS = (
    option(
        "--since",
        type=Checked("since", _checked_since),
        metavar="WHEN",
        help="Only what was written since then: 30m, 2h, 7d or 2026-01-31T18:00.",
    ),
    option(
        "--lines",
        type=click.IntRange(min=0),
        metavar="N",
        help="The last N lines of each service. [default: 100; with --since all]",
    ),
    option("--follow", is_flag=True, help="Go on with what is written, until Ctrl-C."),
)
IMAGES = option(
    "--images",
    type=PATH,
    metavar="FILE",
    group="Where and with what",
    help="The image archive, or the folder of its parts. [default: beside the executable]",
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
VERIFY = option(
    "--verify",
    type=click.Choice(["auto", "full"]),
    default="auto",
    show_default=True,
    help="auto reads the image archive only when an image is missing; full always.",
)

ADDRESS, HTTPS, PLACE, INTRANET, SETTINGS, MODELS, ACCOUNT, REGISTRY, OTHERS = (
    "Address and ports",
    "Certificates",
    "Where and with what",
    "The intranet",
    "Settings",
    "Model servers",
    "Account, plugins and models",
    "The registry",
    "Services that run already",
)


def _model_option(name: str, variable: str, what: str) -> Callable[[Function], Function]:
    return option(
        name,
        variable,
        type=Checked("model", models.checked_model),
        multiple=True,
        metavar="NAME[:KEY=VALUE,…]",
        group=MODELS,
        help=f"{what}; may be repeated, and say what the model can do: NAME:context=32768,tools=yes.",
    )


# These hold a password, and more.
WITHOUT_FILE = ("--db-url", "--redis-url", "--storage-url", "--vector-url")


def _not_on_the_command_line(context: click.Context, parameter: click.Parameter, value: Value) -> Value:
    if context.get_parameter_source(str(parameter.name)) is click.core.ParameterSource.COMMANDLINE:
        name = parameter.opts[0]
        file = "" if name in WITHOUT_FILE else f"in a file ({name}-file), "
        answers = any(each.name == "config" for each in context.command.params) and name != "--registry-password"
        answers_too = " or in the answer file" if answers else ""
        raise click.BadParameter(
            f"command lines are visible to other users: give the {'URL' if name in WITHOUT_FILE else 'password'} {file}"
            f"in the environment ({getattr(parameter, 'envvar', '')}){answers_too}"
        )
    return value


def _read_registry_password(text: str) -> str:
    """Return the password in a file, or on standard input for `-`."""
    if text != "-":
        return files.read_secret(Path(text))
    try:
        return sys.stdin.readline().strip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise errors.UsageError(f"standard input cannot be read: {error}", "send the password alone") from error


# How a registry is signed in to.
LOGIN = (
    option("--registry-user", metavar="NAME", group=REGISTRY, help="Who signs in. [default: as the auth file says]"),
    option(
        "--registry-password-file",
        type=Checked("file", _read_registry_password),
        metavar="FILE",
        group=REGISTRY,
        help="A file with the password or token, which nobody else may read; - for standard input.",
    ),
    option(
        "--registry-password",
        callback=_not_on_the_command_line,
        metavar="PASSWORD",
        group=REGISTRY,
        help="The password; in the environment, never on the command line.",
    ),
    option(
        "--registry-auth-file",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        group=REGISTRY,
        help="A file with logins. [default: what podman login or docker login has written]",
    ),
    option(
        "--registry-ca",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        group=REGISTRY,
        help="The authorities, PEM, to trust as well as the host's own, for this registry.",
    ),
    option("--plain-http", is_flag=True, group=REGISTRY, help="Speak http, not https: passwords go unencrypted."),
)

DB_COPIED = option(
    "--db-copied",
    is_flag=True,
    group=OTHERS,
    help="You have a copy of the database of yours as it is now: an upgrade changes it, and we cannot bring it back.",
)
DB_RESTORED = option(
    "--db-restored",
    is_flag=True,
    group=OTHERS,
    help="You have brought the database of yours to the moment of what comes back: its rows are not in it.",
)
STORAGE_FILLED = option(
    "--storage-filled",
    is_flag=True,
    group=OTHERS,
    help="You have brought the files to where they are to be: those of the backup, or of this installation.",
)

# With which account to work inside of Dify.
ENTER = (
    option(
        "--admin-email",
        type=Checked("email", account.checked_email),
        metavar="EMAIL",
        group=ACCOUNT,
        help="The account to work with inside of Dify: the first one is made, another one signed in with.",
    ),
    option(
        "--admin-password-file",
        type=Checked("file", lambda text: account.read_password(Path(text))),
        metavar="FILE",
        group=ACCOUNT,
        help="A file with its password, which nobody else may read. "
        "[default: one is generated into admin-password in the install folder]",
    ),
    option(
        "--admin-password",
        type=Checked("password", account.checked_password),
        callback=_not_on_the_command_line,
        metavar="PASSWORD",
        group=ACCOUNT,
        help="Its password; in the environment or the answer file, never on the command line.",
    ),
)

WITHOUT_VECTORS = option(
    "--without-vectors",
    is_flag=True,
    group=PLACE,
    help="Leave the vectors of the backup behind; each knowledge base is to be indexed again then.",
)

RECIPIENT = option(
    "--recipient",
    "recipients",
    multiple=True,
    type=Checked("public key", _read_recipients),
    callback=_joined,
    metavar="KEY",
    group=PLACE,
    help="Encrypt for this public key, of `ssh-keygen -t ed25519` or of age, itself or its file; also several times. "
    "Whoever has the private key opens it, also with `age -d`.",
)

IDENTITY = option(
    "--identity",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    group=PLACE,
    help="The private key that opens an encrypted backup.",
)

SPLIT = option(
    "--split",
    "largest",
    type=Checked("size", read_size),
    metavar="SIZE",
    group=PLACE,
    help="Numbered files smaller than this, for example 4G: for media and file systems that take no larger file.",
)

# Services that run already.
URLS = (
    option(
        "--db-url",
        type=Checked("url", external.checked_database),
        callback=_not_on_the_command_line,
        metavar="URL",
        group=OTHERS,
        help="A PostgreSQL of yours instead of our container, postgresql://USER:PASSWORD@HOST:5432/NAME?sslmode=…; in "
        "the environment or the answer file, never on the command line. sslmode is verify-full unless it is said.",
    ),
    option(
        "--redis-url",
        type=Checked("url", external.checked_redis),
        callback=_not_on_the_command_line,
        metavar="URL",
        group=OTHERS,
        help="A Redis or Valkey of yours instead of our container, rediss://USER:PASSWORD@HOST:6379/0, redis:// "
        "without TLS, or by sentinels, sentinel://USER:PASSWORD@HOST:26379,HOST:26379/SERVICE/0; in the environment "
        "or the answer file, never on the command line.",
    ),
    option(
        "--storage-url",
        type=Checked("url", storage.checked),
        callback=_not_on_the_command_line,
        metavar="URL",
        group=OTHERS,
        help="A bucket of an S3 server of yours instead of our folder for files, "
        "s3://ACCESS_KEY:SECRET_KEY@HOST:PORT/BUCKET?region=…, with &tls=disable for http; in the environment or the "
        "answer file, never on the command line.",
    ),
    option(
        "--vector-url",
        type=Checked("url", external.checked_vectors),
        callback=_not_on_the_command_line,
        metavar="URL",
        group=OTHERS,
        help="A PostgreSQL with pgvector of yours for the vectors instead of our vector store, "
        "postgresql://USER:PASSWORD@HOST:5432/NAME?sslmode=…; a Qdrant, qdrant://API_KEY@HOST:6333; or an OpenSearch, "
        "opensearch://USER:PASSWORD@HOST:9200; the last two with ?tls=disable for http. In the environment or the "
        "answer file, never on the command line. For a new installation.",
    ),
)

# What decides what an installation will be; preflight looks at the same.
SITE = (
    option(
        "--ip",
        type=Checked("address", settings.checked_ip),
        metavar="ADDRESS",
        group=ADDRESS,
        help="This server's address, as browsers will open it.",
    ),
    option(
        "--host",
        type=Checked("name", settings.checked_host),
        metavar="NAME",
        group=ADDRESS,
        help="A host name to open instead of the address.",
    ),
    option("--port", type=PORT, metavar="PORT", group=ADDRESS, help="The port of http. [default: 80]"),
    option("--https-port", type=PORT, metavar="PORT", group=ADDRESS, help="The port of https. [default: 443]"),
    option(
        "--plugin-port",
        type=PORT,
        metavar="PORT",
        group=ADDRESS,
        help="The port for debugging plugins. [default: 5003]",
    ),
    option("--no-firewall", is_flag=True, group=ADDRESS, help="Leave firewalld alone; otherwise root opens the ports."),
    option("--tls-cert", type=PATH, metavar="FILE", group=HTTPS, help="A certificate for https, PEM."),
    option("--tls-key", type=PATH, metavar="FILE", group=HTTPS, help="The certificate's key, PEM."),
    option("--tls", type=click.Choice(["self-signed"]), group=HTTPS, help="Make a certificate for this address, once."),
    option(
        "--ca-bundle",
        type=PATH,
        metavar="FILE",
        group=HTTPS,
        help="The authorities, PEM, that Dify trusts when it calls model servers, a database or Redis of others.",
    ),
    option(
        "--restore",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        group=PLACE,
        help="Begin with what a backup or an export holds, also of an older Dify; settings are carried over by key.",
    ),
    IDENTITY,
    WITHOUT_VECTORS,
    DB_RESTORED,
    STORAGE_FILLED,
    FOLDER,
    RUNTIME,
    option("--install-podman", is_flag=True, group=PLACE, help="Install podman with dnf if it is missing (root)."),
    option(
        "--rpms",
        type=Checked("folder", _checked_rpms),
        metavar="FOLDER",
        group=PLACE,
        help="Install podman if it is missing from the RPMs in this folder, and from nowhere else (root).",
    ),
    IMAGES,
    option(
        "--from-registry",
        type=Checked("registry", reference.checked_registry),
        metavar="HOST[:PORT][/PREFIX]",
        group=REGISTRY,
        help="Have the engine pull the images that it lacks from where `push` has sent them; no archive is needed.",
    ),
    *LOGIN,
    *URLS,
    DB_COPIED,
    option(
        "--allow-intranet",
        type=Checked("range", intranet.checked),
        multiple=True,
        metavar="CIDR[:PORT]",
        group=INTRANET,
        help="What HTTP nodes, code and tools may reach through Dify's proxy; or `private`, the private ranges; or "
        "`none`. May be repeated; kept for later runs. [default: private]",
    ),
    option(
        "--resolver",
        "resolvers",
        type=Checked("resolver", resolvers.checked),
        multiple=True,
        metavar="IP",
        group=INTRANET,
        help="The name server that the containers ask, up to three; or `host`, those of this host; or `none`. "
        "Kept for later runs. [default: host, if one of them answers, else none]",
    ),
    option(
        "--set",
        "values",
        type=Checked("pair", _checked_pair),
        multiple=True,
        metavar="KEY=VALUE",
        group=SETTINGS,
        help="A setting of Dify's .env; may be repeated.",
    ),
)
LANGUAGE = option(
    "--language",
    type=click.Choice(LANGUAGES),
    default=LANGUAGES[0],
    show_default=True,
    help="The language of the report's page, of the first account and of the first question.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on standard output.")

# The model servers, and what is wanted of them.
SERVER_URLS = (
    option(
        "--ollama-url",
        "ollama_urls",
        type=Checked("url", models.checked_url),
        multiple=True,
        metavar="URL",
        group=MODELS,
        help="An Ollama server, for example http://10.0.0.9:11434; may be repeated.",
    ),
    option(
        "--vllm-url",
        "vllm_urls",
        type=Checked("url", models.checked_url),
        multiple=True,
        metavar="URL",
        group=MODELS,
        help="A vLLM server, or another with OpenAI's interface, for example http://10.0.0.9:8000; may be repeated.",
    ),
)
SERVERS = (
    *SERVER_URLS,
    _model_option("--model", "wanted", "A model that these servers must have"),
    _model_option("--ollama-model", "ollama_wanted", "A model that the Ollama servers must have"),
    _model_option("--vllm-model", "vllm_wanted", "A model that the vLLM servers must have"),
    option(
        "--api-key",
        "api_keys",
        type=Checked("key", models.checked_key),
        multiple=True,
        metavar="[URL=]KEY",
        group=MODELS,
        help="The model servers' key, or that of the server at URL; may be repeated; better in the environment or the "
        "answer file, since command lines are visible to other users.",
    ),
)
RUN = (
    *SERVERS,
    option(
        "--require-llm",
        is_flag=True,
        group=MODELS,
        help="A model server that fails the check is an error (exit code 8).",
    ),
    *ENTER,
    option(
        "--admin-name",
        type=Checked("name", account.checked_name),
        metavar="NAME",
        group=ACCOUNT,
        help="The name of the first account. [default: its e-mail up to the @]",
    ),
    option(
        "--keep-example",
        is_flag=True,
        group=ACCOUNT,
        help="Leave the app that asks the first question, as an example for users.",
    ),
    TIMEOUT,
    VERIFY,
    option("--no-boot", is_flag=True, help="Write no systemd unit: the stack will not come back after a reboot."),
    LANGUAGE,
    DRY_RUN,
    SILENT,
    CONFIG,
)


# Where and how images are pushed.
PUSH = (
    option(
        "--registry",
        type=Checked("registry", reference.checked_registry),
        required=True,
        metavar="HOST[:PORT][/PREFIX]",
        group=REGISTRY,
        help="The registry, and what stands before the names of the images there.",
    ),
    option(
        "--layers",
        "form",
        type=click.Choice(forms.FORMS),
        default=forms.FORMS[0],
        show_default=True,
        group=REGISTRY,
        help="How layers are sent: compressed, or as they are (tar), which is faster and two to three times larger.",
    ),
    *LOGIN,
    option(
        "--out",
        type=click.Path(path_type=Path, dir_okay=False),
        default="images.json",
        show_default=True,
        metavar="FILE",
        group=REGISTRY,
        help="The file that says what lies where; the next push reads it, and sends less.",
    ),
    IMAGES,
    DRY_RUN,
)

# What a cluster's manifests are made from.
CLUSTER = "A cluster"
MANIFESTS = (
    PUSH[0],
    option(
        "--images-json",
        "pushed",
        type=click.Path(path_type=Path, dir_okay=False),
        default="images.json",
        show_default=True,
        metavar="FILE",
        group=CLUSTER,
        help="What `push` has written down: where each image lies, and its digest.",
    ),
    option(
        "--out",
        type=click.Path(path_type=Path, file_okay=False),
        required=True,
        metavar="FOLDER",
        group=CLUSTER,
        help="The folder to write; one that an earlier run has written keeps its secrets.",
    ),
    option(
        "--host",
        type=Checked("name", settings.checked_host),
        metavar="NAME",
        group=CLUSTER,
        help="The name that browsers open. [default: that of the settings]",
    ),
    option(
        "--env",
        type=click.Path(path_type=Path, dir_okay=False, exists=True),
        metavar="FILE",
        group=CLUSTER,
        help="Begin with the `.env` of an installation that moves: its settings and secrets.",
    ),
    option(
        "--set",
        "values",
        type=Checked("setting", _checked_pair),
        multiple=True,
        metavar="KEY=VALUE",
        group=CLUSTER,
        help="A setting of Dify, as in `.env`. May be repeated.",
    ),
    option(
        "--allow-intranet",
        type=Checked("range", intranet.checked),
        multiple=True,
        metavar="CIDR[:PORT]",
        group=CLUSTER,
        help="What the network policies let the api, workers, plugins and Dify's proxy reach. [default: private]",
    ),
    option("--namespace", default="dify", show_default=True, metavar="NAME", group=CLUSTER, help="The namespace."),
    option("--ingress-class", default="", metavar="NAME", group=CLUSTER, help="The class of the Ingress."),
    option(
        "--gateway",
        default="",
        metavar="[NAMESPACE/]NAME",
        group=CLUSTER,
        help="A Gateway of yours: a route of it (HTTPRoute) takes the Ingress's place.",
    ),
    option(
        "--https",
        is_flag=True,
        group=CLUSTER,
        help="Addresses begin with https: the Gateway, or a proxy before the cluster, has the certificate.",
    ),
    option(
        "--tls-secret",
        default="",
        metavar="NAME",
        group=CLUSTER,
        help="The Secret with the certificate of the Ingress: addresses begin with https then.",
    ),
    option("--storage-class", default="", metavar="NAME", group=CLUSTER, help="The storage class of all claims."),
    option(
        "--access-mode",
        type=click.Choice(["ReadWriteMany", "ReadWriteOnce"]),
        default="ReadWriteMany",
        show_default=True,
        group=CLUSTER,
        help="Of the claim that api and workers share; once is enough on one node.",
    ),
    option("--pull-secret", default="", metavar="NAME", group=CLUSTER, help="The Secret with the registry's login."),
    option(
        "--ca-bundle",
        type=click.Path(path_type=Path, dir_okay=False, exists=True),
        metavar="FILE",
        group=CLUSTER,
        help="The authorities, PEM, that Dify trusts when it calls model servers, a database or Redis of others.",
    ),
    *URLS,
    SILENT,
)


def apply(options: tuple[Callable[[Any], Any], ...]) -> Callable[[Function], Function]:
    """Return a decorator that declares several options in their order."""

    def decorate(function: Function) -> Function:
        for each in reversed(options):
            function = each(function)
        return function

    return decorate


def _parameters(options: tuple[Callable[[Any], Any], ...]) -> list[Option]:
    def nothing() -> None: ...

    command = click.command()(apply(options)(nothing))
    return [each for each in command.params if isinstance(each, Option)]


def known_variables() -> set[str]:
    """Return the names of all variables of the environment that are options."""
    return {str(each.envvar) for each in _parameters(SITE + RUN) + _parameters(PUSH) + _parameters(MANIFESTS)}


def require_known_variables(environ: Mapping[str, str]) -> None:
    """Raise UsageError for a variable that begins as ours do and is not an option: it would be taken for one."""
    known = known_variables()
    faults = []
    for name in sorted(environ):
        if name.startswith(PREFIX) and name not in known:
            near = difflib.get_close_matches(name, sorted(known), 1)
            faults.append(f"{name} is not an option" + (f"; is {near[0]} meant?" if near else ""))
    if faults:
        raise errors.UsageError("\n".join(faults), "unset these variables, or correct their names (see --help)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Given:
    """The options as they were given, checked each by itself; None where one was not."""

    ip: str | None = None
    host: str | None = None
    port: int | None = None
    https_port: int | None = None
    plugin_port: int | None = None
    no_firewall: bool = False
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls: Literal["self-signed"] | None = None
    ca_bundle: Path | None = None
    restore: Path | None = None
    identity: Path | None = None
    without_vectors: bool = False
    folder: Path | None = None
    runtime: Name | None = None
    install_podman: bool = False
    rpms: Path | None = None
    images: Path | None = None
    from_registry: reference.Registry | None = None
    registry_user: str = ""
    registry_password: str = field(default="", repr=False)
    registry_password_file: str = field(default="", repr=False)  # what is in it
    registry_auth_file: Path | None = None
    registry_ca: Path | None = None
    plain_http: bool = False
    db_url: external.Database | None = None
    redis_url: external.Redis | None = None
    storage_url: storage.Storage | None = None
    vector_url: external.Vectors | None = None
    storage_filled: bool = False
    db_copied: bool = False
    db_restored: bool = False
    allow_intranet: tuple[str, ...] = ()
    resolvers: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    ollama_urls: tuple[str, ...] = ()
    vllm_urls: tuple[str, ...] = ()
    wanted: tuple[models.Wanted, ...] = ()
    ollama_wanted: tuple[models.Wanted, ...] = ()
    vllm_wanted: tuple[models.Wanted, ...] = ()
    api_keys: tuple[models.ApiKey, ...] = ()
    require_llm: bool = False
    timeout: float = DEFAULT_TIMEOUT
    verify: Literal["auto", "full"] = "auto"
    no_boot: bool = False
    language: Language = LANGUAGES[0]
    admin_email: str | None = None
    admin_name: str | None = None
    admin_password: str = field(default="", repr=False)
    admin_password_file: str = field(default="", repr=False)  # what is in it
    keep_example: bool = False

    @property
    def ports(self) -> dict[str, int]:
        """The ports that were given, by their names in `dify.PORTS`."""
        given = {"http": self.port, "https": self.https_port, "plugin debugging": self.plugin_port}
        return {name: port for name, port in given.items() if port}


def check(**options: Any) -> Given:
    """Return the options' values. Raises one UsageError with all that is wrong with them, each alone and together."""
    known = {each.name for each in fields(Given)}
    given = Given(**{name: value for name, value in options.items() if name in known and value is not None})
    with collected() as faults:
        _require_agreement(given, faults)
    return given


def make_request(**options: Any) -> Request:
    """Make a request of the options' values. Raises one UsageError with all that is wrong."""
    given = check(**options)
    for_account = given.admin_name or given.admin_password or given.admin_password_file or given.keep_example
    if for_account and given.admin_email is None:
        raise errors.UsageError(
            "something is said of the account in Dify, but not which one", "add --admin-email EMAIL"
        )
    values = all_values(given)
    if given.tls or given.tls_cert:
        values |= dify.HTTPS
    if given.allow_intranet:
        values[dify.ALLOW_INTRANET] = intranet.joined(given.allow_intranet)
    if given.resolvers:
        values[dify.RESOLVERS] = resolvers.joined(given.resolvers)
    installs_podman = given.install_podman or given.rpms is not None
    return Request(
        folder=folder(given.folder),
        archive=archive(given.images),
        registry=_registry(given),
        asked=settings.Asked(host=given.host or given.ip, ports=given.ports, values=values),
        restore=given.restore.absolute() if given.restore else None,
        identity=given.identity.absolute() if given.identity else None,
        without_vectors=given.without_vectors,
        tls=_tls(given),
        servers=servers(given),
        require_models=given.require_llm,
        timeout=given.timeout,
        verify_full=given.verify == "full",
        ca_bundle=given.ca_bundle.absolute() if given.ca_bundle else None,
        engine="podman" if installs_podman else given.runtime,
        install_podman=installs_podman,
        rpms=given.rpms,
        boot=not given.no_boot,
        firewall=not given.no_firewall,
        language=given.language,
        admin=admin(given.admin_email, given.admin_name, given.admin_password or given.admin_password_file),
        keep_example=given.keep_example,
        db_copied=given.db_copied,
        db_restored=given.db_restored,
        storage_filled=given.storage_filled,
    )


def all_values(given: Given) -> dict[str, str]:
    """Return the settings that were given, those of the services that run already included."""
    return {**settings.checked_values(given.values), **_of_others(given)}


def _of_others(given: Given) -> dict[str, str]:
    """Return the settings of the services that run already."""
    values = external.database_settings(given.db_url) if given.db_url else {}
    values |= external.redis_settings(given.redis_url) if given.redis_url else {}
    values |= storage.settings(given.storage_url) if given.storage_url else {}
    return values | (external.vector_settings(given.vector_url) if given.vector_url else {})


def _registry(given: Given) -> pull.Source | None:
    """Return the registry that images come from, or None. Raises UsageError for half a login."""
    if given.from_registry is None:
        return None
    password = given.registry_password or given.registry_password_file
    return pull.Source(
        registry=given.from_registry,
        login=credentials.find(
            given.from_registry, given.registry_user, password, given.registry_auth_file, os.environ
        ),
        authorities=given.registry_ca.absolute() if given.registry_ca else None,
        plain_http=given.plain_http,
    )


def admin(email: str | None, name: str | None, password: str) -> account.Admin | None:
    """Return the account to work with, or None when no e-mail says that there is one."""
    if email is None:
        return None
    return account.Admin(email=email, name=name or account.default_name(email), password=password)


@contextlib.contextmanager
def collected() -> Iterator[list[str]]:
    """Give the list of what is wrong with the options so far, for more; raise UsageError at the end if there is any."""
    context = click.get_current_context(silent=True)
    faults: list[str] = context.meta.setdefault(FAULTS, []) if context else []
    yield faults
    if len(faults) == 1:
        raise errors.UsageError(faults[0], "correct it; see --help")
    if faults:
        listed = "\n".join(f"  {fault}" for fault in faults)
        raise errors.UsageError(f"{len(faults)} things are wrong:\n{listed}", "correct them; see --help")


def require_valid() -> None:
    """Raise UsageError when an option of the running command had a wrong value."""
    with collected():
        pass


def _require_agreement(given: Given, faults: list[str]) -> None:
    """Add what is wrong with options together that are right by themselves."""
    if len(set(given.ports.values())) < len(given.ports):
        faults.append("two of the ports are the same: give --port, --https-port, --plugin-port different ones")
    if bool(given.tls_cert) != bool(given.tls_key):
        faults.append("--tls-cert and --tls-key go together: give both")
    of_a_backup = {"--identity": given.identity, "--without-vectors": given.without_vectors}
    if not given.restore and (names := " and ".join(name for name, value in of_a_backup.items() if value)):
        faults.append(f"no backup is named for {names}: add --restore FILE")
    if given.tls and given.tls_cert:
        faults.append("--tls makes a certificate, and --tls-cert gives one: leave out one of the two")
    if given.from_registry and (given.images or given.verify == "full"):
        faults.append("--from-registry needs no archive: leave out --images and --verify full, or the registry")
    if given.registry_user and not given.from_registry:
        faults.append("--registry-user signs in to a registry, but none is named: add --from-registry HOST")
    if (given.install_podman or given.rpms) and given.runtime == "docker":
        faults.append("podman is to be installed, but docker to be used: leave out one of the two options")
    if given.admin_password and given.admin_password_file:
        faults.append("--admin-password-file and the password itself are both given: leave out one of the two")
    if intranet.NONE in given.allow_intranet and len(set(given.allow_intranet)) > 1:
        faults.append(f"--allow-intranet {intranet.NONE} lets nothing through: give it alone, or leave it out")
    faults.extend(_find_one_word_for_two(given))
    faults.extend(_find_told_twice(given))
    faults.extend(_told(resolvers.joined, given.resolvers))
    _require_models_agree(given, faults)


def _find_one_word_for_two(given: Given) -> Iterator[str]:
    """Yield what is wrong where the api's driver would compare certificates for rows that do not ask for it."""
    rows, vectors = given.db_url, given.vector_url
    if rows and isinstance(vectors, external.Database) and vectors.verifies and rows.mode == "require":
        yield (
            "--db-url says sslmode=require, and --vector-url one that compares: the api has one word for the "
            "authorities of both: give both the same sslmode"
        )


def _find_told_twice(given: Given) -> Iterator[str]:
    for key in sorted(_of_others(given).keys() & {pair.partition("=")[0] for pair in given.values}):
        yield f"--set {key}=… says what a URL of a service of yours says: leave out one of the two"


def _require_models_agree(given: Given, faults: list[str]) -> None:
    if (given.wanted or given.require_llm) and not (given.ollama_urls or given.vllm_urls):
        faults.append("a model is to be checked, but no server is named: add --ollama-url or --vllm-url")
    if given.ollama_wanted and not given.ollama_urls:
        faults.append("--ollama-model names a model of an Ollama server, but no server is named: add --ollama-url")
    named = {url.rstrip("/") for url in (*given.ollama_urls, *given.vllm_urls)}
    faults += [
        f"--api-key has a key of {each.url}, which is none of the servers: name it with --ollama-url or --vllm-url"
        for each in given.api_keys
        if each.url and each.url not in named
    ]
    if given.vllm_wanted and not given.vllm_urls:
        faults.append("--vllm-model names a model of a vLLM server, but no server is named: add --vllm-url")


def _told(check: Callable[[tuple[str, ...]], object], values: tuple[str, ...]) -> list[str]:
    """Return what a check of several values complains of, if it does."""
    try:
        check(values)
    except errors.UsageError as error:
        return [f"{error.message}: {error.remedy}"]
    return []


def _tls(given: Given) -> tuple[Path, Path] | Literal["self-signed"] | None:
    if given.tls_cert and given.tls_key:
        return given.tls_cert.absolute(), given.tls_key.absolute()
    return given.tls


def servers(given: Given) -> tuple[models.Server, ...]:
    """Return the model servers, with what is wanted of each."""
    kinds: tuple[tuple[models.ServerKind, tuple[str, ...], tuple[models.Wanted, ...]], ...] = (
        ("Ollama", given.ollama_urls, given.ollama_wanted),
        ("vLLM", given.vllm_urls, given.vllm_wanted),
    )
    return tuple(
        models.Server(kind=kind, url=url, wanted=(*given.wanted, *wanted), key=models.find_key(given.api_keys, url))
        for kind, urls, wanted in kinds
        for url in urls
    )


def folder(given: Path | None) -> Path:
    """Return the install folder as an absolute path."""
    return given or layout.default_folder()


def archive(given: Path | None) -> Path:
    """Return where the image archive is: the file or folder given, else the executable's folder."""
    if given is not None:
        return given.absolute()
    running = layout.executable()
    return running.parent if running else Path.cwd()
