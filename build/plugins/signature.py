"""Proves who signed a plugin's package, and signs packages with a key of the installation's owner.

Signed is the SHA-256 of each file, in the order of the zip's directory, and then the time, as decimal text; the
signature is RSA PKCS#1 v1.5 with SHA-256 and stands in the zip's comment with that time (plugin daemon 0.5.2,
pkg/plugin_packager/decoder/verifier.go and signer/withkey/sign_with_key.go).
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from build.failure import BuildError
from build.spec import EPOCH, FOLDER
from installer.core import files

DIFY_KEY = FOLDER / "dify-plugins.pem"
# The last file of a signed package: who vouches for it, to what degree.
VERIFICATION = ".verification.dify.json"
CATEGORY = "community"
# Contents are small: the daemon takes 50 MB. What unpacks to more is no plugin.
LARGEST_FILE = 512 * 1024 * 1024


def dify_key() -> rsa.RSAPublicKey:
    """Return the public key with which Dify signs what its marketplace offers (plugin daemon, PUBLIC_KEY.pem)."""
    key = serialization.load_pem_public_key(DIFY_KEY.read_bytes())
    assert isinstance(key, rsa.RSAPublicKey)
    return key


def load_private_key(path: Path) -> rsa.RSAPrivateKey:
    """Read the key of an installation's owner, an RSA key in PEM without a password. Raises BuildError."""
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise BuildError(f"{path} cannot be read as a private key: {error}", _make_one(path)) from error
    if not isinstance(key, rsa.RSAPrivateKey):
        raise BuildError(f"{path} is not an RSA key: the plugin daemon knows no other kind", _make_one(path))
    return key


def _make_one(path: Path) -> str:
    return f"make one with `openssl genrsa -out {path.name} 4096`, and keep it: later plugins need the same"


def public_pem(key: rsa.RSAPublicKey) -> bytes:
    """Return a public key as the plugin daemon reads it: PKCS#1 in PEM, nothing behind it."""
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.PKCS1)


def find_signer(path: Path, keys: Mapping[str, rsa.RSAPublicKey]) -> str | None:
    """Return whose key signed a package, one of the names in `keys`; None when it is nobody's. Raises BuildError."""
    try:
        with zipfile.ZipFile(path) as archive:
            comment = json.loads(archive.comment)
            signature, time = base64.b64decode(comment["signature"], validate=True), int(comment["time"])
            signed = b"".join(_digests(archive)) + str(time).encode()
    except (OSError, zipfile.BadZipFile) as error:
        raise BuildError(f"{path} cannot be read as a plugin package: {error}") from error
    except (ValueError, KeyError, TypeError):
        return None
    for name, key in keys.items():
        try:
            key.verify(signature, signed, padding.PKCS1v15(), hashes.SHA256())
            return name
        except InvalidSignature:
            continue
    return None


def sign(path: Path, key: rsa.RSAPrivateKey, target: Path) -> None:
    """Write a package anew, signed with `key`; the same package and key give the same bytes. Raises BuildError."""
    made = io.BytesIO()
    try:
        with zipfile.ZipFile(path) as archive, zipfile.ZipFile(made, "w") as signed:
            for entry in archive.infolist():
                if not entry.is_dir() and entry.filename != VERIFICATION:
                    signed.writestr(zipfile.ZipInfo(entry.filename), _content(archive, entry), zipfile.ZIP_DEFLATED)
            signed.writestr(zipfile.ZipInfo(VERIFICATION), json.dumps({"authorized_category": CATEGORY}))
    except (OSError, zipfile.BadZipFile) as error:
        raise BuildError(f"{path} cannot be read as a plugin package: {error}") from error
    with zipfile.ZipFile(made, "a") as signed:
        data = b"".join(_digests(signed)) + EPOCH.encode()
        signature = base64.b64encode(key.sign(data, padding.PKCS1v15(), hashes.SHA256())).decode()
        signed.comment = json.dumps({"signature": signature, "time": int(EPOCH)}).encode()
    files.write(target, made.getvalue())


def _digests(archive: zipfile.ZipFile) -> list[bytes]:
    """Return the SHA-256 of each file. Raises ValueError for a folder among them: the daemon cannot read one."""
    entries = archive.infolist()
    if folder := next((entry.filename for entry in entries if entry.is_dir()), None):
        raise ValueError(f"{folder} is a folder")
    return [hashlib.sha256(_content(archive, entry)).digest() for entry in entries]


def _content(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    if entry.file_size > LARGEST_FILE:
        raise zipfile.BadZipFile(f"{entry.filename} is too large")
    return archive.read(entry)
