"""Cookies and tokens of who is logged in: api/libs/token.py and api/libs/login.py."""

import functools
import os
import time

import backing
import flask
import jwt
from werkzeug.exceptions import Unauthorized

MINUTES = int(os.environ.get("ACCESS_TOKEN_EXPIRE_MINUTES") or 60)
REFRESH_SECONDS = int(float(os.environ.get("REFRESH_TOKEN_EXPIRE_DAYS") or 30) * 86400)


def _secure():
    return all(os.environ.get(key, "").startswith("https") for key in ("CONSOLE_WEB_URL", "CONSOLE_API_URL"))


def _domain():
    return os.environ.get("COOKIE_DOMAIN", "").strip().removeprefix(".") or None


def _cookie(name):
    return f"__Host-{name}" if _secure() and _domain() is None else name


def _issue(**claims):
    return jwt.encode({"exp": int(time.time()) + MINUTES * 60, **claims}, os.environ["SECRET_KEY"], algorithm="HS256")


def _verify(token):
    try:
        return jwt.decode(token, os.environ["SECRET_KEY"], algorithms=["HS256"])
    except jwt.ExpiredSignatureError:
        raise Unauthorized("Token has expired.") from None
    except jwt.InvalidSignatureError:
        raise Unauthorized("Invalid token signature.") from None
    except jwt.PyJWTError:
        raise Unauthorized("Invalid token.") from None


def give(account, refresh):
    """Return the answer that logs an account in, with its three cookies; `refresh` is the new token to renew it."""
    backing.cache().setex(f"refresh_token:{refresh}", REFRESH_SECONDS, account)
    response = flask.jsonify(result="success")
    access = _issue(user_id=account, iss="SELF_HOSTED", sub="Console API Passport")
    for name, value, seconds, hidden in (
        ("csrf_token", _issue(sub=account), MINUTES * 60, False),
        ("access_token", access, MINUTES * 60, True),
        ("refresh_token", refresh, REFRESH_SECONDS, True),
    ):
        response.set_cookie(
            _cookie(name),
            value,
            max_age=seconds,
            path="/",
            domain=_domain(),
            secure=_secure(),
            httponly=hidden,
            samesite="Lax",
        )
    return response


def take_back():
    """Return the answer that logs out."""
    refresh_token_spent()
    response = flask.jsonify(result="success")
    for name in ("access_token", "refresh_token", "csrf_token"):
        response.set_cookie(_cookie(name), "", expires=0, path="/", domain=_domain(), secure=_secure())
    return response


def refresh_token_spent():
    """Return the account whose refresh token this request carries, once; None for one that is not good any more."""
    token = flask.request.cookies.get(_cookie("refresh_token"))
    return backing.cache().getdel(f"refresh_token:{token}") if token else None


def has_refresh_token():
    return bool(flask.request.cookies.get(_cookie("refresh_token")))


def login_required(view):
    """Let nobody in without the token of an account and the CSRF token that belongs to it."""

    @functools.wraps(view)
    def guarded(*arguments, **options):
        kind, _, bearer = flask.request.headers.get("Authorization", "").partition(" ")
        token = flask.request.cookies.get(_cookie("access_token")) or (bearer if kind.lower() == "bearer" else "")
        if not token:
            raise Unauthorized("Invalid Authorization token.")
        claims = _verify(token)
        account = backing.one("account", id=claims.get("user_id"))
        if account is None:
            raise Unauthorized("Invalid Authorization token.")
        sent = flask.request.headers.get("X-CSRF-Token")
        try:
            good = sent and sent == flask.request.cookies.get(_cookie("csrf_token")) and _verify(sent).get("sub")
        except Unauthorized:
            good = None
        if good != account["id"]:
            raise Unauthorized("CSRF token is missing or invalid.")
        flask.g.account, flask.g.tenant = account, account["tenant"]
        return view(*arguments, **options)

    return guarded
