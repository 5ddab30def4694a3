from __future__ import annotations

import contextlib
import string
from pathlib import Path

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from installer.core import errors, layout
from installer.release import compose, env_history, envfile, masks, settings
from installer.release import dify as facts

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
    """Return text and values of an `.env` whose past is not known."""
    found = None if existing is None else env_history.Existing(path=tmp_path / ".env", text=existing)
    env = settings.compute(EXAMPLE, found, asked, choices or {}, tmp_path)
    return env.text, dict(env.values)


@pytest.fixture
def place(tmp_path: Path) -> layout.Installation:
    """An install folder with an empty project."""
    installation = layout.Installation(tmp_path)
    installation.volumes.mkdir(parents=True)
    return installation


def run(place: layout.Installation, asked: settings.Asked = IP, example: str = EXAMPLE) -> settings.Settings:
    """Do what an installation does with the settings."""
    env = settings.compute(example, env_history.read_existing(place), asked, {}, place.volumes)
    env_history.write(place, env.text)
    return env


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
    assert masks.secret_values(after) == masks.secret_values(before)


def test_set_wins_and_carries_what_must_agree(tmp_path: Path) -> None:
    asked = settings.Asked(host="10.0.0.5", values={"REDIS_PASSWORD": "chosen-1", "SANDBOX_API_KEY": "chosen-2"})
    for existing in (None, computed(tmp_path)[0]):
        _, values = computed(tmp_path, asked, existing)
        assert values["CELERY_BROKER_URL"] == "redis://:chosen-1@redis:6379/1"
        assert values["CODE_EXECUTION_API_KEY"] == "chosen-2"


def test_a_lost_secret_is_made_anew_only_where_no_data_depend_on_it(tmp_path: Path) -> None:
    text, _ = computed(tmp_path)
    gone = ("DB_PASSWORD", "SANDBOX_API_KEY", env_history.MARK)
    lost = "\n".join(line for line in text.splitlines() if not line.startswith(gone))
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


def test_env_is_private_and_those_before_are_kept_newest_first(place: layout.Installation) -> None:
    assert env_history.write(place, "A=1\n")
    assert not env_history.write(place, "A=1\n")
    for number in range(2, 9):
        assert env_history.write(place, f"A={number}\n")
    assert [path.read_text() for path in place.env_copies] == [f"A={number}\n" for number in (7, 6, 5, 4, 3)]
    assert [path.name for path in place.env_copies[:2]] == [".env.before", ".env.before.1"]
    written = [place.env, place.env_keys, *place.env_copies]
    assert {path.stat().st_mode & 0o777 for path in written} == {0o600}
    assert set(place.project.iterdir()) == {*written, place.volumes}


def test_upstreams_example_holds_the_keys_that_we_know(dify: Path, tmp_path: Path) -> None:
    example = (dify / "docker/.env.example").read_text()
    before, after = envfile.parse(example), settings.compute(example, None, IP, {}, tmp_path).values
    known = {key for secret in facts.SECRETS for key in secret.keys} | set(facts.URLS) | set(facts.FIXED)
    assert known - set(after) == set()
    assert set(after) - set(before) == set(facts.NOT_IN_EXAMPLE)
    changed = {key for key in before if before[key] != after[key]}
    assert changed <= known | {"CELERY_BROKER_URL", *facts.HOSTS}
    for secret in facts.SECRETS:
        for key in (*secret.keys, *(name for name, _ in secret.within)):
            assert after[key] and after[key] != before[key], f"{key} is still the public default"


def test_everything_is_known_of_the_settings_once_they_are_computed(place: layout.Installation) -> None:
    asked = settings.Asked(host="fd00::5", ports={"http": 8080}, values={"SMTP_PASSWORD": "to-be-hidden"})
    env = run(place, asked)
    assert env.values == envfile.parse(env.text)
    assert env.url == env.address.url == "http://[fd00::5]:8080"
    assert env.ports == {"http": 8080, "https": 443, "plugin debugging": 5003}
    assert {"to-be-hidden", env.resolved["SECRET_KEY"]} <= set(env.secrets)
    assert "to-be-hidden" not in repr(env)
    loaded = settings.load(place)
    assert (loaded.text, loaded.resolved, loaded.address, loaded.ports) == (
        env.text, env.resolved, env.address, env.ports
    )  # fmt: skip


