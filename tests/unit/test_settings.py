from __future__ import annotations

import string
from pathlib import Path

import pytest

from installer.core import errors, layout
from installer.release import dify as facts
from installer.release import envfile, settings

EXAMPLE = """\
# The address of the console
CONSOLE_WEB_URL=
ENDPOINT_URL_TEMPLATE=http://localhost/e/{hook_id}
FILES_URL=

# Keys
SECRET_KEY=sk-public
DB_PASSWORD=difyai123456
REDIS_PASSWORD=difyai123456
CELERY_BROKER_URL=redis://:difyai123456@redis:6379/1
SANDBOX_API_KEY=dify-sandbox
CODE_EXECUTION_API_KEY=dify-sandbox
INIT_PASSWORD=
LOG_LEVEL=INFO
MARKETPLACE_ENABLED=true
CHECK_UPDATE_URL=https://updates.dify.ai
EXPOSE_NGINX_PORT=80
NGINX_HTTPS_ENABLED=false
DB_TYPE=postgresql
VECTOR_STORE=weaviate
"""

IP = settings.Asked(host="10.0.0.5")


def computed(
    tmp_path: Path, asked: settings.Asked = IP, existing: str | None = None, choices: dict[str, str] | None = None
) -> tuple[str, dict[str, str]]:
    text = settings.compute(EXAMPLE, existing, asked, choices or {}, tmp_path)
    return text, envfile.parse(text)


def test_a_first_env_keeps_order_and_comments(tmp_path: Path) -> None:
    text, _ = computed(tmp_path)
    keys = [line.partition("=")[0] for line in EXAMPLE.splitlines()]
    assert [line.partition("=")[0] for line in text.splitlines()][: len(keys)] == keys


def test_every_url_follows_the_address_and_the_port(tmp_path: Path) -> None:
    _, values = computed(tmp_path)
    assert values["CONSOLE_WEB_URL"] == values["FILES_URL"] == "http://10.0.0.5"
    assert values["ENDPOINT_URL_TEMPLATE"] == "http://10.0.0.5/e/{hook_id}"
    _, values = computed(tmp_path, settings.Asked(host="10.0.0.5", ports={"http": 8080}))
    assert values["FILES_URL"] == "http://10.0.0.5:8080"
    assert values["ENDPOINT_URL_TEMPLATE"] == "http://10.0.0.5:8080/e/{hook_id}"
    assert values["EXPOSE_NGINX_PORT"] == "8080"


def test_secrets_are_fresh_safe_and_agree(tmp_path: Path) -> None:
    _, one = computed(tmp_path)
    _, two = computed(tmp_path)
    for key in ("SECRET_KEY", "DB_PASSWORD", "REDIS_PASSWORD", "SANDBOX_API_KEY", "INIT_PASSWORD"):
        assert one[key] != two[key]
        assert set(one[key]) <= set(string.ascii_letters + string.digits + "_-")
        assert one[key] not in EXAMPLE
    assert one["SANDBOX_API_KEY"] == one["CODE_EXECUTION_API_KEY"]
    assert one["CELERY_BROKER_URL"] == f"redis://:{one['REDIS_PASSWORD']}@redis:6379/1"
    assert len(one["INIT_PASSWORD"]) <= 30


def test_nothing_calls_home(tmp_path: Path) -> None:
    _, values = computed(tmp_path)
    assert values["MARKETPLACE_ENABLED"] == "false"
    assert values["CHECK_UPDATE_URL"] == ""
    assert values["NEXT_TELEMETRY_DISABLED"] == "1"


def test_the_same_again_changes_nothing(tmp_path: Path) -> None:
    text, _ = computed(tmp_path)
    assert computed(tmp_path, existing=text)[0] == text
    assert computed(tmp_path, settings.Asked(), existing=text)[0] == text


def test_what_a_person_changed_is_kept(tmp_path: Path) -> None:
    text, _ = computed(tmp_path)
    mine = text.replace("LOG_LEVEL=INFO", "LOG_LEVEL=DEBUG # mine").replace(
        "FILES_URL=http://10.0.0.5", "FILES_URL=http://files.example"
    )
    again, values = computed(tmp_path, settings.Asked(host="10.0.0.9"), existing=mine)
    assert "LOG_LEVEL=DEBUG # mine" in again
    assert values["FILES_URL"] == "http://files.example"
    assert values["CONSOLE_WEB_URL"] == "http://10.0.0.9"
    assert values["ENDPOINT_URL_TEMPLATE"] == "http://10.0.0.9/e/{hook_id}"


def test_another_address_or_port_leaves_the_secrets(tmp_path: Path) -> None:
    text, before = computed(tmp_path)
    _, after = computed(tmp_path, settings.Asked(host="dify.example", ports={"http": 8080}), existing=text)
    assert after["CONSOLE_WEB_URL"] == "http://dify.example:8080"
    assert settings.secret_values(after) == settings.secret_values(before)


