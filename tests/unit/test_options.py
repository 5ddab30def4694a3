from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from installer import options
from installer.core import errors
from installer.plan import Request


def asked(arguments: list[str], env: dict[str, str] | None = None) -> Request:
    """Return the request that a command line makes; raise what it raises."""
    made: list[Request] = []

    @click.command()
    @options.apply(options.SITE + options.RUN)
    def command(**given: Any) -> None:
        made.append(options.make_request(**given))

    result = CliRunner().invoke(command, arguments, env=env, standalone_mode=False)
    if result.exception:
        raise result.exception
    return made[0]


def test_the_command_line_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    answers = tmp_path / "answers.yaml"
    answers.write_text("ip: 10.0.0.1\nport: 8081\nhttps-port: 8441\nrequire-llm: false\nset:\n  A: 1\n  B:\n")
    request = asked(
        ["--config", str(answers), "--port", "8083"],
        {"DIFY_INSTALLER_PORT": "8082", "DIFY_INSTALLER_HTTPS_PORT": "8442"},
    )
    assert request.asked.host == "10.0.0.1"
    assert request.asked.ports == {"http": 8083, "https": 8442}
    assert request.asked.values == {"A": "1", "B": ""}


@pytest.mark.parametrize("text", ["ipp: x", "- ip", "ip: [", "config: other.yaml"])
def test_a_wrong_answer_file_is_refused(tmp_path: Path, text: str) -> None:
    answers = tmp_path / "answers.yaml"
    answers.write_text(text)
    with pytest.raises(errors.UsageError, match=r"answers\.yaml"):
        asked(["--config", str(answers)])


def test_a_name_wins_over_the_address_but_both_are_checked() -> None:
    assert asked(["--ip", "10.0.0.5", "--host", "dify.example"]).asked.host == "dify.example"
    with pytest.raises(errors.UsageError):
        asked(["--ip", "nonsense", "--host", "dify.example"])


def test_servers_share_model_and_key() -> None:
    request = asked(["--ollama-url", "http://o:1", "--vllm-url", "http://v:2", "--model", "m", "--api-key", "k"])
    assert [(each.kind, each.url, each.wanted[0].name, each.key) for each in request.servers] == [
        ("Ollama", "http://o:1", "m", "k"),
        ("vLLM", "http://v:2", "m", "k"),
    ]


def test_a_server_may_have_a_key_of_its_own() -> None:
    servers = ["--vllm-url", "http://v:1", "--vllm-url", "http://w:2/", "--vllm-url", "http://x:3"]
    keys = ["--api-key", "for-all==", "--api-key", "http://v:1/=of-v==", "--api-key", "http://w:2=of-w"]
    assert [each.key for each in asked([*servers, *keys]).servers] == ["of-v==", "of-w", "for-all=="]
    with pytest.raises(errors.UsageError, match="none of the servers"):
        asked([*servers, "--api-key", "http://y:4=of-y"])
    for wrong in ("", "http://v:1=", "two words", "ftp=1 2"):
        with pytest.raises(errors.UsageError, match="is not a valid key"):
            asked([*servers, "--api-key", wrong])


def test_several_servers_and_models_may_be_named(tmp_path: Path) -> None:
    answers = tmp_path / "answers.yaml"
    answers.write_text("vllm-url: http://v:3\nvllm-model: [v1, 'v2:kind=rerank']\n")
    arguments = ["--ollama-url", "http://o:1", "--ollama-url", "http://o:2", "--ollama-model", "qwen3:8b"]
    request = asked(["--config", str(answers), *arguments, "--model", "m"])
    assert [(each.url, [model.name for model in each.wanted]) for each in request.servers] == [
        ("http://o:1", ["m", "qwen3:8b"]),
        ("http://o:2", ["m", "qwen3:8b"]),
        ("http://v:3", ["m", "v1", "v2"]),
    ]
    assert request.servers[2].wanted[2].kind == "rerank"