class TestSet:
    """What `--set` asks for is what the containers get, or it is refused before anything is written."""

    @pytest.mark.parametrize(
        "value",
        ["a\\", "${X", "p$a", "a$$b", " leading", "it's", 'a"b', "a #b", "#", "p%40x", "$(id)", "\u00e9", "a\\\\b", ""],
    )
    def test_a_value_arrives_and_the_next_run_changes_nothing(self, place: layout.Installation, value: str) -> None:
        first = run(place, settings.Asked(host="10.0.0.5", values={"LOG_LEVEL": value}))
        assert first.resolved["LOG_LEVEL"] == value
        assert run(place, settings.Asked()).text == first.text
        assert run(place, settings.Asked(values={"LOG_LEVEL": value})).text == first.text

    @pytest.mark.parametrize("value", ["p${HOME}q", "${HOME:-x}", "a${DB_HOST}b", "a\nb", "\udcff"])
    def test_a_value_that_would_be_expanded_is_refused(self, value: str) -> None:
        with pytest.raises(errors.UsageError, match="LOG_LEVEL"):
            settings.checked_values((f"LOG_LEVEL={value}",))

    def test_a_line_that_cannot_be_expanded_is_put_right_by_it(self, place: layout.Installation) -> None:
        text = run(place).text
        place.env.write_text(text.replace("LOG_LEVEL=INFO", "LOG_LEVEL=${OOPS"))
        with pytest.raises(errors.UsageError, match=r"\.env, line 14, LOG_LEVEL"):
            run(place)
        assert run(place, settings.Asked(values={"LOG_LEVEL": "INFO"})).text == text

    def test_what_compose_takes_from_elsewhere_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(errors.UsageError, match="HOME is set in .env, but compose takes it from the environment"):
            computed(tmp_path, settings.Asked(host="10.0.0.5", values={"HOME": "/x"}))

    @pytest.mark.parametrize("value", ["0", "65536", "http", "٣", ""])
    def test_a_port_that_is_not_valid_is_refused(self, tmp_path: Path, value: str) -> None:
        asked = settings.Asked(host="10.0.0.5", values={"EXPOSE_NGINX_SSL_PORT": value})
        if not value:
            assert settings.compute(EXAMPLE, None, asked, {}, tmp_path).ports["https"] == 443
            return
        with pytest.raises(errors.UsageError, match="--set EXPOSE_NGINX_SSL_PORT is .* not a valid port"):
            computed(tmp_path, asked)
        text = computed(tmp_path)[0] + f"EXPOSE_NGINX_SSL_PORT={value}\n"
        with pytest.raises(errors.UsageError, match=r"\.env, line \d+: EXPOSE_NGINX_SSL_PORT is"):
            computed(tmp_path, existing=text)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("LOG_LEVEL=${OOPS", "only `"),
        ("LOG_LEVEL=${DB_TYPE:?}", "only `"),
        ("LOG_LEVEL=${DB_TYPE=x}", "only `"),
        ("LOG_LEVEL=${HOME}", "refers to HOME"),
        ("LOG_LEVEL=a$bc", "differently"),
        ("LOG_LEVEL='a\\'", "quote never closes"),
    ],
)
def test_a_wrong_line_of_env_is_named_and_never_the_bundles_fault(tmp_path: Path, line: str, reason: str) -> None:
    text = computed(tmp_path)[0].replace("LOG_LEVEL=INFO", line)
    with pytest.raises(errors.UsageError) as caught:
        computed(tmp_path, existing=text)
    assert caught.value.message.startswith(".env, line 14, LOG_LEVEL: ")
    assert reason in caught.value.message


