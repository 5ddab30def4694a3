"""Renders what runs from upstream's compose file: for podman-compose a file of our own, for docker compose additions.

Upstream's file stays untouched beside it. Each way in which ours departs from it is a
function of its own below, with the reason; `DEPARTURES` is their order, `ADDITIONS` those that docker
needs as well. Variables remain variables: `.env` is the one place where an administrator changes a setting.

Sources: "measured" is podman-compose 1.0.6 to 1.6.0 against Dify 1.11.3's file (docs/decisions/007).
"""

from __future__ import annotations

import copy
import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from installer.core import layout
from installer.release import compose, dify, envfile, external, intranet, resolvers, storage, urls

HEADER = """\
# Rendered by dify-installer from docker-compose.yaml, which lies beside it untouched.
# Change settings in .env, not here: the next run of dify-installer writes this file anew.
"""
OVERRIDE_HEADER = """\
# Written by dify-installer: what docker compose adds to docker-compose.yaml beside it, which is upstream's.
# Change settings in .env, not here: the next run of dify-installer writes this file anew.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """What the rendering depends on.

    The variables of `.env`, whether SELinux labels files here, whether Dify trusts authorities of its own, whether
    the engine can ask a health check more often while a container starts (docker 25 and later), whether the owner
    signs plugins, and the IDs of the bundle's images by their references.
    """

    variables: Mapping[str, str]
    selinux: bool
    ca_bundle: bool = False
    start_interval: bool = False
    owner_key: bool = False
    images: Mapping[str, str] = field(default_factory=dict)


# A profile that no setting names.
NOT_HERE = "not-here"

Departure = Callable[[compose.Document, Choice], None]


def render(document: compose.Document, choice: Choice) -> str:
    """Return podman-compose's file for this host as YAML; the same inputs give the same text."""
    return HEADER + _as_yaml(_departed(document, choice, DEPARTURES))


def override(document: compose.Document, choice: Choice) -> str:
    """Return docker compose's additions to upstream's file, as YAML: of each service only what differs."""
    before = compose.active_services(document, choice.variables)
    running = with_additions(document, choice)["services"]
    services = left_out(before, running)
    for name, after in running.items():
        if differing := {key: _added(before[name].get(key), value) for key, value in after.items()}:
            services[name] |= {key: value for key, value in differing.items() if value}
    return OVERRIDE_HEADER + _as_yaml({"services": {name: added for name, added in services.items() if added}})


def left_out(before: Mapping[str, compose.Service], running: Mapping[str, Any]) -> dict[str, compose.Service]:
    """Return what lets docker compose leave out services that upstream's file always starts, and whoever waits for one.

    A service of a profile that nobody names does not start, and nobody is made to wait for it (compose-spec,
    "profiles", "depends_on").
    """
    gone = [name for name in before if name not in running]
    added: dict[str, compose.Service] = {name: {"profiles": [NOT_HERE]} for name in gone}
    for name in running:
        waits = {each: how for each, how in compose.dependencies(before[name]).items() if each in gone}
        added[name] = {"depends_on": {each: {**how, "required": False} for each, how in waits.items()}} if waits else {}
    return added


def with_additions(document: compose.Document, choice: Choice) -> compose.Document:
    """Return what docker compose makes of upstream's file and our additions: the services that run."""
    return _departed(document, choice, (only_active_services, *ADDITIONS, prompt_health_checks))


def for_cluster(document: compose.Document, choice: Choice) -> compose.Document:
    """Return the services that run, with the departures that hold for a cluster, too."""
    return _departed(document, choice, FOR_CLUSTER)


def _departed(document: compose.Document, choice: Choice, departures: Iterable[Departure]) -> compose.Document:
    result = copy.deepcopy(document)
    for departure in departures:
        departure(result, choice)
    return result


def _added(before: Any, after: Any) -> Any:
    """Return what compose must add to `before` to get `after`: it merges mappings and replaces volumes by target."""
    if isinstance(before, list) and isinstance(after, dict):
        before = dict.fromkeys(before)
        return {key: value for key, value in after.items() if key not in before}
    if isinstance(before, dict) and isinstance(after, dict):
        return {key: value for key, value in after.items() if before.get(key) != value}
    return None if before == after else after


def _as_yaml(document: compose.Document) -> str:
    return yaml.dump(document, Dumper=_PlainDumper, sort_keys=False, allow_unicode=True, width=1000)


