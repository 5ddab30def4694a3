"""What is done inside of a running Dify: its account, plugins, models and the first question."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from installer.checks import front_door, inside, models
from installer.commands import report
from installer.core import layout
from installer.core.console import Console
from installer.core.finding import Finding
from installer.core.runner import Runner
from installer.engine.base import Container, Engine
from installer.plan import Plan
from installer.release import dify, settings
from installer.stack import state
from installer.workspace import account, ask, knowledge, plugins, servers
from installer.workspace import models as registry
from installer.workspace.client import Client, open_client

# What Dify calls the languages of an account (constants/languages.py).
LANGUAGES = {"en": "en-US", "ko": "ko-KR"}
# Lists the containers of this Dify as they are now.
Containers = Callable[[], list[Container]]


@dataclass(frozen=True, slots=True)
class Entered:
    """A client that is signed in, and how that went."""

    client: Client
    account: account.Entered


@contextlib.contextmanager
def enter(
    place: layout.Installation, engine: Engine, admin: account.Admin, language: str, version: str
) -> Iterator[Entered]:
    """Sign in to the installation's console. Raises AccountRefused, ConsoleError, and UsageError for its `.env`."""
    env = settings.load(place)
    front = front_door.front_door(place, env.url, version, engine)
    with sign_in(front, place, env, admin, language, engine.runner) as entered:
        yield entered


@contextlib.contextmanager
def sign_in(
    front: front_door.FrontDoor,
    place: layout.Installation,
    env: settings.Settings,
    admin: account.Admin,
    language: str,
    runner: Runner,
) -> Iterator[Entered]:
    """Sign in through a front door; `place` is where notes of the account are kept. Raises as `enter` does."""
    runner.hide([*env.secrets, *filter(None, [admin.password])])
    with open_client(front) as client:
        init_password = env.resolved.get("INIT_PASSWORD", "")
        yield Entered(client, account.enter(client, admin, place, init_password, LANGUAGES[language], runner))


def furnish(plan: Plan, result: report.Report, console: Console) -> None:
    """Make of a healthy Dify one that answers: account, plugins, models, and two questions as the proof.

    What lies in a model server is a warning in `result.models`; all else raises, as `enter`, `plugins.bring`,
    `ask.ask` and `knowledge.prove` do.
    """
    request, place, engine = plan.request, plan.place, plan.engine
    if request.admin is None:
        return
    told = result.inside = report.Inside(account=request.admin.email)
    with contextlib.ExitStack() as stack:
        with result.step("account", console) as step:
            entered = stack.enter_context(enter(place, engine, request.admin, request.language, plan.bundle.dify))
            step.seen = told_account(entered.account, place)
            told.password_file = str(place.admin_password) if entered.account.generated else ""
        client = entered.client
        with result.step("add plugins", console) as step:
            told.plugins = bring(client, carried(plan), listing(engine), console)
            step.seen = told_plugins(told.plugins)
        if not request.servers:
            result.notes.append(
                "no model server was named: with --ollama-url or --vllm-url the models of that server are registered"
            )
            return
        with result.step("models", console) as step:
            found = state.list_containers(engine)
            registered = register(client, request.servers, found, place, engine, console)
            told.models = [as_model(each) for each in registered]
            result.models += told_faults(registered)
            step.seen = told_models(registered)
        with result.step("answer", console) as step:
            step.seen = _answer(client, plan, result)
        with result.step("knowledge", console) as step:
            step.seen = _prove_knowledge(client, plan, result, console)


def carried(plan: Plan) -> list[Path]:
    """Return the packages that the bundle brings, as they lie in the install folder."""
    if plan.bundle.plugins is None:
        return []
    return [plan.place.plugins / each.file.path for each in plan.bundle.plugins.packages]


def listing(engine: Engine) -> Containers:
    """Return what lists the containers of an engine."""
    return lambda: state.list_containers(engine)


def bring(client: Client, packages: Sequence[Path], containers: Containers, console: Console) -> list[plugins.Brought]:
    """Install packages into the workspace. Raises WorkspaceFailed, and UsageError for what is no package."""

    def started() -> int:
        found = (each for each in containers() if each.service == dify.MODEL_CALLER)
        return max((each.started for each in found), default=0)

    read = [plugins.read_package(path) for path in packages]
    plugins.await_daemon(client, console)
    return plugins.bring(client, read, console, started)


def register(
    client: Client,
    asked: Sequence[models.Server],
    found: list[Container],
    place: layout.Installation,
    engine: inside.Runtime,
    console: Console,
) -> list[registry.Registered]:
    """Register what the servers have."""
    authorities = models.host_authorities(place)
    there = servers.find_models(asked, found, authorities, layout.bundled(layout.PROBE), engine)
    return registry.register(client, there, console)