class TestRedis:
    """The password of redis stands inside the broker's URL, too."""

    PASSWORD = "p@ss/w#r:d"
    URL = "redis://:p%40ss%2Fw%23r%3Ad@redis:6379/1"

    def test_it_is_percent_encoded_there(self, place: layout.Installation) -> None:
        env = run(place, settings.Asked(host="10.0.0.5", values={"REDIS_PASSWORD": self.PASSWORD}))
        assert env.resolved["REDIS_PASSWORD"] == self.PASSWORD
        assert env.resolved["CELERY_BROKER_URL"] == self.URL
        assert {self.PASSWORD, "p%40ss%2Fw%23r%3Ad"} <= set(env.secrets)
        assert run(place, settings.Asked()).text == env.text

    @pytest.mark.parametrize("url", [URL, URL.lower(), "redis://:p%40ss%2fw%23r:d@redis:6379/1"])
    def test_a_url_encoded_by_hand_is_accepted(self, place: layout.Installation, url: str) -> None:
        values = {"REDIS_PASSWORD": self.PASSWORD, "CELERY_BROKER_URL": url}
        assert run(place, settings.Asked(host="10.0.0.5", values=values)).resolved["CELERY_BROKER_URL"] == url

    @pytest.mark.parametrize(
        ("password", "url"),
        [
            ("p%40x", "redis://:p%40x@redis:6379/1"),
            ("p@ss/w#r:d", "redis://:p@ss/w#r:d@redis:6379/1"),
            ("pass", "redis://[:pass@redis:6379/1"),
        ],
    )
    def test_a_url_that_means_another_one_is_refused(self, tmp_path: Path, password: str, url: str) -> None:
        values = {"REDIS_PASSWORD": password, "CELERY_BROKER_URL": url}
        with pytest.raises(errors.UsageError, match="the password inside CELERY_BROKER_URL is not REDIS_PASSWORD"):
            computed(tmp_path, settings.Asked(host="10.0.0.5", values=values))

    @pytest.mark.parametrize("password", ["a b", "a$b", "a'b", 'a"b', "a;b", "a&b", "a\\b", "#a", "--a", "a(b", "a*"])
    def test_one_that_a_shell_would_change_is_refused(self, tmp_path: Path, password: str) -> None:
        with pytest.raises(errors.UsageError, match="REDIS_PASSWORD holds characters that a shell changes"):
            computed(tmp_path, settings.Asked(host="10.0.0.5", values={"REDIS_PASSWORD": password}))

    def test_these_are_the_secrets_that_upstream_puts_into_commands(self, dify: Path) -> None:
        document = compose.load(dify / "docker/docker-compose.yaml")
        keys = {key for secret in facts.SECRETS for key in secret.keys}
        found = set()
        for service in document["services"].values():
            test = (service.get("healthcheck") or {}).get("test") or []
            shells = [part for part in test if " " in part] if isinstance(test, list) else [test]
            for text in (*shells, str(service.get("command") or ""), str(service.get("entrypoint") or "")):
                found |= {key for key in keys if f"${{{key}" in text}
        assert found == set(facts.IN_COMMANDS)