def only_active_services(document: compose.Document, choice: Choice) -> None:
    """Leave out the services of inactive profiles, and the word `profiles`; and a Redis that is not to be ours.

    podman-compose 1.0.6 starts all 35 services, 1.1.0 to 1.5.0 ignore COMPOSE_PROFILES (measured).
    """
    document["services"] = compose.active_services(document, choice.variables)
    if external.has_redis(choice.variables):
        document["services"].pop(urls.REDIS_SERVICE, None)
    for service in document["services"].values():
        service.pop("profiles", None)


def only_active_dependencies(document: compose.Document, _choice: Choice) -> None:
    """Leave out dependencies on services that are not there, and the word `required`.

    podman-compose 1.3.0 to 1.6.0 end with KeyError on a dependency with `required: false`
    outside the active profiles (measured).
    """
    for service in document["services"].values():
        if "depends_on" in service:
            service["depends_on"] = {
                name: {key: value for key, value in options.items() if key != "required"}
                for name, options in compose.dependencies(service).items()
                if name in document["services"]
            }


def declared_default_network(document: compose.Document, _choice: Choice) -> None:
    """Declare the network `default`, which docker compose knows by itself.

    Every podman-compose ends with "missing networks: default" otherwise (measured).
    """
    networks = document.get("networks") or {}
    networks.setdefault("default", {"driver": "bridge"})
    document["networks"] = networks


def only_used_networks_and_volumes(document: compose.Document, _choice: Choice) -> None:
    """Leave out networks and named volumes of services that are not there, so that none is created."""
    services = document["services"].values()
    networks = {name for service in services for name in service.get("networks") or ("default",)}
    document["networks"] = {name: spec for name, spec in document["networks"].items() if name in networks}
    sources = {_source(volume) for service in services for volume in service.get("volumes") or ()}
    volumes = {name: spec for name, spec in (document.get("volumes") or {}).items() if name in sources}
    document.pop("volumes", None)
    if volumes:
        document["volumes"] = volumes


def full_image_names(document: compose.Document, _choice: Choice) -> None:
    """Name registry and tag of each image; a variable within it remains one.

    A short name means whatever registry a host's registries.conf puts first, or none.
    """
    for service in document["services"].values():
        image = str(service["image"])
        if not image.startswith("$"):
            service["image"] = compose.full_reference(image)


def never_pulled(document: compose.Document, _choice: Choice) -> None:
    """Never ask a registry: there is none, and a pull would hang until its time-out."""
    for service in document["services"].values():
        service["pull_policy"] = "never"


def no_pod(document: compose.Document, _choice: Choice) -> None:
    """Make no pod: podman-compose's own, without network or namespaces, only adds a thing that can fail."""
    document["x-podman"] = {**(document.get("x-podman") or {}), "in_pod": False}


def no_calls_home(document: compose.Document, _choice: Choice) -> None:
    """Take away the defaults that lead to the internet when a setting is left empty.

    `${CHECK_UPDATE_URL:-https://updates.dify.ai}` comes back to life when the value is empty, so
    `:-` becomes `-`; the template modes are in neither of upstream's files.
    """
    for service in document["services"].values():
        environment = service.get("environment")
        if not isinstance(environment, dict):
            continue
        for name in dify.EMPTY_MEANS_OFF:
            if name in environment:
                environment[name] = f"${{{name}-}}"
        if dify.SECRET_KEY in environment:
            for name, value in dify.OFFLINE_IN_CONTAINER.items():
                environment.setdefault(name, f"${{{name}:-{value}}}")


def quiet_web(document: compose.Document, choice: Choice) -> None:
    """Keep the front end, and the browsers that it serves, from asking servers in the internet.

    pm2 asks for its newest version. Browsers ask the marketplace, whose address they have from the front end, even
    where it is off; who switches it on in `.env` gets the address back.
    """
    environment = (document["services"].get(dify.WEB) or {}).get("environment")
    if not isinstance(environment, dict):
        return
    for name, value in dify.QUIET_WEB.items():
        environment.setdefault(name, value)
    if choice.variables.get(dify.MARKETPLACE_SWITCH, "").lower() == "false":
        environment.update((name, "") for name in dify.MARKETPLACE_ADDRESSES if name in environment)