def judge_lacking(
    asked: Sequence[models.Server],
    registered: Sequence[registry.Registered],
    found: list[Container],
    place: layout.Installation,
    engine: inside.Runtime,
    *,
    from_here: bool = True,
) -> list[Finding]:
    """Return why servers have given no model, or not all that were wanted of them; `from_here` as `check_servers`."""
    lacking = [server for server in asked if _lacks(server, [each.model for each in registered])]
    authorities = models.host_authorities(place)
    probe = layout.bundled(layout.PROBE)
    checked = models.check_servers(lacking, found, authorities, probe, engine, from_here=from_here)
    return [each for each in checked if each.level != "ok"]


def _lacks(server: models.Server, given: Sequence[servers.Model]) -> bool:
    names = {name for each in given if each.server == server for name in (each.name, each.name.removesuffix(":latest"))}
    return not names or any(wanted.name not in names for wanted in server.wanted)


def _answer(client: Client, plan: Plan, result: report.Report) -> str:
    """Ask the default model; tell in words what it says. Raises AskFailed where the fault lies in this Dify."""
    assert result.inside is not None
    chosen = registry.find_default(client, "llm")
    if chosen is None:
        return "there is no model to talk to, and nothing was asked"
    try:
        answer = ask.ask(client, *chosen, ask.WORDS[plan.request.language], keep=plan.request.keep_example)
    except ask.AskFailed as error:
        if not error.fault.outside:
            raise
        result.models.append(Finding("first answer", "warning", error.message, error.remedy))
        return error.message
    result.inside.answer = answer
    return told_answer(answer)


def _prove_knowledge(client: Client, plan: Plan, result: report.Report, console: Console) -> str:
    """Let a small knowledge base find what is meant; tell in words how that went.

    Raises KnowledgeFailed where the fault lies in this Dify.
    """
    assert result.inside is not None
    embedder = registry.find_default(client, registry.TYPES["embedding"])
    if embedder is None:
        return "there is no embedding model, and no knowledge base was made"
    language, answer = plan.request.language, result.inside.answer
    # A model that has not answered without knowledge is not asked with it.
    talker = (answer.provider, answer.model) if answer else None
    runs = worker_watch(listing(plan.engine))
    try:
        found = knowledge.prove(client, embedder, knowledge.WORDS[language], runs, console, talker, ask.WORDS[language])
    except knowledge.KnowledgeFailed as error:
        if not error.fault.outside:
            raise
        result.models.append(Finding("knowledge base", "warning", error.message, error.remedy))
        return error.message
    result.inside.knowledge = found
    return told_knowledge(found)


def worker_watch(containers: Containers) -> Callable[[], bool]:
    """Return a function that tells whether the worker's container runs."""
    return lambda: inside.find_container(dify.WORKER, containers()) is not None


def told_account(entered: account.Entered, place: layout.Installation) -> str:
    """Say in words how it went with the account."""
    what = "made" if entered.made else "signed in"
    return f"{entered.email} {what}" + (f"; its password is in {place.admin_password}" if entered.generated else "")


def told_plugins(brought: Sequence[plugins.Brought]) -> str:
    """Say in words what became of packages."""
    if not brought:
        return "the bundle brings none"
    return ", ".join(f"{each.name} {each.version} {each.what}" for each in brought)


def told_models(registered: Sequence[registry.Registered]) -> str:
    """Say in words what became of models."""
    if not registered:
        return "the servers tell of none"
    return ", ".join(f"{each.model.name} {each.what}" for each in registered)


def told_faults(registered: Sequence[registry.Registered]) -> list[Finding]:
    """Return what is wrong with models that could not be registered."""
    return [
        Finding(
            f"model {each.model.name}",
            "warning",
            f"{each.model.server.url}: not registered, it fails at the hop {each.fault.hop}: {each.fault.words}",
            each.fault.remedy,
        )
        for each in registered
        if each.fault is not None
    ]


def told_answer(answer: ask.Answer) -> str:
    """Say in words how the question went."""
    tokens = f", {answer.answer_tokens} tokens" if answer.answer_tokens else ""
    return (
        f"{answer.model}: first word after {answer.first_seconds:.1f} s, "
        f"all after {answer.seconds:.1f} s{tokens}: {answer.answer[:80]}"
    )


def told_knowledge(found: knowledge.Found) -> str:
    """Say in words how it went with the knowledge base."""
    return (
        f"{found.model}: {found.passages} passages indexed in {found.index_seconds:.1f} s, "
        f"what is meant found in {found.find_seconds:.1f} s: {found.passage[:80]}"
    )


def as_model(registered: registry.Registered) -> report.Model:
    """Return a model as the report keeps it."""
    model = registered.model
    return report.Model(
        name=model.name,
        server=model.server.url,
        provider=registered.provider,
        kind=model.kind,
        context=model.context,
        tools=model.tools,
        vision=model.vision,
        what=registered.what,
        default=registered.default,
    )
