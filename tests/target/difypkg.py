"""Packs the tests' own plugins as packages that a plugin daemon takes, signed by an owner or by nobody."""

from __future__ import annotations

import io
import re
import tempfile
import zipfile
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from build.plugins import signature

PLUGINS = Path(__file__).resolve().parent / "plugins"
OLLAMA, OPENAI = "ollama", "openai_api_compatible"
SHARED = PLUGINS / "shared"
REQUIREMENTS = "requirements.txt"
LOCK = PLUGINS / "requirements.lock"


def contents(name: str) -> dict[str, bytes]:
    """Return the files of a plugin by their path in its package."""
    folder = PLUGINS / name
    found = {str(path.relative_to(folder)): path.read_bytes() for path in _files(folder)}
    found |= {path.name: path.read_bytes() for path in _files(SHARED)}
    found[REQUIREMENTS] = LOCK.read_bytes()
    return found


def versioned(files: dict[str, bytes], version: str) -> dict[str, bytes]:
    """Return the files of the same plugin in another version."""
    manifest = re.sub(r"(?m)^version: .*", f"version: {version}", files["manifest.yaml"].decode(), count=1)
    return {**files, "manifest.yaml": manifest.encode()}


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)


def pack(files: dict[str, bytes]) -> bytes:
    """Return a package that nobody has signed; the same files give the same bytes."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, data in sorted(files.items()):
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return made.getvalue()


def signed(files: dict[str, bytes], key: rsa.RSAPrivateKey) -> bytes:
    """Return a package that the owner of `key` has signed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.difypkg")
        path.write_bytes(pack(files))
        signature.sign(path, key, path)
        return path.read_bytes()


def added(package: bytes, name: str, data: bytes) -> bytes:
    """Return a package with one more file, its signature as it was: what people do who put wheels inside."""
    made = io.BytesIO(package)
    with zipfile.ZipFile(made, "a") as archive:
        archive.writestr(name, data)
    return made.getvalue()


def write(target: Path, files: dict[str, bytes]) -> Path:
    """Write a package that nobody has signed, and return its path."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(pack(files))
    return target


def owner_key(path: Path) -> Path:
    """Return `path`, at which a key of an owner lies; made when it is missing."""
    if not path.is_file():
        made = rsa.generate_private_key(public_exponent=65537, key_size=4096)
        pem = made.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pem)
    return path