def nginx_last(document: compose.Document, _choice: Choice) -> None:
    """Let nginx start after every service that it forwards to.

    nginx looks its upstreams up once, at its start, and ends when a name is unknown; upstream's
    file forgets the plugin daemon.
    """
    proxy = document["services"].get(dify.PROXY)
    if proxy is None:
        return
    depends_on = compose.dependencies(proxy)
    for name in dify.PROXIED:
        if name in document["services"]:
            depends_on.setdefault(name, {"condition": "service_started"})
    proxy["depends_on"] = depends_on


def company_ca(document: compose.Document, choice: Choice) -> None:
    """Let those who call model servers trust the authorities of `--ca-bundle`."""
    if not choice.ca_bundle:
        return
    place = layout.Installation(Path())
    inside = f"{dify.CA_FOLDER_IN_CONTAINER}/{place.ca_bundle.name}"
    for name, service in document["services"].items():
        environment = service.get("environment")
        if isinstance(environment, dict) and (dify.SECRET_KEY in environment or name == dify.MODEL_CALLER):
            environment.update(dict.fromkeys(dify.CA_VARIABLES, inside))
            source = f"./{place.ca_bundle.parent.relative_to(place.project)}"
            mounted = f"{source}:{dify.CA_FOLDER_IN_CONTAINER}:ro"
            service["volumes"] = [*(service.get("volumes") or ()), mounted]


def services_of_others(document: compose.Document, choice: Choice) -> None:
    """Hand on how servers of others are reached: upstream's file has not all that the programs read.

    The plugin daemon must not get the api's parameters of the database: it takes them for options of the server
    (`release.external`).
    """
    database = external.find_database(choice.variables)
    redis = external.REDIS_KEYS if external.has_redis(choice.variables) else ()
    for name, service in document["services"].items():
        environment = service.get("environment")
        if not isinstance(environment, dict) or not (dify.SECRET_KEY in environment or name == dify.MODEL_CALLER):
            continue
        for key in redis:
            environment.setdefault(key, f"${{{key}:-}}")
        if name != dify.MODEL_CALLER:
            _hand_on_to_the_api(environment, choice.variables, own_rows=database is None)
        if database is None:
            continue
        if name == dify.MODEL_CALLER:
            environment[dify.DB_SSL_MODE] = f"${{{dify.DB_SSL_MODE}:-disable}}"
            if database.verifies:
                environment[dify.DAEMON_DATABASE_CA] = dify.CA_IN_CONTAINER
        else:
            environment[dify.DB_EXTRAS] = f"${{{dify.DB_EXTRAS}:-}}"


def _hand_on_to_the_api(environment: dict[str, Any], variables: Mapping[str, str], *, own_rows: bool) -> None:
    """Hand on how a bucket and a database for vectors of others are reached."""
    if storage.find(variables) is not None:
        environment.setdefault(storage.STYLE, f"${{{storage.STYLE}:-auto}}")
    vectors = external.find_vectors(variables)
    if not isinstance(vectors, external.Database):
        return
    environment[dify.LIBPQ_SSL_MODE] = vectors.mode
    if vectors.verifies:
        environment[dify.LIBPQ_CA] = dify.CA_IN_CONTAINER
    if own_rows:
        environment.setdefault(dify.DB_EXTRAS, f"${{{dify.DB_EXTRAS}:-sslmode=disable}}")


def offline_plugins(document: compose.Document, choice: Choice) -> None:
    """Let the plugin daemon install from the wheels that came along, and take packages that the owner has signed.

    Who has an index of his own sets PIP_EXTRA_ARGS in `.env`, to nothing if need be.
    """
    daemon = document["services"].get(dify.MODEL_CALLER)
    if daemon is None or not isinstance(environment := daemon.get("environment"), dict):
        return
    place, inside = layout.Installation(Path()), dify.PLUGINS_IN_CONTAINER
    wheels = f"--no-index --find-links={inside}/{layout.WHEELS}"
    environment.setdefault(dify.PIP_EXTRA_ARGS, f"${{{dify.PIP_EXTRA_ARGS}-{wheels}}}")
    if choice.owner_key:
        enabled, keys = dify.OWNER_KEYS
        environment |= {enabled: "true", keys: f"{inside}/{layout.OWNER_KEY}"}
    mounted = f"./{place.plugins.relative_to(place.project)}:{inside}:ro"
    daemon["volumes"] = [*(daemon.get("volumes") or ()), mounted]


