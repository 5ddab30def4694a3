"""The console's first account: made through Dify's own setup, or signed in with where there is one already.

Source: Dify 1.11.3, controllers/console/{init_validate,setup}.py, auth/login.py, libs/{helper,password}.py.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import re
import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from installer.core import errors, files, layout
from installer.core.runner import Runner
from installer.workspace.client import Client, ConsoleError

LONGEST_NAME = 30
# Dify's own patterns for an e-mail (libs/helper.py) and a password (libs/password.py).
_EMAIL = re.compile(r"[\w.!#$%&'*+\-/=?^_`{|}~]+@([\w-]+\.)+[\w-]{2,}")
_PASSWORD = re.compile(r"(?=.*[a-zA-Z])(?=.*\d).{8,}")

# Dify locks an account for a day at the sixth wrong password in a row (LOGIN_MAX_ERROR_LIMITS); a person gets half.
MOST_TRIES = 3
DAY_SECONDS = 24 * 3600.0
LOCKED = "email_code_login_limit"
WRONG = "authentication_failed"
# Who may install plugins and register models (controllers/console/wraps.py, is_admin_or_owner_required).
ADMINS = ("owner", "admin")


@dataclass(frozen=True, kw_only=True, slots=True)
class Admin:
    """The account to work with; without a `password` it is the one that was generated, or will be."""

    email: str
    name: str
    password: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Entered:
    """How it went: `made` tells whether the account is new, `generated` whether its password is in our file."""

    email: str
    made: bool
    generated: bool


def checked_email(text: str) -> str:
    """Return an e-mail address as Dify keeps it. Raises UsageError for one that it would refuse."""
    if not _EMAIL.fullmatch(text):
        raise errors.UsageError(f"{text!r} is not an e-mail address for Dify", "write, for example, ops@example.com")
    return text.lower()


def checked_name(text: str) -> str:
    """Return the name of an account. Raises UsageError for one that Dify would refuse."""
    if not text.strip() or len(text) > LONGEST_NAME:
        raise errors.UsageError(
            f"a name has 1 to {LONGEST_NAME} characters, and this one {len(text)}", "give a shorter one"
        )
    return text


def checked_password(text: str) -> str:
    """Return a password. Raises UsageError, which does not repeat it, for one that Dify would refuse."""
    if not _PASSWORD.fullmatch(text):
        raise errors.UsageError(
            "this is not a password for Dify", "it takes 8 characters or more, with letters and digits among them"
        )
    return text


def read_password(path: Path) -> str:
    """Return the password in a file. Raises UsageError when others may read the file, or it holds no password."""
    return checked_password(files.read_secret(path))


def default_name(email: str) -> str:
    """Return the name of an account whose owner gave none."""
    return email.partition("@")[0][:LONGEST_NAME]


def known_email(place: layout.Installation) -> str:
    """Return the e-mail with which an earlier run has worked in the console, or an empty text."""
    return str(_read_notes(place).get("email", ""))


def enter(
    client: Client, admin: Admin, place: layout.Installation, init_password: str, language: str, runner: Runner
) -> Entered:
    """Make the first account if there is none, and sign in.

    `language` is Dify's name of one, as in `ko-KR`. A password that Dify has refused is not tried again for a day.
    Raises AccountRefused when the console does not let us in, ConsoleError when it fails otherwise.
    """
    password, generated = _password(admin, place)
    made = False
    if client.get("/setup")["step"] == "not_started":
        if not password:
            password, generated = _generate(place), True
        runner.hide([password])
        made = _make(client, admin, password, init_password, language)
    if not password:
        raise errors.AccountRefused(
            f"Dify has an account already, and no password is known for {admin.email}",
            "give it in a file that only you can read: --admin-password-file FILE",
        )
    runner.hide([password])
    _sign_in(client, admin.email, password, place)
    _require_role(client, admin.email)
    _write_notes(place, {"email": admin.email})
    return Entered(admin.email, made, generated)


def _password(admin: Admin, place: layout.Installation) -> tuple[str, bool]:
    """Return the password that is known, and whether it is the one that we generated."""
    if admin.password:
        return admin.password, False
    if place.admin_password.is_file():
        with files.reading(place.admin_password) as file:
            return file.read().decode(errors="replace").strip(), True
    return "", False


def _generate(place: layout.Installation) -> str:
    """Make a password and keep it, before Dify gets it: a run that is killed in between does not lose it."""
    password = secrets.token_urlsafe(18)
    while not _PASSWORD.fullmatch(password):
        password = secrets.token_urlsafe(18)
    files.write(place.admin_password, password + "\n", mode=0o600)
    return password


def _make(client: Client, admin: Admin, password: str, init_password: str, language: str) -> bool:
    """Make the first account; tell whether it was us, since a person may have been quicker."""
    try:
        if client.get("/init")["status"] == "not_started":
            client.post("/init", {"password": init_password})
        fields = {"email": admin.email, "name": admin.name, "password": password, "language": language}
        client.post("/setup", fields)
    except ConsoleError as error:
        if error.code == "already_setup":
            return False
        if error.code == "init_validate_failed":
            raise errors.AccountRefused(
                "the INIT_PASSWORD in .env is not the one with which Dify was started",
                "run the install command again: it starts Dify with what .env says",
            ) from error
        raise
    return True


def _sign_in(client: Client, email: str, password: str, place: layout.Installation) -> None:
    """Sign in, with one try. Raises AccountRefused."""
    notes = _read_notes(place)
    _require_hope(notes, email, password, place)
    try:
        encoded = base64.b64encode(password.encode()).decode()
        client.post("/login", {"email": email, "password": encoded, "remember_me": True})
    except ConsoleError as error:
        if error.code == LOCKED:
            raise errors.AccountRefused(
                f"Dify has locked {email}: its password was wrong too often",
                "wait a day after the last wrong try, then sign in with the right one",
            ) from error
        if error.code == WRONG:
            _write_notes(place, notes | {"refused": [*_recent(notes), _refusal(email, password)]})
            raise errors.AccountRefused(
                f"Dify does not know the e-mail {email} with this password",
                "give those of an account that may administer the workspace: --admin-email and "
                "--admin-password-file; after five wrong passwords in a row Dify locks an account for a day",
            ) from error
        if error.status in (400, 401, 403):
            raise errors.AccountRefused(f"Dify does not let {email} in: {error.words}", error.remedy) from error
        raise


def _require_hope(notes: dict[str, Any], email: str, password: str, place: layout.Installation) -> None:
    """Refuse to try what has been refused already: whoever runs us in a loop would lock the account."""
    before = [each for each in _recent(notes) if each["email"] == email]
    if any(_is_same(each, password) for each in before):
        what = f"Dify has refused this very password of {email} today, and it is not tried again"
    elif len(before) >= MOST_TRIES:
        what = f"Dify has refused {len(before)} passwords of {email} today, and no other one is tried"
    else:
        return
    raise errors.AccountRefused(
        what, f"see in a browser that e-mail and password are right, then remove {place.account} and run this again"
    )


def _refusal(email: str, password: str) -> dict[str, Any]:
    salt = secrets.token_hex(16)
    return {"at": time.time(), "email": email, "salt": salt, "digest": _digest(password, salt)}


def _is_same(refusal: dict[str, Any], password: str) -> bool:
    return hmac.compare_digest(str(refusal.get("digest")), _digest(password, str(refusal.get("salt"))))


def _digest(password: str, salt: str) -> str:
    # Slow on purpose: a refused password is often nearly the right one.
    return hashlib.scrypt(password.encode(), salt=salt.encode(), n=2**14, r=8, p=1, dklen=32).hex()


def _recent(notes: dict[str, Any]) -> list[dict[str, Any]]:
    now = time.time()
    return [each for each in notes.get("refused", []) if 0 <= now - each["at"] < DAY_SECONDS]


def _read_notes(place: layout.Installation) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        notes = json.loads(place.account.read_text("utf-8"))
        if isinstance(notes, dict):
            return notes
    return {}


def _write_notes(place: layout.Installation, notes: dict[str, Any]) -> None:
    files.write(place.account, json.dumps(notes, indent=2) + "\n", mode=0o600)


def _require_role(client: Client, email: str) -> None:
    role = client.post("/workspaces/current")["role"]
    if role not in ADMINS:
        raise errors.AccountRefused(
            f"{email} is {role} of the workspace, and may not install plugins or register models",
            "give an account that is its owner or an administrator: --admin-email",
        )
