"""Files, the lock, the seal, the report, the answers of the command line: small parts with one promise each."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from installer import cli
from installer.bundle import seal
from installer.commands import install, report
from installer.core import console, errors, files, layout, lock
from installer.core.finding import Finding
from installer.engine import podman_compose


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    files.write(path, "old")
    with pytest.raises(RuntimeError), files.replacing(path) as file:
        file.write(b"half of the ne")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_modes_do_not_depend_on_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        files.folder(tmp_path / "a/b")
        files.write(tmp_path / "a/b/shared", "")
        files.write(tmp_path / "a/b/private", "", mode=0o600)
    finally:
        os.umask(before)
    modes = {each.name: each.stat().st_mode & 0o777 for each in (tmp_path / "a").rglob("*")}
    assert modes == {"b": 0o755, "shared": 0o644, "private": 0o600}


def test_a_disk_that_refuses_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.CommandFailed, match="cannot be written"):
        files.write(tmp_path / "file/below", "")


def test_one_run_at_a_time_and_none_after_a_kill(tmp_path: Path) -> None:
    program = "from pathlib import Path; import time; from installer.core import lock\n"
    program += f"with lock.hold(Path({str(tmp_path)!r})):\n"
    program += "    print('held', flush=True); time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    with pytest.raises(errors.AlreadyRunning, match=f"process {other.pid}"), lock.hold(tmp_path):
        pass
    with lock.hold(tmp_path / "another"):
        other.kill()
    other.wait()
    with lock.hold(tmp_path):
        pass


def test_a_seal_breaks_with_any_flipped_bit(tmp_path: Path) -> None:
    path = tmp_path / "executable"
    path.write_bytes(bytes(range(256)))
    assert not seal.is_intact(path)
    seal.add(path)
    assert seal.is_intact(path)
    good = path.read_bytes()
    for position in range(0, len(good), 7):
        path.write_bytes(good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :])
        assert not seal.is_intact(path), position
    for changed in (good[:-1], good + b"x", b""):
        path.write_bytes(changed)
        assert not seal.is_intact(path)


def test_the_shape_of_the_report() -> None:
    one = report.Report(dify="1.11.3", folder="/opt/dify", url="http://h", log="/l", started="now", result="done")
    with one.step("verify", console.Console(silent=True)) as step:
        step.seen = "all"
    one.checks = [Finding("n", "ok", "s")]
    top = json.loads(report.as_json(one))
    assert sorted(top) == [
        *(
            "checks",
            "compared",
            "dify",
            "error",
            "folder",
            "format",
            "inside",
            "installer",
            "kind",
            "log",
            "models",
            "notes",
            "passed",
            "remedy",
            "result",
            "started",
            "steps",
            "url",
        ),
    ]
    assert sorted(top["steps"][0]) == ["name", "seconds", "seen"]
    assert sorted(top["checks"][0]) == ["check", "level", "remedy", "seen"]


def test_a_step_that_fails_is_in_the_report() -> None:
    one = report.Report()
    with pytest.raises(RuntimeError), one.step("images", console.Console(silent=True)):
        raise RuntimeError
    assert [step.name for step in one.steps] == ["images"]


def test_lines_in_a_pipe_and_nothing_when_silent() -> None:
    stream = io.StringIO()
    shown = console.Console(stream=stream)
    for text in ("api", "api", "web", ""):
        shown.waiting(text)
    with shown.progress("load", 3 * 1024**2) as bar:
        bar.update(1)
    lines = stream.getvalue().splitlines()
    assert lines[:2] == ["  waiting for api", "  waiting for web"]
    assert lines[2].startswith("load: 3.0 MiB in ")
    silent = io.StringIO()
    quiet = console.Console(silent=True, stream=silent)
    quiet.line("x")
    quiet.waiting("y")
    with quiet.progress("z", 1):
        pass
    assert silent.getvalue() == ""


def test_what_we_did_not_foresee_is_our_fault(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(install, "install", broken)
    assert cli.main(["--ip", "10.0.0.5"]) == 1
    assert "unforeseen: ZeroDivisionError" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_is_told_once_and_has_its_code(number: signal.Signals, code: int) -> None:
    program = (
        "import sys, time\nfrom installer import cli\nfrom installer.commands import install\n"
        "def wait(*_):\n    print('ready', flush=True); time.sleep(30)\n"
        "install.install = wait\nsys.exit(cli.main(['--ip', '10.0.0.5']))"
    )
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    for _ in range(2):
        child.send_signal(number)
        time.sleep(0.01)
    _, told = child.communicate(timeout=10)
    assert child.returncode == code
    assert told.count("interrupted by") == 1


def test_the_pinned_version_is_read_from_the_lock() -> None:
    assert podman_compose.wanted_version("pip==1\npodman-compose==1.6.0 \\\n    --hash=sha256:0\n") == "1.6.0"
    with pytest.raises(errors.BundleDamaged):
        podman_compose.wanted_version("")


@pytest.mark.parametrize(("uid", "folder"), [(0, Path("/opt/dify")), (1000, Path.home() / "dify")])
def test_where_it_goes_unless_told(uid: int, folder: Path) -> None:
    assert layout.default_folder(uid) == folder


def test_nothing_on_board_needs_md5() -> None:
    """FIPS mode takes MD5 and SHA-1 away; a library that asks for them at its import would not even start there."""
    root = Path(cli.__file__).parent.parent
    sources = [*(root / "installer").rglob("*.py"), *(root / "build").glob("*.py")]
    modules = sorted(
        ".".join(path.relative_to(root).with_suffix("").parts)
        for path in sources
        if path.is_relative_to(root / "installer") and path.stem not in {"__main__", "__init__"}
    )
    program = "import hashlib\ndef refused(*_, **options):\n    assert not options.get('usedforsecurity', True)\n"
    program += "hashlib.md5 = hashlib.sha1 = refused\n"
    program += "".join(f"import {name}\n" for name in modules)
    program += "import requests\nrequests.Session().prepare_request(requests.Request('GET', 'http://x/'))\n"
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for source in sources:
        assert "md5" not in source.read_text().lower(), source