def one_migration(document: compose.Document, choice: Choice) -> None:
    """Let the api alone migrate the database, and the others of its image wait until it has.

    Upstream lets all of them migrate at once, and each import the whole application twice for that (dify#32297,
    docs/decisions/023). Who sets MIGRATION_ENABLED in `.env` otherwise migrates by hand, and is left to it.
    """
    migrates = choice.variables.get(dify.MIGRATION_SWITCH, "true") == "true"
    place = layout.Installation(Path())
    for name, service in _of_the_api(document, choice).items():
        environment = service["environment"]
        environment["BASH_ENV"] = f"{layout.API_START_INSIDE}/{layout.API_SCRIPT}"
        if migrates and name != dify.API:
            environment |= {dify.MIGRATION_SWITCH: "false", dify.AWAIT_MIGRATION: "true"}
        mounted = f"./{place.api_start.relative_to(place.project)}:{layout.API_START_INSIDE}:ro"
        service["volumes"] = [*(service.get("volumes") or ()), mounted]


def kept_compiled(document: compose.Document, choice: Choice) -> None:
    """Keep what Python compiles of the api's image, for its next container.

    The image has nothing compiled, and its user may not write where it belongs: each container would compile three
    thousand files anew, all of them at once (docs/decisions/023). The folder is this very image's.
    """
    place = layout.Installation(Path())
    for service in _of_the_api(document, choice).values():
        if identity := choice.images.get(_reference(service, choice)):
            service["environment"].setdefault("PYTHONPYCACHEPREFIX", layout.COMPILED_INSIDE)
            source = f"../{place.compiled.name}/{layout.compiled_name(identity)}"
            service["volumes"] = [*(service.get("volumes") or ()), f"{source}:{layout.COMPILED_INSIDE}"]


def _of_the_api(document: compose.Document, choice: Choice) -> dict[str, compose.Service]:
    """Return the services that run the api's image."""
    services = document["services"]
    if dify.API not in services:
        return {}
    image = _reference(services[dify.API], choice)
    return {
        name: service
        for name, service in services.items()
        if isinstance(service.get("environment"), dict) and _reference(service, choice) == image
    }


def _reference(service: compose.Service, choice: Choice) -> str:
    return compose.full_reference(envfile.expand(str(service.get("image", "")), choice.variables))


def guarded_intranet(document: compose.Document, choice: Choice) -> None:
    """Let the proxy reach the intranet that is allowed, and nothing of the stack itself.

    Upstream's configuration sends plain http to the sandbox at every other try, refuses https that is not at port 443,
    and lets Redis and the database through (dify#7053, #12792, #36400; docs/decisions/016). The proxy joins all
    networks, since it takes those for the stack's own that it is in: podman lets containers reach into the others.
    """
    proxy = document["services"].get(dify.SSRF_PROXY) or {}
    entrypoint, environment = proxy.get("entrypoint"), proxy.get("environment")
    if not isinstance(environment, dict) or not isinstance(entrypoint, list) or entrypoint[:2] != ["sh", "-c"]:
        return
    ranges = intranet.read(choice.variables.get(dify.ALLOW_INTRANET))
    patience = resolvers.squid_rules(choice.variables.get(dify.RESOLVERS))
    environment[intranet.VARIABLE] = intranet.write_rules(ranges, patience)
    proxy["entrypoint"] = ["sh", "-c", intranet.wrapped(entrypoint[2])]
    active = compose.active_services(document, choice.variables).values()
    joined = [name for service in active for name in service.get("networks") or ("default",)]
    proxy["networks"] = list(dict.fromkeys([*(proxy.get("networks") or ("default",)), *joined]))


def named_resolvers(document: compose.Document, choice: Choice) -> None:
    """Let the containers ask whom `--resolver` names, or nobody, for the names that are not the stack's.

    Where nobody answers, each such question waits for 10 s, and in squid for 35 (measured; docs/decisions/018).
    """
    for service in document["services"].values():
        for key, value in resolvers.service_keys(choice.variables.get(dify.RESOLVERS)).items():
            service.setdefault(key, value)


