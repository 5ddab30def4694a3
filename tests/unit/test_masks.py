from __future__ import annotations

from pathlib import Path

import pytest

from installer.core.runner import Runner
from installer.release import envfile, masks


@pytest.mark.parametrize(
    "key",
    [
        *(
            "DB_PASSWORD",
            "ORACLE_PWD",
            "SECRET_KEY",
            "NOTION_CLIENT_SECRET",
            "TENCENT_COS_SECRET_ID",
            "ALIYUN_OSS_ACCESS_KEY",
        ),
        *("ANALYTICDB_KEY_SECRET", "MILVUS_TOKEN", "CHROMA_AUTH_CREDENTIALS", "SENTRY_DSN", "OPENAI_APIKEY"),
        *("COUCHBASE_CONNECTION_STRING", "WEAVIATE_AUTHENTICATION_APIKEY_ALLOWED_KEYS", "PASSWORD"),
    ],
)
def test_a_secret_is_told_by_the_shape_of_its_key(key: str) -> None:
    assert masks.secret_values({key: "to-be-hidden"}) == ("to-be-hidden",)


@pytest.mark.parametrize(
    "key",
    [
        *("LOG_LEVEL", "PROMPT_GENERATION_MAX_TOKENS", "REFRESH_TOKEN_EXPIRE_DAYS", "NGINX_SSL_CERT_KEY_FILENAME"),
        *("WEAVIATE_TOKENIZATION", "PLUGIN_BASED_TOKEN_COUNTING_ENABLED", "REDIS_SSL_KEYFILE", "MONKEY"),
    ],
)
def test_what_only_speaks_of_secrets_is_none(key: str) -> None:
    assert masks.secret_values({key: "shown"}) == ()


@pytest.mark.parametrize("value", ["", "true", "False", "none", "/etc/ssl/private/key.pem", "./ssl/key"])
def test_switches_and_paths_are_no_secrets(value: str) -> None:
    assert masks.secret_values({"SOME_KEY": value}) == ()


def test_public_defaults_are_no_secrets_and_what_replaces_them_is() -> None:
    example = {"ELASTICSEARCH_PASSWORD": "elastic", "LOG_LEVEL": "INFO"}
    assert masks.secret_values({"ELASTICSEARCH_PASSWORD": "elastic", "OTHER_PASSWORD": "elastic"}, example) == ()
    assert masks.secret_values({"ELASTICSEARCH_PASSWORD": "correcthorse"}, example) == ("correcthorse",)


@pytest.mark.parametrize(
    ("url", "hidden"),
    [
        ("redis://:p%40ss%2Fword@redis:6379/1", {"p%40ss%2Fword", "p@ss/word"}),
        ("https://user:pass-word@host/x", {"pass-word"}),
        ("redis://:p@ss/w#r:d@redis:6379/1", {"p@ss/w#r:d"}),
        ("sentinel://:first-one@a:1;sentinel://:second-one@b:2", {"first-one", "second-one"}),
    ],
)
def test_the_password_in_a_url_is_one_in_both_forms(url: str, hidden: set[str]) -> None:
    assert hidden <= set(masks.secret_values({"SOME_URL": url}))


def test_a_url_without_a_password_is_none() -> None:
    values = {
        "A_URL": "http://10.0.0.5:8080/a@b",
        "B_URL": "https://user@host:443/",
        "C": "http://localhost/e/{hook_id}",
    }
    assert masks.secret_values(values) == ()


def test_raw_and_encoded_forms_are_masked_alike() -> None:
    runner = Runner({})
    runner.hide(masks.secret_values({"REDIS_PASSWORD": "p@ss/w#r:d", "ALLOWED_KEYS": "first-key,second-key"}))
    text = "a p@ss/w#r:d b redis://:p%40ss%2Fw%23r%3Ad@redis first-key second-key"
    assert runner.mask(text) == "a ******** b redis://:********@redis ******** ********"


def test_upstreams_secrets_have_these_shapes(dify: Path) -> None:
    example = envfile.parse((dify / "docker/.env.example").read_text())
    own = {key: f"own-value-of-{key}" for key in example}
    hidden = {key for key in own if own[key] in masks.secret_values(own, example)}
    assert len(hidden) >= 80
    assert {"SMTP_PASSWORD", "S3_SECRET_KEY", "SENTRY_DSN", "INIT_PASSWORD", "PLUGIN_DAEMON_KEY"} <= hidden
    # None of upstream's own values makes nonsense of a log: they are public.
    assert masks.secret_values(example, example) == ()


def test_settings_are_shown_without_what_is_secret() -> None:
    values = {
        "DB_PASSWORD": "p@ss-word",
        "URL": "redis://u:p%40ss-word@h/1",
        "SHORT": "a://b:ab@c",
        "NAME": "ab",
        "E_KEY": "",
    }
    shown = masks.without_secrets(values)
    hidden = masks.HIDDEN
    assert shown == {
        "DB_PASSWORD": hidden,
        "URL": f"redis://u:{hidden}@h/1",
        "SHORT": f"a://b:{hidden}@c",
        "NAME": "ab",
        "E_KEY": "",
    }