def test_the_account_comes_with_a_password_from_a_file_or_the_environment(tmp_path: Path) -> None:
    assert asked(["--ip", "10.0.0.5"]).admin is None
    path = tmp_path / "password"
    path.write_text("passw0rd1\n")
    path.chmod(0o600)
    email = ["--admin-email", "Ops@example.com"]
    admin = asked([*email, "--admin-password-file", str(path)]).admin
    assert admin is not None
    assert (admin.email, admin.name, admin.password) == ("ops@example.com", "ops", "passw0rd1")
    assert "passw0rd1" not in repr(admin)
    admin = asked([*email, "--admin-name", "운영자"], {"DIFY_INSTALLER_ADMIN_PASSWORD": "passw0rd2"}).admin
    assert admin is not None and (admin.name, admin.password) == ("운영자", "passw0rd2")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--admin-email", "ops"], "not an e-mail"),
        (["--admin-email", "ops@example.com", "--admin-password", "passw0rd1"], "visible to other users"),
        (["--admin-email", "ops@example.com", "--admin-name", "o" * 31], "30 characters"),
        (["--admin-name", "ops"], "add --admin-email"),
        (["--keep-example"], "add --admin-email"),
        (["--vllm-model", "m", "--ollama-url", "http://o:1"], "--vllm-url"),
        (["--ollama-url", "http://o:1", "--model", "m:context=many"], "says nothing of a model"),
    ],
)
def test_what_is_wrong_with_account_and_models_is_told_before(arguments: list[str], told: str) -> None:
    with pytest.raises(errors.UsageError) as failure:
        asked(arguments)
    assert told in f"{failure.value.message}; {failure.value.remedy}"
    assert "passw0rd1" not in failure.value.message


@pytest.mark.parametrize(
    "arguments",
    [
        ["--require-llm"],
        ["--model", "m"],
        ["--ollama-url", "ftp://x"],
        ["--ollama-url", "http://user:secret@x"],
        ["--port", "80", "--https-port", "80"],
        ["--set", "x"],
    ],
)
def test_what_makes_no_sense_is_refused_without_showing_passwords(arguments: list[str]) -> None:
    with pytest.raises(errors.UsageError) as caught:
        asked(arguments)
    assert "secret" not in caught.value.message


def test_folders_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert asked(["--dir", "here"]).folder == tmp_path / "here"
    assert asked(["--images", "x.tar"]).archive == tmp_path / "x.tar"


def test_all_that_is_wrong_is_told_at_once() -> None:
    wrong = ["--ip", "nonsense", "--port", "0", "--tls-cert", "x", "--require-llm", "--timeout", "nan", "--set", "x"]
    with pytest.raises(errors.UsageError) as caught:
        asked(wrong)
    for each in ("--ip", "--port", "--tls-cert and --tls-key", "no server is named", "--timeout", "--set"):
        assert each in caught.value.message, each


@pytest.mark.parametrize(
    "arguments",
    [
        ["--ip", ""],
        ["--ip", "255.255.255.255"],
        ["--ip", "0.0.0.0"],
        ["--ip", "fe80::1%eth0$(id)"],
        ["--ip", "fd00::5"],
        ["--host", "dify_example"],
        ["--timeout", "nan"],
        ["--timeout", "inf"],
        ["--timeout", "0"],
        ["--dir", "~nobody-of-that-name/x"],
        ["--dir", ""],
        ["--dir", "/opt/a:b"],
        ["--dir", "/opt/a$b"],
        ["--dir", "/opt/a\nb"],
        ["--ollama-url", "http://["],
        ["--ollama-url", "http://x:99999"],
        ["--ollama-url", "http://a b"],
        ["--ollama-url", "http://"],
        ["--rpms", "/nowhere"],
    ],
)
def test_a_value_that_cannot_be_meant_is_a_usage_error(arguments: list[str]) -> None:
    with pytest.raises(errors.UsageError, match=arguments[0]):
        asked(arguments)


@pytest.mark.parametrize("folder", ["/opt/my dify", "/opt/100%d", "/opt/디파이"])
def test_a_folder_may_have_any_name_that_all_its_users_read_alike(folder: str) -> None:
    assert asked(["--dir", folder]).folder == Path(folder)


