"""Tells which settings are secrets, for the masks of logs, messages and the report's page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from urllib.parse import quote, unquote

from installer.core.runner import SHORTEST_SECRET

# The shape of a key whose value must not be shown. TOKENS, …_KEY_FILENAME and the like do not count secrets.
_SECRET_SHAPE = re.compile(
    r"SECRET|(?:^|_)(?:PASSWORD|PASSWD|PASSPHRASE|PASS|PWD|KEYS?|APIKEY|TOKEN|CREDENTIALS?|DSN|CONNECTION_STRING)$"
)
_SWITCH = re.compile(r"true|false|yes|no|on|off|none|null", re.IGNORECASE)
_PATH = re.compile(r"(?:\.{1,2}|/(?:etc|run|app|var|opt|usr|home|root|mnt|data|srv|tmp))/[\w./@-]*")
# The password in a URL, as far as the first @ and as far as the last: one that is not encoded may hold some itself.
# Digits before a slash are a port.
_URL_PASSWORDS = tuple(re.compile(rf"://[^\s:/?#@]*:(?!\d{{1,5}}/)({shape})@") for shape in (r"[^\s@]+", r"\S+"))

HIDDEN = "********"


def without_secrets(values: Mapping[str, str], example: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the settings as they may be shown: a secret, and one within another value, is `HIDDEN`."""
    # Longest first: a secret may be a part of another.
    secrets = sorted(secret_values(values, example), key=len, reverse=True)
    return {
        key: HIDDEN if value and _SECRET_SHAPE.search(key) else _masked(value, secrets) for key, value in values.items()
    }


def _masked(text: str, secrets: Iterable[str]) -> str:
    for secret in secrets:
        text = text.replace(f":{secret}@", f":{HIDDEN}@")
        if len(secret) >= SHORTEST_SECRET:
            text = text.replace(secret, HIDDEN)
    return text


def secret_values(values: Mapping[str, str], example: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Return every value that must not be shown, for the masks of logs and messages; sorted.

    A secret is told by the shape of its key, and by being the password in a URL; as it stands, and percent-encoded
    and decoded. Switches and paths are none, nor are the public defaults in `example`, which may be ordinary words.
    """
    public = {value for key, value in (example or {}).items() if _SECRET_SHAPE.search(key)}
    found: set[str] = set()
    for key, value in values.items():
        if _SECRET_SHAPE.search(key):
            found |= {value, *(value.split(",") if key.endswith("KEYS") else ())}
        found |= {password for shape in _URL_PASSWORDS for password in shape.findall(value)}
    plain = {
        each
        for each in found
        if each and each not in public and not _SWITCH.fullmatch(each) and not _PATH.fullmatch(each)
    }
    return tuple(sorted({form for each in plain for form in (each, quote(each, safe=""), quote(each), unquote(each))}))


# Secrets that no list knows, by their shape: in what containers and people have written.
_SHAPES = (
    # A private key in PEM form, whole.
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), HIDDEN),
    # Authorization: Bearer …, and keys as OpenAI, Hugging Face, Dify's apps and datasets have them.
    (re.compile(r"(?i)\b(bearer|basic)(\s+)[\w.~+/=-]{6,}"), rf"\1\2{HIDDEN}"),
    (re.compile(r"\b(sk|hf|app|dataset|xox[abprs]|gh[pousr]|AKIA)[-_][\w-]{8,}"), rf"\1-{HIDDEN}"),
    # A token of three parts in base64 (RFC 7519).
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"), HIDDEN),
    # password=…, "api_key": "…", X-Api-Key: …
    (
        re.compile(
            r"(?i)([\w-]*(?:password|passwd|passphrase|secret|token|api[_-]?key|credential)[\w-]*)"
            r"(\\?[\"']?\s*[:=]\s*\\?[\"']?)([^\s\"'\\,;&}]{3,})"
        ),
        rf"\1\2{HIDDEN}",
    ),
    (re.compile(r"(://[^\s:/?#@]*:)(?!\d{1,5}/)[^\s@/]+@"), rf"\1{HIDDEN}@"),
)


def scrub(text: str) -> str:
    """Return a text, for a support desk, without anything that has the shape of a secret, whoever wrote it."""
    for shape, instead in _SHAPES:
        text = shape.sub(instead, text)
    return text
