"""Services that run already: URLs and what is refused of them, the settings, and the compose file without ours."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from installer import cli
from installer.core import errors
from installer.release import compose, envfile, external, masks, render, settings
from tests.unit.test_options import asked

PASSWORD = "p@ss/w:rd"
URL = "postgresql://dify:p%40ss%2Fw%3Ard@db.intranet:5433/dify_db"
REDIS = "rediss://app:p%40ss%2Fw%3Ard@10.0.0.9:6380/2"
SAMPLE = Path(__file__).parents[1] / "sample/docker"


def computed(values: dict[str, str], project: Path = SAMPLE) -> settings.Settings:
    example = (project / ".env.example").read_text()
    return settings.compute(example, None, settings.Asked(host="10.0.0.5", values=values), {}, Path("/nowhere/volumes"))


def both() -> dict[str, str]:
    found = external.checked_database(f"{URL}?sslmode=verify-full")
    return {**external.database_settings(found), **external.redis_settings(external.checked_redis(REDIS))}


@pytest.fixture(params=["sample", "upstream"])
def project(request: pytest.FixtureRequest) -> Path:
    if request.param == "sample":
        return SAMPLE
    path: Path = request.getfixturevalue("dify")
    return path / "docker"


def test_a_url_says_where_and_how() -> None:
    found = external.checked_database(URL)
    assert (found.host, found.port, found.user, found.password) == ("db.intranet", 5433, "dify", PASSWORD)
    assert (found.name, found.plugins, found.mode) == ("dify_db", "dify_plugin", "verify-full")
    assert PASSWORD not in repr(found)
    assert external.checked_database("postgres://u:p@10.0.0.9/dify?sslmode=disable").port == 5432
    cache = external.checked_redis(REDIS)
    assert (cache.host, cache.port, cache.user, cache.password) == ("10.0.0.9", 6380, "app", PASSWORD)
    assert (cache.number, cache.broker, cache.tls) == (2, 3, True)
    assert PASSWORD not in repr(cache)
    plain = external.checked_redis("redis://:p@cache.intranet")
    assert (plain.user, plain.port, plain.number, plain.tls) == ("", 6379, 0, False)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("mysql://u:secret@h/n", "shape"),
        ("postgresql:///n", "shape"),
        ("postgresql://u:secret@h/n#x", "shape"),
        ("postgresql://u:secret@[::1/n", "shape"),
        ("postgresql://u:secret@localhost/n", "the container itself"),
        ("postgresql://u:secret@127.0.0.2/n", "the container itself"),
        ("postgresql://u:secret@[::1]/n", "the container itself"),
        ("postgresql://u:secret@0.0.0.0/n", "the container itself"),
        ("postgresql://u:secret@[fd00::9]/n", "IPv4 alone"),
        ("postgresql://u:secret@db_postgres/n", "a service of Dify's own"),
        ("postgresql://u:secret@h:70000/n", "port"),
        ("postgresql://u:secret@h:0/n", "port"),
        ("postgresql://u@h/n", "no password"),
        ("postgresql://:secret@h/n", "no user"),
        ("postgresql://u:secret%27s@h/n", "a space, a quote"),
        ("postgresql://u:secret%20s@h/n", "a space, a quote"),
        ("postgresql://u:secret%24%7Bx@h/n", "a space, a quote"),
        ("postgresql://u:secret@h/", "name of a database"),
        ("postgresql://u:secret@h/a%20b", "name of a database"),
        ("postgresql://u:secret@h/n?sslmode=prefer", "sslmode=prefer"),
        ("postgresql://u:secret@h/n?options=-c%20x", "options"),
        # A password that is not encoded.
        ("postgresql://u:sec?ret@h/n", "port"),
        ("postgresql://u:12?secret@h/n", "no user"),
        ("postgresql://u:12/secret@h/n", "no user"),
    ],
)
def test_a_wrong_url_is_refused_without_its_password(url: str, why: str) -> None:
    with pytest.raises(errors.UsageError, match=why) as caught:
        external.checked_database(url)
    assert caught.value.remedy
    assert "secret" not in caught.value.message + caught.value.remedy


SENTINELS = "sentinel://app:p%40ss@10.0.0.7:26380,ten.intranet/mymaster/2?sentinel-password=other%26one"


def test_a_redis_by_sentinels_goes_through_the_settings_and_back() -> None:
    found = external.checked_redis(SENTINELS)
    assert found.sentinels == (("10.0.0.7", 26380), ("ten.intranet", 26379))
    assert list(found.addresses) == ["the sentinel 10.0.0.7:26380", "the sentinel ten.intranet:26379"]
    assert (found.service, found.number, found.broker, found.tls) == ("mymaster", 2, 3, False)
    assert (found.user, found.password, found.sentinel_password) == ("app", "p@ss", "other&one")
    assert "p@ss" not in repr(found) and "other&one" not in repr(found)
    made = external.redis_settings(found)
    assert made["REDIS_SENTINELS"] == "10.0.0.7:26380,ten.intranet:26379"
    assert made["REDIS_USE_SENTINEL"] == made["CELERY_USE_SENTINEL"] == "true"
    brokers = ("sentinel://app:p%40ss@10.0.0.7:26380/3", "sentinel://app:p%40ss@ten.intranet:26379/3")
    assert made["CELERY_BROKER_URL"] == ";".join(brokers)
    assert external.find_redis(made) == found
    assert external.find_addresses(made) == {("10.0.0.7", 26380), ("ten.intranet", 26379)}
    # The next one is a server by itself: nothing of the sentinels stays.
    plain = external.redis_settings(external.checked_redis(REDIS))
    assert external.find_redis(made | plain) == external.checked_redis(REDIS)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://:secret@h", "shape"),
        ("sentinel://:secret@h,localhost/s", "the container itself"),
        ("sentinel://:secret@h,h:0/s", "port"),
        ("sentinel://:secret@h", "names no service"),
        ("sentinel://:secret@h/a%20b/0", "names no service"),
        ("sentinel://:secret@h/s/15", "number of a database"),
        ("sentinel://:secret@h/s/0?db=1", "parameters"),
        ("sentinel://h/s", "no password"),
        ("sentinels://:secret@h/s", "with TLS"),
        ("sentinel://:secret@,h/s", "shape"),
        ("redis://h", "no password"),
        ("redis://:secret@localhost", "the container itself"),
        ("redis://:secret@redis", "a service of Dify's own"),
        ("redis://:secret@h/15", "number of a database"),
        ("redis://:secret@h/x", "number of a database"),
        ("redis://:secret@h/1?ssl_cert_reqs=none", "parameters"),
    ],
)
def test_a_wrong_redis_is_refused_without_its_password(url: str, why: str) -> None:
    with pytest.raises(errors.UsageError, match=why) as caught:
        external.checked_redis(url)
    assert "secret" not in caught.value.message + caught.value.remedy


def test_the_command_line_is_refused_and_the_environment_and_the_answer_file_are_taken(tmp_path: Path) -> None:
    for option, url in (("--db-url", URL), ("--redis-url", REDIS), ("--db-url", "postgresql://u:hid/den@h")):
        result = CliRunner().invoke(cli.cli, ["install", "--ip", "10.0.0.5", option, url, "--dry-run"])
        told = result.output + str(result.exception)
        assert result.exit_code != 0
        assert not any(secret in told for secret in ("p%40ss", PASSWORD, "hid", "den@"))
        with pytest.raises(errors.UsageError) as caught:
            asked([option, URL if option == "--db-url" else REDIS])
        assert "visible to other users" in caught.value.message
        assert f"DIFY_INSTALLER_{option[2:].upper().replace('-', '_')}" in caught.value.message
    by_environment = asked([], {"DIFY_INSTALLER_DB_URL": URL, "DIFY_INSTALLER_REDIS_URL": REDIS}).asked.values
    answers = tmp_path / "answers.yaml"
    answers.write_text(f"db-url: {URL}\nredis-url: {REDIS}\n")
    assert asked(["--config", str(answers)]).asked.values == by_environment
    assert by_environment["DB_PASSWORD"] == by_environment["REDIS_PASSWORD"] == PASSWORD


def test_one_thing_is_said_once() -> None:
    with pytest.raises(errors.UsageError, match="--set DB_HOST=… says what a URL of a service of yours says"):
        asked(["--set", "DB_HOST=x"], {"DIFY_INSTALLER_DB_URL": URL})
    # Which databases the plugin daemon uses the URL does not say.
    assert asked(["--set", "DB_PLUGIN_DATABASE=x"], {"DIFY_INSTALLER_DB_URL": URL}).asked.values


def test_the_settings_are_what_each_program_reads(project: Path) -> None:
    env = computed(both(), project)
    assert env.resolved["DB_EXTRAS"] == "sslmode=verify-full&sslrootcert=/etc/company-ca/ca-bundle.pem"
    assert env.resolved["DB_SSL_MODE"] == "require"
    assert env.resolved["DB_PASSWORD"] == PASSWORD
    assert env.resolved["REDIS_SSL_CERT_REQS"] == "CERT_REQUIRED"
    assert env.resolved["CELERY_BROKER_URL"] == "rediss://app:p%40ss%2Fw%3Ard@10.0.0.9:6380/3"
    assert "postgresql" not in compose.active_profiles(env.resolved)
    assert compose.active_profiles(env.resolved)
    # What they say is what was asked for; and a second run without the options changes nothing.
    found = external.find_database(env.resolved)
    assert found == external.checked_database(f"{URL}?sslmode=verify-full")
    assert external.find_redis(env.resolved) == external.checked_redis(REDIS)
    for secret in (PASSWORD, "p%40ss%2Fw%3Ard"):
        assert secret in env.secrets
        assert secret not in str(masks.without_secrets(env.resolved))
    assert not any(PASSWORD in told for told in external.in_words(env.resolved))
    assert external.find_addresses(env.resolved) == {("db.intranet", 5433), ("10.0.0.9", 6380)}


def test_a_password_of_a_redis_of_others_may_have_what_a_shell_changes() -> None:
    found = external.redis_settings(external.checked_redis("redis://:a%26b%24c%28d@10.0.0.9"))
    env = computed(found)
    assert env.resolved["REDIS_PASSWORD"] == "a&b$c(d"
    # For our own it would reach a command.
    with pytest.raises(errors.UsageError, match="a shell changes"):
        computed({"REDIS_PASSWORD": "a&b$c(d", "CELERY_BROKER_URL": "redis://:a%26b%24c%28d@redis:6379/1"})


@pytest.mark.parametrize(
    ("mode", "extras", "daemon"),
    [
        ("disable", "sslmode=disable", "disable"),
        ("require", "sslmode=require", "require"),
        ("verify-ca", "sslmode=verify-ca&sslrootcert=/etc/company-ca/ca-bundle.pem", "require"),
    ],
)
def test_each_mode_has_its_words(mode: str, extras: str, daemon: str) -> None:
    found = external.database_settings(external.checked_database(f"{URL}?sslmode={mode}"))
    assert (found["DB_EXTRAS"], found["DB_SSL_MODE"]) == (extras, daemon)


def test_our_own_are_no_others() -> None:
    env = computed({})
    assert external.find_database(env.resolved) is None
    assert external.find_redis(env.resolved) is None
    assert external.in_words(env.resolved) == []
    assert external.profiles_of_ours(env.resolved) is None


def document_of(project: Path) -> compose.Document:
    return compose.load(project / "docker-compose.yaml")


def choice(env: settings.Settings) -> render.Choice:
    return render.Choice(variables=env.resolved, selinux=False, ca_bundle=True)


def test_the_rendered_file_has_no_container_for_them_and_nobody_waits_for_one(project: Path) -> None:
    env = computed(both(), project)
    services = yaml.safe_load(render.render(document_of(project), choice(env)))["services"]
    assert not {"db_postgres", "redis"} & set(services)
    for service in services.values():
        assert not {"db_postgres", "redis"} & set(service.get("depends_on") or ())
    api, daemon = services["api"]["environment"], services["plugin_daemon"]["environment"]
    assert envfile.expand(api["DB_EXTRAS"], env.resolved) == env.resolved["DB_EXTRAS"]
    assert "DB_SSL_MODE" not in api and "PGSSLROOTCERT" not in api
    # It would take the api's parameters for options of the server.
    assert "DB_EXTRAS" not in daemon
    assert envfile.expand(daemon["DB_SSL_MODE"], env.resolved) == "require"
    for key in external.REDIS_KEYS:
        assert envfile.expand(daemon[key], env.resolved) == envfile.expand(api[key], env.resolved) == env.resolved[key]
    assert daemon["PGSSLROOTCERT"] == daemon["SSL_CERT_FILE"] == "/etc/company-ca/ca-bundle.pem"
    for name in ("api", "worker", "plugin_daemon"):
        assert "./ca:/etc/company-ca:ro" in services[name]["volumes"]


def test_docker_leaves_them_out_as_well(project: Path) -> None:
    env = computed(both(), project)
    added = yaml.safe_load(render.override(document_of(project), choice(env)))["services"]
    # Upstream's file starts it always; a profile that nobody names keeps it from that.
    assert added["redis"] == {"profiles": ["not-here"]}
    waiting = {
        name for name, each in document_of(project)["services"].items() if "redis" in (each.get("depends_on") or ())
    }
    running = render.with_additions(document_of(project), choice(env))["services"]
    for name in waiting & set(running):
        assert added[name]["depends_on"]["redis"]["required"] is False
    assert "redis" not in running and "db_postgres" not in running
    assert "depends_on" not in added["web"]


def test_without_them_nothing_is_different(project: Path) -> None:
    env = computed({}, project)
    services = yaml.safe_load(render.render(document_of(project), choice(env)))["services"]
    assert {"db_postgres", "redis"} <= set(services)
    assert not {"DB_EXTRAS", "DB_SSL_MODE"} & set(services["api"]["environment"])
    added = yaml.safe_load(render.override(document_of(project), choice(env)))["services"]
    assert "profiles" not in added.get("redis", {})