BOMB = "a: &a [x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [*{chr(97 + n)}, *{chr(97 + n)}]\n" for n in range(20)
)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("port: [80]", "port must be one value"),
        ("silent: [a]", "silent must be true or false"),
        ("no-boot: maybe", "no-boot must be true or false"),
        ("dir: [a]\nport: {a: 1}", "dir must be one value; port must be one value"),
        ("ip: " + "[" * 5000, "nested too deep"),
        ("set:\n  A: [1]", "set must be a list"),
        (BOMB, "aliases"),
        ("ip: \xff", "answers.yaml"),
    ],
)
def test_an_answer_file_holds_answers_and_nothing_else(tmp_path: Path, text: str, told: str) -> None:
    answers = tmp_path / "answers.yaml"
    answers.write_bytes(text.encode("latin-1"))
    with pytest.raises(errors.UsageError) as caught:
        asked(["--config", str(answers)])
    assert told in caught.value.message


def test_a_number_and_a_boolean_of_the_answer_file_are_taken_as_they_are_written(tmp_path: Path) -> None:
    answers = tmp_path / "answers.yaml"
    answers.write_text("ip: 10.0.0.5\nport: 8080\nno-boot: true\nmodel:\nset:\n  - A=1\n  - B=x y\n")
    request = asked(["--config", str(answers)])
    assert (request.asked.ports, request.boot, request.asked.values) == ({"http": 8080}, False, {"A": "1", "B": "x y"})


def test_preflight_takes_the_answer_file_of_install(tmp_path: Path) -> None:
    answers = tmp_path / "answers.yaml"
    answers.write_text("ip: 10.0.0.5\nollama-url: http://10.0.0.9:11434\nsilent: true\n")
    made: list[Request] = []

    @click.command()
    @options.apply((*options.SITE, options.CONFIG))
    def command(**given: Any) -> None:
        made.append(options.make_request(**given))

    CliRunner().invoke(command, ["--config", str(answers)], standalone_mode=False, catch_exceptions=False)
    assert made[0].asked.host == "10.0.0.5"


def test_a_variable_that_is_not_an_option_is_told_with_the_one_that_may_be_meant() -> None:
    with pytest.raises(errors.UsageError, match="DIFY_INSTALLER_PROT is not an option; is DIFY_INSTALLER_PORT meant"):
        options.require_known_variables({"DIFY_INSTALLER_PROT": "8080", "PATH": "/bin"})
    options.require_known_variables({"DIFY_INSTALLER_PORT": "8080", "DIFY_INSTALLER_API_KEY": "k"})


def test_the_language_of_the_page_comes_from_everywhere_and_is_english_otherwise(tmp_path: Path) -> None:
    answers = tmp_path / "answers.yaml"
    answers.write_text("language: ko\n")
    assert asked([]).language == "en"
    assert asked(["--config", str(answers)]).language == "ko"
    assert asked([], {"DIFY_INSTALLER_LANGUAGE": "ko"}).language == "ko"
    with pytest.raises(errors.UsageError, match="--language"):
        asked(["--language", "fr"])


def test_what_may_be_reached_in_the_intranet_comes_from_all_three_places(tmp_path: Path) -> None:
    answers = tmp_path / "answers.yaml"
    answers.write_text("ip: 10.0.0.5\nallow-intranet:\n  - private\n  - 203.0.113.0/24:9000\n")
    for arguments, env, kept in (
        (["--allow-intranet", "10.0.0.9", "--allow-intranet", "fd00::/8"], {}, "10.0.0.9/32,fd00::/8"),
        ([], {"DIFY_INSTALLER_ALLOW_INTRANET": "private 10.0.0.9:81"}, "private,10.0.0.9/32:81"),
        (["--config", str(answers)], {}, "private,203.0.113.0/24:9000"),
    ):
        assert asked(arguments, env).asked.values == {"SSRF_ALLOW_INTRANET": kept}
    assert asked([]).asked.values == {}
    for wrong in (["10.0.0.5/8"], ["none", "private"]):
        with pytest.raises(errors.UsageError, match="--allow-intranet"):
            asked([part for each in wrong for part in ("--allow-intranet", each)])
