from __future__ import annotations

import datetime
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from installer.checks.probe import make_context
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


def signed_by_a_plain_authority(name: str) -> tuple[bytes, tls.Pair]:
    """Return an authority as `openssl req -x509` makes it with a plain configuration, without keyUsage, and a pair."""
    own = ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "company")])
    now = datetime.datetime.now(datetime.UTC)

    def builder(subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        made = x509.CertificateBuilder().subject_name(subject).issuer_name(ca_name).public_key(key)
        made = made.serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=1))
        return made.not_valid_after(now + datetime.timedelta(days=9))

    ca = builder(ca_name, own.public_key()).add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
    authority = ca.sign(own, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    leaf = builder(subject, key.public_key()).add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), False)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    certificate = leaf.sign(own, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    return authority, tls.Pair(certificate=certificate, key=private)


def test_a_companys_authority_without_key_usage_is_accepted_as_browsers_do(tmp_path: Path) -> None:
    authority, pair = signed_by_a_plain_authority("dify.example")
    chain, key = given(tmp_path, tls.Pair(certificate=pair.certificate + authority, key=pair.key))
    tls.require_accepted(chain, key, "dify.example", make_context(str(chain)))
    alone, key = given(tmp_path, pair)
    tls.require_accepted(alone, key, "dify.example", make_context(str(alone)))
    # Python 3.13's own policy, with which the whole installation failed at its end, would refuse it.
    chain.write_bytes(pair.certificate + authority)
    strict = make_context(str(chain))
    strict.verify_flags &= ~ssl.VerifyFlags(0x80000)
    strict.verify_flags |= ssl.VERIFY_X509_STRICT
    with pytest.raises(errors.UsageError, match="not accepted by a client"):
        tls.require_accepted(chain, key, "dify.example", strict)


def test_a_certificate_whose_chain_is_of_another_authority_is_refused(tmp_path: Path) -> None:
    other, _ = signed_by_a_plain_authority("dify.example")
    _, pair = signed_by_a_plain_authority("dify.example")
    certificate, key = given(tmp_path, pair)
    trusted = tmp_path / "other.pem"
    trusted.write_bytes(other)
    with pytest.raises(errors.UsageError, match="not accepted by a client"):
        tls.require_accepted(certificate, key, "dify.example", make_context(str(trusted)))


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
    place.key.unlink()
    assert tls.write(place, pair), "a lost key comes back by the same command"
    assert place.key.stat().st_mode & 0o777 == 0o600
    assert tls.read_installed(place, "10.0.0.5", NOW) == pair
    assert tls.read_installed(place, "10.0.0.6", NOW) is None
