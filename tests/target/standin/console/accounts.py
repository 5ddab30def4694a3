"""The first account, logging in and out: controllers/console/{setup,init_validate}.py and auth/login.py."""

import base64
import functools
import hashlib
import os
import re
import secrets
import time
import uuid

import backing
import flask
from console import tokens
from console.payload import payload
from pages import Problem

console = flask.Blueprint("accounts", __name__)
# What an account may speak, of those that an installation of ours can be asked for.
LANGUAGES = ("en-US", "zh-Hans", "zh-Hant", "ja-JP", "ko-KR", "de-DE", "fr-FR", "es-ES")
# services/account_service.py: more than so many wrong tries lock an account for LOGIN_LOCKOUT_DURATION.
MOST_ERRORS = 5
ALREADY_SETUP = Problem(
    403,
    "already_setup",
    "Dify has been successfully installed. Please refresh the page or return to the dashboard homepage.",
)
NOT_INIT_VALIDATED = Problem(
    401,
    "not_init_validated",
    "Init validation has not been completed yet. Please proceed with the init validation process first.",
)
NOT_SETUP = Problem(
    401,
    "not_setup",
    "Dify has not been initialized and installed yet. "
    "Please proceed with the initialization and installation process first.",
)
LOCKED = Problem(429, "email_code_login_limit", "Too many incorrect password attempts. Please try again later.")


def setup_status():
    made = backing.one("setup")
    if made is None:
        return {"step": "not_started"}
    return {"step": "finished", "setup_at": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(made["created_at"]))}


def setup_required(view):
    @functools.wraps(view)
    def guarded(*arguments, **options):
        if backing.one("setup") is None:
            raise NOT_INIT_VALIDATED if os.environ.get("INIT_PASSWORD") else NOT_SETUP
        return view(*arguments, **options)

    return guarded


def _init_validated():
    if not os.environ.get("INIT_PASSWORD"):
        return True
    return bool(flask.session.get("is_init_validated") or backing.one("setup"))


def _hashed(password, salt):
    return hashlib.pbkdf2_hmac("sha256", password.encode(), bytes.fromhex(salt), 10000).hex()


@console.get("/init")
def init_status():
    return {"status": "finished" if _init_validated() else "not_started"}


@console.post("/init")
def init():
    if backing.find("tenant"):
        raise ALREADY_SETUP
    given = payload("InitValidatePayload", password=30)
    flask.session["is_init_validated"] = given["password"] == os.environ.get("INIT_PASSWORD")
    if not flask.session["is_init_validated"]:
        raise Problem(401, "init_validate_failed", "Init validation failed. Please check the password and try again.")
    return {"result": "success"}, 201


@console.post("/setup")
def setup():
    if backing.one("setup") or backing.find("tenant"):
        raise ALREADY_SETUP
    if not _init_validated():
        raise NOT_INIT_VALIDATED
    given = payload("SetupRequestPayload", email=None, name=30, password=None)
    if not re.fullmatch(r"[^@\s]+@[^@\s]+\.[^@\s]+", given["email"]):
        raise ValueError(f"1 validation error for SetupRequestPayload\nemail\n  {given['email']} is not a valid email.")
    if not re.match(r"^(?=.*[a-zA-Z])(?=.*\d).{8,}$", given["password"]):
        raise ValueError("Password must contain letters and numbers, and the length must be greater than 8.")
    salt = secrets.token_hex(16)
    tenant = backing.add("tenant", name=f"{given['name']}'s Workspace")
    language = given.get("language")
    backing.add(
        "account",
        email=given["email"].lower(),
        name=given["name"],
        password=_hashed(given["password"], salt),
        salt=salt,
        tenant=tenant["id"],
        language=language if language in LANGUAGES else "en-US",
    )
    backing.add("setup")
    return {"result": "success"}, 201


@console.post("/login")
@setup_required
def login():
    given = payload("LoginPayload", email=None, password=None)
    try:
        password = base64.b64decode(given["password"], validate=True).decode()
    except ValueError:
        raise Problem(401, "authentication_failed", "Invalid encrypted data") from None
    email = given["email"].lower()
    cache, key = backing.cache(), f"login_error_rate_limit:{email}"
    if int(cache.get(key) or 0) > MOST_ERRORS:
        raise LOCKED
    account = backing.one("account", email=email)
    if account is None or account["password"] != _hashed(password, account["salt"]):
        cache.setex(key, int(os.environ.get("LOGIN_LOCKOUT_DURATION") or 86400), int(cache.get(key) or 0) + 1)
        raise Problem(401, "authentication_failed", "Invalid email or password.")
    cache.delete(key)
    return tokens.give(account["id"], secrets.token_hex(64))


@console.post("/logout")
@setup_required
@tokens.login_required
def logout():
    return tokens.take_back()


@console.post("/refresh-token")
def refresh():
    if not tokens.has_refresh_token():
        return {"result": "fail", "message": "No refresh token provided"}, 401
    account = tokens.refresh_token_spent()
    if account is None:
        return {"result": "fail", "message": "Invalid refresh token"}, 401
    return tokens.give(account, secrets.token_hex(64))


@console.get("/account/profile")
@setup_required
@tokens.login_required
def profile():
    account = flask.g.account
    return {
        "id": account["id"],
        "name": account["name"],
        "avatar": None,
        "avatar_url": None,
        "email": account["email"],
        "is_password_set": True,
        "interface_language": account["language"],
        "interface_theme": "light",
        "timezone": "America/New_York",
        "last_login_at": None,
        "last_login_ip": flask.request.remote_addr,
        "created_at": account["created_at"],
    }


@console.post("/workspaces/current")
@setup_required
@tokens.login_required
def workspace():
    tenant = backing.one("tenant", id=str(uuid.UUID(flask.g.tenant)))
    return {
        "id": tenant["id"],
        "name": tenant["name"],
        "plan": "basic",
        "status": "normal",
        "created_at": tenant["created_at"],
        "role": "owner",
        "in_trial": None,
        "trial_end_reason": None,
        "custom_config": None,
    }