class TestLoss:
    """Keys that `.env` had and has no more; a person's changes and additions are no loss."""

    def cut(self, place: layout.Installation, keep: float = 0.5) -> None:
        text = place.env.read_text()
        place.env.write_text(text[: int(len(text) * keep)])

    def test_env_ends_with_the_number_and_the_digest_of_its_keys(self, place: layout.Installation) -> None:
        env = run(place)
        last = env.text.splitlines()[-1]
        assert last.startswith(f"# dify-installer: {len(env.values)} keys, sha256 ")
        assert env.text.count(env_history.MARK) == 1

    def test_a_cut_file_is_refused_with_the_copy_that_has_what_is_lost(self, place: layout.Installation) -> None:
        whole = run(place)
        changed = run(place, settings.Asked(values={"LOG_LEVEL": "DEBUG"}))
        self.cut(place)
        for _ in range(2):
            with pytest.raises(errors.PreflightFailed, match="has lost .*SANDBOX_API_KEY") as caught:
                run(place)
            assert f"cp -p {place.env_copies[0]} {place.env}" in caught.value.remedy
            assert place.env_copies[0].read_text() == whole.text
        place.env.write_bytes(place.env_copies[0].read_bytes())
        assert run(place).resolved["SANDBOX_API_KEY"] == changed.resolved["SANDBOX_API_KEY"]

    def test_nothing_is_lost_wherever_the_file_was_cut(self, place: layout.Installation) -> None:
        run(place)
        whole = run(place, settings.Asked(values={"LOG_LEVEL": "DEBUG"}))
        first, last = whole.text.index("CONSOLE_WEB_URL="), whole.text.index(env_history.MARK)
        for end in range(len(whole.text)):
            place.env.write_text(whole.text[:end])
            if end >= last:
                found = env_history.read_existing(place)
                assert settings.compute(EXAMPLE, found, IP, {}, place.volumes).values == whole.values
                continue
            with pytest.raises(errors.InstallerError) as caught:
                run(place)
            assert isinstance(caught.value, errors.PreflightFailed) or end <= first + len("CONSOLE_WEB_URL")
            assert f"cp -p {place.env_copies[0]} {place.env}" in caught.value.remedy

    def test_the_stack_is_not_started_with_the_defaults_of_what_was_lost(self, place: layout.Installation) -> None:
        (place.project / layout.ENV_EXAMPLE).write_text(EXAMPLE)
        text = run(place).text
        settings.require_kept(place)
        place.env.write_text(text.replace("LOG_LEVEL=INFO\n", ""))
        with pytest.raises(errors.PreflightFailed, match="has lost LOG_LEVEL:"):
            settings.require_kept(place)
        place.env.write_text(text[: text.index("LOG_LEVEL") + 4])
        with pytest.raises(errors.PreflightFailed, match="has lost CHECK_UPDATE_URL, "):
            settings.load(place)

    def test_a_file_that_ends_within_its_last_line_is_cut(self, place: layout.Installation) -> None:
        env = run(place)
        place.env.write_text(env_history.unmarked(env.text).rstrip("\n")[:-1] + "")
        with pytest.raises(errors.PreflightFailed, match="has lost NEXT_TELEMETRY_DISABLED"):
            run(place)

    def test_the_copy_without_the_lost_key_is_not_named(self, place: layout.Installation) -> None:
        run(place)
        run(place, settings.Asked(values={"MINE": "1"}))
        run(place, settings.Asked(values={"LOG_LEVEL": "DEBUG"}))
        run(place, settings.Asked(values={"LOG_LEVEL": "INFO"}))
        place.env_copies[0].write_bytes(b"\xff\xfe")
        place.env.write_text(place.env.read_text().replace("MINE=1\n", ""))
        with pytest.raises(errors.PreflightFailed, match="has lost MINE:") as caught:
            run(place)
        assert f"cp -p {place.env_copies[1]} {place.env}" in caught.value.remedy
        assert f"grep -E '^(MINE)=' {place.env_copies[1]} >> {place.env}" in caught.value.remedy

    def test_a_copy_that_lacks_some_of_it_is_named_with_what_else_is_to_do(self, place: layout.Installation) -> None:
        run(place)
        run(place, settings.Asked(values={"MINE": "1"}))
        place.env.write_text("".join(place.env.read_text().splitlines(keepends=True)[:-10]))
        with pytest.raises(errors.PreflightFailed) as caught:
            run(place)
        assert f"cp -p {place.env_copies[0]} {place.env}; it lacks MINE: give it with --set" in caught.value.remedy
        place.env.write_bytes(place.env_copies[0].read_bytes())
        assert "MINE" not in run(place).values

    def test_a_lost_secret_without_a_copy_is_refused_too(self, place: layout.Installation) -> None:
        env = run(place)
        for line in (f"INIT_PASSWORD={env.values['INIT_PASSWORD']}\n", f"={env.values['INIT_PASSWORD']}"):
            place.env.write_text(env.text.replace(line, "=" if line.startswith("=") else ""))
            with pytest.raises(errors.PreflightFailed, match="has lost INIT_PASSWORD:") as caught:
                run(place)
            assert "backup" in caught.value.remedy and "--set INIT_PASSWORD=" in caught.value.remedy

    def test_who_means_it_sets_the_key(self, place: layout.Installation) -> None:
        text = run(place).text
        place.env.write_text(text.replace("LOG_LEVEL=INFO\n", ""))
        with pytest.raises(errors.PreflightFailed, match="has lost LOG_LEVEL:"):
            run(place)
        assert run(place, settings.Asked(values={"LOG_LEVEL": ""})).values["LOG_LEVEL"] == ""
        assert run(place).values["LOG_LEVEL"] == ""

    def test_a_secret_emptied_by_set_stays_empty(self, place: layout.Installation) -> None:
        assert run(place, settings.Asked(host="10.0.0.5", values={"INIT_PASSWORD": ""})).values["INIT_PASSWORD"] == ""
        assert run(place).values["INIT_PASSWORD"] == ""

    def test_a_cut_file_does_not_become_a_copy(self, place: layout.Installation) -> None:
        run(place)
        whole = run(place, settings.Asked(values={"LOG_LEVEL": "DEBUG"}))
        run(place, settings.Asked(values={"LOG_LEVEL": "INFO"}))
        place.env.write_text(place.env.read_text().replace("LOG_LEVEL=INFO\n", ""))
        run(place, settings.Asked(values={"LOG_LEVEL": "ERROR"}))
        assert place.env_copies[0].read_text() == whole.text

    def test_a_persons_changes_are_no_loss(self, place: layout.Installation) -> None:
        text = run(place).text
        mine = "# mine\nABOVE=1\n" + text.replace("LOG_LEVEL=INFO", "LOG_LEVEL=DEBUG") + "BELOW=2\n"
        for changed in (
            mine,
            env_history.unmarked(mine),
            mine.replace("\n", "\r\n"),
            mine.replace("FILES_URL=http://10.0.0.5", "FILES_URL="),
        ):
            place.env.write_bytes(changed.encode())
            env = run(place)
            assert (env.values["ABOVE"], env.values["BELOW"], env.values["LOG_LEVEL"]) == ("1", "2", "DEBUG")
            assert env.text.count(env_history.MARK) == 1
            assert env.text.rstrip("\n").rpartition("\n")[2].startswith(env_history.MARK)

    def test_an_env_without_mark_and_record_gets_them(self, place: layout.Installation) -> None:
        env = run(place)
        place.env_keys.unlink()
        place.env.write_text(env_history.unmarked(env.text))
        assert run(place).text == env.text
        assert place.env_keys.read_text().splitlines()[-1] == env.text.splitlines()[-1]

    @pytest.mark.parametrize("record", [b"", b"SECRET_KEY\n", b"\xff\x00"])
    def test_without_the_record_the_mark_of_a_copy_tells(self, place: layout.Installation, record: bytes) -> None:
        run(place)
        run(place, settings.Asked(values={"LOG_LEVEL": "DEBUG"}))
        self.cut(place)
        place.env_keys.write_bytes(record)
        with pytest.raises(errors.PreflightFailed, match="has lost .*SANDBOX_API_KEY"):
            run(place)

    def test_without_record_and_copies_the_mark_counts(self, place: layout.Installation) -> None:
        text = run(place).text
        place.env_keys.unlink()
        place.env.write_text(text.replace("LOG_LEVEL=INFO\n", ""))
        with pytest.raises(errors.PreflightFailed, match="has lost 1 of its keys"):
            run(place)

    def test_where_data_are_no_secret_is_made_anew_though_nothing_is_recorded(self, place: layout.Installation) -> None:
        env = run(place)
        place.env_keys.unlink()
        lost = [line for line in env.text.splitlines() if not line.startswith(("INIT_PASSWORD", env_history.MARK))]
        (place.volumes / "db/data/pgdata").mkdir(parents=True)
        place.env.write_text("\n".join(lost) + "\n")
        with pytest.raises(errors.PreflightFailed, match="has lost INIT_PASSWORD:"):
            run(place)

    def test_a_secret_of_a_newer_release_is_generated(self, place: layout.Installation) -> None:
        run(place)
        (place.volumes / "db/data/pgdata").mkdir(parents=True)
        assert run(place, example=EXAMPLE + "QDRANT_API_KEY=public\n").values["QDRANT_API_KEY"]


