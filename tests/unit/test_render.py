from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from installer.release import compose, dify, envfile, render

VARIABLES = {"COMPOSE_PROFILES": "postgresql", "DATA": "./volumes/data"}


def rendered(services: dict[str, Any], *, selinux: bool = False, **top: Any) -> dict[str, Any]:
    document = {"services": services, **top}
    text = render.render(document, render.Choice(variables=VARIABLES, selinux=selinux))
    result: dict[str, Any] = yaml.safe_load(text)
    return result


def test_only_active_services_remain() -> None:
    result = rendered({"a": {"image": "a"}, "b": {"image": "b", "profiles": ["mysql"]}})
    assert list(result["services"]) == ["a"]


def test_the_word_profiles_goes() -> None:
    result = rendered({"db": {"image": "db", "profiles": ["postgresql", "mysql"]}})
    assert "profiles" not in result["services"]["db"]


def test_dependencies_on_inactive_services_go_and_required_with_them() -> None:
    result = rendered(
        {
            "api": {
                "image": "api",
                "depends_on": {
                    "db": {"condition": "service_healthy", "required": False},
                    "mysql": {"condition": "service_healthy", "required": False},
                },
            },
            "db": {"image": "db", "profiles": ["postgresql"]},
            "mysql": {"image": "mysql", "profiles": ["mysql"]},
        }
    )
    assert result["services"]["api"]["depends_on"] == {"db": {"condition": "service_healthy"}}


def test_default_is_declared_and_unused_networks_and_volumes_go() -> None:
    result = rendered(
        {"a": {"image": "a", "networks": ["inner", "default"], "volumes": ["named:/x"]}},
        networks={"inner": {"internal": True}, "unused": {}},
        volumes={"named": None, "unused": None},
    )
    assert set(result["networks"]) == {"inner", "default"}
    assert set(result["volumes"]) == {"named"}


def test_images_have_full_names_and_are_never_pulled() -> None:
    service = rendered({"a": {"image": "nginx"}})["services"]["a"]
    assert service["image"] == "docker.io/library/nginx:latest"
    assert service["pull_policy"] == "never"


def test_no_pod_is_made() -> None:
    assert rendered({"a": {"image": "a"}})["x-podman"] == {"in_pod": False}


def test_what_is_empty_stays_empty_and_templates_come_from_the_image() -> None:
    service = rendered(
        {
            "api": {
                "image": "api",
                "environment": {
                    "SECRET_KEY": "${SECRET_KEY:-x}",
                    "CHECK_UPDATE_URL": "${CHECK_UPDATE_URL:-https://updates.dify.ai}",
                },
            }
        }
    )["services"]["api"]
    expanded = {key: envfile.expand(value, {"CHECK_UPDATE_URL": ""}) for key, value in service["environment"].items()}
    assert expanded["CHECK_UPDATE_URL"] == ""
    assert expanded["HOSTED_FETCH_APP_TEMPLATES_MODE"] == "builtin"
    assert expanded["HOSTED_FETCH_PIPELINE_TEMPLATES_MODE"] == "database"


@pytest.mark.parametrize(("switch", "address"), [("false", ""), ("true", "https://marketplace.dify.ai")])
def test_the_front_end_and_its_browsers_ask_nobody_outside(dify: Path, switch: str, address: str) -> None:
    upstream = compose.load(dify / "docker/docker-compose.yaml")
    variables = envfile.resolve((dify / "docker/.env.example").read_text(), {"MARKETPLACE_ENABLED": switch})
    choice = render.Choice(variables=variables, selinux=False)
    for document in (yaml.safe_load(render.render(upstream, choice)), render.with_additions(upstream, choice)):
        services = document["services"]
        expanded = {name: compose.expand_all(services[name], variables)["environment"] for name in ("web", "api")}
        assert expanded["web"]["MARKETPLACE_API_URL"] == expanded["web"]["MARKETPLACE_URL"] == address
        # The api refuses an empty one.
        assert expanded["api"]["MARKETPLACE_API_URL"] == "https://marketplace.dify.ai"
        assert expanded["web"]["PM2_DISCRETE_MODE"] == expanded["web"]["PM2_DISABLE_VERSION_CHECK"] == "true"
    added = yaml.safe_load(render.override(upstream, choice))["services"]["web"]["environment"]
    assert added.get("MARKETPLACE_URL") == ("" if switch == "false" else None)