def test_set_wins_and_carries_what_must_agree(tmp_path: Path) -> None:
    asked = settings.Asked(host="10.0.0.5", values={"REDIS_PASSWORD": "chosen-1", "SANDBOX_API_KEY": "chosen-2"})
    for existing in (None, computed(tmp_path)[0]):
        _, values = computed(tmp_path, asked, existing)
        assert values["CELERY_BROKER_URL"] == "redis://:chosen-1@redis:6379/1"
        assert values["CODE_EXECUTION_API_KEY"] == "chosen-2"


def test_a_lost_secret_is_made_anew_only_where_no_data_depend_on_it(tmp_path: Path) -> None:
    text, _ = computed(tmp_path)
    lost = "\n".join(line for line in text.splitlines() if not line.startswith(("DB_PASSWORD", "SANDBOX_API_KEY")))
    _, values = computed(tmp_path, existing=lost)
    assert values["DB_PASSWORD"]
    assert values["SANDBOX_API_KEY"] == envfile.parse(text)["CODE_EXECUTION_API_KEY"]
    (tmp_path / "db/data/pgdata").mkdir(parents=True)
    with pytest.raises(errors.PreflightFailed, match="DB_PASSWORD"):
        computed(tmp_path, existing=lost)


@pytest.mark.parametrize("key", ["CODE_EXECUTION_API_KEY", "REDIS_PASSWORD"])
def test_values_that_contradict_each_other_are_caught_without_being_shown(tmp_path: Path, key: str) -> None:
    text, values = computed(tmp_path)
    wrong = envfile.edit(text, {key: "another-value"})
    with pytest.raises(errors.UsageError, match=key) as caught:
        computed(tmp_path, existing=wrong)
    assert "another-value" not in caught.value.message
    assert values[key] not in caught.value.message


def test_without_an_address_the_first_run_asks_for_one(tmp_path: Path) -> None:
    with pytest.raises(errors.UsageError, match="address"):
        computed(tmp_path, settings.Asked())


def test_the_builds_choices_are_settings(tmp_path: Path) -> None:
    _, values = computed(tmp_path, choices={"VECTOR_STORE": "qdrant", "DB_TYPE": "postgresql"})
    assert values["VECTOR_STORE"] == "qdrant"


@pytest.mark.parametrize(
    ("scheme", "host", "port", "url"),
    [
        ("http", "10.0.0.5", 80, "http://10.0.0.5"),
        ("http", "fd00::5", 8080, "http://[fd00::5]:8080"),
        ("https", "dify.example", 443, "https://dify.example"),
    ],
)
def test_url(scheme: str, host: str, port: int, url: str) -> None:
    assert settings.Address(scheme=scheme, host=host, port=port).url == url


@pytest.mark.parametrize("text", ["", "10.0.0", "10.0.0.256", "localhost", "http://10.0.0.5", "0.0.0.0", "224.0.0.1"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(errors.UsageError):
        settings.checked_ip(text)


@pytest.mark.parametrize("text", ["", "http://x", "a b", "-x", "x:80", "a..b"])
def test_what_is_no_host_name_is_refused(text: str) -> None:
    with pytest.raises(errors.UsageError):
        settings.checked_host(text)


@pytest.mark.parametrize("pair", ["X", "=1", "lower=1", "A B=1"])
def test_set_takes_key_value_only(pair: str) -> None:
    with pytest.raises(errors.UsageError):
        settings.checked_values((pair,))


def test_env_is_private_and_the_one_before_is_kept(tmp_path: Path) -> None:
    place = layout.Installation(tmp_path)
    place.project.mkdir()
    assert settings.write(place, "A=1\n")
    assert not settings.write(place, "A=1\n")
    assert settings.write(place, "A=2\n")
    assert place.env_before.read_text() == "A=1\n"
    assert {path.stat().st_mode & 0o777 for path in (place.env, place.env_before)} == {0o600}


def test_upstreams_example_holds_the_keys_that_we_know(dify: Path, tmp_path: Path) -> None:
    example = (dify / "docker/.env.example").read_text()
    text = settings.compute(example, None, IP, {}, tmp_path)
    before, after = envfile.parse(example), envfile.parse(text)
    known = {key for secret in facts.SECRETS for key in secret.keys} | set(facts.URLS) | set(facts.FIXED)
    assert known - set(after) == set()
    assert set(after) - set(before) == set(facts.NOT_IN_EXAMPLE)
    changed = {key for key in before if before[key] != after[key]}
    assert changed <= known | {"CELERY_BROKER_URL", *facts.HOSTS}
    for secret in facts.SECRETS:
        for key in (*secret.keys, *(name for name, _ in secret.within)):
            assert after[key] and after[key] != before[key], f"{key} is still the public default"