def selinux_labels(document: compose.Document, choice: Choice) -> None:
    """Label bind mounts where SELinux is on: `:z` for what several services mount, `:Z` for one's own.

    Without a label a container may not read the folder (podman-run(1), "Labeling Volume Mounts").
    """
    if not choice.selinux:
        return
    services = document["services"]
    sources = [
        (name, source)
        for name, service in services.items()
        for volume in service.get("volumes") or ()
        if (source := _bind_source(volume, choice.variables)) is not None
    ]
    for name, service in services.items():
        service_volumes = service.get("volumes") or ()
        if service_volumes:
            others = [source for other, source in sources if other != name]
            service["volumes"] = [_labelled(volume, others, choice.variables) for volume in service_volumes]


def time_to_end(document: compose.Document, _choice: Choice) -> None:
    """Give each service the time that it needs to end.

    Both composes kill after 10 s otherwise, whenever a setting changes (podman_compose.py 1.6.0, STOP_GRACE_PERIOD;
    compose-spec, "stop_grace_period").
    """
    for name, service in document["services"].items():
        if name in dify.STOP_SECONDS:
            service.setdefault("stop_grace_period", f"{dify.STOP_SECONDS[name]}s")


def daemon_that_hears(document: compose.Document, _choice: Choice) -> None:
    """Let the plugin daemon hear that it is to end: it tells the database which plugins it has begun to install."""
    daemon = document["services"].get(dify.MODEL_CALLER)
    if daemon is not None and not {"command", "entrypoint"} & set(daemon):
        daemon["command"] = list(dify.DAEMON_COMMAND)


def proxies_that_hear(document: compose.Document, _choice: Choice) -> None:
    """Let nginx and squid hear that they are to end: nginx answers what has been asked, and nobody waits to kill them.

    The last command of upstream's `sh -c "… && …"` is replaced, if it is a program and its arguments.
    """
    for name, instead in ((dify.PROXY, dify.HEARS_AS_FIRST), (dify.SSRF_PROXY, dify.HEARS_INTERRUPT)):
        service = document["services"].get(name) or {}
        entrypoint = service.get("entrypoint")
        if isinstance(entrypoint, list) and entrypoint[:2] == ["sh", "-c"]:
            before, separator, last = entrypoint[2].rpartition("&& ")
            if _PROGRAM.fullmatch(last):
                service["entrypoint"] = ["sh", "-c", f"{before}{separator}{instead.format(last)}"]


# Nothing in it is of the shell's own.
_PROGRAM = re.compile(r"[\w./-]+( [\w./-]+)*")


def no_secrets_in_health_checks(document: compose.Document, _choice: Choice) -> None:
    """Let health checks take passwords from the environment of the container, and not from their command line.

    Every user of the host sees a command line, each time the check runs (`ps`); the environment of a process is its
    owner's alone (proc(5), /proc/pid/environ).
    """
    for service in document["services"].values():
        check, environment = service.get("healthcheck"), service.get("environment")
        if not isinstance(check, dict) or not isinstance(environment, dict):
            continue
        kind, *words = check["test"] if isinstance(check.get("test"), list) else ("CMD-SHELL", check.get("test", ""))
        command = words[0] if kind == "CMD-SHELL" else _in_one_line(words)
        changed = _without_password(command, environment)
        if changed != command:
            service["healthcheck"] = {**check, "test": ["CMD-SHELL", changed]}


def _in_one_line(words: Iterable[str]) -> str:
    """Return the words of a command for a shell; variables of compose stay as they are."""
    return " ".join(word if word.startswith("-p${") else shlex.quote(word) for word in words)


def _without_password(command: str, environment: dict[str, Any]) -> str:
    """Return a command that has the password, which is a variable of compose, from the container's environment."""
    for program, (option, variable) in dify.PASSWORD_OPTIONS.items():
        found = re.search(rf"(?<![\w/.-]){program} (?:.*? )?{option}(\$\{{[^}}]*\}}) ?", command)
        if found is None:
            continue
        held = next((name for name, value in environment.items() if value == found[1]), None)
        if held is None:
            held = variable
            environment[variable] = found[1]
        before, whole, after = command[: found.start()], found[0], command[found.end() :]
        rest = before + whole.replace(f"{option}{found[1]}", "", 1).replace("  ", " ") + after
        command = rest.strip() if held == variable else f'{variable}="$${held}" {rest.strip()}'
    return command


# An interval that is shorter serves the start alone.
RESTED_SECONDS = 10
SECONDS = re.compile(r"(\d+)s")