def test_nginx_waits_for_all_that_it_forwards_to() -> None:
    result = rendered(
        {
            "nginx": {"image": "nginx", "depends_on": ["api"]},
            "api": {"image": "api"},
            "plugin_daemon": {"image": "plugin"},
        }
    )
    assert set(result["services"]["nginx"]["depends_on"]) == {"api", "plugin_daemon"}


@pytest.mark.parametrize(
    ("volume", "label"),
    [
        ("./private:/x", "./private:/x:Z"),
        ("./shared:/x", "./shared:/x:z"),
        ("./shared/below:/x:ro", "./shared/below:/x:ro,z"),
        ("${DATA:-./other}:/x", "${DATA:-./other}:/x:Z"),
        ("named:/x", "named:/x"),
        ({"type": "bind", "source": "./private", "target": "/x"}, {"selinux": "Z"}),
        ({"type": "volume", "source": "named", "target": "/x"}, None),
    ],
)
def test_bind_mounts_are_labelled_where_selinux_is_on(volume: Any, label: Any) -> None:
    services = {"a": {"image": "a", "volumes": [volume]}, "b": {"image": "b", "volumes": ["./shared:/y"]}}
    on = rendered(services, selinux=True)["services"]["a"]["volumes"][0]
    off = rendered(services)["services"]["a"]["volumes"][0]
    assert (on.get("bind") if isinstance(on, dict) else on) == label
    assert off == volume


def test_variables_remain_variables_and_the_text_is_deterministic() -> None:
    services = {"a": {"image": "a", "ports": ["${PORT:-80}:80"], "command": "sh -c 'echo $${HOME}\n'", "restart": "no"}}
    choice = render.Choice(variables=VARIABLES, selinux=True)
    text = render.render({"services": services}, choice)
    service = yaml.safe_load(text)["services"]["a"]
    assert service["ports"] == ["${PORT:-80}:80"]
    assert service["command"] == "sh -c 'echo $${HOME}\n'"
    assert service["restart"] == "no"
    assert text == render.render({"services": services}, choice)


def test_each_departure_gives_its_reason() -> None:
    for departure in render.DEPARTURES:
        assert departure.__doc__ and len(departure.__doc__) > 60, departure.__name__


def test_upstreams_file_renders(dify: Path) -> None:
    document = compose.load(dify / "docker/docker-compose.yaml")
    variables = envfile.resolve((dify / "docker/.env.example").read_text())
    result = yaml.safe_load(render.render(document, render.Choice(variables=variables, selinux=True)))
    assert set(result["services"]) == set(compose.active_services(document, variables))
    assert len(result["services"]) == 12
    assert set(result["networks"]) == {"default", "ssrf_proxy_network"}
    storage = [v for v in result["services"]["api"]["volumes"] if "storage" in v]
    assert storage == ["./volumes/app/storage:/app/api/storage:z"]
    assert result["services"]["db_postgres"]["volumes"] == ["./volumes/db/data:/var/lib/postgresql/data:Z"]
    assert "./volumes/db/data" in render.bind_sources(result, variables)


@pytest.mark.parametrize(("store", "database"), [("qdrant", "postgresql"), ("weaviate", "mysql"), ("milvus", "mysql")])
def test_choices_change_the_images_of_upstreams_file(dify: Path, store: str, database: str) -> None:
    document = compose.load(dify / "docker/docker-compose.yaml")
    text = (dify / "docker/.env.example").read_text()
    images = compose.images(document, envfile.resolve(text, {"VECTOR_STORE": store, "DB_TYPE": database}))
    names = {service for services in images.values() for service in services}
    assert ("db_mysql" in names) == (database == "mysql")
    assert ("db_postgres" in names) == (database == "postgresql")
    assert any(store in name for name in names)


