from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from cryptography import x509

from installer.core import errors, layout
from installer.release import tls

NOW = datetime.datetime(2026, 6, 1, tzinfo=datetime.UTC)


def given(folder: Path, pair: tls.Pair) -> tuple[Path, Path]:
    certificate, key = folder / "given.crt", folder / "given.key"
    certificate.write_bytes(pair.certificate)
    key.write_bytes(pair.key)
    return certificate, key


@pytest.mark.parametrize("host", ["10.0.0.5", "fd00::5", "dify.example"])
def test_our_own_certificate_passes_our_own_checks(tmp_path: Path, host: str) -> None:
    pair = tls.make_self_signed(host, NOW)
    assert tls.read(*given(tmp_path, pair), host, NOW) == pair


def test_each_fault_is_told_apart(tmp_path: Path) -> None:
    pair, other = tls.make_self_signed("dify.example", NOW), tls.make_self_signed("dify.example", NOW)
    paths = given(tmp_path, pair)
    with pytest.raises(errors.UsageError, match=r"is not for 10\.0\.0\.5, but for dify\.example"):
        tls.read(*paths, "10.0.0.5", NOW)
    with pytest.raises(errors.UsageError, match="is valid from 2026-05-31"):
        tls.read(*paths, "dify.example", NOW + datetime.timedelta(days=tls.SELF_SIGNED_DAYS))
    with pytest.raises(errors.UsageError, match="is not the key of"):
        tls.read(*given(tmp_path, tls.Pair(certificate=pair.certificate, key=other.key)), "dify.example", NOW)
    with pytest.raises(errors.UsageError, match="no certificate"):
        tls.read(*given(tmp_path, tls.Pair(certificate=b"x", key=pair.key)), "dify.example", NOW)
    with pytest.raises(errors.UsageError, match="no key"):
        tls.read(*given(tmp_path, tls.Pair(certificate=pair.certificate, key=b"x")), "dify.example", NOW)
    with pytest.raises(errors.UsageError, match="cannot be read"):
        tls.read(tmp_path / "none", paths[1], "dify.example", NOW)


@pytest.mark.parametrize(
    ("name", "host", "good"),
    [
        ("*.example.org", "dify.example.org", True),
        ("*.example.org", "a.dify.example.org", False),
        ("*.example.org", "example.org", False),
        ("DIFY.example", "dify.EXAMPLE", True),
    ],
)
def test_wildcards_stand_for_one_label(name: str, host: str, good: bool) -> None:
    leaf = x509.load_pem_x509_certificate(tls.make_self_signed(name, NOW).certificate)
    assert tls.covers(leaf, host) is good


def test_a_good_pair_is_kept_and_its_key_private(tmp_path: Path) -> None:
    place = layout.Installation(tmp_path)
    assert tls.read_installed(place, "10.0.0.5", NOW) is None
    pair = tls.make_self_signed("10.0.0.5", NOW)
    assert tls.write(place, pair)
    assert not tls.write(place, pair)
    assert place.key.stat().st_mode & 0o777 == 0o600
    assert tls.read_installed(place, "10.0.0.5", NOW) == pair
    assert tls.read_installed(place, "10.0.0.6", NOW) is None