def rested_health_checks(document: compose.Document, _choice: Choice) -> None:
    """Ask a service that has started every 10 s, not each second: each time costs a program of podman's and crun's.

    While it starts, `stack.up` asks ahead of time (docs/decisions/035).
    """
    for service in document["services"].values():
        if check := service.get("healthcheck"):
            service["healthcheck"] = _rested(check)


def _rested(check: Mapping[str, Any]) -> dict[str, Any]:
    interval = SECONDS.fullmatch(str(check.get("interval")))
    often = interval is not None and int(interval[1]) < RESTED_SECONDS
    return {**check, "interval": f"{RESTED_SECONDS}s"} if often else dict(check)


def prompt_health_checks(document: compose.Document, choice: Choice) -> None:
    """Let docker ask each second while a container starts, and seldom afterwards.

    A check without an interval is asked after 30 s otherwise, and upstream has the database asked each second for ever.
    For podman `stack.up` asks ahead of time; docker has no command for that (docker's documents, "start_interval").
    """
    if not choice.start_interval:
        return
    for service in document["services"].values():
        check = service.get("healthcheck") or {}
        rested = _rested(check)
        if "test" in check and ("interval" not in check or rested != check):
            service["healthcheck"] = {"start_period": "60s", "start_interval": "1s", **rested}


# What docker compose needs as well, although it understands upstream's file.
ADDITIONS: tuple[Departure, ...] = (
    no_calls_home,
    quiet_web,
    nginx_last,
    company_ca,
    services_of_others,
    offline_plugins,
    one_migration,
    kept_compiled,
    guarded_intranet,
    named_resolvers,
    selinux_labels,
    time_to_end,
    daemon_that_hears,
    proxies_that_hear,
    no_secrets_in_health_checks,
)

DEPARTURES: tuple[Departure, ...] = (
    only_active_services,
    only_active_dependencies,
    declared_default_network,
    only_used_networks_and_volumes,
    full_image_names,
    never_pulled,
    no_pod,
    *ADDITIONS,
    rested_health_checks,
)


# What a cluster needs as well: networks, labels, resolvers and the order of starting are its own matters.
FOR_CLUSTER: tuple[Departure, ...] = (
    only_active_services,
    only_active_dependencies,
    full_image_names,
    no_calls_home,
    quiet_web,
    services_of_others,
    daemon_that_hears,
    no_secrets_in_health_checks,
)


def bind_sources(document: compose.Document, variables: Mapping[str, str]) -> list[str]:
    """Return the host paths that the services mount, as the rendered file names them, expanded."""
    found = (
        _bind_source(volume, variables)
        for service in document["services"].values()
        for volume in service.get("volumes") or ()
    )
    return sorted({source for source in found if source is not None})


def _source(volume: Any) -> str:
    """Return what is left of the first colon, or `source` in the long form."""
    if isinstance(volume, dict):
        return str(volume.get("source", ""))
    return _split(volume)[0]


def _split(volume: str) -> list[str]:
    """Split `source:target:options` at the colons that are outside of `${…}`."""
    parts, depth = [""], 0
    for character in volume:
        depth += {"{": 1, "}": -1}.get(character, 0)
        if character == ":" and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _bind_source(volume: Any, variables: Mapping[str, str]) -> str | None:
    source = envfile.expand(_source(volume), variables)
    return source if source.startswith((".", "/", "~")) else None


def _labelled(volume: Any, others: list[str], variables: Mapping[str, str]) -> Any:
    source = _bind_source(volume, variables)
    if source is None:
        return volume
    label = "z" if any(_overlap(source, other) for other in others) else "Z"
    if isinstance(volume, dict):
        return {**volume, "bind": {**(volume.get("bind") or {}), "selinux": label}}
    parts = _split(volume)
    options = [option for option in (parts[2].split(",") if len(parts) > 2 else []) if option not in ("z", "Z")]
    return ":".join([*parts[:2], ",".join([*options, label])])


def _overlap(one: str, other: str) -> bool:
    first, second = PurePosixPath(one), PurePosixPath(other)
    return first.is_relative_to(second) or second.is_relative_to(first)


class _PlainDumper(yaml.CSafeDumper):
    """Writes repeated mappings in full (podman-compose reads anchors, people do not) and long text as blocks."""

    def ignore_aliases(self, _data: Any) -> bool:
        return True


def _text(dumper: yaml.CSafeDumper, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_PlainDumper.add_representer(str, _text)