def test_the_images_of_upstreams_default_choice(dify: Path) -> None:
    document = compose.load(dify / "docker/docker-compose.yaml")
    images = compose.images(document, envfile.resolve((dify / "docker/.env.example").read_text()))
    assert len(images) == 10
    assert images["docker.io/langgenius/dify-api:1.11.3"] == ["api", "worker", "worker_beat"]


UPSTREAM: dict[str, Any] = {
    "services": {
        "api": {
            "image": "api",
            "environment": {"SECRET_KEY": "${SECRET_KEY}", "CHECK_UPDATE_URL": "${CHECK_UPDATE_URL:-https://x}"},
            "depends_on": {"db": {"condition": "service_healthy", "required": False}},
            "volumes": ["./volumes/app:/app"],
        },
        "plugin_daemon": {"image": "plugin"},
        "nginx": {"image": "nginx", "depends_on": ["api"]},
        "db": {"image": "db", "profiles": ["postgresql"], "volumes": ["./volumes/db:/data"]},
        "mysql": {"image": "mysql", "profiles": ["mysql"], "volumes": ["./volumes/mysql:/data"]},
    }
}


def overridden(*, selinux: bool) -> dict[str, Any]:
    choice = render.Choice(variables=VARIABLES, selinux=selinux)
    result: dict[str, Any] = yaml.safe_load(render.override(UPSTREAM, choice))["services"]
    return result


@pytest.mark.parametrize(
    ("entrypoint", "ending"),
    [
        (["sh", "-c", "cp /a /b && /docker-entrypoint.sh"], "cp /a /b && exec /docker-entrypoint.sh"),
        (["sh", "-c", "sh /run/start.sh -x"], "exec sh /run/start.sh -x"),
        # What may be more than a program is left as it is.
        (["sh", "-c", "a && b || c"], None),
        (["sh", "-c", "a && b &"], None),
        (["sh", "-c", "a && X=1 b"], None),
        (["/docker-entrypoint.sh"], None),
        ("/docker-entrypoint.sh", None),
    ],
)
def test_nginx_takes_the_place_of_the_shell_that_starts_it(entrypoint: Any, ending: str | None) -> None:
    document = {"services": {"nginx": {"entrypoint": entrypoint}}}
    render.proxies_that_hear(document, render.Choice(variables={}, selinux=False))
    assert document["services"]["nginx"]["entrypoint"] == (["sh", "-c", ending] if ending else entrypoint)


# As squid behind upstream's script: it ends for SIGINT, which shells behind `&` are deaf for, and a helper stays.
DEAF_HELPER = """
sleep 20 &
exec python3 -c 'import signal, sys; signal.signal(2, lambda *_: sys.exit(3)); print(flush=True); signal.pause()'
"""


@pytest.mark.parametrize(("script", "ended", "status"), [(DEAF_HELPER, True, 0), ("echo; exit 7", False, 7)])
def test_squid_is_told_to_end_by_the_shell_that_starts_it(
    tmp_path: Path, script: str, ended: bool, status: int
) -> None:
    program = tmp_path / "start.sh"
    program.write_text(script)
    document = {"services": {"ssrf_proxy": {"entrypoint": ["sh", "-c", f"true && sh {program}"]}}}
    render.proxies_that_hear(document, render.Choice(variables={}, selinux=False))
    command = [word.replace("$$", "$") for word in document["services"]["ssrf_proxy"]["entrypoint"]]
    running = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert running.stdout is not None
    running.stdout.readline()
    if ended:
        running.terminate()
    assert running.wait(10) == status


def test_docker_gets_only_what_upstreams_file_lacks() -> None:
    services = overridden(selinux=False)
    assert set(services) == {"api", "nginx", "plugin_daemon"}
    assert services["plugin_daemon"] == {"stop_grace_period": "20s", "command": list(dify.DAEMON_COMMAND)}
    assert services["api"] == {
        "stop_grace_period": "40s",
        "environment": {
            "CHECK_UPDATE_URL": "${CHECK_UPDATE_URL-}",
            "HOSTED_FETCH_APP_TEMPLATES_MODE": "${HOSTED_FETCH_APP_TEMPLATES_MODE:-builtin}",
            "HOSTED_FETCH_PIPELINE_TEMPLATES_MODE": "${HOSTED_FETCH_PIPELINE_TEMPLATES_MODE:-database}",
            "BASH_ENV": "/dify-start/before.sh",
        },
        "volumes": ["./volumes/app:/app", "./api-start:/dify-start:ro"],
    }
    assert services["nginx"] == {"depends_on": {"plugin_daemon": {"condition": "service_started"}}}


