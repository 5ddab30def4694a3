"""What `doctor` judges over the months, and what it masks for a support desk."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from installer.checks import upkeep
from installer.release import masks

NOW = datetime.datetime(2026, 2, 20, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("total", "free", "level"),
    [(100e9, 50e9, "ok"), (100e9, 8e9, "warning"), (5e9, 1.5e9, "warning"), (100e9, 0.2e9, "error")],
)
def test_a_disk_is_judged_by_its_share_and_its_bytes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, total: float, free: float, level: str
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(total=total, free=free))
    (found,) = upkeep.judge_disks([("data", tmp_path), ("nothing", tmp_path / "missing")])
    assert (found.check, found.level) == ("disk for data", level)


@pytest.mark.parametrize(("days", "level"), [(100, "ok"), (12, "warning"), (-1, "error")])
def test_a_certificate_is_judged_by_its_days(days: int, level: str) -> None:
    assert [each.level for each in upkeep.judge_certificate(days)] == [level]
    assert upkeep.judge_certificate(None) == []


@pytest.mark.parametrize(
    ("made", "level"), [("2026-02-19T02:10:00Z", "ok"), ("2026-01-31T02:10:00Z", "warning"), ("nonsense", "warning")]
)
def test_a_backup_is_judged_by_its_age(tmp_path: Path, made: str, level: str) -> None:
    note = tmp_path / "last-backup.json"
    note.write_text(json.dumps({"file": "/b", "made": made, "bytes": 1}))
    assert upkeep.judge_backup(note, NOW).level == level
    assert upkeep.judge_backup(tmp_path / "missing", NOW).seen == "none was made"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://:geheim99@redis:6379/1", "redis://:********@redis:6379/1"),
        ("http://10.0.0.5:8080/a@b", "http://10.0.0.5:8080/a@b"),
        ("Bearer abcdefgh1234", "Bearer ********"),
        ("key sk-abcdefgh12345678", "key sk-********"),
        ("password=Sommer2026", "password=********"),
        ('"api_key": "abc123"', '"api_key": "********"'),
        ("DB_PASSWORD: difyai123456", "DB_PASSWORD: ********"),
        ("512 tokens in 2 s", "512 tokens in 2 s"),
        ("the token expired", "the token expired"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----\nend", "********\nend"),
    ],
)
def test_what_has_the_shape_of_a_secret_is_masked_and_nothing_else(text: str, shown: str) -> None:
    assert masks.scrub(text) == shown
