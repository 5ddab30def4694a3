"""The command line as people meet it: help, completion, the manual page, colours, what is printed for machines."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from installer import cli
from installer.commands import completion, man
from installer.core import console


def help_of(*command: str) -> str:
    return CliRunner().invoke(cli.cli, [*command, "--help"]).output


def test_help_lists_the_options_by_subject_and_cuts_nothing_off() -> None:
    shown = help_of()
    subjects = ["Address and ports", "Certificates", "Where and with what", "Settings", "Model servers"]
    subjects += ["Account, plugins and models", "The run"]
    assert [line.rstrip(":") for line in shown.splitlines() if line.rstrip(":") in subjects] == subjects
    for name, command in man.every_command(cli.cli).items():
        own = help_of(*name.split())
        for dots in ("[ARGS]...", "[OPTIONS]...", "[FILE]...", "[NAME]..."):
            own = own.replace(dots, "")
        assert "..." not in own, name
        last = (command.help or "").split("\n\n")[0].split()[-1]
        assert last in help_of(*name.split()[:-1]), name


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_for_our_name_and_what_it_asks_is_answered(shell: str) -> None:
    assert completion.VARIABLE in completion.script(cli.cli, shell)
    asked = {completion.VARIABLE: "bash_complete", "COMP_WORDS": "dify-installer pre", "COMP_CWORD": "1"}
    answer = subprocess.run(
        [sys.executable, "-m", "installer"], env={**os.environ, **asked}, capture_output=True, text=True, check=True
    )
    assert "plain,preflight" in answer.stdout
    options = subprocess.run(
        [sys.executable, "-m", "installer"],
        env={**os.environ, **asked, "COMP_WORDS": "dify-installer --i"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "plain,--ip" in options.stdout


def test_the_manual_page_tells_every_command_option_and_exit_code() -> None:
    page = man.page(cli.cli)
    for name, command in man.every_command(cli.cli).items():
        assert f".SH {name.upper()}" in page
        for parameter in command.params:
            told = parameter.opts[0] if isinstance(parameter, click.Option) else parameter.human_readable_name
            assert told.replace("-", "\\-") in page
    assert not [line for line in page.splitlines() if line.startswith("'")]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colours_are_for_a_terminal_that_wants_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(stream: io.StringIO) -> str:
        console.Console(stream=stream).line("  WARN ports: 80\nFAIL x: ok   y")
        return stream.getvalue()

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert told(Terminal()) == "  \033[33mWARN\033[0m ports: 80\n\033[31mFAIL\033[0m x: ok   y\n"
    assert "\033" not in told(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\033" not in told(Terminal())


def test_a_reader_who_goes_away_ends_nothing() -> None:
    class Gone(io.StringIO):
        def write(self, _text: str) -> int:
            raise BrokenPipeError

        def fileno(self) -> int:
            raise OSError

    shown = console.Console(stream=Gone())
    shown.line("one")
    shown.line("two")
    assert shown.silent


@pytest.mark.parametrize("closing", ["2>&-", ">&- 2>&-", "<&- >&- 2>&-", "2>/dev/full"])
def test_closed_and_full_streams_do_not_decide_the_exit_code(closing: str) -> None:
    command = f"{sys.executable} -m installer --ip nonsense {closing}"
    assert subprocess.run(["sh", "-c", command], check=False).returncode == 2


def test_a_result_that_cannot_be_written_is_an_error() -> None:
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m installer man >/dev/full"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 5
    assert "cannot be written to standard output: No space left on device" in done.stderr
    piped = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m installer man | head -1"], capture_output=True, text=True, check=True
    )
    assert piped.stderr == ""


@pytest.mark.parametrize("recorded", [True, False])
def test_an_unforeseen_error_before_the_first_change_has_a_log_too(tmp_path: Path, recorded: bool) -> None:
    begin = "logfile.begin(); logfile.log.info('what was done')" if recorded else "pass"
    program = (
        "import sys\nfrom installer import cli\nfrom installer.core import logfile\n"
        "from installer.commands import preflight\n"
        f"def fail(*_, **__):\n    {begin}\n    raise RuntimeError('nobody thought of it')\n"
        "preflight.make_plan = fail\nsys.exit(cli.main(['preflight', '--ip', '10.0.0.5']))"
    )
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    (log,) = tmp_path.glob("dify-installer-*.log")
    assert str(log) in done.stderr
    assert "nobody thought of it" in done.stderr
    assert "Traceback" not in done.stderr
    assert log.stat().st_mode & 0o777 == 0o600
    assert "RuntimeError: nobody thought of it" in log.read_text()
    assert ("what was done" in log.read_text()) is recorded