def read_url(place: layout.Installation) -> str:
    """Do what `status` does with the settings."""
    return settings.load(place).url


class TestDamage:
    """An `.env` that cannot be read as one is told, with what to do; never unforeseen."""

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"", "no setting is in it"),
            (b"\n# nothing\n", "no setting is in it"),
            (b"A=1\nB=\xff\n", r"is not UTF-8 text: line 2, byte 6 of the file"),
            (bytes(range(256)), "is not UTF-8 text: line 2, byte 128"),
            (b"\x00\x00\x00", "has lost CODE_EXECUTION_API_KEY"),
            (b"A=1\nB='x\n", "has lost CODE_EXECUTION_API_KEY"),
            (b"CONSOLE_WEB_URL=http://x\nB=${x\n", r"\.env, line 2, B: |has lost"),
            (b"A=1\n", "CONSOLE_WEB_URL|has lost"),
            (b"CONSOLE_WEB_URL=http://[\n", "CONSOLE_WEB_URL|has lost"),
        ],
    )
    def test_it_is_told_by_install_and_by_the_other_commands(
        self, place: layout.Installation, content: bytes, reason: str
    ) -> None:
        run(place)
        run(place, settings.Asked(values={"LOG_LEVEL": "DEBUG"}))
        place.env.write_bytes(content)
        for act in (run, read_url):
            with pytest.raises(errors.InstallerError, match=reason) as caught:
                act(place)
            assert caught.value.remedy
            assert not isinstance(caught.value, errors.BundleDamaged)
            if "UTF-8" in reason or reason == "no setting is in it":
                assert f"cp -p {place.env_copies[0]} {place.env}" in caught.value.remedy

    def test_a_wrong_address_or_port_refuses_only_those_who_ask_for_it(self, place: layout.Installation) -> None:
        place.env.write_text("A=1\n\nEXPOSE_NGINX_PORT=http\nCONSOLE_WEB_URL=10.0.0.5\nSECRET_KEY=to-be-hidden\n")
        env = settings.load(place)
        assert env.secrets == ("to-be-hidden",)
        with pytest.raises(errors.UsageError, match=r"\.env, line 3: EXPOSE_NGINX_PORT is 'http'"):
            _ = env.ports
        with pytest.raises(errors.UsageError, match=r"\.env, line 4: CONSOLE_WEB_URL is not the address"):
            _ = env.address

    def test_without_an_env_nothing_is_installed(self, place: layout.Installation) -> None:
        with pytest.raises(errors.CommandFailed, match="is not there"):
            settings.load(place)
        assert env_history.read_existing(place) is None

    def test_a_folder_in_its_place_is_told(self, place: layout.Installation) -> None:
        place.env.mkdir()
        with pytest.raises(errors.CommandFailed, match="cannot be read"):
            settings.load(place)

    @given(content=st.binary(max_size=80), cut=st.floats(0, 1))
    @hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
    def test_whatever_stands_in_it_the_errors_are_ours(
        self, place: layout.Installation, content: bytes, cut: float
    ) -> None:
        env = settings.compute(EXAMPLE, None, IP, {}, place.volumes)
        place.env.write_bytes(env.text.encode()[: int(cut * len(env.text))] + content)
        with contextlib.suppress(errors.UsageError, errors.PreflightFailed):
            settings.compute(EXAMPLE, env_history.read_existing(place), IP, {}, place.volumes)
        with contextlib.suppress(errors.UsageError):
            settings.load(place)


