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
    assert [(each.kind, each.url, each.model, each.key) for each in request.servers] == [
        ("Ollama", "http://o:1", "m", "k"),
        ("vLLM", "http://v:2", "m", "k"),
    ]


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
