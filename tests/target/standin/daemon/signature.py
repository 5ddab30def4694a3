"""Checks the signature of a package: pkg/plugin_packager/decoder/verifier.go of the plugin daemon."""

import base64
import hashlib
import json
import pathlib

OFFICIAL = pathlib.Path(__file__).with_name("official.pem")
# RFC 8017, 9.2: what stands before a SHA-256 digest in a signature.
SHA256 = bytes.fromhex("3031300d060960864801650304020105000420")


def signed(package, keys):
    """Tell whether a package (a zipfile) is signed with the official key or with one of these files.

    A file that is no PKCS#1 public key makes every package unsigned, as in the real one.
    """
    try:
        publics = [_public_key(pathlib.Path(path.strip()).read_bytes()) for path in (str(OFFICIAL), *keys)]
        comment = json.loads(package.comment)
        signature = base64.b64decode(comment["signature"], validate=True)
        digests = b"".join(hashlib.sha256(package.read(entry)).digest() for entry in package.infolist())
        message = digests + str(int(comment["time"])).encode()
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return False
    return any(_verifies(message, signature, *public) for public in publics)


def _public_key(pem):
    lines = pem.decode().strip().splitlines()
    if lines[0] != "-----BEGIN RSA PUBLIC KEY-----":
        raise ValueError("no PKCS#1 public key")
    end = lines.index("-----END RSA PUBLIC KEY-----")
    der = base64.b64decode("".join(lines[1:end]))
    numbers, _ = _read(der, 0x30)
    modulus, rest = _read(numbers, 0x02)
    exponent, _ = _read(rest, 0x02)
    return int.from_bytes(modulus, "big"), int.from_bytes(exponent, "big")


def _read(der, tag):
    """Return the content of the DER value of this tag at the beginning, and what follows it."""
    if der[0] != tag:
        raise ValueError("no PKCS#1 public key")
    length, at = der[1], 2
    if length & 0x80:
        at = 2 + (length & 0x7F)
        length = int.from_bytes(der[2:at], "big")
    return der[at : at + length], der[at + length :]


def _verifies(message, signature, modulus, exponent):
    """RSASSA-PKCS1-v1_5 with SHA-256 (RFC 8017, 8.2.2)."""
    size = (modulus.bit_length() + 7) // 8
    if len(signature) != size:
        return False
    padded = pow(int.from_bytes(signature, "big"), exponent, modulus).to_bytes(size, "big")
    tail = SHA256 + hashlib.sha256(message).digest()
    return padded == b"\x00\x01" + b"\xff" * (size - len(tail) - 3) + b"\x00" + tail