@given(
    values=st.dictionaries(
        st.sampled_from(["LOG_LEVEL", "SMTP_PASSWORD", "INIT_PASSWORD", "MINE"]),
        st.text(st.characters(codec="utf-8"), max_size=12) | st.text("a$\\'\" #{}", max_size=6),
    )
)
def test_the_second_run_changes_nothing_whatever_was_set(values: dict[str, str]) -> None:
    data = Path("/nonexistent")
    try:
        first = settings.compute(EXAMPLE, None, settings.Asked(host="10.0.0.5", values=values), {}, data)
    except errors.UsageError:
        return
    assert {key: first.resolved[key] for key in values} == values
    found = env_history.Existing(
        path=data, text=first.text, recorded={key: bool(value) for key, value in first.values.items()}
    )
    assert settings.compute(EXAMPLE, found, settings.Asked(), {}, data).text == first.text


def test_a_required_variable_of_the_compose_file_is_told_early() -> None:
    document: compose.Document = {"services": {"a": {"image": "x", "environment": {"A": ["${B:-${C:?please}}"]}}}}
    expanded = compose.expand_all(compose.active_services(document, {}), {"C": "1"})
    assert expanded["a"]["environment"] == {"A": ["1"]}
    with pytest.raises(errors.UsageError, match="C must be set: please"):
        compose.expand_all(compose.active_services(document, {}), {})
    document["services"]["a"]["profiles"] = ["off"]
    assert compose.expand_all(compose.active_services(document, {}), {}) == {}


def test_what_may_be_reached_in_the_intranet_is_kept_and_must_make_sense(tmp_path: Path) -> None:
    asked = settings.Asked(host="10.0.0.5", values={"SSRF_ALLOW_INTRANET": "10.0.0.0/8,10.0.0.9/32:81"})
    text, values = computed(tmp_path, asked)
    assert computed(tmp_path, existing=text)[1]["SSRF_ALLOW_INTRANET"] == values["SSRF_ALLOW_INTRANET"]
    with pytest.raises(errors.UsageError, match="is not CIDR"):
        computed(tmp_path, existing=text.replace("10.0.0.0/8", "10.0.0/8"))