def test_docker_asks_checks_without_an_interval_more_often_while_a_container_starts() -> None:
    services = {
        "one": {"image": "x", "healthcheck": {"test": ["CMD", "true"]}},
        "two": {"image": "x", "healthcheck": {"test": ["CMD", "true"], "interval": "1s"}},
        "three": {"image": "x"},
    }
    early = {"start_period": "60s", "start_interval": "1s"}
    choice = render.Choice(variables=VARIABLES, selinux=False, start_interval=True)
    added = yaml.safe_load(render.override({"services": services}, choice))["services"]
    assert added == {"one": {"healthcheck": early}, "two": {"healthcheck": {**early, "interval": "10s"}}}
    older = render.Choice(variables=VARIABLES, selinux=False)
    assert not yaml.safe_load(render.override({"services": services}, older))["services"]


@pytest.mark.parametrize(
    ("interval", "rested"),
    [("1s", "10s"), ("10s", "10s"), ("30s", "30s"), ("500ms", "500ms"), ("${EACH:-1s}", "${EACH:-1s}")],
)
def test_podman_asks_what_has_started_every_ten_seconds(interval: str, rested: str) -> None:
    check = {"test": ["CMD", "true"], "interval": interval, "retries": 60}
    services = rendered({"one": {"image": "x", "healthcheck": check}, "two": {"image": "x"}})["services"]
    assert services["one"]["healthcheck"] == {**check, "interval": rested}
    assert "healthcheck" not in services["two"]


def test_docker_gets_labels_where_its_daemon_has_selinux() -> None:
    services = overridden(selinux=True)
    assert services["db"] == {"volumes": ["./volumes/db:/data:Z"]}
    assert "mysql" not in services


def test_what_docker_runs_is_upstreams_file_with_the_additions() -> None:
    services = render.with_additions(UPSTREAM, render.Choice(variables=VARIABLES, selinux=False))["services"]
    assert set(services) == {"api", "plugin_daemon", "nginx", "db"}
    assert services["api"]["depends_on"]["db"]["condition"] == "service_healthy"
    assert services["nginx"]["depends_on"].keys() == {"api", "plugin_daemon"}


def test_plugins_are_installed_from_the_wheels_that_came_along() -> None:
    services = {"plugin_daemon": {"image": "plugin", "environment": {"A": "1"}, "volumes": ["./data:/app/storage"]}}
    for key in (False, True):
        choice = render.Choice(variables=VARIABLES, selinux=True, owner_key=key)
        daemon = yaml.safe_load(render.render({"services": services}, choice))["services"]["plugin_daemon"]
        assert daemon["volumes"] == ["./data:/app/storage:Z", "./plugins:/dify-plugins:ro,Z"]
        told = daemon["environment"]
        offline = "--no-index --find-links=/dify-plugins/wheels"
        assert envfile.expand(told["PIP_EXTRA_ARGS"], {}) == offline
        # Who has an index of his own may say so, and may say that nothing is to be said.
        assert envfile.expand(told["PIP_EXTRA_ARGS"], {"PIP_EXTRA_ARGS": ""}) == ""
        keys = {name: value for name, value in told.items() if name.startswith("THIRD_PARTY_")}
        assert bool(keys) is key
        assert not key or keys == {
            "THIRD_PARTY_SIGNATURE_VERIFICATION_ENABLED": "true",
            "THIRD_PARTY_SIGNATURE_VERIFICATION_PUBLIC_KEYS": "/dify-plugins/keys/owner.pem",
        }


def test_those_who_call_model_servers_trust_the_companys_authorities() -> None:
    choice = render.Choice(variables=VARIABLES, selinux=True, ca_bundle=True)
    services = {
        "api": {"image": "api", "environment": {"SECRET_KEY": "x"}},
        "plugin_daemon": {"image": "plugin", "environment": {}},
        "web": {"image": "web", "environment": {}},
    }
    result = yaml.safe_load(render.render({"services": services}, choice))["services"]
    for name in ("api", "plugin_daemon"):
        assert result[name]["environment"]["SSL_CERT_FILE"] == "/etc/company-ca/ca-bundle.pem"
        assert "./ca:/etc/company-ca:ro,z" in result[name]["volumes"]
    assert "volumes" not in result["web"]


def test_each_service_gets_the_time_that_it_needs_to_end() -> None:
    result = rendered(
        {"worker": {"image": "a"}, "web": {"image": "b"}, "api": {"image": "c", "stop_grace_period": "9m"}}
    )
    periods = {name: service.get("stop_grace_period") for name, service in result["services"].items()}
    assert periods == {"worker": "60s", "web": None, "api": "9m"}


@pytest.mark.parametrize("profiles", ["postgresql,weaviate", "mysql,oceanbase", "mysql,seekdb"])
def test_no_health_check_of_upstreams_file_shows_a_secret(dify: Path, profiles: str) -> None:
    upstream = compose.load(dify / "docker/docker-compose.yaml")
    variables = envfile.resolve((dify / "docker/.env.example").read_text())
    choice = render.Choice(variables={**variables, "COMPOSE_PROFILES": profiles}, selinux=False)
    documents = (yaml.safe_load(render.render(upstream, choice)), render.with_additions(upstream, choice))
    for document in documents:
        for service in document["services"].values():
            assert "PASSWORD:-" not in str((service.get("healthcheck") or {}).get("test"))
    added = yaml.safe_load(render.override(upstream, choice))
    assert added["services"]["redis"]["healthcheck"]["test"] == ["CMD-SHELL", "redis-cli ping | grep -q PONG"]


@pytest.mark.parametrize(
    ("environment", "test", "wanted"),
    [
        (
            {"MYSQL_ROOT_PASSWORD": "${P:-x}"},
            ["CMD", "mysqladmin", "ping", "-u", "root", "-p${P:-x}"],
            'MYSQL_PWD="$$MYSQL_ROOT_PASSWORD" mysqladmin ping -u root',
        ),
        (
            {"ROOT": "${P}"},
            ["CMD-SHELL", 'mysql -h127.0.0.1 -P2881 -uroot -p${P} -e "SELECT 1;"'],
            'MYSQL_PWD="$$ROOT" mysql -h127.0.0.1 -P2881 -uroot -e "SELECT 1;"',
        ),
        ({"OTHER": "1"}, "redis-cli -a ${P:-x} ping", "redis-cli ping"),
    ],
)
def test_a_health_check_has_its_password_from_the_environment(
    environment: dict[str, str], test: object, wanted: str
) -> None:
    service = {"image": "a", "environment": environment, "healthcheck": {"test": test, "retries": 3}}
    found = rendered({"a": service})["services"]["a"]
    assert found["healthcheck"] == {"test": ["CMD-SHELL", wanted], "retries": 3}
    if "redis" in wanted:
        assert found["environment"]["REDISCLI_AUTH"] == "${P:-x}"


def test_a_health_check_without_a_password_stays_as_it_is() -> None:
    check = {"test": ["CMD", "pg_isready", "-U", "${DB_USERNAME:-postgres}"]}
    service = {"image": "a", "environment": {"A": "1"}, "healthcheck": check}
    assert rendered({"a": service})["services"]["a"]["healthcheck"] == check


def test_the_plugin_daemon_is_started_so_that_it_hears_signals() -> None:
    services = {"plugin_daemon": {"image": "plugin"}, "other": {"image": "other"}}
    result = rendered(services)["services"]
    assert result["plugin_daemon"]["command"][:2] == ["/bin/bash", "-c"]
    assert envfile.expand(result["plugin_daemon"]["command"][2], {}).endswith("exit ${stopped:-$status}")
    assert "command" not in result["other"]
    own = {"plugin_daemon": {"image": "plugin", "command": ["theirs"]}}
    assert rendered(own)["services"]["plugin_daemon"]["command"] == ["theirs"]
